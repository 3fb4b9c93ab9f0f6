/*
 * Events: see events.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "events.h"

#include <stddef.h>

const FerryEvents *ferry_events = NULL;
