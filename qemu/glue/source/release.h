/*
 * Letting go of the guest; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_RELEASE_H
#define FERRY_GLUE_SOURCE_RELEASE_H

#include "qemu/typedefs.h"

#include <glib.h>

/*
 * Wait until the destination has loaded the device state, and have it run the guest.  False: it was not
 * told, and the guest is still this side's.  Migration thread, no BQL.
 */
bool ferry_release_guest(MigrationState *s, GError **errp);

/* On QEMU's own path, post-copy's package has been sent, and with it the guest.  Migration thread, with the BQL. */
void ferry_let_go_packaged(MigrationState *s);

/* Whether the guest's memory is being sent with the vCPUs stopped.  Any thread. */
bool ferry_outgoing_delays_reset(void);

#endif
