/*
 * The device state in pre-copy.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_DEVICES_H
#define FERRY_GLUE_SOURCE_DEVICES_H

#include "qemu/typedefs.h"

/*
 * Precopy is over, with the vCPUs stopped: save what QEMU saves then, but for what is sent when the BQL is free.
 * Not 0: it failed.  Migration thread, with the BQL.
 */
int ferry_keep_devices(QEMUFile *f);

/* Send what ferry_keep_devices() has saved.  Not 0: the stream broke.  Migration thread, no BQL. */
int ferry_send_devices(QEMUFile *f);

#endif
