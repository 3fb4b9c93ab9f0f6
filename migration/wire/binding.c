/*
 * Binding: see binding.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "binding.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "../error.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define INTERFACE_REMEDY "; before Linux 5.7 that takes CAP_NET_RAW"

static const struct sockaddr_in *as_ipv4(const struct sockaddr *address)
{
    return (const struct sockaddr_in *)(const void *)address;
}

static const struct sockaddr_in6 *as_ipv6(const struct sockaddr *address)
{
    return (const struct sockaddr_in6 *)(const void *)address;
}

static bool is_ip(int family)
{
    return family == AF_INET || family == AF_INET6;
}

/* --- Texts -------------------------------------------------------------------------------------- */

/* IPv6, with its interface after "%" where it has one. */
static bool parse_ipv6(const char *text, FerryBinding *binding)
{
    const struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST, .ai_family = AF_INET6, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;

    if (!strchr(text, ':') || getaddrinfo(text, NULL, &hints, &found) != 0) {
        return false;
    }
    memcpy(&binding->address, found->ai_addr, found->ai_addrlen);
    binding->address_length = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

/* The forms that inet_aton() knows, with fewer or octal numbers, are none. */
static bool parse_ipv4(const char *text, FerryBinding *binding)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&binding->address;

    ipv4->sin_family = AF_INET;
    binding->address_length = sizeof(*ipv4);
    return inet_pton(AF_INET, text, &ipv4->sin_addr) == 1;
}

static bool is_many(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        in_addr_t host = ntohl(as_ipv4(address)->sin_addr.s_addr);

        return host == INADDR_ANY || host == INADDR_BROADCAST || IN_MULTICAST(host);
    }
    return IN6_IS_ADDR_UNSPECIFIED(&as_ipv6(address)->sin6_addr) ||
           IN6_IS_ADDR_MULTICAST(&as_ipv6(address)->sin6_addr);
}

/* Whether it has the form of a link-local address with its interface. */
static bool is_scoped(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "%", 2);
    struct in6_addr ipv6;

    return parts[0] && parts[1] && *parts[1] && inet_pton(AF_INET6, parts[0], &ipv6) == 1 &&
           IN6_IS_ADDR_LINKLOCAL(&ipv6);
}

static bool parse_address(FerryBinding *binding, const char *text, GError **errp)
{
    const struct sockaddr *address = (const struct sockaddr *)&binding->address;

    if (!parse_ipv4(text, binding) && !parse_ipv6(text, binding)) {
        if (is_scoped(text)) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                        "this host does not have the interface that '%s' names", text);
        } else {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "'%s' is no IP address", text);
        }
    } else if (is_many(address)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "'%s' is not the address of one interface; empty means any", text);
    } else if (address->sa_family == AF_INET6 &&
               IN6_IS_ADDR_V4MAPPED(&as_ipv6(address)->sin6_addr)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "'%s' is an IPv4 address in IPv6: write it as IPv4", text);
    } else if (address->sa_family == AF_INET6 &&
               IN6_IS_ADDR_LINKLOCAL(&as_ipv6(address)->sin6_addr) &&
               as_ipv6(address)->sin6_scope_id == 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "'%s' is link-local: name its interface, too, as in %s%%eth0", text, text);
    } else {
        return true;
    }
    return false;
}

bool ferry_binding_parse(FerryBinding *binding, const char *address, const char *interface,
                         GError **errp)
{
    *binding = (FerryBinding){0};
    g_strlcpy(binding->interface, interface, sizeof(binding->interface));
    return !*address || parse_address(binding, address, errp);
}

bool ferry_binding_check_address(const char *text, GError **errp)
{
    FerryBinding binding;
    int fd, error;

    if (!ferry_binding_parse(&binding, text, "", errp)) {
        return false;
    }
    fd = socket(binding.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    error =
        fd < 0 || bind(fd, (const struct sockaddr *)&binding.address, binding.address_length) != 0
            ? errno
            : 0;
    if (fd >= 0) {
        close(fd);
    }
    if (error == EADDRNOTAVAIL) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "no interface of this host has the address %s (a new IPv6 address cannot be "
                    "used until the kernel has looked for a duplicate)",
                    text);
    } else if (error) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot use the address %s: %s", text,
                    g_strerror(error));
    }
    return error == 0;
}

/* The names of this host's interfaces; the caller's to free. */
static char *list_interfaces(void)
{
    struct if_nameindex *interfaces = if_nameindex();
    GString *names = g_string_new(NULL);

    for (struct if_nameindex *one = interfaces; one && one->if_index; one++) {
        g_string_append_printf(names, "%s%s", names->len ? ", " : "", one->if_name);
    }
    if (interfaces) {
        if_freenameindex(interfaces);
    }
    return g_string_free(names, FALSE);
}

bool ferry_binding_check_interface(const char *name, GError **errp)
{
    FerryBinding binding;
    bool ok;
    int fd;

    if (if_nametoindex(name) == 0) {
        g_autofree char *names = list_interfaces();

        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "this host has no network interface '%s'; it has: %s", name, names);
        return false;
    }
    ferry_binding_parse(&binding, "", name, NULL);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    ok = ferry_binding_set_interface(fd, &binding, errp);
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* --- Sockets ------------------------------------------------------------------------------------ */

bool ferry_binding_set_interface(int fd, const FerryBinding *binding, GError **errp)
{
    int error;

    if (!binding->interface[0] || setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, binding->interface,
                                             (socklen_t)strlen(binding->interface)) == 0) {
        return true;
    }
    error = errno;
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot use network interface '%s': %s%s",
                binding->interface, g_strerror(error), error == EPERM ? INTERFACE_REMEDY : "");
    return false;
}

bool ferry_binding_set_source(int fd, const FerryBinding *binding, GError **errp)
{
    char text[FERRY_ADDRESS_MAX + 1] = "";
    int yes = 1, error;

    if (!ferry_binding_set_interface(fd, binding, errp)) {
        return false;
    }
    if (binding->address.ss_family == AF_UNSPEC) {
        return true;
    }
    /* A port that is chosen before it is known where the connection goes is taken from all of them. */
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
    if (bind(fd, (const struct sockaddr *)&binding->address, binding->address_length) == 0) {
        return true;
    }
    error = errno;
    getnameinfo((const struct sockaddr *)&binding->address, binding->address_length, text,
                sizeof(text), NULL, 0, NI_NUMERICHOST);
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot leave from the address %s: %s", text,
                g_strerror(error));
    return false;
}

bool ferry_binding_is_at(const FerryBinding *binding, const struct sockaddr *address)
{
    const struct sockaddr *own = (const struct sockaddr *)&binding->address;

    if (own->sa_family == AF_UNSPEC) {
        return true;
    }
    if (own->sa_family == AF_INET) {
        const struct in_addr *ipv4 = &as_ipv4(own)->sin_addr;
        const struct in6_addr *ipv6 = &as_ipv6(address)->sin6_addr;

        return address->sa_family == AF_INET
                   ? as_ipv4(address)->sin_addr.s_addr == ipv4->s_addr
                   : address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(ipv6) &&
                         memcmp(&ipv6->s6_addr[12], ipv4, sizeof(*ipv4)) == 0;
    }
    return address->sa_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&as_ipv6(own)->sin6_addr, &as_ipv6(address)->sin6_addr) &&
           (!IN6_IS_ADDR_LINKLOCAL(&as_ipv6(own)->sin6_addr) ||
            as_ipv6(own)->sin6_scope_id == as_ipv6(address)->sin6_scope_id);
}

/* What tells its network namespace from others; 0: not known. */
static uint64_t network_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t nr_bytes = sizeof(cookie);

    return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &nr_bytes) == 0 ? cookie : 0;
}

bool ferry_binding_is_here(int fd)
{
    int own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t here = network_of(own), there = network_of(fd);

    if (own >= 0) {
        close(own);
    }
    return !here || !there || here == there;
}

bool ferry_binding_holds(int fd, const FerryBinding *binding, GError **errp)
{
    struct sockaddr_storage local = {0};
    socklen_t length = sizeof(local), nr_bytes = sizeof(int);
    unsigned index = 0;

    if (getsockname(fd, (struct sockaddr *)&local, &length) != 0 || !is_ip(local.ss_family)) {
        return true;
    }
    if ((binding->interface[0] || binding->address.ss_family != AF_UNSPEC) &&
        !ferry_binding_is_here(fd)) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                            "the connection was made in another network namespace than the one "
                            "that has the network of bind-address and bind-interface");
        return false;
    }
    if (!ferry_binding_is_at(binding, (const struct sockaddr *)&local)) {
        char text[FERRY_ADDRESS_MAX + 1] = "";

        getnameinfo((const struct sockaddr *)&local, length, text, sizeof(text), NULL, 0,
                    NI_NUMERICHOST);
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "the connection's address here is %s, and bind-address is another one", text);
        return false;
    }
    if (binding->interface[0] &&
        (getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, &nr_bytes) != 0 || index == 0 ||
         index != if_nametoindex(binding->interface))) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "the connection is not bound to the interface '%s', as bind-interface wants it",
                    binding->interface);
        return false;
    }
    return true;
}
