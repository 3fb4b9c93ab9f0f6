/*
 * Threads of the engine: see thread.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "thread.h"

#include "error.h"

GThread *ferry_thread_new(const char *name, GThreadFunc run, void *opaque, GError **errp)
{
    g_autoptr(GError) error = NULL;
    GThread *thread = g_thread_try_new(name, run, opaque, &error);

    if (!thread) {
        g_set_error(
            errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
            "thread '%s' cannot be started: %s (raise pids.max of QEMU's control group, or the "
            "limit of processes of QEMU's user)",
            name, error->message);
    }
    return thread;
}
