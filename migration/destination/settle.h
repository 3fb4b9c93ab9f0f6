/*
 * Settling what each end's memory is to the other: before any of it moves.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SETTLE_H
#define FERRY_SETTLE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/region.h"
#include "../wire/frame.h"

/*
 * Match @local with what the source has announced (@remote, of @session), find out which memory both ends
 * map, and make zero what may be made so: from here on, what the source does not send of that is zero.
 * @local is in the source's order then, with flags as kind.h says.  Returns what the source is to know of
 * each region (FerryAnswer), the caller's to free; NULL if this guest cannot come here, and then no
 * memory was changed, unless the kernel failed.
 */
uint8_t *ferry_settle(const FerryScanner *scanner, FerryRegions *local, const FerryRegions *remote,
                      uint64_t session, bool may_leave, GError **errp);

#endif
