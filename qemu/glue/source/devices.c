/*
 * The device state in pre-copy: made with the BQL, sent without it.
 *
 * QEMU writes it to its own connection while it holds the BQL.  A destination that does not read would keep
 * the monitor waiting, so it goes to memory first, as QEMU itself has it in post-copy.  What iterates besides
 * Ferry (VFIO, dirty bitmaps) may be large, and is written as ever.
 *
 * Threads: the migration thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "io/channel-buffer.h"
#include "migration/misc.h"
#include "migration/migration-stats.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/fault.h"
#include "../internal.h"
#include "devices.h"
#include "session.h"

#define FIRST_BYTES (256 * KiB)

static QEMUFile *saved; /* to be sent */

static QIOChannelBuffer *saved_buffer(void)
{
    return QIO_CHANNEL_BUFFER(qemu_file_get_ioc(saved));
}

static void forget(void)
{
    qemu_fclose(g_steal_pointer(&saved));
}

int ferry_keep_devices(QEMUFile *f)
{
    QIOChannelBuffer *buffer;
    GError *error = NULL;
    int ret;

    if (ferry_outgoing_active() && ferry_fault(FERRY_FAULT_QEMU_SAVE_DEVICES, &error)) {
        return ferry_session_error(f, error);
    }
    ret = qemu_savevm_state_complete_precopy_iterable(f, false);
    if (ret) {
        return ret;
    }
    buffer = qio_channel_buffer_new(FIRST_BYTES);
    qio_channel_set_name(QIO_CHANNEL(buffer), "ferry-device-state");
    saved = qemu_file_new_output(QIO_CHANNEL(buffer));
    object_unref(OBJECT(buffer));
    ret = qemu_savevm_state_complete_precopy_non_iterable(saved, false);
    ret = ret ?: qemu_fflush(saved);
    if (ret) {
        forget();
    }
    return ret;
}

int ferry_send_devices(QEMUFile *f)
{
    QIOChannelBuffer *buffer = saved_buffer();

    /* QEMU has counted it once already. */
    stat64_add(&mig_stats.qemu_file_transferred, -(uint64_t)buffer->usage);
    qemu_put_buffer(f, buffer->data, buffer->usage);
    forget();
    return qemu_fflush(f);
}
