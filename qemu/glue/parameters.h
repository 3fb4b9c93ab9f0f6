/*
 * The user's parameters: `-global ferry.NAME=VALUE`, ferry-set-parameters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_PARAMETERS_H
#define FERRY_GLUE_PARAMETERS_H

#include "qapi/qapi-types-ferry.h"

/* A member for each line of the table that is no alias. */
typedef struct FerrySettings {
#define FERRY_SWITCH(member, ...)             bool member;
#define FERRY_HIDDEN_SWITCH(member, ...)      bool member;
#define FERRY_NUMBER(member, ...)             uint32_t member;
#define FERRY_CHOICE(member, name, type, ...) type member;
#define FERRY_ALIAS(...)
#include "parameters.def"
} FerrySettings;

/* The parameters as they stand.  The main thread changes them, for migrations that start later. */
const FerrySettings *ferry_settings(void);

#endif
