/*
 * The engine's error domain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_ERROR_H
#define FERRY_ERROR_H

#include <glib.h>

#define FERRY_ERROR ferry_error_quark()

typedef enum {
    FERRY_ERROR_IO = 1,    /* a channel broke or was shut down */
    FERRY_ERROR_LOST,      /* the same, with the session */
    FERRY_ERROR_PROTOCOL,  /* the peer sent what no Ferry sends */
    FERRY_ERROR_REFUSED,   /* the peer, or we, cannot take this guest: no use retrying as it is */
    FERRY_ERROR_CANCELLED, /* somebody asked for it */
    FERRY_ERROR_SYSTEM,    /* the kernel said no */
    FERRY_ERROR_TIMEOUT,   /* a limit that the user can set has passed */
    FERRY_ERROR_TRACKER,   /* writes may have been missed: another tracker must begin anew */
} FerryErrorCode;

/* What to do at a source that has let go of the guest, and does not know who has it. */
#define FERRY_LOOK_THERE                                                                         \
    "look at the destination: quit this QEMU if the guest runs there; let the guest go on here " \
    "only if the migration has failed there, or that QEMU has ended"

GQuark ferry_error_quark(void);

#endif
