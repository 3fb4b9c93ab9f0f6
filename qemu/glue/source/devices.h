/*
 * The device state in pre-copy; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_DEVICES_H
#define FERRY_GLUE_SOURCE_DEVICES_H

#include "qemu/typedefs.h"

/* Send what ferry_save_devices() has saved.  Not 0: the stream broke.  Migration thread, no BQL. */
int ferry_send_devices(QEMUFile *f);

#endif
