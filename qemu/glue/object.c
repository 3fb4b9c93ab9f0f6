/*
 * The object behind `-global ferry.NAME=VALUE`, and the parameters it holds.
 *
 * It is a device for the same reason that QEMU's own migration object is one: that is what -global
 * works on.  It is never realized and cannot be created by a user.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "hw/qdev-properties.h"
#include "qom/object.h"

#include "ferry/glue/ferry.h"
#include "internal.h"

#define TYPE_FERRY "ferry"
OBJECT_DECLARE_SIMPLE_TYPE(FerryObject, FERRY)

struct FerryObject {
    DeviceState parent;
    FerrySettings parameters;
};

static FerryObject *ferry_object;

FerrySettings *ferry_settings(void)
{
    return &ferry_object->parameters;
}

void ferry_object_init(void)
{
    ferry_object = FERRY(object_new(TYPE_FERRY));
}

static const Property ferry_properties[] = {
    DEFINE_PROP_BOOL("enabled", FerryObject, parameters.enabled, true),
    DEFINE_PROP_BOOL("checksum", FerryObject, parameters.checksum, false),
    DEFINE_PROP_UINT8("channels", FerryObject, parameters.channels, 0),
};

static void ferry_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);

    device->user_creatable = false;
    device_class_set_props(device, ferry_properties);
}

static const TypeInfo ferry_type = {
    .name = TYPE_FERRY,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(FerryObject),
    .class_init = ferry_class_init,
};

static void ferry_register_types(void)
{
    type_register_static(&ferry_type);
}

type_init(ferry_register_types)
