/*
 * ferry-storm's properties.
 *
 * They are read and set in the main thread, while the storm's own may write: each accessor takes the
 * lock, and wakes the thread when it may have something to do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/units.h"

#include "ferry/glue/enum-property.h"

#include "ferry-storm-props.h"

#define DEFAULT_RATE 10000

QEMU_BUILD_BUG_ON((int)FERRY_STORM_SEQUENTIAL != (int)STORM_PATTERN_SEQUENTIAL);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_RANDOM != (int)STORM_PATTERN_RANDOM);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_ZIPF != (int)STORM_PATTERN_ZIPF);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_HOT_SPOT != (int)STORM_PATTERN_HOT_SPOT);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NR_PATTERNS != (int)STORM_PATTERN__MAX);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_ZERO != (int)STORM_FILL_ZERO);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NOISE != (int)STORM_FILL_RANDOM);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_COMPRESSIBLE != (int)STORM_FILL_COMPRESSIBLE);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_TEXT != (int)STORM_FILL_TEXT);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NR_CONTENTS != (int)STORM_FILL__MAX);

bool ferry_storm_apply_sizes(StormDevice *s, Error **errp)
{
    uint64_t region_bytes = storm_memory_nr_pages(s->memory) * FERRY_STORM_PAGE_BYTES;

    if (s->working_bytes % FERRY_STORM_PAGE_BYTES || s->hot_bytes % FERRY_STORM_PAGE_BYTES) {
        error_setg(errp, "ferry-storm: working-set and hot-spot must be multiples of %u bytes",
                   FERRY_STORM_PAGE_BYTES);
        return false;
    }
    if (s->working_bytes == 0 || s->working_bytes > region_bytes) {
        error_setg(errp,
                   "ferry-storm: a working set of %" PRIu64
                   " bytes does not fit the region of %" PRIu64
                   " bytes that is the storm's (see start and size)",
                   s->working_bytes, region_bytes);
        return false;
    }
    if (s->hot_bytes > s->working_bytes) {
        error_setg(errp,
                   "ferry-storm: a hot spot of %" PRIu64
                   " bytes is more than the working set of %" PRIu64 " bytes",
                   s->hot_bytes, s->working_bytes);
        return false;
    }
    s->settings.working_pages = s->working_bytes / FERRY_STORM_PAGE_BYTES;
    s->settings.hot_pages = s->hot_bytes / FERRY_STORM_PAGE_BYTES;
    return true;
}

static void get_number(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t value;

    qemu_mutex_lock(&s->lock);
    value = *(uint64_t *)((char *)s + (uintptr_t)opaque);
    qemu_mutex_unlock(&s->lock);
    visit_type_uint64(v, name, &value, errp);
}

static void set_size(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t *field = (uint64_t *)((char *)s + (uintptr_t)opaque);
    uint64_t value, before;

    if (!visit_type_size(v, name, &value, errp)) {
        return;
    }
    qemu_mutex_lock(&s->lock);
    before = *field;
    *field = value;
    /* Until it is realized the region is not known. */
    if (s->realized && !ferry_storm_apply_sizes(s, errp)) {
        *field = before;
    }
    qemu_mutex_unlock(&s->lock);
}

static void set_rate(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t value;

    if (!visit_type_uint64(v, name, &value, errp)) {
        return;
    }
    if (value > FERRY_STORM_MOST_RATE) {
        error_setg(errp,
                   "ferry-storm: rate is at most %" PRIu64 " pages a second, or 0 for no limit",
                   FERRY_STORM_MOST_RATE);
        return;
    }
    qemu_mutex_lock(&s->lock);
    s->rate = value;
    if (s->clock == STORM_CLOCK_MODE_HOST) {
        s->due = 0;
        s->due_rest = 0;
        s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    qemu_cond_signal(&s->wake);
    qemu_mutex_unlock(&s->lock);
}

#define BOOL_PROPERTY(what, field)                    \
    static bool get_##what(Object *obj, Error **errp) \
    {                                                 \
        StormDevice *s = FERRY_STORM(obj);            \
        QEMU_LOCK_GUARD(&s->lock);                    \
        return field;                                 \
    }

BOOL_PROPERTY(running, s->running)
BOOL_PROPERTY(whole, s->settings.whole)
BOOL_PROPERTY(verify, s->verifying || s->verify_wanted)

static void set_running(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    if (value && !s->running) {
        /* Whoever switches it on again wants it to try again. */
        g_clear_pointer(&s->error, g_free);
        s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    s->running = value;
    qemu_cond_signal(&s->wake);
}

static void set_whole(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.whole = value;
}

static void set_verify(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    if (value && !s->realized) {
        error_setg(errp, "ferry-storm: it is not plugged in");
        return;
    }
    if (value && runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "ferry-storm: there is nothing to verify before the guest has arrived");
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->verify_wanted = value;
    s->verify_stop = !value;
    qemu_cond_signal(&s->wake);
}

static int get_pattern(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return (int)s->settings.pattern;
}

static void set_pattern(Object *obj, int value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.pattern = (FerryStormPatternKind)value;
}

static int get_content(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return (int)s->settings.content;
}

static void set_content(Object *obj, int value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.content = (FerryStormContent)value;
}

/* --- What it has found: read only -------------------------------------------------------------- */

static void get_first_wrong(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t address = UINT64_MAX;

    qemu_mutex_lock(&s->lock);
    if (s->verdict.wrong > 0) {
        address = storm_memory_address(s->memory, s->verdict.first_wrong);
    }
    qemu_mutex_unlock(&s->lock);
    visit_type_uint64(v, name, &address, errp);
}

static char *get_result(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    if (s->verifying || s->verify_wanted) {
        return g_strdup_printf("verifying: %" PRIu64 " of %" PRIu64 " pages", s->verdict.checked,
                               s->verdict.to_check);
    }
    if (s->verdict_error) {
        return g_strdup_printf("not completed: %s", s->verdict_error);
    }
    if (s->nr_verified == 0) {
        return g_strdup("not verified yet");
    }
    if (s->verdict.wrong == 0) {
        return g_strdup_printf("right: %" PRIu64 " pages", s->verdict.checked);
    }
    return g_strdup_printf(
        "WRONG: at least %" PRIu64 " of %" PRIu64 " pages, the first at 0x%" PRIx64 ": %s",
        s->verdict.wrong, s->verdict.checked,
        storm_memory_address(s->memory, s->verdict.first_wrong), s->verdict.description);
}

static char *get_error(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return g_strdup(s->error ? s->error : "");
}

static char *get_heard(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    return g_strdup(s->heard ? s->heard : "");
}

/* --- The class and its instances --------------------------------------------------------------- */

static const PropertyInfo clock_property = FERRY_ENUM_PROPERTY(
    StormClockMode, "what its rate is measured by: host, virtual, or auto: virtual under qtest");

static const Property storm_properties[] = {
    DEFINE_PROP_UINT64("start", StormDevice, start, 1 * MiB),
    DEFINE_PROP_SIZE("size", StormDevice, size, 0),
    DEFINE_PROP_UINT64("seed", StormDevice, seed, 0),
    DEFINE_PROP_UINT32("x-forget", StormDevice, forget, 0),
    DEFINE_PROP_SIGNED("clock", StormDevice, clock, STORM_CLOCK_MODE_AUTO, clock_property,
                       StormClockMode),
};

static void add_numbers(ObjectClass *class)
{
    static const struct {
        const char *name;
        const char *type;
        ObjectPropertyAccessor *set;
        size_t offset;
        const char *description;
    } numbers[] = {
        {"rate", "uint64", set_rate, offsetof(StormDevice, rate),
         "pages written a second, 0 for as many as it can (default 10000)"},
        {"working-set", "size", set_size, offsetof(StormDevice, working_bytes),
         "bytes it writes to, from the start of its region (default 256M, or all of it)"},
        {"hot-spot", "size", set_size, offsetof(StormDevice, hot_bytes),
         "bytes of the hot spot (default 0: one in 16 of the working set)"},
        {"pages-written", "uint64", NULL, offsetof(StormDevice, nr_written),
         "writes to pages so far, also before a migration"},
        {"pages-due", "uint64", NULL, offsetof(StormDevice, due),
         "pages that the virtual clock has let through and that are not written yet"},
        {"verifications", "uint64", NULL, offsetof(StormDevice, nr_verified),
         "verifications completed by this QEMU"},
        {"verified-pages", "uint64", NULL, offsetof(StormDevice, verdict.checked),
         "pages looked at by the last verification, so far"},
        {"wrong-pages", "uint64", NULL, offsetof(StormDevice, verdict.wrong),
         "pages that the last verification found wrong; at least so many are"},
        {"stale-pages", "uint64", NULL, offsetof(StormDevice, verdict.stale),
         "those of them that hold an earlier write than the last"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        object_class_property_add(class, numbers[i].name, numbers[i].type, get_number,
                                  numbers[i].set, NULL, (void *)numbers[i].offset);
        object_class_property_set_description(class, numbers[i].name, numbers[i].description);
    }
}

void ferry_storm_init_props(StormDevice *s)
{
    s->running = true;
    s->rate = DEFAULT_RATE;
    s->settings.content = FERRY_STORM_NOISE;
    s->settings.whole = true;
}

void ferry_storm_add_props(ObjectClass *class)
{
    static const struct {
        const char *name, *description;
    } descriptions[] = {
        {"start", "guest address where its region begins"},
        {"size",
         "bytes of its region, all of which must be RAM; 0: the machine's RAM from start on, "
         "but for the last 32 MiB below 4 GiB"},
        {"seed", "what its random numbers and contents follow from"},
        {"running", "whether it writes while the VM runs (default: on)"},
        {"whole-pages", "write whole pages (default), or off: their first 48 bytes only"},
        {"pattern", "sequential (default), random, zipf or hot-spot"},
        {"content", "zero, random (default), compressible or text"},
        {"verify", "set it to look at every page ever written; on while that goes on"},
        {"verify-result", "of the last verification, in words"},
        {"first-wrong-page", "guest address of the first wrong page, or 2^64 - 1"},
        {"error", "why it has stopped writing, if it has"},
        {"x-heard",
         "for tests: what devices heard last of a migration: setup, done, failed, or nothing"},
        {"x-forget", "for tests: one write in so many is not marked dirty"},
    };

    device_class_set_props(DEVICE_CLASS(class), storm_properties);
    add_numbers(class);
    object_class_property_add_bool(class, "running", get_running, set_running);
    object_class_property_add_bool(class, "whole-pages", get_whole, set_whole);
    object_class_property_add_bool(class, "verify", get_verify, set_verify);
    object_class_property_add_enum(class, "pattern", "StormPattern", &StormPattern_lookup,
                                   get_pattern, set_pattern);
    object_class_property_add_enum(class, "content", "StormFill", &StormFill_lookup, get_content,
                                   set_content);
    object_class_property_add(class, "first-wrong-page", "uint64", get_first_wrong, NULL, NULL,
                              NULL);
    object_class_property_add_str(class, "verify-result", get_result, NULL);
    object_class_property_add_str(class, "error", get_error, NULL);
    object_class_property_add_str(class, "x-heard", get_heard, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(descriptions); i++) {
        object_class_property_set_description(class, descriptions[i].name,
                                              descriptions[i].description);
    }
}
