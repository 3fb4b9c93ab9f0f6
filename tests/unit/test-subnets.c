/*
 * Subnets: what a text names, who is in it, and which texts are mistakes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/subnets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

static void make_peer(struct sockaddr_storage *peer, const char *text)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)peer;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)peer;

    *peer = (struct sockaddr_storage){.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET};
    g_assert_cmpint(peer->ss_family == AF_INET6 ? inet_pton(AF_INET6, text, &ipv6->sin6_addr)
                                                : inet_pton(AF_INET, text, &ipv4->sin_addr),
                    ==, 1);
}

static bool has(const char *text, const char *address)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FerrySubnets) subnets = ferry_subnets_new(text, &error);
    struct sockaddr_storage peer;

    g_assert_no_error(error);
    make_peer(&peer, address);
    return ferry_subnets_have(subnets, (const struct sockaddr *)&peer);
}

static void test_ipv4(void)
{
    g_assert_true(has("192.0.2.0/24", "192.0.2.0"));
    g_assert_true(has("192.0.2.0/24", "192.0.2.255"));
    g_assert_false(has("192.0.2.0/24", "192.0.3.0"));
    g_assert_false(has("192.0.2.0/24", "192.0.1.255"));
    g_assert_true(has("192.0.2.128/25", "192.0.2.128"));
    g_assert_false(has("192.0.2.128/25", "192.0.2.127"));
    g_assert_true(has("192.0.2.7", "192.0.2.7"));
    g_assert_false(has("192.0.2.7", "192.0.2.6"));
    g_assert_false(has("192.0.2.7/32", "192.0.2.8"));
    g_assert_true(has("0.0.0.0/0", "203.0.113.1"));
}

static void test_ipv6(void)
{
    g_assert_true(has("2001:db8::/32", "2001:db8:ffff::1"));
    g_assert_false(has("2001:db8::/32", "2001:db9::1"));
    g_assert_true(has("2001:db8:0:8000::/49", "2001:db8:0:8000::1"));
    g_assert_false(has("2001:db8:0:8000::/49", "2001:db8:0:7fff::1"));
    g_assert_true(has("fe80::/10", "fe80::1"));
    g_assert_true(has("::1", "::1"));
    g_assert_false(has("::1", "::2"));
}

/* What a socket for both protocols shows of an IPv4 peer is IPv4, and nothing else is. */
static void test_mapped(void)
{
    g_assert_true(has("192.0.2.0/24", "::ffff:192.0.2.9"));
    g_assert_false(has("192.0.2.0/24", "::ffff:192.0.3.9"));
    g_assert_false(has("::/0", "::ffff:192.0.2.9"));
    g_assert_false(has("::/0", "192.0.2.9"));
    g_assert_false(has("0.0.0.0/0", "2001:db8::1"));
    g_assert_false(has("0.0.0.0/0", "::192.0.2.9"));
}

static void test_several(void)
{
    static const char *const list = "10.1.0.0/16, 2001:db8::/32 ,192.0.2.7";

    g_assert_true(has(list, "10.1.255.255"));
    g_assert_true(has(list, "2001:db8::9"));
    g_assert_true(has(list, "::ffff:192.0.2.7"));
    g_assert_false(has(list, "10.2.0.0"));
    g_assert_false(has("", "10.1.0.0"));
}

static void test_other_peers(void)
{
    g_autoptr(FerrySubnets) subnets = ferry_subnets_new("0.0.0.0/0,::/0", NULL);
    struct sockaddr peer = {.sa_family = AF_UNIX};

    g_assert_true(ferry_subnets_have(subnets, &peer));
    peer.sa_family = AF_VSOCK;
    g_assert_false(ferry_subnets_have(subnets, &peer));
    peer.sa_family = AF_UNSPEC;
    g_assert_false(ferry_subnets_have(subnets, &peer));
}

static void test_mistakes(void)
{
    static const struct {
        const char *text, *words;
    } mistakes[] = {
        {"10.0.0.0/8,", "'' is neither"},
        {"10.0.0.0/8,,::1", "'' is neither"},
        {"10.0.0.0/8 ::1", "neither"},
        {"10.0.0.0/", "'10.0.0.0/' is neither"},
        {"10.0.0.0/ 8", "neither"},
        {"10.0.0.0/+8", "neither"},
        {"10.0.0.0/-8", "neither"},
        {"10.0.0.0/08", "neither"},
        {"10.0.0.0/0x8", "neither"},
        {"10.0.0.0/8/8", "neither"},
        {"10.0.0.0/255.0.0.0", "neither"},
        {"10.0.0.0/4294967304", "neither"},
        {"/8", "neither"},
        {"10/8", "neither"},
        {"010.0.0.0/8", "neither"},
        {"0x0a.0.0.0/8", "neither"},
        {"10.0.0.256", "neither"},
        {"host.example", "neither"},
        {"fe80::1%lo", "neither"},
        {"fe80::%1/10", "neither"},
        {"[::1]", "neither"},
        {"10.0.0.1/8", "'10.0.0.1/8' is no subnet: "},
        {"2001:db8::1/32", "is no subnet: "},
        {"10.0.0.0/33", "is no subnet: "},
        {"::/129", "neither"},
        {"::ffff:10.0.0.0/104", "'::ffff:10.0.0.0/104' is IPv4 in IPv6"},
        {"10.0.0.0/8,10.0.0.0/8,nowhere", "'nowhere' is neither"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(mistakes); i++) {
        g_autoptr(GError) error = NULL;

        g_test_message("'%s'", mistakes[i].text);
        g_assert_false(ferry_subnets_check(mistakes[i].text, &error));
        g_assert_nonnull(strstr(error->message, mistakes[i].words));
    }
    g_assert_true(ferry_subnets_check("10.0.0.0/8", NULL));
    g_assert_false(ferry_subnets_check("10.0.0.0/", NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/subnets/ipv4", test_ipv4);
    g_test_add_func("/subnets/ipv6", test_ipv6);
    g_test_add_func("/subnets/mapped", test_mapped);
    g_test_add_func("/subnets/several", test_several);
    g_test_add_func("/subnets/other-peers", test_other_peers);
    g_test_add_func("/subnets/mistakes", test_mistakes);
    return g_test_run();
}
