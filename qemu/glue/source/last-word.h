/*
 * The end of a migration on QEMU's own path, where there is a return path: see last-word.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_LAST_WORD_H
#define FERRY_GLUE_SOURCE_LAST_WORD_H

#include "qemu/typedefs.h"

/* A migration begins.  Main thread. */
void ferry_last_word_reset(void);

/* Whether there is one, so that the destination's last word says who has the guest.  Migration thread. */
bool ferry_last_word_decides(MigrationState *s);

/* The migration fails with @error, and nobody can know who has the guest: @what came of it.  Returns @error. */
int ferry_fail_last_word(MigrationState *s, int error, const char *what);

/*
 * Then, with everything written, and the guest not to be taken back: wait for what the destination says of it, or
 * where it need not say anything until its host has the stream, and end the return path.  Not 0: the migration fails.
 * *@kept says whether the destination has not got the guest, by its own word.  Migration thread, no BQL.
 */
int ferry_wait_last_word(MigrationState *s, bool *kept);

#endif
