/*
 * Peers that are the test's own, and say what no QEMU of today says: each side gives its reason.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"

#include "case.h"

/* QEMU's and Ferry's words, written out again, so that a change of the wire is noticed here. */
#define STREAM_MAGIC   0x5145564du
#define STREAM_VERSION 3
#define SECTION_START  0x01
#define SECTION_PART   0x02
#define COMMAND        0x08
#define OPEN_PATH      1
#define PING           2
#define WORD_PONG      2
#define PING_MAGIC     0xf377u
#define PONG_MAGIC     0xf378u
#define PONG_LISTENS   1u
#define RAM_SETUP      UINT64_C(0x4665727279000001)
#define RAM_UNKNOWN    UINT64_C(0x4665727279000009)
#define RAM_VERSION    4

/* A stream without what a test cannot know: the machine's name, and a mark after each section. */
#define PLAIN_STREAM \
    "-global migration.send-configuration=off -global migration.send-section-footer=off"

/* Wait until query-ferry gives a reason that has @words. */
static void wait_reason(Vm *vm, const char *words)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    for (;;) {
        QDict *info = vm_command(vm, "query-ferry", NULL);
        g_autofree char *reason = g_strdup(qdict_get_try_str(info, "reason"));

        qobject_unref(info);
        if (reason && strstr(reason, words)) {
            return;
        }
        if (g_get_monotonic_time() > deadline) {
            g_error("%s: the reason is '%s', not '%s'", vm->name, reason ?: "none", words);
        }
        g_usleep(10 * 1000);
    }
}

/* The migration under way is not wanted any more: what it was for has been seen. */
static void cancel(Vm *vm)
{
    vm_do(vm, "migrate_cancel", NULL);
    g_free(vm_wait_status(vm, "cancelled failed"));
}

/* Nothing but what was looked at so far is to come of this case. */
G_NORETURN static void end(Run *run)
{
    vm_quit(run->source);
    if (!run->destination->gone) {
        vm_kill(run->destination);
    }
    exit(0);
}

/* --- At the source -------------------------------------------------------------------------------- */

typedef struct Setting {
    const char *capabilities, *without; /* separated by spaces; how they are cleared again */
    const char *parameters, *usual;     /* as JSON; or NULL */
    const char *words;
} Setting;

/* Whatever is to be migrated in a way that Ferry does not know is migrated in that way. */
static void try_settings(Run *run)
{
    static const Setting settings[] = {
        {"xbzrle", "no-xbzrle", NULL, NULL, "capability xbzrle is set"},
        {"release-ram", "no-release-ram", NULL, NULL, "capability release-ram is set"},
        {"background-snapshot", "no-background-snapshot", NULL, NULL,
         "capability background-snapshot is set"},
        {"x-colo", "no-x-colo", NULL, NULL, "capability x-colo is set"},
        {"multifd zero-copy-send", "no-zero-copy-send no-multifd", NULL, NULL,
         "capability zero-copy-send is set"},
        {NULL, NULL, "{ 'mode': 'cpr-reboot' }", "{ 'mode': 'normal' }",
         "the migration mode is CPR"},
    };
    Vm *vm = run->source;

    /* None completes while a test looks. */
    vm_set_bandwidth(vm, 64u << 10);
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        const Setting *setting = &settings[i];
        g_autofree char *uri = NULL, *arguments = NULL;
        /* It takes connections, and never says a word. */
        int listener = listen_somewhere(8, &uri);

        if (setting->capabilities) {
            vm_set_capabilities(vm, setting->capabilities);
        }
        if (setting->parameters) {
            vm_do(vm, "migrate-set-parameters", setting->parameters);
        }
        arguments = g_strdup_printf("{ 'uri': '%s' }", uri);
        vm_do(vm, "migrate", arguments);
        wait_reason(vm, setting->words);
        cancel(vm);
        if (setting->without) {
            vm_set_capabilities(vm, setting->without);
        }
        if (setting->usual) {
            vm_do(vm, "migrate-set-parameters", setting->usual);
        }
        close(listener);
    }
    end(run);
}

static void say_pong(int fd, uint32_t value)
{
    uint8_t message[8];

    stw_be_p(message, WORD_PONG);
    stw_be_p(message + 2, sizeof(value));
    stl_be_p(message + 4, value);
    g_assert_cmpint(send(fd, message, sizeof(message), MSG_NOSIGNAL), ==, sizeof(message));
}

/* The answer to a source's question whether there is a Ferry. */
static void answer(int fd, unsigned version, uint32_t flags)
{
    say_pong(fd, PONG_MAGIC << 16 | version << 8 | flags);
    say_pong(fd, 1);
    say_pong(fd, 2);
}

static void answer_from_the_future(Run *run)
{
    g_autofree char *uri = NULL, *arguments = NULL;
    int listener = listen_somewhere(8, &uri), fd;

    arguments = g_strdup_printf("{ 'uri': '%s' }", uri);
    vm_set_bandwidth(run->source, 64u << 10);
    vm_do(run->source, "migrate", arguments);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    answer(fd, 99, 0);
    wait_reason(run->source, "the destination's Ferry speaks version 99 only");
    cancel(run->source);
    close(fd);
    close(listener);
    end(run);
}

/*
 * Who is at the other end of a socket that was handed over may name a port at the address to which it goes.
 * That is this host: it must not choose whom this QEMU talks to.
 */
static void answer_with_a_port(Run *run)
{
    g_autofree char *uri = NULL;
    int listener = listen_somewhere(8, &uri), fd, theirs = connect_to(uri);

    g_assert_cmpint(theirs, >=, 0);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    vm_set_bandwidth(run->source, 64u << 10);
    vm_pass_fd(run->source, theirs, "handed");
    vm_do(run->source, "migrate", "{ 'uri': 'fd:handed' }");
    answer(fd, 4, PONG_LISTENS);
    say_pong(fd, 12345);
    wait_reason(run->source, "asks for connections to port 12345 of this host");
    cancel(run->source);
    close(fd);
    close(theirs);
    close(listener);
    end(run);
}

/* More than the buffers of a connection hold that nobody reads. */
#define UNREAD_BYTES (24 * MIB)

static int64_t transferred(Vm *vm)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    int64_t nr_bytes = qdict_get_int(info, "transferred");

    qobject_unref(info);
    return nr_bytes;
}

/*
 * The guest is stopped, and its last pages do not get through.  What writes to memory then is a device, and its
 * page may have been sent.
 */
static void write_at_last(Run *run)
{
    Vm *vm = run->source;
    g_autofree char *status = NULL, *error = NULL;
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    int64_t before;

    vm_freeze(run->destination);
    memory_scribble(run->memory, vm, UNREAD_BYTES);
    before = transferred(vm);
    vm_do(vm, "migrate-continue", "{ 'state': 'pre-switchover' }");
    /* What is dirty has been looked for once more, and some of it has been sent. */
    while (transferred(vm) < before + (int64_t)MIB) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(10 * 1000);
    }
    memory_scribble(run->memory, vm, MEMORY_PAGE);
    vm_thaw(run->destination);
    status = vm_wait_status(vm, "failed completed");
    g_assert_cmpstr(status, ==, "failed");
    error = vm_migration_error(vm);
    g_assert_cmpstr(error, ==,
                    "a device wrote to memory while the last pages were sent: try again");
    vm_wait_run_state(vm, "running");
    end(run);
}

/* --- At the destination --------------------------------------------------------------------------- */

/* A source of the test's own. */
static int begin_stream(Run *run)
{
    uint8_t head[8];
    int fd = connect_to(run->uri);

    g_assert_cmpint(fd, >=, 0);
    stl_be_p(head, STREAM_MAGIC);
    stl_be_p(head + 4, STREAM_VERSION);
    g_assert_cmpint(send(fd, head, sizeof(head), MSG_NOSIGNAL), ==, sizeof(head));
    return fd;
}

static void say_command(int fd, uint16_t command, const void *data, uint16_t nr_bytes)
{
    uint8_t message[5 + 4] = {COMMAND};

    g_assert_cmpuint(nr_bytes, <=, 4);
    stw_be_p(message + 1, command);
    stw_be_p(message + 3, nr_bytes);
    memcpy(message + 5, data, nr_bytes);
    g_assert_cmpint(send(fd, message, 5 + nr_bytes, MSG_NOSIGNAL), ==, 5 + nr_bytes);
}

/* Ask whether there is a Ferry that speaks one of these versions. */
static void ask(int fd, unsigned oldest, unsigned newest)
{
    uint8_t value[4];

    stl_be_p(value, PING_MAGIC << 16 | oldest << 8 | newest);
    say_command(fd, OPEN_PATH, value, 0);
    say_command(fd, PING, value, sizeof(value));
}

/* The first section of memory, or the next one. */
static void say_ram(int fd, bool first, uint64_t word)
{
    uint8_t message[32] = {first ? SECTION_START : SECTION_PART};
    size_t nr_bytes = 5;

    stl_be_p(message + 1, 2);
    if (first) {
        message[5] = 3;
        memcpy(message + 6, "ram", 3);
        stl_be_p(message + 13, RAM_VERSION);
        nr_bytes = 17;
    }
    stq_be_p(message + nr_bytes, word);
    nr_bytes += sizeof(word);
    g_assert_cmpint(send(fd, message, nr_bytes, MSG_NOSIGNAL), ==, nr_bytes);
}

static void expect_end(Run *run, const char *words)
{
    g_autofree char *log = NULL;

    vm_expect_exit(run->destination, 1);
    log = vm_log(run->destination);
    if (!strstr(log, words)) {
        g_error("the destination does not log '%s' but:\n%s", words, log);
    }
}

static void ask_for_other_versions(Run *run)
{
    int fd = begin_stream(run);

    ask(fd, 90, 99);
    wait_reason(run->destination, "the source's Ferry speaks no version that this one does");
    close(fd);
    end(run);
}

/* It says that Ferry carries memory, and has not asked for one. */
static void send_without_session(Run *run)
{
    int fd = begin_stream(run);

    say_ram(fd, true, RAM_SETUP);
    expect_end(run, "the stream says that Ferry carries the memory, but no session is open");
    close(fd);
    end(run);
}

static void send_other_mark(Run *run)
{
    int fd = begin_stream(run);

    ask(fd, 1, 255);
    say_ram(fd, true, RAM_SETUP);
    say_ram(fd, false, RAM_UNKNOWN);
    expect_end(run, "0x4665727279000009 in the stream where a mark of Ferry's belongs");
    close(fd);
    end(run);
}

static const Case cases[] = {
    {
        .name = "reasons/settings",
        .before = try_settings,
    },
    {
        .name = "reasons/destination-from-the-future",
        .before = answer_from_the_future,
    },
    {
        .name = "reasons/port-of-this-host",
        .before = answer_with_a_port,
    },
    {
        .name = "reasons/device-writes-at-last",
        .ferry_parameters = "{ 'channels': 1 }",
        .hold = HOLD_PRE_SWITCHOVER,
        .during = write_at_last,
    },
    {
        .name = "reasons/source-from-the-future",
        .destination_options = PLAIN_STREAM,
        .before = ask_for_other_versions,
    },
    {
        .name = "reasons/no-session",
        .destination_options = PLAIN_STREAM,
        .before = send_without_session,
    },
    {
        .name = "reasons/unknown-mark",
        .destination_options = PLAIN_STREAM,
        .before = send_other_mark,
    },
    {
        .name = "reasons/more-channels-than-there-are",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 80 }",
        .channels = 64,
    },
    {
        .name = "reasons/postcopy-with-multifd",
        .destination_options = "-global ferry.enabled=off",
        .second_options = "-global ferry.enabled=on",
        /* A destination without Ferry would refuse both together by itself. */
        .capabilities = "multifd",
        .source_capabilities = "postcopy-ram",
        .second_capabilities = "no-postcopy-ram",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error =
            "post-copy together with multifd needs Ferry, which is not in use: the destination",
    },
    {
        .name = "reasons/vhost-user",
        .destination_options = "-chardev socket,id=vhost,path={dir}/vhost,server=on,wait=off "
                               "-object cryptodev-vhost-user,id=crypto,chardev=vhost",
        .capabilities = "postcopy-ram",
        .fallback = "the destination has no Ferry, or has it switched off",
        .destination_fallback = "there is a vhost-user device: pages that it waits for are QEMU's",
    },
};

void add_reason_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
