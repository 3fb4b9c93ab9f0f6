/*
 * Binding: where a migration's sockets leave this host, and where they are awaited: at one address, on one
 * interface, or wherever the routing table says.
 *
 * An address and an interface are two things, and two texts: what has the form of an address can be the name of an
 * interface, and an interface has many addresses or none.  An address alone does not say where packets leave: Linux
 * sends from any address by any interface (the weak host model), so the routes must agree.  An interface does.
 *
 * Before Linux 5.7 an interface can only be chosen with CAP_NET_RAW; what cannot be used is refused when it is set,
 * and not when the first connection is made.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BINDING_H
#define FERRY_BINDING_H

#include <glib.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/socket.h>

/* The longest text of each, in bytes without the one that ends it: fe80::.../IPv4, "%" and an interface. */
#define FERRY_ADDRESS_MAX   62
#define FERRY_INTERFACE_MAX 15

typedef struct FerryBinding {
    struct sockaddr_storage address; /* without a port; of family AF_UNSPEC: any */
    socklen_t address_length;
    char interface[IFNAMSIZ]; /* empty: any */
} FerryBinding;

G_STATIC_ASSERT(FERRY_INTERFACE_MAX + 1 == IFNAMSIZ);

/*
 * Whether @text is an IP address of this host, for which a socket can be bound here now.  FERRY_ERROR_SYSTEM: it has
 * the form of one, but this host lacks it.
 */
bool ferry_binding_check_address(const char *text, GError **errp);

/* Whether there is an interface @name, and this process may use it; FERRY_ERROR_SYSTEM if not. */
bool ferry_binding_check_interface(const char *name, GError **errp);

/*
 * What two texts mean, each of which is empty or was checked.  False, and then @binding is not to be used, if the
 * address has become none since: its interface may have gone.
 */
bool ferry_binding_parse(FerryBinding *binding, const char *address, const char *interface,
                         GError **errp);

/* Have the socket @fd send and receive on that interface only, if there is one. */
bool ferry_binding_set_interface(int fd, const FerryBinding *binding, GError **errp);

/* The same, and have it leave from that address, before it is connected.  The port is chosen when it is. */
bool ferry_binding_set_source(int fd, const FerryBinding *binding, GError **errp);

/* Whether an @address, but for its port, is that of the binding; any is, if it has none.  IPv4 may be mapped. */
bool ferry_binding_is_at(const FerryBinding *binding, const struct sockaddr *address);

/*
 * Whether a connection that somebody else has made keeps to the binding: its end here, the interface that it is bound
 * to, and that both are of this thread's network namespace.  What is no IP socket does.
 */
bool ferry_binding_holds(int fd, const FerryBinding *binding, GError **errp);

/*
 * Whether the socket @fd is in this thread's network namespace, so that others can be made beside it: somebody may have
 * made it in another one, and passed it.  True where the kernel does not tell (before Linux 5.14).
 */
bool ferry_binding_is_here(int fd);

#endif
