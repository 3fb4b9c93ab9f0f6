/*
 * The user's parameters: `-global ferry.NAME=VALUE`, ferry-set-parameters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_PARAMETERS_H
#define FERRY_GLUE_PARAMETERS_H

#include "qapi/qapi-types-ferry.h"

typedef struct FerrySettings {
    bool enabled;
    bool checksum;
    FerryCompression compression;
    uint8_t channels; /* 0: choose from the CPUs */
    FerryTrackerMode tracker;
    bool x_defer; /* put off pages that stay hot; off to measure what that saves */
    FerrySwitchoverMode switchover;
    uint32_t network_timeout_ms;
    uint32_t recovery_timeout_s; /* 0: none */
} FerrySettings;

/* The parameters as they stand.  Main thread changes them, under the BQL. */
FerrySettings *ferry_settings(void);

#endif
