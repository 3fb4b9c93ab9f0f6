/*
 * Parameters: what each may be, and that it is the same, and refused in the same words, whichever way it
 * comes in: -global, ferry-set-parameters or ferry_set_parameter.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"

#include "case.h"

/* Texts that are a byte too long. */
#define LETTERS_63   "sixty-three-letters-are-one-more-than-the-longest-address-has--"
#define LETTERS_64   LETTERS_63 "-"
#define LETTERS_256  LETTERS_64 LETTERS_64 LETTERS_64 LETTERS_64
#define LETTERS_1024 LETTERS_256 LETTERS_256 LETTERS_256 LETTERS_256

/* A longer word is cut off by HMP. */
#define HMP_WORD_BYTES 1024

/* One parameter, values as text for -global and HMP, and as JSON. */
typedef struct Expected {
    const char *name;
    /* Required: what query-ferry-parameters shows at first, as JSON. */
    const char *initial;
    /* Required: another value; the same as JSON. */
    const char *good, *good_json;
    /* Required: what an error says it expects. */
    const char *expects;
    /* Required: what is not allowed, as text; the same as JSON. */
    const char *bad[4], *bad_json[5];
    /* Required: what "info ferry_parameters" shows at first and then; NULL: nothing. */
    const char *info, *good_info;
} Expected;

static const Expected parameters[] = {
    {
        .name = "enabled",
        .initial = "true",
        .good = "off",
        .good_json = "false",
        .expects = "on (true) or off (false)",
        .bad = {"2", "maybe"},
        .bad_json = {"1", "'on'"},
        .info = "enabled: on\r\n",
        .good_info = "enabled: off\r\n",
    },
    {
        .name = "channels",
        .initial = "0",
        .good = "64",
        .good_json = "64",
        .expects = "a number from 0 to 64",
        .bad = {"-1", "65", "100", "many"},
        .bad_json = {"-1", "65", "256", "18446744073709551615", "'4'"},
        .info = "channels: 0\r\n",
        .good_info = "channels: 64\r\n",
    },
    {
        .name = "checksum",
        .initial = "false",
        .good = "on",
        .good_json = "true",
        .expects = "on (true) or off (false)",
        .bad = {"crc"},
        .bad_json = {"'crc'", "0"},
        .info = "checksum: off\r\n",
        .good_info = "checksum: on\r\n",
    },
    {
        .name = "compression",
        .initial = "'none'",
        .good = "zstd",
        .good_json = "'zstd'",
        .expects = "none, zstd or auto",
        .bad = {"lz4", "Zstd"},
        .bad_json = {"'lz4'", "1", "true"},
        .info = "compression: none\r\n",
        .good_info = "compression: zstd\r\n",
    },
    {
        .name = "tracker",
        .initial = "'auto'",
        .good = "bitmap",
        .good_json = "'bitmap'",
        .expects = "auto, kvm-ring, pagemap or bitmap",
        .bad = {"rings"},
        .bad_json = {"'rings'", "0"},
        .info = "tracker: auto\r\n",
        .good_info = "tracker: bitmap\r\n",
    },
    {
        .name = "trace",
        .initial = "'auto'",
        .good = "pagemap",
        .good_json = "'pagemap'",
        .expects = "auto, kvm-ring, pagemap or bitmap",
        .bad = {"rings"},
        .bad_json = {"'rings'"},
        .info = "tracker: auto\r\n",
        .good_info = "tracker: pagemap\r\n",
    },
    {
        .name = "switchover",
        .initial = "'precopy'",
        .good = "auto",
        .good_json = "'auto'",
        .expects = "precopy, postcopy or auto",
        .bad = {"never"},
        .bad_json = {"'never'", "false"},
        .info = "switchover: precopy\r\n",
        .good_info = "switchover: auto\r\n",
    },
    {
        .name = "open-timeout",
        .initial = "3000",
        .good = "500",
        .good_json = "500",
        .expects = "a number of milliseconds from 500 to 600000",
        .bad = {"5", "499", "600001", "3s"},
        .bad_json = {"5", "499", "600001", "-1", "'3s'"},
        .info = "open-timeout: 3000 milliseconds\r\n",
        .good_info = "open-timeout: 500 milliseconds\r\n",
    },
    {
        .name = "network-timeout",
        .initial = "10000",
        .good = "2000",
        .good_json = "2000",
        .expects = "a number of milliseconds from 2000 to 3600000",
        .bad = {"5", "1999", "3600001", "10s"},
        .bad_json = {"5", "1999", "3600001", "-1", "'10s'"},
        .info = "network-timeout: 10000 milliseconds\r\n",
        .good_info = "network-timeout: 2000 milliseconds\r\n",
    },
    {
        .name = "switchover-timeout",
        .initial = "60000",
        .good = "1000",
        .good_json = "1000",
        .expects = "a number of milliseconds from 1000 to 3600000",
        .bad = {"5", "999", "3600001", "1m"},
        .bad_json = {"5", "999", "3600001", "-1", "'1m'"},
        .info = "switchover-timeout: 60000 milliseconds\r\n",
        .good_info = "switchover-timeout: 1000 milliseconds\r\n",
    },
    {
        .name = "recovery-timeout",
        .initial = "0",
        .good = "604800",
        .good_json = "604800",
        .expects = "a number of seconds from 0 to 604800",
        .bad = {"-1", "604801", "forever"},
        .bad_json = {"-1", "604801", "0.5", "'0'"},
        .info = "recovery-timeout: 0 seconds\r\n",
        .good_info = "recovery-timeout: 604800 seconds\r\n",
    },
    {
        .name = "dscp",
        .initial = "0",
        .good = "63",
        .good_json = "63",
        .expects = "a number from 0 to 63",
        .bad = {"-1", "64", "ef"},
        .bad_json = {"-1", "64", "'46'"},
        .info = "dscp: 0\r\n",
        .good_info = "dscp: 63\r\n",
    },
    {
        .name = "socket-priority",
        .initial = "0",
        .good = "6",
        .good_json = "6",
        .expects = "a number from 0 to 6",
        .bad = {"-1", "7", "high"},
        .bad_json = {"-1", "7", "'6'"},
        .info = "socket-priority: 0\r\n",
        .good_info = "socket-priority: 6\r\n",
    },
    {
        .name = "congestion-control",
        .initial = "''",
        .good = "reno",
        .good_json = "'reno'",
        .expects = "a text of at most 15 bytes",
        .bad = {"sixteen-letters-"},
        .bad_json = {"'sixteen-letters-'", "1", "true"},
        .info = "congestion-control: \"\"\r\n",
        .good_info = "congestion-control: reno\r\n",
    },
    {
        .name = "bind-address",
        .initial = "''",
        .good = "127.0.0.1",
        .good_json = "'127.0.0.1'",
        .expects = "a text of at most 62 bytes",
        .bad = {LETTERS_63},
        .bad_json = {"'" LETTERS_63 "'", "1", "false"},
        .info = "bind-address: \"\"\r\n",
        .good_info = "bind-address: 127.0.0.1\r\n",
    },
    {
        .name = "bind-interface",
        .initial = "''",
        .good = "lo",
        .good_json = "'lo'",
        .expects = "a text of at most 15 bytes",
        .bad = {"sixteen-letters-"},
        .bad_json = {"'sixteen-letters-'", "1", "false"},
        .info = "bind-interface: \"\"\r\n",
        .good_info = "bind-interface: lo\r\n",
    },
    {
        .name = "allow",
        .initial = "''",
        .good = "127.0.0.0/8,::1",
        .good_json = "'127.0.0.0/8,::1'",
        .expects = "a text of at most 1023 bytes",
        .bad = {LETTERS_1024},
        .bad_json = {"'" LETTERS_1024 "'", "1", "false"},
        .info = "allow: \"\"\r\n",
        .good_info = "allow: 127.0.0.0/8,::1\r\n",
    },
};

/* What an error says, whoever gives it. */
static char *words_for(const Expected *p)
{
    return g_strdup_printf("Parameter '%s' expects %s", p->name, p->expects);
}

static void expect_value(Vm *vm, const Expected *p, const char *json)
{
    QObject *wanted = qobject_from_json(json, NULL);
    QDict *values = vm_command(vm, "query-ferry-parameters", NULL);
    QObject *value = qdict_get(values, p->name);

    if (!qobject_is_equal(value, wanted)) {
        g_error("%s is %s, not %s", p->name, qobject_to_json(value)->str, json);
    }
    qobject_unref(values);
    qobject_unref(wanted);
}

static void expect_all_initial(Vm *vm)
{
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        expect_value(vm, &parameters[i], parameters[i].initial);
    }
}

/* --- QMP ------------------------------------------------------------------------------------- */

static void set(Vm *vm, const Expected *p, const char *json)
{
    g_autofree char *arguments = g_strdup_printf("{ '%s': %s }", p->name, json);

    vm_do(vm, "ferry-set-parameters", arguments);
}

static void expect_refusal(Vm *vm, const char *arguments, const char *words)
{
    g_autofree char *error = vm_command_fails(vm, "ferry-set-parameters", arguments);

    if (!g_str_equal(error, words)) {
        g_error("ferry-set-parameters %s: '%s', not '%s'", arguments, error, words);
    }
}

static void check_qmp(Run *run)
{
    Vm *vm = run->source;

    expect_all_initial(vm);
    vm_do(vm, "ferry-set-parameters", "{}");
    expect_all_initial(vm);
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const Expected *p = &parameters[i];
        g_autofree char *words = words_for(p);

        for (size_t k = 0; k < G_N_ELEMENTS(p->bad_json) && p->bad_json[k]; k++) {
            g_autofree char *bad = g_strdup_printf("{ '%s': %s }", p->name, p->bad_json[k]);

            expect_refusal(vm, bad, words);
            expect_value(vm, p, p->initial);
        }
        set(vm, p, p->good_json);
        expect_value(vm, p, p->good_json);
        set(vm, p, p->initial);
        expect_all_initial(vm);
    }
}

/* A command that fails changes nothing; @trace and @tracker are one. */
static void check_several(Run *run)
{
    Vm *vm = run->source;

    expect_refusal(vm, "{ 'channels': 65, 'checksum': true, 'enabled': false }",
                   "Parameter 'channels' expects a number from 0 to 64");
    expect_refusal(vm, "{ 'speed': 1, 'checksum': true }", "Ferry has no parameter 'speed'");
    expect_refusal(vm, "{ 'x-defer': false }", "Ferry has no parameter 'x-defer'");
    expect_all_initial(vm);

    vm_do(vm, "ferry-set-parameters", "{ 'trace': 'pagemap' }");
    expect_value(vm, &(Expected){.name = "tracker"}, "'pagemap'");
    vm_do(vm, "ferry-set-parameters", "{ 'tracker': 'bitmap', 'trace': 'pagemap' }");
    expect_value(vm, &(Expected){.name = "trace"}, "'bitmap'");
    vm_do(vm, "ferry-set-parameters", "{ 'tracker': 'auto' }");
    expect_all_initial(vm);
}

/* --- HMP ------------------------------------------------------------------------------------- */

static void expect_text(Vm *vm, const char *line, const char *words, bool there)
{
    g_autofree char *text = vm_hmp(vm, line);

    if (!strstr(text, words) == there) {
        g_error("%s %s '%s' but:\n%s", line, there ? "does not show" : "shows", words, text);
    }
}

/* What "ferry_set_parameter" answers. */
static void say(Vm *vm, const Expected *p, const char *value, const char *answer)
{
    g_autofree char *line = g_strdup_printf("ferry_set_parameter %s %s", p->name, value);
    g_autofree char *text = vm_hmp(vm, line);

    g_assert_cmpstr(text, ==, answer);
}

static void check_hmp(Run *run)
{
    Vm *vm = run->source;

    expect_text(vm, "info ferry_parameters", "trace", false);
    expect_text(vm, "info ferry_parameters", "x-defer", false);
    expect_text(vm, "ferry_set_parameter speed 1", "Error: Ferry has no parameter 'speed'", true);
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const Expected *p = &parameters[i];
        g_autofree char *words = words_for(p);
        g_autofree char *answer = g_strdup_printf("Error: %s\r\n", words);

        expect_text(vm, "info ferry_parameters", p->info, true);
        for (size_t k = 0; k < G_N_ELEMENTS(p->bad) && p->bad[k]; k++) {
            if (strlen(p->bad[k]) >= HMP_WORD_BYTES) {
                continue;
            }
            say(vm, p, p->bad[k], answer);
            expect_value(vm, p, p->initial);
        }
        say(vm, p, p->good, "");
        expect_value(vm, p, p->good_json);
        expect_text(vm, "info ferry_parameters", p->good_info, true);
        set(vm, p, p->initial);
    }
    expect_all_initial(vm);
}

/* --- The command line ------------------------------------------------------------------------ */

/* Start a QEMU that ends by itself; returns all that it says. */
static char *start_and_end(const char *options, int *status)
{
    g_autofree char *command = g_strdup_printf(
        "echo quit | %s -machine none -accel qtest -nodefaults -display none -monitor stdio %s 2>&1",
        getenv("QTEST_QEMU_BINARY"), options);
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", command, NULL};
    g_autoptr(GError) error = NULL;
    char *output = NULL;

    g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &output, NULL, status, &error);
    g_assert_no_error(error);
    return output;
}

static void expect_bad_global(const Expected *p, const char *value)
{
    g_autofree char *options = g_strdup_printf("-global ferry.%s=%s", p->name, value);
    g_autofree char *words = words_for(p);
    g_autofree char *wanted =
        g_strdup_printf("can't apply global ferry.%s=%s: %s\n", p->name, value, words);
    int status;
    g_autofree char *output = start_and_end(options, &status);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1 || !strstr(output, wanted)) {
        g_error("%s ended with status %d, and did not say '%s' but:\n%s", options, status, wanted,
                output);
    }
}

static void check_bad_globals(Run *run)
{
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        for (size_t k = 0; k < G_N_ELEMENTS(parameters[i].bad) && parameters[i].bad[k]; k++) {
            expect_bad_global(&parameters[i], parameters[i].bad[k]);
        }
    }
}

/* The case's own options give the destination all the good values but these. */
static void check_good_globals(Run *run)
{
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        const Expected *p = &parameters[i];

        expect_value(run->destination, p,
                     g_str_equal(p->name, "enabled")   ? p->initial
                     : g_str_equal(p->name, "tracker") ? "'pagemap'"
                                                       : p->good_json);
    }
}

static void check_help(Run *run)
{
    static const char *const lines[] = {
        "  channels=<uint32>      - a number from 0 to 64: ",
        "  compression=<FerryCompression> - none, zstd or auto: ",
        "  network-timeout=<uint32> - a number of milliseconds from 2000 to 3600000: ",
        "  x-defer=<bool>         - on (true) or off (false): ",
        " (default: 10000)",
        " (default: auto)",
    };
    int status;
    g_autofree char *output = start_and_end("-device ferry,help", &status);

    g_assert_cmpint(status, ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        if (!strstr(output, lines[i])) {
            g_error("-device ferry,help does not show '%s' but:\n%s", lines[i], output);
        }
    }
}

static const Case cases[] = {
    {
        .name = "parameters/qmp",
        .before = check_qmp,
        .hold = HOLD_NOT,
    },
    {
        .name = "parameters/qmp-several",
        .before = check_several,
        .hold = HOLD_NOT,
    },
    {
        .name = "parameters/hmp",
        .before = check_hmp,
        .hold = HOLD_NOT,
    },
    {
        .name = "parameters/global",
        .destination_options =
            "-global ferry.channels=64 -global ferry.checksum=on -global ferry.compression=zstd "
            "-global ferry.tracker=bitmap -global ferry.trace=pagemap "
            "-global ferry.switchover=auto -global ferry.open-timeout=500 "
            "-global ferry.network-timeout=2000 -global ferry.switchover-timeout=1000 "
            "-global ferry.recovery-timeout=604800 -global ferry.dscp=63 "
            "-global ferry.socket-priority=6 -global ferry.congestion-control=reno "
            "-global ferry.bind-address=127.0.0.1 -global ferry.bind-interface=lo "
            "-global ferry.allow=127.0.0.0/8,::1 "
            "-global ferry.x-defer=off",
        .before = check_good_globals,
        .hold = HOLD_NOT,
    },
    {
        .name = "parameters/global-bad",
        .before = check_bad_globals,
        .hold = HOLD_NOT,
    },
    {
        .name = "parameters/help",
        .before = check_help,
        .hold = HOLD_NOT,
    },
};

void add_parameter_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
