/*
 * Connections to the destination's port that are not the source's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_STRANGERS_H
#define FERRY_QTEST_STRANGERS_H

#include "case.h"

/* How many the destination lets wait: FERRY_STRANGERS_MAX of migration/destination/destination.h. */
#define STRANGERS_MAX (64 + 73)

/* The first frame of a session's channel, as in migration/wire/frame.h. */
#define STRANGER_HEAD_BYTES  32
#define STRANGER_HELLO_BYTES (STRANGER_HEAD_BYTES + 16)

/* Where a test's strangers go, and what becomes of them. */
typedef struct Strangers {
    char *uri;
    int fds[2 * STRANGERS_MAX];
    unsigned nr;
} Strangers;

/* They go where the source would have gone, whatever is put in between after this; run->opaque has them. */
void strangers_make(Run *run);

/* A session's opening frame with an index of 0. */
void stranger_hello(uint8_t frame[STRANGER_HELLO_BYTES], uint64_t session, uint16_t version,
                    uint8_t role);

/* One says this and stays; says nothing when it is empty. */
void stranger_comes(Run *run, const void *words, size_t nr_bytes);

/* The destination must hang up on it, within VM_PATIENCE_S. */
void stranger_expect_hung_up(Run *run, unsigned number);

/* It has not done so. */
void stranger_expect_kept(Run *run, unsigned number);

/* It hangs up on all of them. */
void strangers_expect_hung_up(Run *run);

/* So many come, and say the same: those above STRANGERS_MAX that came first have to go, and no others. */
void strangers_crowd(Run *run, unsigned nr_more, const void *words, size_t nr_bytes);

#endif
