/*
 * Connections that come in; what QEMU calls is in ferry.h.  Main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_CONNECTIONS_H
#define FERRY_GLUE_DESTINATION_CONNECTIONS_H

#include "qemu/coroutine.h"

/*
 * It is known who carries the memory: @ferry, or QEMU's own path, for which multifd channels beyond those that
 * QEMU has here are closed, as it would close them.
 */
void ferry_incoming_decide(bool ferry);

/*
 * QEMU's own path carries the memory: wait until its multifd channels are all there, where it was not known
 * that it would.  False, having said so, when they do not come.  In the coroutine that loads.
 */
bool coroutine_mixed_fn ferry_incoming_wait_multifd(void);

#endif
