/*
 * ferry-storm: the device itself, and migrations of what it writes, checked by the device.
 *
 * Under qtest it goes by the virtual clock, which the test moves: what is written does not depend on
 * how fast the machine is. Where it is to write while a migration runs, it goes by the host's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qnum.h"

#include "postcopy.h"

#define RAM_MIB     160
#define STORM(more) "-device ferry-storm,id=storm," more

#define MS_NS 1000000

/* --- Talking to it ------------------------------------------------------------------------------ */

static QDict *storm_get(Vm *vm, const char *property)
{
    g_autofree char *arguments =
        g_strdup_printf("{ 'path': '/machine/peripheral/storm', 'property': '%s' }", property);
    QDict *response = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': %p }",
                                qobject_from_json(arguments, &error_abort));

    if (!qdict_haskey(response, "return")) {
        g_error("%s: storm has no %s", vm->name, property);
    }
    return response;
}

static uint64_t storm_number(Vm *vm, const char *property)
{
    QDict *response = storm_get(vm, property);
    uint64_t value = qnum_get_uint(qobject_to(QNum, qdict_get(response, "return")));

    qobject_unref(response);
    return value;
}

static bool storm_is(Vm *vm, const char *property)
{
    QDict *response = storm_get(vm, property);
    bool value = qdict_get_bool(response, "return");

    qobject_unref(response);
    return value;
}

static char *storm_text(Vm *vm, const char *property)
{
    QDict *response = storm_get(vm, property);
    char *text = g_strdup(qdict_get_str(response, "return"));

    qobject_unref(response);
    return text;
}

static char *set_arguments(const char *property, const char *value)
{
    return g_strdup_printf("{ 'path': '/machine/peripheral/storm', 'property': '%s', 'value': %s }",
                           property, value);
}

static void storm_set(Vm *vm, const char *property, const char *value)
{
    g_autofree char *arguments = set_arguments(property, value);

    vm_do(vm, "qom-set", arguments);
}

static void storm_set_fails(Vm *vm, const char *property, const char *value, const char *reason)
{
    g_autofree char *arguments = set_arguments(property, value);
    g_autofree char *error = vm_command_fails(vm, "qom-set", arguments);

    if (!strstr(error, reason)) {
        g_error("%s=%s fails with '%s', without '%s'", property, value, error, reason);
    }
}

/* The clock moves on by so many milliseconds, and what is due by then is written. */
static void storm_step(Vm *vm, unsigned ms)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    qtest_clock_step(vm->qts, (int64_t)ms * MS_NS);
    while (storm_number(vm, "pages-due") > 0) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

static void storm_wait_written(Vm *vm, uint64_t nr)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    while (storm_number(vm, "pages-written") < nr) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

/* Returns how many pages are wrong. */
static uint64_t storm_verify(Vm *vm)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    uint64_t before = storm_number(vm, "verifications");
    g_autofree char *result = NULL;

    storm_set(vm, "verify", "true");
    while (storm_is(vm, "verify")) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
    g_assert_cmpuint(storm_number(vm, "verifications"), ==, before + 1);
    result = storm_text(vm, "verify-result");
    g_printerr("%s: %s\n", vm->name, result);
    g_assert_cmpint(g_str_has_prefix(result, "right: "), ==, storm_number(vm, "wrong-pages") == 0);
    return storm_number(vm, "wrong-pages");
}

static void storm_expect_right(Vm *vm)
{
    g_assert_cmpuint(storm_verify(vm), ==, 0);
    g_assert_cmpuint(storm_number(vm, "verified-pages"), >, 0);
}

/* --- The device alone: these end the test themselves --------------------------------------------- */

static void end(Run *run)
{
    vm_quit(run->source);
    vm_quit(run->destination);
    exit(0);
}

static void test_clock(Run *run)
{
    Vm *vm = run->source;

    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 0);
    storm_step(vm, 10);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 100);
    storm_set(vm, "rate", "1500");
    storm_step(vm, 3);
    /* One and a half a tick; the half is not lost. */
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 104);
    storm_step(vm, 1);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 106);
    storm_set(vm, "running", "false");
    storm_step(vm, 100);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 106);
    storm_set(vm, "running", "true");
    vm_do(vm, "stop", NULL);
    storm_step(vm, 100);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 106);
    storm_expect_right(vm);
    g_assert_cmpuint(storm_number(vm, "verified-pages"), ==, 106);
    vm_do(vm, "cont", NULL);
    storm_set(vm, "rate", "0");
    storm_step(vm, 10);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 10106);
    end(run);
}

/* The same steps, the same memory, whatever the pattern and the content. */
static void test_deterministic(Run *run)
{
    static const char *const patterns[] = {"'sequential'", "'random'", "'zipf'", "'hot-spot'"};
    static const char *const contents[] = {"'text'", "'random'", "'compressible'", "'zero'"};
    Vm *vms[] = {run->source, run_start_vm(run, "again", false)};
    GMappedFile *memory[2];

    for (unsigned i = 0; i < 2; i++) {
        for (unsigned j = 0; j < G_N_ELEMENTS(patterns); j++) {
            storm_set(vms[i], "pattern", patterns[j]);
            storm_set(vms[i], "content", contents[j]);
            storm_set(vms[i], "whole-pages", j % 2 ? "false" : "true");
            for (unsigned k = 0; k < (i ? 1 : 5); k++) {
                storm_step(vms[i], i ? 50 : 10);
            }
            storm_expect_right(vms[i]);
            storm_set(vms[i], "whole-pages", "true");
            storm_step(vms[i], 20);
        }
        memory[i] = memory_dump(vms[i], STORM_START, STORM_BYTES);
    }
    g_assert_cmpmem(g_mapped_file_get_contents(memory[0]), g_mapped_file_get_length(memory[0]),
                    g_mapped_file_get_contents(memory[1]), g_mapped_file_get_length(memory[1]));
    g_mapped_file_unref(memory[0]);
    g_mapped_file_unref(memory[1]);
    vm_quit(vms[1]);
    end(run);
}

static void test_damage(Run *run)
{
    Vm *vm = run->source;
    g_autofree uint8_t *old = g_malloc(4096);
    g_autofree char *text = NULL;
    uint64_t address = STORM_START + 777 * 4096;

    storm_set(vm, "rate", "0");
    storm_step(vm, 10);
    storm_expect_right(vm);
    /* Any byte. */
    qtest_memread(vm->qts, address, old, 4096);
    qtest_writeb(vm->qts, address + 3333, old[3333] ^ 1);
    g_assert_cmpuint(storm_verify(vm), ==, 1);
    g_assert_cmpuint(storm_number(vm, "stale-pages"), ==, 0);
    g_assert_cmphex(storm_number(vm, "first-wrong-page"), ==, address);
    qtest_writeb(vm->qts, address + 3333, old[3333]);
    storm_expect_right(vm);
    g_assert_cmphex(storm_number(vm, "first-wrong-page"), ==, UINT64_MAX);
    /* A page that is too old is right in itself. */
    storm_step(vm, 16);
    qtest_memwrite(vm->qts, address, old, 4096);
    g_assert_cmpuint(storm_verify(vm), ==, 1);
    g_assert_cmpuint(storm_number(vm, "stale-pages"), ==, 1);
    g_assert_cmphex(storm_number(vm, "first-wrong-page"), ==, address);
    text = storm_text(vm, "verify-result");
    g_assert_nonnull(strstr(text, "not as last written"));
    /* That it was so is remembered when it is written again. */
    storm_step(vm, 20);
    g_assert_cmpuint(storm_verify(vm), ==, 1);
    end(run);
}

static void test_settings(Run *run)
{
    Vm *vm = run->source;
    g_autofree char *help = NULL;

    g_assert_cmpuint(storm_number(vm, "working-set"), ==, STORM_BYTES);
    storm_set_fails(vm, "working-set", "33558528", "does not fit the region");
    storm_set_fails(vm, "working-set", "5000", "multiples of 4096");
    storm_set_fails(vm, "working-set", "0", "does not fit the region");
    storm_set_fails(vm, "hot-spot", "134217728", "more than the working set");
    storm_set_fails(vm, "rate", "10000000001", "at most");
    storm_set_fails(vm, "pattern", "'spiral'", "spiral");
    storm_set_fails(vm, "content", "'noise'", "noise");
    storm_set_fails(vm, "size", "4096", "after it was realized");
    storm_set_fails(run->destination, "verify", "true", "before the guest has arrived");
    /* None of it has changed anything. */
    g_assert_cmpuint(storm_number(vm, "working-set"), ==, STORM_BYTES);
    storm_set(vm, "working-set", "40960");
    storm_step(vm, 10);
    g_assert_cmpuint(storm_number(vm, "pages-written"), ==, 100);
    storm_expect_right(vm);
    g_assert_cmpuint(storm_number(vm, "verified-pages"), ==, 10);
    end(run);
}

/* Plugged in, refused, unplugged in the midst of it. */
static void test_plug(Run *run)
{
    static const struct {
        const char *options, *error;
    } refused[] = {
        {"'start': 8192, 'size': 1048576", "is not all RAM"},
        {"'start': 134217728, 'size': 134217728", "is not all RAM"},
        {"'start': 4096000000000", "no RAM is left"},
        {"'start': 100", "multiples of 4096"},
        {"'start': 4096, 'size': 18446744073709547520", "are past all addresses"},
        {"'start': 67108864, 'size': 67108864, 'working-set': 134217728", "does not fit"},
        {"'hot-spot': 1073741824", "hot spot"},
    };
    Vm *vm = run->source;

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autofree char *arguments = g_strdup_printf(
            "{ 'driver': 'ferry-storm', 'bus': 'hole', 'id': 'x', %s }", refused[i].options);
        g_autofree char *error = vm_command_fails(vm, "device_add", arguments);

        g_printerr("%s\n", error);
        if (!strstr(error, refused[i].error)) {
            g_error("%s fails with '%s'", refused[i].options, error);
        }
    }
    vm_do(vm, "device_add",
          "{ 'driver': 'ferry-storm', 'bus': 'hole', 'id': 'storm', 'clock': 'host', 'rate': 0 }");
    /* In the midst of writing and verifying. */
    storm_wait_written(vm, 1000);
    storm_set(vm, "verify", "true");
    storm_set(vm, "realized", "false");
    g_free(storm_text(vm, "verify-result"));
    storm_set_fails(vm, "verify", "true", "not plugged in");
    end(run);
}

/* Nothing is written any more when "stop" has returned, though it was going as fast as it can. */
static void test_stop(Run *run)
{
    Vm *vm = run->source;

    for (unsigned i = 0; i < 12; i++) {
        uint64_t written = storm_number(vm, "pages-written");
        GMappedFile *one, *two;

        storm_wait_written(vm, written + 2000 + i * 37);
        vm_do(vm, "stop", NULL);
        written = storm_number(vm, "pages-written");
        one = memory_dump(vm, STORM_START, STORM_BYTES);
        g_usleep(5 * 1000);
        two = memory_dump(vm, STORM_START, STORM_BYTES);
        g_assert_true(memcmp(g_mapped_file_get_contents(one), g_mapped_file_get_contents(two),
                             STORM_BYTES) == 0);
        g_assert_cmpuint(storm_number(vm, "pages-written"), ==, written);
        g_mapped_file_unref(one);
        g_mapped_file_unref(two);
        vm_do(vm, "cont", NULL);
    }
    storm_expect_right(vm);
    end(run);
}

/* --- Migrations --------------------------------------------------------------------------------- */

static void write_first(Run *run)
{
    storm_wait_written(run->source, 4000);
}

/* Before its bandwidth is let go. */
static void wait_completed(Run *run)
{
    g_free(vm_wait_status(run->source, "completed"));
}

static void write_more(Run *run)
{
    storm_wait_written(run->source, storm_number(run->source, "pages-written") + 5000);
}

/* The memory that the test knows of has been compared; now what the storm knows of. */
static void expect_storm(Run *run)
{
    uint64_t written = storm_number(run->source, "pages-written");

    storm_expect_right(run->source);
    g_assert_cmpuint(storm_number(run->destination, "pages-written"), >=, written);
    storm_expect_right(run->destination);
    /* It goes on there. */
    storm_wait_written(run->destination, written + 3000);
    storm_expect_right(run->destination);
}

static void go_over(Run *run)
{
    postcopy_go_over(run);
    storm_wait_written(run->destination, storm_number(run->source, "pages-written") + 1000);
}

static void expect_fetched_storm(Run *run)
{
    postcopy_expect_fetched(run);
    expect_storm(run);
}

/* By the virtual clock: to the page, what a QEMU has that was not migrated. */
static void step_during(Run *run)
{
    storm_step(run->source, 30);
}

static void expect_unmoved(Run *run)
{
    Vm *other = run_start_vm(run, "unmoved", false);
    GMappedFile *one, *two;

    storm_step(other, 60);
    g_assert_cmpuint(storm_number(run->destination, "pages-written"), ==, 600);
    storm_expect_right(run->destination);
    storm_step(run->destination, 40);
    storm_step(other, 40);
    one = memory_dump(run->destination, STORM_START, STORM_BYTES);
    two = memory_dump(other, STORM_START, STORM_BYTES);
    g_assert_true(
        memcmp(g_mapped_file_get_contents(one), g_mapped_file_get_contents(two), STORM_BYTES) == 0);
    g_mapped_file_unref(one);
    g_mapped_file_unref(two);
    vm_quit(other);
}

/* The control: it writes pages and does not say so. The source is right, the destination is not. */
static void expect_lost_writes(Run *run)
{
    storm_expect_right(run->source);
    g_assert_cmpuint(storm_verify(run->destination), >, 0);
    g_assert_cmpuint(storm_number(run->destination, "stale-pages"), >, 0);
}

/* STORM_START and STORM_BYTES, as options. */
#define REGION          "start=125829120,size=32M"
#define FAST            STORM(REGION ",clock=host,rate=0,working-set=16M")
#define STEADY          STORM(REGION ",clock=host,rate=20000,working-set=16M")
#define ALONE(more)     .options = STORM(REGION more), .ram_mib = RAM_MIB, .no_listen = true
#define BACKEND(driver) "-object " driver ",id=ram,size=160M"

static const Case cases[] = {
    {.name = "storm/clock", ALONE(""), .before = test_clock},
    {.name = "storm/deterministic", ALONE(""), .before = test_deterministic},
    {.name = "storm/damage", ALONE(""), .before = test_damage},
    {.name = "storm/settings", ALONE(""), .before = test_settings},
    {
        .name = "storm/plug",
        .options = "-device pcie-root-port,id=hole",
        .ram_mib = RAM_MIB,
        .no_listen = true,
        .before = test_plug,
    },
    {.name = "storm/stop", ALONE(",clock=host,rate=0,pattern=random"), .before = test_stop},
    {
        .name = "storm/precopy",
        .options = STEADY ",pattern=random",
        .ram_mib = RAM_MIB,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/precopy-zipf-unix",
        .uri = "unix:{dir}/migration",
        .options = STEADY ",pattern=zipf,content=text",
        .ram_mib = RAM_MIB,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/precopy-stamps-channels-4",
        .options = STEADY ",pattern=hot-spot,content=compressible,whole-pages=off",
        .ram_mib = RAM_MIB,
        .ferry_parameters = "{ 'channels': 4 }",
        .channels = 4,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/precopy-shared",
        .ram = BACKEND("memory-backend-memfd,share=on"),
        .options = STEADY,
        .ram_mib = RAM_MIB,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/stock-path",
        .options = STEADY ",pattern=random -global ferry.enabled=off",
        .ram_mib = RAM_MIB,
        .fallback = "switched off",
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/cancel",
        .options = STEADY ",pattern=random",
        .ram_mib = RAM_MIB,
        .then = THEN_CANCEL,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_storm,
    },
    {
        .name = "storm/postcopy",
        .options = FAST ",pattern=random",
        .ram_mib = RAM_MIB,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .storm = true,
        .before = write_first,
        .during = go_over,
        .after = expect_fetched_storm,
    },
    {
        /* Five times as much is written as can be sent: more rounds do not help. */
        .name = "storm/postcopy-auto",
        .options = "-global ferry.switchover=auto " STEADY,
        .ram_mib = RAM_MIB,
        .capabilities = "postcopy-ram",
        .parameters = "{ 'max-bandwidth': 16777216 }",
        .postcopy = true,
        .storm = true,
        .before = write_first,
        .hold = HOLD_NOT,
        .during = postcopy_wait,
        .after = expect_fetched_storm,
    },
    {
        /* All of it would fit downtime-limit, and each round leaves less: nothing is to be left missing. */
        .name = "storm/precopy-auto",
        .options =
            "-global ferry.switchover=auto " STORM(REGION ",clock=host,rate=4000,working-set=16M"),
        .ram_mib = RAM_MIB,
        .capabilities = "postcopy-ram",
        .parameters = "{ 'downtime-limit': 2000, 'max-bandwidth': 33554432,"
                      "  'avail-switchover-bandwidth': 33554432 }",
        .storm = true,
        .before = write_first,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .after = expect_storm,
    },
    {
        .name = "storm/postcopy-shared",
        .ram = BACKEND("memory-backend-memfd,share=on"),
        .options = FAST ",pattern=zipf",
        .ram_mib = RAM_MIB,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .storm = true,
        .before = write_first,
        .during = go_over,
        .after = expect_fetched_storm,
    },
    {
        .name = "storm/postcopy-stamps-channels-4",
        .uri = "unix:{dir}/migration",
        .options = FAST ",pattern=random,whole-pages=off",
        .ram_mib = RAM_MIB,
        .ferry_parameters = "{ 'channels': 4 }",
        .channels = 4,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .storm = true,
        .before = write_first,
        .during = go_over,
        .after = expect_fetched_storm,
    },
    {
        .name = "storm/virtual",
        .options = STORM(REGION ",pattern=random"),
        .ram_mib = RAM_MIB,
        .storm = true,
        .before = step_during,
        .during = step_during,
        .after = expect_unmoved,
    },
    {
        .name = "storm/lost-writes-are-found",
        .options = STEADY ",x-forget=50,pattern=random",
        .ram_mib = RAM_MIB,
        .storm = true,
        .before = write_first,
        .during = write_more,
        .after = expect_lost_writes,
    },
    {
        .name = "storm/other-region",
        .source_options = STORM(REGION),
        .destination_options = STORM("start=125829120,size=16M"),
        .second_options = STORM(REGION),
        .ram_mib = RAM_MIB,
        .storm = true,
        .outcome = FAILS,
        .error = "the destination says: it could not load the state of the guest",
    },
};

void add_storm_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
