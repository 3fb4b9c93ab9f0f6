/*
 * The network that the user gives to migrations: bind-address, bind-interface.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_BINDING_H
#define FERRY_GLUE_BINDING_H

#include "qemu/typedefs.h"

#include "ferry/migration/wire/binding.h"

/* Whether the parameters name one now.  Any thread. */
bool ferry_binding_is_wanted(void);

/* What they mean now.  False if that is nothing: an interface that an address names may have gone.  Any thread. */
bool ferry_binding_wanted(FerryBinding *binding, Error **errp);

/*
 * Whether @ioc, a connection of a migration, keeps to it: somebody else may have made that, and passed it.  What is
 * no IP socket does.  Any thread.
 */
bool ferry_binding_check(QIOChannel *ioc, Error **errp);

/*
 * The addresses that @inet names, to be bound if @passive, else to be connected, of the protocol of @binding's
 * address if it has one; to be freed with freeaddrinfo().  NULL if there are none.  Any thread.
 */
struct addrinfo *ferry_binding_resolve(const InetSocketAddress *inet, bool passive,
                                       const FerryBinding *binding, Error **errp);

#endif
