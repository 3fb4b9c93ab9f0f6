/*
 * The end of a migration whose destination has never said a word.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_SILENCE_H
#define FERRY_GLUE_SOURCE_SILENCE_H

#include "qemu/typedefs.h"

/* Whether there is a return path for Ferry only, and nothing has come on it. */
bool ferry_is_silence(MigrationState *s);

/*
 * Then, with everything written on QEMU's own path, and the guest not to be taken back: wait until the stream is in
 * the hands of the destination's host, give the peer up, and end the return path.  Not 0: its host does not take it,
 * and the migration fails.  If the destination speaks meanwhile, it is not given up, and the return path stays.
 * Migration thread, no BQL.
 */
int ferry_end_silence(MigrationState *s);

#endif
