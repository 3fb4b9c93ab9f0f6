/*
 * TLS handshakes that would take for ever.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <arpa/inet.h>

#include "postcopy.h"

/* As short as it can be. */
#define IMPATIENT " -global ferry.network-timeout=2000"

static void make_psk(Run *run)
{
    g_autofree char *dir = in_dir("{dir}/tls");
    g_autofree char *file = in_dir("{dir}/tls/keys.psk");

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(
        file, "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", -1, NULL));
}

/* A socket that takes connections, and where it is. */
static int listen_somewhere(char **uri)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener, 8), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&address, &length), ==, 0);
    *uri = g_strdup_printf("tcp:127.0.0.1:%u", ntohs(address.sin_port));
    return listener;
}

static void migrate_to(Vm *vm, const char *uri, bool resume)
{
    g_autofree char *arguments =
        g_strdup_printf("{ 'uri': '%s'%s }", uri, resume ? ", 'resume': true" : "");

    vm_do(vm, "migrate", arguments);
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
    int listener = listen_somewhere(&uri);
    gint64 began = g_get_monotonic_time();

    migrate_to(run->source, uri, false);
    g_free(vm_wait_status(run->source, "failed"));
    expect_limit(run, began);
    close(listener);
}

static void resume_to_the_silent(Run *run)
{
    g_autofree char *uri = NULL;
    int listener = listen_somewhere(&uri);
    gint64 began;

    postcopy_go_over_slowly(run);
    vm_do(run->source, "migrate-pause", NULL);
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
    began = g_get_monotonic_time();
    migrate_to(run->source, uri, true);
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    expect_limit(run, began);
    close(listener);

    vm_do(run->destination, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    g_free(run->uri);
    run->uri = run_listening_uri(run->destination);
    migrate_to(run->source, run->uri, true);
    postcopy_wait(run);
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

#define PSK(endpoint) "-object tls-creds-psk,id=tls,dir={dir}/tls,endpoint=" endpoint
#define USE_TLS       "{ 'tls-creds': 'tls' }"

static const Case cases[] = {
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
        .error = "TLS handshake failed",
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
