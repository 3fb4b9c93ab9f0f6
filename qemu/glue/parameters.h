/*
 * The user's parameters: `-global ferry.NAME=VALUE`, ferry-set-parameters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_PARAMETERS_H
#define FERRY_GLUE_PARAMETERS_H

#include "qapi/qapi-types-ferry-parameters.h"

#include "ferry/migration/stats.h"
#include "ferry/migration/wire/binding.h"
#include "ferry/migration/wire/shares.h"
#include "ferry/migration/wire/subnets.h"

/* A member for each line of the table that is no alias. */
typedef struct FerrySettings {
#define FERRY_SWITCH(member, ...)                  bool member;
#define FERRY_HIDDEN_SWITCH(member, ...)           bool member;
#define FERRY_NUMBER(member, ...)                  uint32_t member;
#define FERRY_CHOICE(member, name, type, ...)      type member;
#define FERRY_TEXT(member, name, value, most, ...) char member[(most) + 1];
#define FERRY_ALIAS(...)
#include "parameters.def"
} FerrySettings;

/*
 * The parameters as they stand.  The main thread changes them, for migrations that start later; another thread
 * must not read texts from here.
 */
const FerrySettings *ferry_settings(void);

/* A copy of them, texts included.  Any thread. */
void ferry_settings_copy(FerrySettings *copy);

#endif
