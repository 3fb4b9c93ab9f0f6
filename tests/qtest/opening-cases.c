/*
 * Opening a session where something is in its way: QEMU's own path carries the memory then, soon.  And
 * cancelling at that time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include <arpa/inet.h>
#include <poll.h>
#include <sys/un.h>

#include "case.h"

#define HASTY "-global ferry.open-timeout=1000"

/* Nothing completes at this rate while a test looks. */
#define SLOW_BYTES (64u << 10)

/* --- A relay in the way -------------------------------------------------------------------------- */

/* Takes the second connection, and never forwards it. */
static void swallow_second(Run *run)
{
    run->proxy = proxy_new(run->uri);
    proxy_limit(run->proxy, 1);
    g_free(run->uri);
    run->uri = proxy_uri(run->proxy);
}

/* The same for the third: with one data channel, it is that. */
static void swallow_third(Run *run)
{
    swallow_second(run);
    proxy_limit(run->proxy, 2);
}

/*
 * With multifd, that is one of its own, without which the destination goes on.  It comes when the session's may come
 * as well, which do not get through: QEMU's own path needs all of its own.
 */
static void let_multifd_in(Run *run)
{
    vm_wait_ferry_phase(run->destination, "connect");
    proxy_limit(run->proxy, 3);
    g_free(vm_wait_status(run->source, "completed"));
}

/* A firewall that lets one connection through, and answers to others that there is nobody, or not at all. */
static void refuse_second(Run *run)
{
    swallow_second(run);
    proxy_end_after(run->proxy, 1, true);
}

static void drop_second(Run *run)
{
    swallow_second(run);
    proxy_end_after(run->proxy, 1, false);
}

/* Nobody tells the destination that the source has gone. */
static void keep_main(Run *run)
{
    proxy_stall(run->proxy, 0);
}

/* One that is reset as soon as it is there. */
static gpointer reset_run(gpointer opaque)
{
    Proxy *proxy = opaque;

    proxy_wait_connections(proxy, 3);
    while (proxy_nr_connections(proxy) < 3) {
        g_usleep(1000);
    }
    proxy_cut_one(proxy, 1);
    return NULL;
}

static void reset_control(Run *run)
{
    run->proxy = proxy_new(run->uri);
    g_free(run->uri);
    run->uri = proxy_uri(run->proxy);
    /* The last data channel does not get through, so that it is not open before that. */
    proxy_limit(run->proxy, 3);
    g_thread_unref(g_thread_new("reset", reset_run, run->proxy));
}

/* Whatever keeps a connection waits until then. */
static void wait_completed(Run *run)
{
    g_free(vm_wait_status(run->source, "completed"));
}

/* --- Somebody else's port ------------------------------------------------------------------------ */

/* A port at which a connection is neither taken nor refused: its backlog is full. */
static int listen_deaf(char **uri)
{
    int listener = listen_somewhere(0, uri);

    g_assert_cmpint(connect_to(*uri), >=, 0);
    return listener;
}

static void expect_cancelled(Vm *vm)
{
    g_autofree char *status = vm_wait_status(vm, "cancelled");
    g_autofree char *error = vm_migration_error(vm);

    g_assert_null(error);
}

/* Somewhere that takes one connection, the main channel, and answers no other; the destination hears of nothing. */
static void go_to_the_deaf(Run *run)
{
    g_free(run->uri);
    run->opaque = GINT_TO_POINTER(listen_somewhere(0, &run->uri));
}

static void cancel_dialling(Run *run)
{
    Vm *first = run->destination;
    g_autofree char *status = NULL;
    gint64 began;

    g_usleep(500 * 1000);
    status = vm_migration_status(run->source);
    g_assert_cmpstr(status, ==, "setup");
    began = g_get_monotonic_time();
    vm_do(run->source, "migrate_cancel", NULL);
    expect_cancelled(run->source);
    g_assert_cmpint(g_get_monotonic_time() - began, <, 5 * G_USEC_PER_SEC);
    run_second(run);
    vm_quit(run->source);
    vm_quit(run->destination);
    vm_quit(first);
    exit(0);
}

static void wait_for_limit(Run *run)
{
    gint64 began = g_get_monotonic_time();

    g_free(vm_wait_status(run->source, "failed"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 6 * G_USEC_PER_SEC);
}

/*
 * A connection that is still being made when its migration is cancelled, and comes when the next one is
 * under way: nothing must come of it.
 */
static void cancel_before_connected(Run *run)
{
    g_autofree char *uri = NULL;
    int listener = listen_deaf(&uri);
    g_autofree char *arguments = g_strdup_printf("{ 'uri': '%s' }", uri);

    for (int i = 0; i < 3; i++) {
        vm_do(run->source, "migrate", arguments);
        vm_do(run->source, "migrate_cancel", NULL);
        expect_cancelled(run->source);
    }
    run->opaque = GINT_TO_POINTER(listener);
}

/* The next one is under way: now they come, all three. */
static void let_connect(Run *run)
{
    int listener = GPOINTER_TO_INT(run->opaque);

    for (int i = 0; i < 4; i++) {
        struct pollfd pollfd = {.fd = listener, .events = POLLIN};
        int fd;

        /* TCP tries again after 1, 3 and 7 s. */
        g_assert_cmpint(poll(&pollfd, 1, VM_PATIENCE_S * 1000), ==, 1);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        if (i > 0) {
            char byte;

            /* It is closed, and nothing was said. */
            g_assert_cmpint(recv(fd, &byte, 1, 0), ==, 0);
        }
        close(fd);
    }
    close(listener);
}

/* Cancelled within the first milliseconds, each time a little later, and again at once. */
static void cancel_early(Run *run)
{
    vm_set_bandwidth(run->source, SLOW_BYTES);
    for (int i = 0; i < 12; i++) {
        g_autofree char *name = g_strdup_printf("destination-%d", i);

        run_migrate(run);
        g_usleep(i * i * 300);
        vm_do(run->source, "migrate_cancel", NULL);
        expect_cancelled(run->source);
        vm_kill(run->destination);
        run->destination = run_start_vm(run, name, true);
        run_listen(run);
    }
}

/* --- Failing, and again ------------------------------------------------------------------------- */

/* The moment its status says that it has failed, capabilities can be changed, and it can be tried again. */
static void fail_and_repeat(Run *run)
{
    vm_set_bandwidth(run->source, SLOW_BYTES);
    for (int i = 0; i < 6; i++) {
        g_autofree char *name = g_strdup_printf("destination-%d", i);

        vm_set_capabilities(run->source, i % 2 ? "no-multifd" : "multifd");
        vm_set_capabilities(run->destination, i % 2 ? "no-multifd" : "multifd");
        run_listen(run);
        run_migrate(run);
        g_free(vm_wait_status(run->source, "active"));
        vm_kill(run->destination);
        g_free(vm_wait_status(run->source, "failed"));
        run->destination = run_start_vm(run, name, true);
    }
    vm_set_capabilities(run->source, "no-multifd");
    run_listen(run);
}

static void wait_failed(Run *run)
{
    g_free(vm_wait_status(run->source, "failed"));
}

static void freeze_destination(Run *run)
{
    vm_freeze(run->destination);
}

/* All of the stream fits the kernel's buffers, and what the destination says when it goes on comes too late. */
static void thaw_late(Run *run)
{
    g_autofree char *status = NULL;

    g_usleep(3 * G_USEC_PER_SEC);
    status = vm_migration_status(run->source);
    g_assert_cmpstr(status, !=, "completed");
    vm_thaw(run->destination);
}

/* --- A destination that is the test's own -------------------------------------------------------- */

/* QEMU's words on the return path. */
enum {
    WORD_SHUT = 1,
    WORD_PONG = 2
};

/* A port whose owner's host takes no more than a few KiB that nobody has read. */
static void listen_narrow(Run *run)
{
    int listener, bytes = 4096;

    g_free(run->uri);
    listener = listen_somewhere(1, &run->uri);
    g_assert_cmpint(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), ==, 0);
    run->opaque = GINT_TO_POINTER(listener);
}

/* The first connection that comes, and the last. */
static int accept_main(Run *run)
{
    int listener = GPOINTER_TO_INT(run->opaque);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(listener);
    return fd;
}

/* Reads until @text has come; or to the end, if it is NULL. */
static void read_until(int fd, const char *text)
{
    g_autofree char *buffer = g_malloc(4096 + 64);
    size_t kept = 0;

    for (;;) {
        ssize_t got = recv(fd, buffer + kept, 4096, 0);

        g_assert_cmpint(got, >=, text ? 1 : 0);
        kept += got;
        if (got == 0 || (text && memmem(buffer, kept, text, strlen(text)))) {
            return;
        }
        if (kept > 64) {
            memmove(buffer, buffer + kept - 64, 64);
            kept = 64;
        }
    }
}

static void say(int fd, uint16_t word, uint32_t value)
{
    uint8_t message[8];

    stw_be_p(message, word);
    stw_be_p(message + 2, sizeof(value));
    stl_be_p(message + 4, value);
    g_assert_cmpint(send(fd, message, sizeof(message), MSG_NOSIGNAL), ==, sizeof(message));
}

/*
 * It says nothing until the source has written everything, and waits for its host to take it.  The guest may run
 * there then.  After that it speaks, and what it says is that it has failed.
 */
static void speak_late_and_fail(Run *run)
{
    int fd = accept_main(run);
    g_autofree char *why = NULL;

    /* The first words of the description that ends the stream. */
    read_until(fd, "\"page_size\"");
    g_usleep(G_USEC_PER_SEC / 2);
    why = vm_command_fails(run->source, "migrate_cancel", NULL);
    g_assert_nonnull(strstr(why, "was told to run the guest"));
    say(fd, WORD_PONG, 0);
    say(fd, WORD_SHUT, 1);
    read_until(fd, NULL);
    close(fd);
}

/* Nobody but a person can know where the guest runs. */
G_NORETURN static void expect_doubt(Run *run, const char *words)
{
    g_autofree char *error = NULL;

    g_free(vm_wait_status(run->source, "failed"));
    error = vm_migration_error(run->source);
    g_assert_nonnull(strstr(error, words));
    vm_wait_run_state(run->source, "postmigrate");
    vm_quit(run->source);
    vm_kill(run->destination);
    exit(0);
}

/* It never speaks, and its host takes nothing of the end: whether a guest runs there, nobody can know. */
static void leave_the_end(Run *run)
{
    int fd = accept_main(run);

    read_until(fd, "\"page_size\"");
    expect_doubt(run, "has said nothing, and its host took nothing for 2000 ms");
}

/* Their description is longer than what a UNIX socket holds. */
#define NIC(at) " -device e1000,romfile=,multifunction=on,addr=" at
#define NICS(slot) \
    NIC(slot ".0") \
    NIC(slot ".1") \
    NIC(slot ".2") NIC(slot ".3") NIC(slot ".4") NIC(slot ".5") NIC(slot ".6") NIC(slot ".7")
#define MANY_DEVICES NICS("4") NICS("5") NICS("6") NICS("7") NICS("8") NICS("9")

static void listen_unix(Run *run)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *path = in_dir("{dir}/end");
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpuint(g_strlcpy(address.sun_path, path, sizeof(address.sun_path)), <,
                     sizeof(address.sun_path));
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_free(run->uri);
    run->uri = g_strdup_printf("unix:%s", path);
    run->opaque = GINT_TO_POINTER(listener);
}

/* It goes while the source writes what a destination does without: a guest may run there. */
static void reset_the_end(Run *run)
{
    int fd = accept_main(run);

    read_until(fd, "\"page_size\"");
    close(fd);
    expect_doubt(run, "the connection broke when the destination had what it needs");
}

static const Case cases[] = {
    {
        .name = "opening/reset-end",
        .source_options = HASTY MANY_DEVICES,
        .before = listen_unix,
        .hold = HOLD_NOT,
        .during = reset_the_end,
    },
    {
        .name = "opening/unread-end",
        .source_options = HASTY " -global ferry.network-timeout=2000",
        .before = listen_narrow,
        .hold = HOLD_NOT,
        .during = leave_the_end,
    },
    {
        .name = "opening/late-words",
        .source_options = HASTY,
        .before = listen_narrow,
        .hold = HOLD_NOT,
        .during = speak_late_and_fail,
        .outcome = FAILS,
        .destination_stays = true,
        .error = "Sibling indicated error 1",
    },
    {
        .name = "opening/frozen-destination",
        .source_options = HASTY,
        .before = freeze_destination,
        .hold = HOLD_NOT,
        .during = thaw_late,
        .fallback = "did not answer in time",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/relay-swallows",
        .source_options = HASTY,
        .before = swallow_second,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .fallback = "did not say in time that it takes the RAM blocks (open-timeout is 1000 ms)",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/relay-swallows-data",
        .source_options = HASTY,
        .ferry_parameters = "{ 'channels': 1 }",
        .before = swallow_third,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .fallback = "did not say in time that it takes the RAM blocks (open-timeout is 1000 ms)",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/relay-keeps-main",
        .destination_options = HASTY " -global ferry.network-timeout=2000",
        .proxy = true,
        .hold = HOLD_CHANNELS,
        .during = keep_main,
        .then = THEN_KILL_SOURCE,
        .destination_log = "neither opened it nor gone on without for 3000 ms",
    },
    {
        .name = "opening/relay-resets",
        .ferry_parameters = "{ 'channels': 2 }",
        .before = reset_control,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .fallback = "lost the connection to the destination",
        /* Which of the two ends sees it first is open. */
        .destination_fallback = "the session",
    },
    {
        .name = "opening/relay-refuses",
        .before = refuse_second,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .fallback = "cannot open channel 'control': cannot connect: Connection refused",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/relay-drops",
        .source_options = HASTY,
        .before = drop_second,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .fallback = "cannot open channel 'control': no connection after ",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/cancel-before-connected",
        .before = cancel_before_connected,
        .during = let_connect,
    },
    {
        .name = "opening/cancel-early",
        .before = cancel_early,
    },
    {
        .name = "opening/fail-and-repeat",
        .no_listen = true,
        .before = fail_and_repeat,
    },
    {
        .name = "opening/multifd-dropped/cancel",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2 }",
        .before = go_to_the_deaf,
        .hold = HOLD_NOT,
        .during = cancel_dialling,
    },
    {
        .name = "opening/multifd-dropped/limit",
        .source_options = "-global ferry.network-timeout=2000",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2 }",
        .before = go_to_the_deaf,
        .hold = HOLD_NOT,
        .during = wait_for_limit,
        .destination_stays = true,
        .outcome = FAILS,
        .error = "cannot open one more of QEMU's own channels: the destination took longer than "
                 "network-timeout (2000 ms): no connection after",
    },
    {
        .name = "opening/late-multifd-channel",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2 }",
        .before = swallow_third,
        .hold = HOLD_NOT,
        .during = let_multifd_in,
        .fallback = "did not say in time that it takes the RAM blocks (open-timeout is 3000 ms)",
        .destination_fallback = "the source gave up before the session was open",
    },
    {
        .name = "opening/fewer-multifd-channels",
        .capabilities = "multifd",
        .source_parameters = "{ 'multifd-channels': 1 }",
        .destination_parameters = "{ 'multifd-channels': 2 }",
        .channels = 1,
    },
    {
        .name = "opening/fewer-multifd-channels-postcopy",
        .capabilities = "multifd postcopy-ram",
        .source_parameters = "{ 'multifd-channels': 1 }",
        .destination_parameters = "{ 'multifd-channels': 4 }",
        .channels = 1,
    },
    {
        .name = "opening/more-multifd-channels",
        .capabilities = "multifd",
        .source_parameters = "{ 'multifd-channels': 8 }",
        .destination_parameters = "{ 'multifd-channels': 2 }",
        .channels = 8,
    },
    {
        .name = "opening/fewer-multifd-channels-stock-path",
        .source_options = "-global ferry.enabled=off",
        .destination_options = HASTY,
        .second_options = HASTY,
        .capabilities = "multifd",
        .source_parameters = "{ 'multifd-channels': 1 }",
        .destination_parameters = "{ 'multifd-channels': 2 }",
        .second_destination_parameters = "{ 'multifd-channels': 1 }",
        .fallback = "switched off",
        .during = wait_failed,
        .outcome = FAILS,
        .error = "Unable to write to socket: |Channel error: Input/output error",
        .destination_log =
            "multifd-channels is 2 here, and the source has opened fewer: set the same number",
    },
};

void add_opening_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
