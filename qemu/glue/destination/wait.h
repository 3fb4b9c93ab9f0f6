/*
 * Waiting for the session, in the coroutine that loads a guest, while the main loop goes on.
 *
 * Threads: the main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_WAIT_H
#define FERRY_GLUE_DESTINATION_WAIT_H

#include <stdbool.h>

/*
 * Let the main loop go on until ferry_wait_end(), which may be for another reason than the one waited for.
 * False, at once, where that cannot be done: on another thread.
 */
bool ferry_wait(void);

/* Something was decided: whoever waits is to look. */
void ferry_wait_end(void);

#endif
