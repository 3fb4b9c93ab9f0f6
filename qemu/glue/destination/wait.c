/*
 * Waiting for the session: see wait.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "qemu/coroutine.h"

#include "wait.h"

static Coroutine *waiting; /* for the memory to be complete, or handed off */

bool ferry_wait(void)
{
    if (!qemu_in_coroutine()) {
        return false;
    }
    waiting = qemu_coroutine_self();
    qemu_coroutine_yield();
    return true;
}

void ferry_wait_end(void)
{
    Coroutine *waiter = waiting;

    if (waiter) {
        waiting = NULL;
        aio_co_wake(waiter);
    }
}
