/*
 * Where the source's connections go, and where they leave.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_TARGET_H
#define FERRY_GLUE_SOURCE_TARGET_H

#include <sys/socket.h>

struct MigrationState;

typedef struct FerryTarget {
    struct sockaddr_storage address;
    socklen_t length;
    /* For TCP: what the main channel's end here is bound to, but for its port. */
    struct sockaddr_storage local;
    socklen_t local_length; /* 0: there is none */
    int interface;          /* its number; 0: none */
    int protocol;           /* 0: the usual one */
} FerryTarget;

/*
 * What the main channel of @s is connected to, or the destination's own listener there.  A path is taken as the
 * user gave it: the one that the socket knows may be relative to the destination's directory.  Any thread.
 */
bool ferry_find_target(struct MigrationState *s, FerryTarget *target, Error **errp);

#endif
