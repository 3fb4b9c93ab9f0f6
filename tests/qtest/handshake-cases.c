/*
 * TLS handshakes that fail, or take too long: past the end of the migration, or for ever.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <arpa/inet.h>
#include <sys/stat.h>

#include "qemu/atomic.h"

#include "postcopy.h"

/* As short as it can be. */
#define IMPATIENT " -global ferry.network-timeout=2000"

/* Longer than the test takes. */
#define PATIENT " -global ferry.network-timeout=60000"

static void make_psk(Run *run)
{
    g_autofree char *dir = in_dir("{dir}/tls");
    g_autofree char *file = in_dir("{dir}/tls/keys.psk");

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(
        file, "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", -1, NULL));
}

static void migrate_to(Vm *vm, const char *uri, bool resume)
{
    g_autofree char *arguments =
        g_strdup_printf("{ 'uri': '%s'%s }", uri, resume ? ", 'resume': true" : "");

    vm_do(vm, "migrate", arguments);
}

/* --- A stranger who ends his handshake when the migration is over ------------------------------------- */

/* Another QEMU that migrates to the same destination, and the relay between them. */
typedef struct Stranger {
    Vm *vm;
    int listener, client, server;
    bool has_said_hello; /* atomic */
    bool may_end;        /* atomic: what comes after the first flight gets through */
} Stranger;

static void forward(int from, int to)
{
    g_autofree char *buffer = g_malloc(64 << 10);
    ssize_t nr;

    while ((nr = recv(from, buffer, 64 << 10, 0)) > 0 &&
           send(to, buffer, (size_t)nr, MSG_NOSIGNAL) == nr) {
    }
    shutdown(to, SHUT_WR);
}

static gpointer forward_answers(gpointer opaque)
{
    Stranger *stranger = opaque;

    forward(stranger->server, stranger->client);
    return NULL;
}

static gpointer forward_in_two_parts(gpointer opaque)
{
    Stranger *stranger = opaque;
    char hello[4096], next;
    ssize_t nr;

    stranger->client = accept(stranger->listener, NULL, NULL);
    g_thread_unref(g_thread_new("answers", forward_answers, stranger));
    nr = recv(stranger->client, hello, sizeof(hello), 0);
    g_assert_cmpint(nr, >, 0);
    g_assert_cmpint(send(stranger->server, hello, (size_t)nr, MSG_NOSIGNAL), ==, nr);
    /* The destination has answered, and the handshake lacks only this. */
    g_assert_cmpint(recv(stranger->client, &next, 1, MSG_PEEK), ==, 1);
    qatomic_set(&stranger->has_said_hello, true);
    while (!qatomic_read(&stranger->may_end)) {
        g_usleep(1000);
    }
    forward(stranger->client, stranger->server);
    return NULL;
}

static void begin_strange_handshake(Run *run)
{
    Stranger *stranger = g_new0(Stranger, 1);
    g_autofree char *uri = NULL;

    run->opaque = stranger;
    stranger->vm = run_start_vm(run, "stranger", false);
    run_settings(run, stranger->vm, false);
    stranger->listener = listen_somewhere(8, &uri);
    stranger->server = connect_to(run->uri);
    g_assert_cmpint(stranger->server, >=, 0);
    g_thread_unref(g_thread_new("two-parts", forward_in_two_parts, stranger));
    migrate_to(stranger->vm, uri, false);
    while (!qatomic_read(&stranger->has_said_hello)) {
        g_usleep(1000);
    }
}

static void end_strange_handshake(Run *run)
{
    Stranger *stranger = run->opaque;
    g_autofree char *state = NULL;

    qatomic_set(&stranger->may_end, true);
    g_free(vm_wait_status(stranger->vm, "failed"));
    state = vm_run_state(run->destination);
    g_assert_cmpstr(state, ==, "running");
    memory_check(run->memory, run->destination);
    vm_quit(stranger->vm);
}

/* They know nothing of TLS: each is hung up on. */
static void come_without_tls(Run *run)
{
    static const char words[] = "GET / HTTP/1.0\r\n\r\n";
    const struct timeval patience = {.tv_sec = VM_PATIENCE_S};

    for (unsigned i = 0; i < 8; i++) {
        int fd = connect_to(run->uri);
        char buffer[256];
        ssize_t nr;

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(send(fd, words, strlen(words), MSG_NOSIGNAL), ==, strlen(words));
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        do {
            nr = recv(fd, buffer, sizeof(buffer), 0);
        } while (nr > 0);
        g_assert_true(nr == 0 || errno == ECONNRESET);
        close(fd);
    }
}

/* --- A destination that takes the connection, and then says nothing ----------------------------------- */

static void expect_limit(Run *run, gint64 began)
{
    g_autofree char *error = vm_migration_error(run->source);

    g_assert_cmpint(g_get_monotonic_time() - began, <, 6 * G_USEC_PER_SEC);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error, "took longer than network-timeout (2000 ms)"));
}

static void ask_the_silent(Run *run)
{
    g_autofree char *uri = NULL;
    int listener = listen_somewhere(8, &uri);
    gint64 began = g_get_monotonic_time();

    migrate_to(run->source, uri, false);
    g_free(vm_wait_status(run->source, "failed"));
    expect_limit(run, began);
    close(listener);
}

static void resume_to_the_silent(Run *run)
{
    g_autofree char *uri = NULL;
    int listener = listen_somewhere(8, &uri);
    gint64 began;

    postcopy_go_over_slowly(run);
    postcopy_pause(run);
    began = g_get_monotonic_time();
    migrate_to(run->source, uri, true);
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    expect_limit(run, began);
    close(listener);

    postcopy_recover(run);
}

/* --- Channels of multifd's on which nothing is said ---------------------------------------------------- */

/* Only the first connection is answered. */
static void answer_first(Run *run)
{
    g_autofree char *target = g_steal_pointer(&run->uri);

    run->proxy = proxy_new(target);
    run->uri = proxy_uri(run->proxy);
    proxy_halve(run->proxy, 1, 0, false);
}

static void wait_for_channels(Run *run)
{
    proxy_wait_connections(run->proxy, 3);
    g_usleep(300 * 1000);
}

static void wait_for_limit(Run *run)
{
    gint64 began = g_get_monotonic_time();

    g_free(vm_wait_status(run->source, "failed"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 6 * G_USEC_PER_SEC);
}

/* A log that takes nothing until somebody reads it.  The source says there that a channel has failed. */
static int full_log = -1;

static void make_full_log(Run *run)
{
    static const char filling[4096];
    g_autofree char *path = in_dir("{dir}/full-log");

    make_psk(run);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    full_log = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    g_assert_cmpint(full_log, >=, 0);
    while (write(full_log, filling, sizeof(filling)) > 0) {
    }
    g_assert_cmpint(errno, ==, EAGAIN);
}

/* All channels have failed, and none has said so: whoever waits for them must not go on meanwhile. */
static void hold_failures(Run *run)
{
    char buffer[4096];

    g_usleep(4 * G_USEC_PER_SEC);
    while (read(full_log, buffer, sizeof(buffer)) > 0) {
    }
    g_free(vm_wait_status(run->source, "failed"));
}

/* --- Channels of multifd's that shake hands, and then say nothing ---------------------------------------- */

#define TLS_HEADER_BYTES     5
#define TLS_APPLICATION_DATA 23

typedef struct Way {
    int from, to;
    bool handshake_only;
} Way;

/* With TLS 1.3, a client's second record of this type is the first that is no part of its handshake. */
static void forward_handshake(int from, int to)
{
    g_autofree uint8_t *record = g_malloc(TLS_HEADER_BYTES + UINT16_MAX);
    unsigned nr_data = 0;

    while (recv(from, record, TLS_HEADER_BYTES, MSG_WAITALL) == TLS_HEADER_BYTES) {
        ssize_t length = record[3] << 8 | record[4];

        g_assert_cmpint(recv(from, record + TLS_HEADER_BYTES, length, MSG_WAITALL), ==, length);
        nr_data += record[0] == TLS_APPLICATION_DATA;
        if (nr_data < 2) {
            send(to, record, TLS_HEADER_BYTES + length, MSG_NOSIGNAL);
        }
    }
    shutdown(to, SHUT_WR);
}

static gpointer go_one_way(gpointer opaque)
{
    const Way *way = opaque;

    if (way->handshake_only) {
        forward_handshake(way->from, way->to);
    } else {
        forward(way->from, way->to);
    }
    return NULL;
}

static void start_way(Way way)
{
    g_thread_unref(g_thread_new("way", go_one_way, g_memdup2(&way, sizeof(way))));
}

/* A relay for three connections, of which all but the first say nothing after their handshakes. */
typedef struct Relay {
    int listener;
    char *target;
    unsigned nr; /* atomic */
} Relay;

static gpointer relay_all(gpointer opaque)
{
    Relay *relay = opaque;

    for (unsigned i = 0; i < 3; i++) {
        int client = accept(relay->listener, NULL, NULL), server = connect_to(relay->target);

        start_way((Way){.from = client, .to = server, .handshake_only = i > 0});
        start_way((Way){.from = server, .to = client});
        qatomic_inc(&relay->nr);
    }
    return NULL;
}

static void relay_handshakes(Run *run)
{
    Relay *relay = g_new0(Relay, 1);

    run->opaque = relay;
    relay->target = g_steal_pointer(&run->uri);
    relay->listener = listen_somewhere(8, &run->uri);
    g_thread_unref(g_thread_new("relay", relay_all, relay));
}

static void expect_monitor(Run *run)
{
    Relay *relay = run->opaque;
    gint64 began;

    while (qatomic_read(&relay->nr) < 3) {
        g_usleep(1000);
    }
    g_usleep(700 * 1000);
    began = g_get_monotonic_time();
    g_free(vm_run_state(run->destination));
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
}

#define PSK(endpoint) "-object tls-creds-psk,id=tls,dir={dir}/tls,endpoint=" endpoint
#define USE_TLS       "{ 'tls-creds': 'tls' }"

static const Case cases[] = {
    {
        .name = "tls/without-tls",
        .prepare = make_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server"),
        .parameters = USE_TLS,
        .before = come_without_tls,
    },
    {
        .name = "tls/late-stranger",
        .prepare = make_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server") PATIENT,
        .parameters = USE_TLS,
        .before = begin_strange_handshake,
        .after = end_strange_handshake,
    },
    {
        .name = "tls/silence/multifd-cancel",
        .prepare = make_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server"),
        .second_options = PSK("server"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 2 }",
        .before = answer_first,
        .hold = HOLD_NOT,
        .during = wait_for_channels,
        .then = THEN_CANCEL,
    },
    {
        .name = "tls/silence/multifd-packet",
        .prepare = make_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server"),
        .second_options = PSK("server"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 2 }",
        .before = relay_handshakes,
        .hold = HOLD_NOT,
        .during = expect_monitor,
        .then = THEN_CANCEL,
    },
    {
        .name = "tls/silence/multifd-limit",
        .prepare = make_psk,
        .source_options = PSK("client") IMPATIENT,
        .destination_options = PSK("server"),
        .second_options = PSK("server"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 2 }",
        .before = answer_first,
        .hold = HOLD_NOT,
        .during = wait_for_limit,
        .outcome = FAILS,
        .error = "took longer than network-timeout (2000 ms): TLS handshake failed",
    },
    {
        .name = "tls/silence/multifd-failure-held",
        .prepare = make_full_log,
        .source_options =
            PSK("client") IMPATIENT " -global ferry.open-timeout=500 -D {dir}/full-log "
                                    "-trace multifd_new_send_channel_async_error",
        .destination_options = PSK("server"),
        .second_options = PSK("server"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 2 }",
        .before = answer_first,
        .hold = HOLD_NOT,
        .during = hold_failures,
        .outcome = FAILS,
        .error = "took longer than network-timeout (2000 ms): TLS handshake failed",
    },
    {
        .name = "tls/silence/limit",
        .prepare = make_psk,
        .source_options = PSK("client") IMPATIENT,
        .destination_options = PSK("server"),
        .parameters = USE_TLS,
        .before = ask_the_silent,
    },
    {
        .name = "tls/silence/resume",
        .prepare = make_psk,
        .source_options = PSK("client") IMPATIENT,
        .destination_options = PSK("server"),
        .capabilities = "postcopy-ram",
        .parameters = USE_TLS,
        .postcopy = true,
        .during = resume_to_the_silent,
    },
};

void add_handshake_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
