/*
 * The parameters: the object behind `-global ferry.NAME=VALUE`, which holds them, and the commands of
 * both monitors.  All that is known of a parameter stands in parameters.def.
 *
 * It is a device for the same reason that QEMU's own migration object is one: that is what -global
 * works on.  It is never realized and cannot be created by a user.
 *
 * Threads: main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/readline.h"
#include "hw/qdev-core.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "monitor/monitor-internal.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ferry-parameters.h"
#include "qapi/qapi-visit-ferry-parameters.h"
#include "qapi/qobject-input-visitor.h"
#include "qapi/qobject-output-visitor.h"
#include "qapi/string-input-visitor.h"
#include "qapi/util.h"
#include "qobject/qdict.h"
#include "qom/object.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/hmp.h"
#include "ferry/glue/parameters.h"
#include "ferry/migration/error.h"
#include "ferry/migration/wire/binding.h"
#include "ferry/migration/wire/frame.h"
#include "ferry/migration/wire/heartbeat.h"
#include "ferry/migration/wire/marks.h"
#include "ferry/migration/wire/shares.h"
#include "ferry/migration/wire/subnets.h"

#define TYPE_FERRY "ferry"
OBJECT_DECLARE_SIMPLE_TYPE(FerryObject, FERRY)

struct FerryObject {
    DeviceState parent;
    FerrySettings settings;
};

typedef enum {
    SWITCH,
    NUMBER,
    CHOICE,
    TEXT,
} Kind;

typedef struct Parameter {
    const char *name;
    Kind kind;
    bool hidden;              /* known to -global alone */
    bool alias;               /* of the parameter that follows */
    size_t offset;            /* in FerrySettings */
    uint32_t initial;         /* of a switch or a number */
    uint32_t least, most;     /* of a number; of a text, the latter, in bytes */
    const char *unit;         /* of a number; "" if it has none */
    const char *type;         /* of a choice, in QAPI */
    const QEnumLookup *words; /* of a choice */
    const char *initial_word; /* of a choice or a text; NULL of an alias */
    /* Of a text: whether it is allowed; not called for an empty one. */
    bool (*check)(const char *text, GError **errp);
    const char *help;
} Parameter;

static const Parameter table[] = {
#define AT(field) .offset = offsetof(FerrySettings, field)
#define FERRY_SWITCH(field, title, value, text) \
    {.name = title, .kind = SWITCH, AT(field), .initial = value, .help = text},
#define FERRY_HIDDEN_SWITCH(field, title, value, text) \
    {.name = title, .kind = SWITCH, AT(field), .initial = value, .help = text, .hidden = true},
#define FERRY_NUMBER(field, title, value, low, high, what, text) \
    {                                                            \
        .name = title,                                           \
        .kind = NUMBER,                                          \
        AT(field),                                               \
        .initial = value,                                        \
        .least = low,                                            \
        .most = high,                                            \
        .unit = what,                                            \
        .help = text,                                            \
    },
#define FERRY_CHOICE(field, title, qapi_type, word, text) \
    {                                                     \
        .name = title,                                    \
        .kind = CHOICE,                                   \
        AT(field),                                        \
        .type = #qapi_type,                               \
        .words = &qapi_type##_lookup,                     \
        .initial_word = word,                             \
        .help = text,                                     \
    },
#define FERRY_TEXT(field, title, word, high, function, what, text) \
    {                                                              \
        .name = title,                                             \
        .kind = TEXT,                                              \
        AT(field),                                                 \
        .most = high,                                              \
        .initial_word = word,                                      \
        .check = function,                                         \
        .help = text,                                              \
    },
#define FERRY_ALIAS(field, title, qapi_type, other) \
    {                                               \
        .name = title,                              \
        .kind = CHOICE,                             \
        AT(field),                                  \
        .type = #qapi_type,                         \
        .words = &qapi_type##_lookup,               \
        .alias = true,                              \
        .help = "the same as " other,               \
    },
#include "parameters.def"
};

/* What the engine allows is what the table says. */
enum {
#define FERRY_SWITCH(...)
#define FERRY_HIDDEN_SWITCH(...)
#define FERRY_NUMBER(field, title, value, low, high, ...) LEAST_##field = low, MOST_##field = high,
#define FERRY_CHOICE(...)
#define FERRY_TEXT(...)
#define FERRY_ALIAS(...)
#include "parameters.def"
};
QEMU_BUILD_BUG_ON(MOST_channels != FERRY_DATA_CHANNELS_MAX);
QEMU_BUILD_BUG_ON(LEAST_network_timeout_ms != FERRY_NETWORK_TIMEOUT_MIN_MS);

/* What another thread copies while it may be changed. */
static GMutex text_lock;

/* --- One parameter --------------------------------------------------------------------------- */

/* The values that it may have, in words; the caller's to free. */
static char *describe_values(const Parameter *p)
{
    GString *words;

    switch (p->kind) {
    case SWITCH:
        return g_strdup("on (true) or off (false)");
    case NUMBER:
        return g_strdup_printf("a number%s%s from %u to %u", *p->unit ? " of " : "", p->unit,
                               p->least, p->most);
    case TEXT:
        return g_strdup_printf("a text of at most %u bytes", p->most);
    default:
        words = g_string_new(p->words->array[0]);
        for (int i = 1; i < p->words->size; i++) {
            g_string_append_printf(words, "%s%s", i + 1 < p->words->size ? ", " : " or ",
                                   p->words->array[i]);
        }
        return g_string_free(words, FALSE);
    }
}

static bool take_switch(void *field, Visitor *v, const char *name)
{
    bool value;

    if (!visit_type_bool(v, name, &value, NULL)) {
        return false;
    }
    *(bool *)field = value;
    return true;
}

static bool take_number(const Parameter *p, void *field, Visitor *v, const char *name)
{
    int64_t value;

    if (!visit_type_int64(v, name, &value, NULL) || value < p->least || value > p->most) {
        return false;
    }
    *(uint32_t *)field = (uint32_t)value;
    return true;
}

static bool take_choice(const Parameter *p, void *field, Visitor *v, const char *name)
{
    g_autofree char *word = NULL;
    int value;

    if (!visit_type_str(v, name, &word, NULL)) {
        return false;
    }
    value = qapi_enum_parse(p->words, word, -1, NULL);
    if (value < 0) {
        return false;
    }
    *(int *)field = value;
    return true;
}

/*
 * If it is a text, but not allowed, @errp says why.  What only this host lacks keeps no guest from @starting: its
 * command line may have come from another host, and the migration is what cannot be then.
 */
static bool take_text(const Parameter *p, char *field, Visitor *v, bool starting, Error **errp)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;

    if (!visit_type_str(v, p->name, &text, NULL) || strlen(text) > p->most) {
        return false;
    }
    if (*text && !p->check(text, &error)) {
        if (!starting || !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_SYSTEM)) {
            error_setg(errp, "Parameter '%s': %s", p->name, error->message);
            return false;
        }
        warn_report("ferry: Parameter '%s' is kept, but cannot be used on this host: %s", p->name,
                    error->message);
    }
    g_mutex_lock(&text_lock);
    pstrcpy(field, (int)p->most + 1, text);
    g_mutex_unlock(&text_lock);
    return true;
}

static bool take_value(const Parameter *p, void *field, Visitor *v, bool starting, Error **errp)
{
    switch (p->kind) {
    case SWITCH:
        return take_switch(field, v, p->name);
    case NUMBER:
        return take_number(p, field, v, p->name);
    case TEXT:
        return take_text(p, field, v, starting, errp);
    default:
        return take_choice(p, field, v, p->name);
    }
}

/*
 * Take the value that @v gives for the parameter into @settings.  This is the only way in; whatever is
 * wrong with a value, the words are the same for all who give it, and nothing is changed.  @starting: -global gives it.
 */
static bool take(const Parameter *p, FerrySettings *settings, Visitor *v, bool starting,
                 Error **errp)
{
    g_autofree char *values = NULL;
    Error *err = NULL;

    if (take_value(p, (char *)settings + p->offset, v, starting, &err)) {
        return true;
    }
    if (!err) {
        values = describe_values(p);
        error_setg(&err, "Parameter '%s' expects %s", p->name, values);
    }
    error_propagate(errp, err);
    return false;
}

/* Give its value to @v. */
static void give(const Parameter *p, FerrySettings *settings, Visitor *v, Error **errp)
{
    void *field = (char *)settings + p->offset;

    if (p->kind == SWITCH) {
        visit_type_bool(v, p->name, field, errp);
    } else if (p->kind == NUMBER) {
        visit_type_uint32(v, p->name, field, errp);
    } else if (p->kind == TEXT) {
        char *text = field;

        visit_type_str(v, p->name, &text, errp);
    } else {
        visit_type_enum(v, p->name, field, p->words, errp);
    }
}

/* The parameter that a monitor calls @name. */
static const Parameter *find(const char *name, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (!table[i].hidden && g_str_equal(table[i].name, name)) {
            return &table[i];
        }
    }
    error_setg(errp, "Ferry has no parameter '%s'", name);
    return NULL;
}

/* --- The object ------------------------------------------------------------------------------ */

/* Made when it is first asked for: KVM does so before QEMU makes its migration object. */
static FerrySettings *current(void)
{
    static FerryObject *ferry_object;

    if (!ferry_object) {
        ferry_object = FERRY(object_new(TYPE_FERRY));
    }
    return &ferry_object->settings;
}

const FerrySettings *ferry_settings(void)
{
    return current();
}

void ferry_settings_copy(FerrySettings *copy)
{
    const FerrySettings *settings = current();

    g_mutex_lock(&text_lock);
    *copy = *settings;
    g_mutex_unlock(&text_lock);
}

bool ferry_is_enabled(void)
{
    return current()->enabled;
}

void ferry_object_init(void)
{
    current();
}

static void get_property(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    give(opaque, &FERRY(obj)->settings, v, errp);
}

static void set_property(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    take(opaque, &FERRY(obj)->settings, v, true, errp);
}

static void add_property(ObjectClass *class, const Parameter *p)
{
    static const char *const types[] = {[SWITCH] = "bool", [NUMBER] = "uint32", [TEXT] = "string"};
    ObjectProperty *property = object_class_property_add(
        class, p->name, p->type ?: types[p->kind], get_property, set_property, NULL, (void *)p);
    g_autofree char *values = describe_values(p);
    g_autofree char *description = g_strdup_printf("%s: %s", values, p->help);

    object_class_property_set_description(class, p->name, description);
    if (p->alias) {
        return;
    }
    if (p->kind == SWITCH) {
        object_property_set_default_bool(property, p->initial);
    } else if (p->kind == NUMBER) {
        object_property_set_default_uint(property, p->initial);
    } else {
        object_property_set_default_str(property, p->initial_word);
    }
}

static void ferry_class_init(ObjectClass *class, void *data)
{
    DEVICE_CLASS(class)->user_creatable = false;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        add_property(class, &table[i]);
    }
}

static const TypeInfo ferry_type = {
    .name = TYPE_FERRY,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(FerryObject),
    .class_init = ferry_class_init,
};

/* --- QMP ------------------------------------------------------------------------------------- */

/*
 * Called with the arguments as they came ('gen': false): QAPI's own words for one that is wrong do not
 * say what would be right, and are others than those of -global and HMP.
 */
static void qmp_ferry_set_parameters(QDict *arguments, QObject **ret, Error **errp)
{
    FerrySettings wanted = *current();

    for (const QDictEntry *e = qdict_first(arguments); e; e = qdict_next(arguments, e)) {
        if (!find(qdict_entry_key(e), errp)) {
            return;
        }
    }
    /* In the order of the table: an alias comes before its parameter. */
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        QObject *value = qdict_get(arguments, table[i].name);
        Visitor *v;
        bool ok;

        if (!value) {
            continue;
        }
        v = qobject_input_visitor_new(value);
        ok = take(&table[i], &wanted, v, false, errp);
        visit_free(v);
        if (!ok) {
            return;
        }
    }
    g_mutex_lock(&text_lock);
    *current() = wanted;
    g_mutex_unlock(&text_lock);
}

static QObject *value_of(const Parameter *p)
{
    QObject *value;
    Visitor *v = qobject_output_visitor_new(&value);

    give(p, current(), v, &error_abort);
    visit_complete(v, &value);
    visit_free(v);
    return value;
}

FerryParameters *qmp_query_ferry_parameters(Error **errp)
{
    g_autoptr(QDict) values = qdict_new();
    FerryParameters *parameters;
    Visitor *v;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (!table[i].hidden) {
            qdict_put_obj(values, table[i].name, value_of(&table[i]));
        }
    }
    v = qobject_input_visitor_new(QOBJECT(values));
    visit_type_FerryParameters(v, NULL, &parameters, &error_abort);
    visit_free(v);
    return parameters;
}

/* --- HMP ------------------------------------------------------------------------------------- */

void hmp_ferry_set_parameter(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;
    const Parameter *p = find(qdict_get_str(qdict, "parameter"), &err);

    if (p) {
        Visitor *v = string_input_visitor_new(qdict_get_str(qdict, "value"));

        take(p, current(), v, false, &err);
        visit_free(v);
    }
    hmp_handle_error(mon, err);
}

void hmp_info_ferry_parameters(Monitor *mon, const QDict *qdict)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const Parameter *p = &table[i];
        const void *field = (const char *)current() + p->offset;

        if (p->hidden || p->alias) {
            continue;
        }
        if (p->kind == SWITCH) {
            monitor_printf(mon, "%s: %s\n", p->name, *(const bool *)field ? "on" : "off");
        } else if (p->kind == NUMBER) {
            monitor_printf(mon, "%s: %u%s%s\n", p->name, *(const uint32_t *)field,
                           *p->unit ? " " : "", p->unit);
        } else if (p->kind == TEXT) {
            const char *text = field;

            monitor_printf(mon, "%s: %s\n", p->name, *text ? text : "\"\"");
        } else {
            monitor_printf(mon, "%s: %s\n", p->name,
                           qapi_enum_lookup(p->words, *(const int *)field));
        }
    }
}

void ferry_set_parameter_completion(ReadLineState *rs, int nb_args, const char *str)
{
    readline_set_completion_index(rs, strlen(str));
    for (size_t i = 0; nb_args == 2 && i < ARRAY_SIZE(table); i++) {
        if (!table[i].hidden && !table[i].alias) {
            readline_add_completion_of(rs, str, table[i].name);
        }
    }
}

static void ferry_register_types(void)
{
    type_register_static(&ferry_type);
    qmp_register_command(&qmp_commands, "ferry-set-parameters", qmp_ferry_set_parameters, 0, 0);
}

type_init(ferry_register_types)
