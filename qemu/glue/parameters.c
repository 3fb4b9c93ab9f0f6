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
#include "qapi/qapi-types-ferry.h"
#include "qom/object.h"

#include "ferry/glue/enum-property.h"
#include "ferry/glue/ferry.h"
#include "ferry/glue/parameters.h"

/* Longer than a TCP connection needs to get over the loss of a few segments. */
#define NETWORK_TIMEOUT_MS 10000

/*
 * Not by itself: where a vCPU cannot be taken from its waiting for a page, stopping the guest has the
 * main loop wait as well, and then only commands that are out of band are heard.
 */
#define RECOVERY_TIMEOUT_S 0

#define TYPE_FERRY "ferry"
OBJECT_DECLARE_SIMPLE_TYPE(FerryObject, FERRY)

struct FerryObject {
    DeviceState parent;
    FerrySettings parameters;
};

/* Made when it is first asked for: KVM does so before QEMU makes its migration object. */
FerrySettings *ferry_settings(void)
{
    static FerryObject *ferry_object;

    if (!ferry_object) {
        ferry_object = FERRY(object_new(TYPE_FERRY));
    }
    return &ferry_object->parameters;
}

bool ferry_is_enabled(void)
{
    return ferry_settings()->enabled;
}

void ferry_object_init(void)
{
    ferry_settings();
}

static const PropertyInfo tracker_property = FERRY_ENUM_PROPERTY(
    FerryTrackerMode, "how to learn what the guest writes: auto, kvm-ring, pagemap or bitmap");

static const PropertyInfo switchover_property =
    FERRY_ENUM_PROPERTY(FerrySwitchoverMode,
                        "when to go over to post-copy, where permitted: precopy, postcopy or auto");

static const PropertyInfo compression_property =
    FERRY_ENUM_PROPERTY(FerryCompression, "how to compress the contents of pages: none or zstd");

static const Property ferry_properties[] = {
    DEFINE_PROP_BOOL("enabled", FerryObject, parameters.enabled, true),
    DEFINE_PROP_BOOL("checksum", FerryObject, parameters.checksum, false),
    DEFINE_PROP_SIGNED("compression", FerryObject, parameters.compression, FERRY_COMPRESSION_NONE,
                       compression_property, FerryCompression),
    DEFINE_PROP_UINT8("channels", FerryObject, parameters.channels, 0),
    DEFINE_PROP_BOOL("x-defer", FerryObject, parameters.x_defer, true),
    DEFINE_PROP_SIGNED("tracker", FerryObject, parameters.tracker, FERRY_TRACKER_MODE_AUTO,
                       tracker_property, FerryTrackerMode),
    /* What it was called before: the same field. */
    DEFINE_PROP_SIGNED("trace", FerryObject, parameters.tracker, FERRY_TRACKER_MODE_AUTO,
                       tracker_property, FerryTrackerMode),
    DEFINE_PROP_SIGNED("switchover", FerryObject, parameters.switchover,
                       FERRY_SWITCHOVER_MODE_PRECOPY, switchover_property, FerrySwitchoverMode),
    DEFINE_PROP_UINT32("network-timeout", FerryObject, parameters.network_timeout_ms,
                       NETWORK_TIMEOUT_MS),
    DEFINE_PROP_UINT32("recovery-timeout", FerryObject, parameters.recovery_timeout_s,
                       RECOVERY_TIMEOUT_S),
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
