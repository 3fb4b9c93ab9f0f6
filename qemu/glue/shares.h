/*
 * The user's limits for all migrations of the host.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SHARES_H
#define FERRY_GLUE_SHARES_H

#include "ferry/migration/wire/shares.h"

/*
 * The host's limit for one direction, in bytes a second, or 0; and with it a share of that in *@shares, the caller's to
 * leave.  Where there is none to be had, which is said in the log, the limit counts for this migration alone.
 */
uint64_t ferry_host_limit(FerryDirection direction, FerryShares **shares);

#endif
