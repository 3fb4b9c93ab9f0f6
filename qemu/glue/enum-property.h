/*
 * Properties of devices whose values are those of an enumeration in QAPI.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_ENUM_PROPERTY_H
#define FERRY_GLUE_ENUM_PROPERTY_H

#include "hw/qdev-properties.h"
#include "hw/core/qdev-prop-internal.h"

/* An initializer of a PropertyInfo, for DEFINE_PROP_SIGNED. */
#define FERRY_ENUM_PROPERTY(Type, words)                                   \
    (PropertyInfo)                                                         \
    {                                                                      \
        .type = #Type, .description = words, .enum_table = &Type##_lookup, \
        .get = qdev_propinfo_get_enum, .set = qdev_propinfo_set_enum,      \
        .set_default_value = qdev_propinfo_set_default_value_enum,         \
    }

#endif
