/*
 * Subnets: the networks from which connections are taken, as a text names them.
 *
 * An IPv4 peer of a socket that listens for both protocols shows as an IPv6 address (::ffff:192.0.2.1); it is
 * compared as the IPv4 address that it is, so that 192.0.2.0/24 means the same everywhere, and ::/0 means IPv6 alone.
 * A number that could be read as an octal one, an empty prefix and bits beyond the prefix are mistakes, and refused:
 * each has let everybody in elsewhere.
 *
 * Threads: any; it does not change.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SUBNETS_H
#define FERRY_SUBNETS_H

#include <glib.h>
#include <stdbool.h>
#include <sys/socket.h>

/* The longest text, in bytes without the one that ends it. */
#define FERRY_SUBNETS_MAX 1023

typedef struct FerrySubnets FerrySubnets;

/*
 * From subnets, or addresses, with a comma between them; NULL if one is none.  An empty text names nobody.
 * ferry_subnets_free() frees them.
 */
FerrySubnets *ferry_subnets_new(const char *text, GError **errp);
void ferry_subnets_free(FerrySubnets *subnets);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerrySubnets, ferry_subnets_free)

/* Whether ferry_subnets_new() would make some. */
bool ferry_subnets_check(const char *text, GError **errp);

/* Whether @peer is in one of them.  A peer on this host, over a UNIX socket, always is; what is not IP never is. */
bool ferry_subnets_have(const FerrySubnets *subnets, const struct sockaddr *peer);

#endif
