/*
 * ferry-storm's properties: what is set, and what it has found
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HW_FERRY_STORM_PROPS_H
#define FERRY_HW_FERRY_STORM_PROPS_H

#include "ferry-storm-state.h"

/* For the class: all properties, with their descriptions. */
void ferry_storm_add_props(ObjectClass *class);

/* For an instance: what they are before anyone sets them. */
void ferry_storm_init_props(StormDevice *s);

/*
 * Check working-set and hot-spot against the region, and put them into the settings, in pages. With the
 * lock held or before there is a thread. False, with an error set, if they do not fit.
 */
bool ferry_storm_apply_sizes(StormDevice *s, Error **errp);

#endif
