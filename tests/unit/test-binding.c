/*
 * Binding: which addresses and interfaces can be asked for, what a socket then has, and whether one that somebody
 * else has made keeps to it.
 *
 * Where packets go is looked at by tests/net.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/binding.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcp-pair.h"

#define NOBODY 65534

static FerryBinding parsed(const char *address, const char *interface)
{
    g_autoptr(GError) error = NULL;
    FerryBinding binding;

    ferry_binding_parse(&binding, address, interface, &error);
    g_assert_no_error(error);
    return binding;
}

static int new_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void expect_refusal(bool (*check)(const char *text, GError **errp), const char *text,
                           const char *words)
{
    g_autoptr(GError) error = NULL;

    g_test_message("'%s'", text);
    g_assert_false(check(text, &error));
    if (!strstr(error->message, words)) {
        g_error("'%s' is refused, but not as '%s': %s", text, words, error->message);
    }
}

/* --- What is asked for -------------------------------------------------------------------------- */

static void test_addresses(void)
{
    static const struct {
        const char *text, *words;
    } mistakes[] = {
        {"10.0.0.256", "is no IP address"},
        {"10.1", "is no IP address"},
        {"127.0.0.01", "is no IP address"},
        {"0x7f000001", "is no IP address"},
        {"127.0.0.1/8", "is no IP address"},
        {"127.0.0.1 ", "is no IP address"},
        {"127.0.0.1:1", "is no IP address"},
        {"[::1]", "is no IP address"},
        {"localhost", "is no IP address"},
        {"lo", "is no IP address"},
        {"fe80::1%no-such", "this host does not have the interface that 'fe80::1%no-such' names"},
        {"fe80::1%", "is no IP address"},
        {"ff02::1%no-such", "is no IP address"},
        {"10.0.0.1%lo", "is no IP address"},
        {"0.0.0.0", "is not the address of one interface; empty means any"},
        {"::", "is not the address of one interface"},
        {"224.0.0.1", "is not the address of one interface"},
        {"255.255.255.255", "is not the address of one interface"},
        {"ff02::1", "is not the address of one interface"},
        {"::ffff:127.0.0.1", "'::ffff:127.0.0.1' is an IPv4 address in IPv6"},
        {"fe80::1", "'fe80::1' is link-local: name its interface, too, as in fe80::1%eth0"},
        {"192.0.2.1", "no interface of this host has the address 192.0.2.1"},
    };
    struct rlimit old, none;

    for (size_t i = 0; i < G_N_ELEMENTS(mistakes); i++) {
        expect_refusal(ferry_binding_check_address, mistakes[i].text, mistakes[i].words);
    }
    g_assert_true(ferry_binding_check_address("127.0.0.1", NULL));
    g_assert_true(ferry_binding_check_address("127.255.0.9", NULL));

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &old), ==, 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    expect_refusal(ferry_binding_check_address, "127.0.0.1", "cannot use the address 127.0.0.1: ");
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &old), ==, 0);
}

/* Only what is in the text, and the interface of a link-local address. */
static void test_parse(void)
{
    FerryBinding binding = parsed("", "");
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)&binding.address;

    g_assert_cmpint(binding.address.ss_family, ==, AF_UNSPEC);
    g_assert_cmpstr(binding.interface, ==, "");
    binding = parsed("", "lo");
    g_assert_cmpstr(binding.interface, ==, "lo");
    g_assert_cmpint(binding.address.ss_family, ==, AF_UNSPEC);
    binding = parsed("192.0.2.1", "");
    g_assert_cmpint(binding.address.ss_family, ==, AF_INET);
    g_assert_cmpint(binding.address_length, ==, sizeof(struct sockaddr_in));
    binding = parsed("fe80::1%lo", "");
    g_assert_cmpint(binding.address.ss_family, ==, AF_INET6);
    g_assert_cmpint(ipv6->sin6_scope_id, ==, if_nametoindex("lo"));
}

static void test_interfaces(void)
{
    g_autoptr(GError) error = NULL;
    FerryBinding binding = parsed("", "lo");

    g_assert_true(ferry_binding_check_interface("lo", &error));
    g_assert_no_error(error);
    expect_refusal(ferry_binding_check_interface, "no-such",
                   "this host has no network interface 'no-such'; it has: lo");
    expect_refusal(ferry_binding_check_interface, "127.0.0.1", "no network interface '127.0.0.1'");
    expect_refusal(ferry_binding_check_interface, " lo", "no network interface ' lo'");
    g_assert_false(ferry_binding_set_interface(-1, &binding, &error));
    g_assert_nonnull(strstr(error->message, "cannot use network interface 'lo': "));
}

/* As any interface was before Linux 5.7: one that is chosen already needs a privilege to be chosen again. */
static void test_privilege(void)
{
    FerryBinding binding = parsed("", "lo");
    pid_t child = fork();
    int status;

    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        g_autoptr(GError) error = NULL;
        int fd = new_socket(AF_INET);

        if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) != 0) {
            _exit(2);
        }
        (void)ferry_binding_set_interface(fd, &binding, NULL);
        _exit(!ferry_binding_set_interface(fd, &binding, &error) &&
                      strstr(error->message, "; before Linux 5.7 that takes CAP_NET_RAW")
                  ? 0
                  : 1);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
}

/* --- What a socket has -------------------------------------------------------------------------- */

static void expect_interface(int fd, const char *name)
{
    int index = -1;
    socklen_t nr_bytes = sizeof(index);

    g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, &nr_bytes), ==, 0);
    g_assert_cmpint(index, ==, *name ? (int)if_nametoindex(name) : 0);
}

static void dial(const TcpPair *pair, const char *address, const char *interface,
                 const char *expected)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = pair->port};
    struct sockaddr_in from = {0};
    socklen_t nr_bytes = sizeof(from);
    FerryBinding binding = parsed(address, interface);
    g_autoptr(GError) error = NULL;
    int fd = new_socket(AF_INET);

    ferry_binding_set_source(fd, &binding, &error);
    g_assert_no_error(error);
    if (*address) {
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)&from, &nr_bytes), ==, 0);
        g_assert_cmpint(from.sin_port, ==, 0);
    }
    g_assert_cmpint(connect(fd, (const struct sockaddr *)&to, sizeof(to)), ==, 0);
    nr_bytes = sizeof(from);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&from, &nr_bytes), ==, 0);
    g_assert_cmpint(from.sin_addr.s_addr, ==, inet_addr(expected));
    expect_interface(fd, interface);
    ferry_binding_holds(fd, &binding, &error);
    g_assert_no_error(error);
    close(fd);
}

static void test_source(void)
{
    FerryBinding elsewhere = parsed("192.0.2.1", ""), nowhere = parsed("127.0.0.1", "lo");
    g_autoptr(GError) error = NULL;
    int fd = new_socket(AF_INET);
    TcpPair pair;

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    dial(&pair, "", "", "127.0.0.1");
    dial(&pair, "127.0.0.9", "", "127.0.0.9");
    dial(&pair, "", "lo", "127.0.0.1");
    dial(&pair, "127.1.2.3", "lo", "127.1.2.3");
    tcp_pair_close(&pair);

    g_assert_false(ferry_binding_set_source(fd, &elsewhere, &error));
    g_assert_nonnull(strstr(error->message, "cannot leave from the address 192.0.2.1: "));
    g_assert_false(ferry_binding_set_source(-1, &nowhere, NULL));
    close(fd);
}

/* --- What somebody else has made ---------------------------------------------------------------- */

static void expect_held(int fd, const char *address, const char *interface, const char *words)
{
    FerryBinding binding = parsed(address, interface);
    g_autoptr(GError) error = NULL;

    if (words) {
        g_assert_false(ferry_binding_holds(fd, &binding, &error));
        g_assert_nonnull(strstr(error->message, words));
    } else {
        ferry_binding_holds(fd, &binding, &error);
        g_assert_no_error(error);
    }
}

static void test_holds(void)
{
    static const char *const other =
        "the connection's address here is 127.0.0.1, and bind-address is another one";
    FerryBinding lo = parsed("", "lo");
    TcpPair pair;

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    expect_held(pair.client, "", "", NULL);
    expect_held(pair.client, "127.0.0.1", "", NULL);
    expect_held(pair.client, "127.0.0.2", "", other);
    expect_held(pair.client, "::1", "", other);
    expect_held(pair.client, "", "lo", "is not bound to the interface 'lo'");
    expect_held(pair.client, "127.0.0.1", "lo", "is not bound to the interface 'lo'");
    /* One that is gone is none that a connection without any is bound to. */
    expect_held(pair.client, "", "no-such", "is not bound to the interface 'no-such'");
    g_assert_true(ferry_binding_set_interface(pair.client, &lo, NULL));
    expect_held(pair.client, "", "lo", NULL);
    expect_held(pair.client, "", "no-such", "is not bound to the interface 'no-such'");
    tcp_pair_close(&pair);
}

static void test_holds_ipv6(void)
{
    TcpPair pair;

    if (!tcp_pair_open(&pair, TCP_IPV6)) {
        g_test_skip("this host has no IPv6");
        return;
    }
    expect_held(pair.client, "::1", "", NULL);
    expect_held(pair.client, "2001:db8::1", "", "here is ::1, and bind-address");
    expect_held(pair.client, "127.0.0.1", "", "here is ::1, and bind-address");
    tcp_pair_close(&pair);

    g_assert_true(tcp_pair_open(&pair, TCP_MAPPED));
    expect_held(pair.server, "127.0.0.1", "", NULL);
    expect_held(pair.server, "127.0.0.2", "", "here is ::ffff:127.0.0.1, and bind-address");
    tcp_pair_close(&pair);
}

/* The same link-local address can be on each of two interfaces. */
static void test_link_local(void)
{
    FerryBinding binding = parsed("fe80::1%lo", "");
    struct sockaddr_in6 local = *(const struct sockaddr_in6 *)&binding.address;

    g_assert_true(ferry_binding_is_at(&binding, (const struct sockaddr *)&local));
    local.sin6_scope_id++;
    g_assert_false(ferry_binding_is_at(&binding, (const struct sockaddr *)&local));
}

static void test_other_sockets(void)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    expect_held(pair[0], "127.0.0.1", "lo", NULL);
    close(pair[0]);
    close(pair[1]);
    expect_held(-1, "127.0.0.1", "lo", NULL);
}

/* A socket keeps to the network namespace in which it was made, whoever gets it. */
static void test_other_network(void)
{
    pid_t child = fork();
    int status;

    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        FerryBinding lo = parsed("", "lo");
        TcpPair pair;

        g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
        g_assert_true(ferry_binding_set_interface(pair.client, &lo, NULL));
        g_assert_true(ferry_binding_is_here(pair.client) && ferry_binding_is_here(-1));
        expect_held(pair.client, "127.0.0.1", "lo", NULL);
        if (unshare(CLONE_NEWNET) != 0) {
            _exit(2);
        }
        g_assert_false(ferry_binding_is_here(pair.client));
        g_assert_true(ferry_binding_is_here(new_socket(AF_INET)));
        /* Names and numbers of interfaces are the same there. */
        expect_held(pair.client, "", "lo", "was made in another network namespace");
        expect_held(pair.client, "127.0.0.1", "", "was made in another network namespace");
        expect_held(pair.client, "", "", NULL);
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
        g_test_skip("only root makes network namespaces");
        return;
    }
    g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/binding/addresses", test_addresses);
    g_test_add_func("/binding/parse", test_parse);
    g_test_add_func("/binding/interfaces", test_interfaces);
    g_test_add_func("/binding/privilege", test_privilege);
    g_test_add_func("/binding/source", test_source);
    g_test_add_func("/binding/holds", test_holds);
    g_test_add_func("/binding/holds-ipv6", test_holds_ipv6);
    g_test_add_func("/binding/link-local", test_link_local);
    g_test_add_func("/binding/other-sockets", test_other_sockets);
    g_test_add_func("/binding/other-network", test_other_network);
    return g_test_run();
}
