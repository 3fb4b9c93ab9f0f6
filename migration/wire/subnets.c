/*
 * Subnets: see subnets.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "subnets.h"

#include <gio/gio.h>
#include <netinet/in.h>
#include <string.h>

#include "../error.h"

/* No address has more; GLib takes no longer prefix. */
#define BITS_MAX 128

struct FerrySubnets {
    GPtrArray *masks; /* of GInetAddressMask */
};

/* --- Texts -------------------------------------------------------------------------------------- */

/* Digits, as one writes a number: no sign, no blank, and no zero before it. */
static bool parse_prefix(const char *text, guint *nr_bits)
{
    size_t nr_digits = strspn(text, "0123456789");

    if (nr_digits == 0 || nr_digits > 3 || text[nr_digits] || (*text == '0' && nr_digits > 1)) {
        return false;
    }
    *nr_bits = (guint)g_ascii_strtoull(text, NULL, 10);
    return *nr_bits <= BITS_MAX;
}

static bool is_mapped(GInetAddress *address)
{
    return g_inet_address_get_family(address) == G_SOCKET_FAMILY_IPV6 &&
           IN6_IS_ADDR_V4MAPPED(
               (const struct in6_addr *)(const void *)g_inet_address_to_bytes(address));
}

static GInetAddressMask *parse_subnet(const char *text, GError **errp)
{
    const char *slash = strchr(text, '/');
    g_autofree char *host = slash ? g_strndup(text, slash - text) : g_strdup(text);
    /* GLib takes an interface after "%", which no subnet has. */
    g_autoptr(GInetAddress) address =
        strchr(host, '%') ? NULL : g_inet_address_new_from_string(host);
    g_autoptr(GError) error = NULL;
    GInetAddressMask *mask = NULL;
    guint nr_bits = 0;

    if (!address || (slash && !parse_prefix(slash + 1, &nr_bits))) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "'%s' is neither a subnet, as 192.0.2.0/24 and 2001:db8::/32 are, nor an "
                    "address",
                    text);
    } else if (is_mapped(address)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "'%s' is IPv4 in IPv6: write it as IPv4", text);
    } else {
        if (!slash) {
            nr_bits = (guint)(g_inet_address_get_native_size(address) * 8);
        }
        mask = g_inet_address_mask_new(address, nr_bits, &error);
        if (!mask) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "'%s' is no subnet: %s", text,
                        error->message);
        }
    }
    return mask;
}

FerrySubnets *ferry_subnets_new(const char *text, GError **errp)
{
    g_autoptr(FerrySubnets) subnets = g_new0(FerrySubnets, 1);
    g_auto(GStrv) words = g_strsplit(text, ",", -1);

    subnets->masks = g_ptr_array_new_with_free_func(g_object_unref);
    for (char **word = words; *word; word++) {
        GInetAddressMask *mask = parse_subnet(g_strstrip(*word), errp);

        if (!mask) {
            return NULL;
        }
        g_ptr_array_add(subnets->masks, mask);
    }
    return g_steal_pointer(&subnets);
}

void ferry_subnets_free(FerrySubnets *subnets)
{
    if (subnets) {
        g_ptr_array_unref(subnets->masks);
        g_free(subnets);
    }
}

bool ferry_subnets_check(const char *text, GError **errp)
{
    g_autoptr(FerrySubnets) subnets = ferry_subnets_new(text, errp);

    return subnets != NULL;
}

/* --- Peers -------------------------------------------------------------------------------------- */

/* The peer's address, IPv4 where it is that; NULL if it has none.  The caller's to unref. */
static GInetAddress *address_of(const struct sockaddr *peer)
{
    if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)(const void *)peer;

        return g_inet_address_new_from_bytes((const guint8 *)&ipv4->sin_addr, G_SOCKET_FAMILY_IPV4);
    }
    if (peer->sa_family == AF_INET6) {
        const struct in6_addr *ipv6 = &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr;

        return IN6_IS_ADDR_V4MAPPED(ipv6)
                   ? g_inet_address_new_from_bytes(&ipv6->s6_addr[12], G_SOCKET_FAMILY_IPV4)
                   : g_inet_address_new_from_bytes(ipv6->s6_addr, G_SOCKET_FAMILY_IPV6);
    }
    return NULL;
}

bool ferry_subnets_have(const FerrySubnets *subnets, const struct sockaddr *peer)
{
    g_autoptr(GInetAddress) address = address_of(peer);

    if (!address) {
        return peer->sa_family == AF_UNIX;
    }
    for (guint i = 0; i < subnets->masks->len; i++) {
        if (g_inet_address_mask_matches(g_ptr_array_index(subnets->masks, i), address)) {
            return true;
        }
    }
    return false;
}
