/*
 * What the parts of a storm share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_INTERNAL_H
#define FERRY_STORM_INTERNAL_H

#include "storm.h"

struct FerryStorm {
    uint64_t nr_pages;
    uint64_t seed;
    FerryStormSettings settings;
    FerryStormPattern pattern;
    uint64_t nr_written; /* also the generation of the last write */
    FerryStormDigest digest;
};

#endif
