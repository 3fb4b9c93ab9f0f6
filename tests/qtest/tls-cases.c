/*
 * TLS on every channel: right, and wrong in each way that it can be.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <arpa/inet.h>

#include "postcopy.h"
#include "strangers.h"

static const char *no_certtool(void)
{
    g_autofree char *path = g_find_program_in_path("certtool");

    return path ? NULL : "certtool is not installed (Debian: gnutls-bin)";
}

static void certtool(const char *arguments)
{
    g_autofree char *line = in_dir(arguments);
    g_autofree char *command = g_strdup_printf("certtool %s", line);
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    int status = -1;

    if (!g_spawn_command_line_sync(command, &output, &errors, &status, NULL) || status != 0) {
        g_error("%s: %s", command, errors);
    }
}

static void write_file(const char *name, const char *text)
{
    g_autofree char *path = in_dir(name);
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* An authority in {dir}/NAME/ca-cert.pem. */
static void make_authority(const char *name)
{
    g_autofree char *template = g_strdup_printf("{dir}/%s/ca.cfg", name);
    g_autofree char *key =
        g_strdup_printf("--generate-privkey --ecdsa --outfile {dir}/%s/ca-key.pem", name);
    g_autofree char *certificate = g_strdup_printf(
        "--generate-self-signed --load-privkey {dir}/%s/ca-key.pem --template {dir}/%s/ca.cfg "
        "--outfile {dir}/%s/ca-cert.pem",
        name, name, name);

    write_file(template, "cn = Ferry's tests\nca\ncert_signing_key\nexpiration_days = 2\n");
    certtool(key);
    certtool(certificate);
}

/* A certificate for @role ("server", "client") in {dir}/NAME, of @authority. */
static void make_certificate(const char *name, const char *authority, const char *role,
                             const char *who)
{
    g_autofree char *template = g_strdup_printf("{dir}/%s/%s.cfg", name, role);
    g_autofree char *text =
        g_strdup_printf("cn = %s\n%s%s\nsigning_key\ntls_www_%s\n"
                        "expiration_days = 2\n",
                        who, g_ascii_isdigit(who[0]) ? "ip_address = " : "dns_name = ", who, role);
    g_autofree char *key =
        g_strdup_printf("--generate-privkey --ecdsa --outfile {dir}/%s/%s-key.pem", name, role);
    g_autofree char *certificate = g_strdup_printf(
        "--generate-certificate --load-privkey {dir}/%s/%s-key.pem "
        "--load-ca-certificate {dir}/%s/ca-cert.pem --load-ca-privkey {dir}/%s/ca-key.pem "
        "--template {dir}/%s/%s.cfg --outfile {dir}/%s/%s-cert.pem",
        name, role, authority, authority, name, role, name, role);

    write_file(template, text);
    certtool(key);
    certtool(certificate);
}

static void make_x509(Run *run)
{
    make_authority("x509");
    make_certificate("x509", "x509", "server", "127.0.0.1");
    make_certificate("x509", "x509", "client", "the-source");
}

/* The server's certificate is for another host. */
static void make_x509_misnamed(Run *run)
{
    make_authority("x509");
    make_certificate("x509", "x509", "server", "elsewhere.example");
    make_certificate("x509", "x509", "client", "the-source");
}

/* The client trusts, and is vouched for by, somebody else. */
static void make_x509_strange(Run *run)
{
    make_x509(run);
    make_authority("other");
    make_certificate("other", "other", "client", "the-source");
}

static void make_psk(Run *run)
{
    write_file("{dir}/right/keys.psk",
               "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
    write_file("{dir}/wrong/keys.psk",
               "qemu:ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
}

/* --- Handshakes that do not end -------------------------------------------------------------------- */

#define HASTY " -global ferry.open-timeout=1000"

static void relay(Run *run)
{
    g_autofree char *target = g_steal_pointer(&run->uri);

    run->proxy = proxy_new(target);
    run->uri = proxy_uri(run->proxy);
}

/* Of Ferry's own connections: each is taken, and nothing is said. */
static void answer_nothing(Run *run)
{
    relay(run);
    proxy_halve(run->proxy, 1, 0, false);
}

static void answer_half(Run *run)
{
    relay(run);
    proxy_halve(run->proxy, 1, 40, false);
}

static void close_in_the_middle(Run *run)
{
    relay(run);
    proxy_halve(run->proxy, 1, 40, true);
}

static void wait_soon(Run *run)
{
    gint64 began = g_get_monotonic_time();

    g_free(vm_wait_status(run->source, "completed"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 10 * G_USEC_PER_SEC);
}

/* The beginning of a record with a ClientHello. */
static const uint8_t words[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01};

/* They were there before the source, and stay. */
static void come_and_stay(Run *run)
{
    for (unsigned i = 0; i < 12; i++) {
        int fd = connect_to(run->uri);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(send(fd, words, i % (sizeof(words) + 1), MSG_NOSIGNAL), ==,
                        i % (sizeof(words) + 1));
    }
}

/* Handshakes that never end: too many at once, and each for too long. */
static void crowd_handshakes(Run *run)
{
    gint64 began = g_get_monotonic_time();
    g_autofree char *log = NULL;

    strangers_make(run);
    strangers_crowd(run, 5, words, sizeof(words));
    strangers_expect_hung_up(run);
    g_assert_cmpint(g_get_monotonic_time() - began, >, 1500 * 1000);
    log = vm_log(run->destination);
    g_assert_nonnull(strstr(log, "there are too many"));
    g_assert_nonnull(strstr(log, "it has taken longer than network-timeout"));
}

/* One that speaks without TLS, even as a channel of Ferry's would. */
static void come_plainly(Run *run)
{
    uint8_t frame[STRANGER_HELLO_BYTES];

    for (uint8_t role = 1; role <= 2; role++) {
        stranger_hello(frame, 0x123456789abcdef0, 4, role);
        stranger_comes(run, frame, sizeof(frame));
        stranger_expect_hung_up(run, role - 1);
    }
}

/* A destination that takes the connection, and then says nothing: the source answers, and gives up when told. */
static void ask_the_silent(Run *run)
{
    g_autofree char *uri = NULL, *arguments = NULL;
    int listener = listen_somewhere(8, &uri);
    gint64 began;

    arguments = g_strdup_printf("{ 'uri': '%s' }", uri);
    vm_do(run->source, "migrate", arguments);
    g_usleep(300 * 1000);
    began = g_get_monotonic_time();
    g_free(vm_run_state(run->source));
    vm_do(run->source, "migrate_cancel", NULL);
    g_free(vm_wait_status(run->source, "cancelled"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
    close(listener);
}

#define CLIENT(dir)        "-object tls-creds-x509,id=tls,endpoint=client,dir={dir}/" dir
#define SERVER             "-object tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={dir}/x509"
#define PSK(endpoint, dir) "-object tls-creds-psk,id=tls,endpoint=" endpoint ",dir={dir}/" dir
#define USE_TLS            "{ 'tls-creds': 'tls' }"
#define ALLOW(who)         " -object authz-simple,id=allowed,identity=CN=" who

static const Case cases[] = {
    {
        .name = "tls/x509",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .parameters = USE_TLS,
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "tls/x509-multifd",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 4 }",
        .channels = 4,
    },
    {
        .name = "tls/x509-postcopy",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .capabilities = "postcopy-ram",
        .parameters = USE_TLS,
        .ferry_parameters = "{ 'channels': 2 }",
        .channels = 2,
        .postcopy = true,
        .during = postcopy_go_over,
    },
    {
        .name = "tls/x509-hostname-override",
        .cannot = no_certtool,
        .prepare = make_x509_misnamed,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .parameters = USE_TLS,
        .source_parameters = "{ 'tls-hostname': 'elsewhere.example' }",
    },
    {
        .name = "tls/x509-unix",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .uri = "unix:{dir}/migration",
        .parameters = USE_TLS,
        .source_parameters = "{ 'tls-hostname': '127.0.0.1' }",
    },
    {
        .name = "tls/x509-authorized",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER ALLOW("the-source"),
        .parameters = USE_TLS,
        .destination_parameters = "{ 'tls-authz': 'allowed' }",
    },
    {
        .name = "tls/x509-cancel",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .second_options = SERVER,
        .parameters = USE_TLS,
        .hold = HOLD_ROUNDS,
        .then = THEN_CANCEL,
    },
    {
        .name = "tls/x509-not-authorized",
        .cannot = no_certtool,
        .prepare = make_x509,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER ALLOW("somebody-else"),
        .second_options = SERVER ALLOW("the-source"),
        .parameters = USE_TLS,
        .destination_parameters = "{ 'tls-authz': 'allowed' }",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        /* The handshake is over at the source before the destination has looked who it is. */
        .error = HANGS_UP "|TLS",
        .destination_log = "TLS x509 authz check for CN=the-source is denied",
        .destination_stays = true,
    },
    {
        .name = "tls/x509-wrong-host",
        .cannot = no_certtool,
        .prepare = make_x509_misnamed,
        .source_options = CLIENT("x509"),
        .destination_options = SERVER,
        .second_options = SERVER,
        .parameters = USE_TLS,
        .second_parameters = "{ 'tls-hostname': 'elsewhere.example' }",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "Certificate does not match the hostname 127.0.0.1",
    },
    {
        .name = "tls/x509-wrong-authority",
        .cannot = no_certtool,
        .prepare = make_x509_strange,
        .source_options = CLIENT("other") " -object tls-creds-x509,id=right,endpoint=client,"
                                          "dir={dir}/x509",
        .destination_options = SERVER,
        .second_options = SERVER,
        .parameters = USE_TLS,
        .second_parameters = "{ 'tls-creds': 'right' }",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "ertificate",
        .destination_stays = true,
    },
    {
        .name = "tls/psk",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "tls/psk-wrong",
        .prepare = make_psk,
        .source_options = PSK("client", "wrong"),
        .destination_options = PSK("server", "right"),
        .second_options = PSK("server", "wrong"),
        .parameters = USE_TLS,
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "TLS handshake failed",
        .destination_stays = true,
    },
    {
        .name = "tls/relay-silent",
        .prepare = make_psk,
        .source_options = PSK("client", "right") HASTY,
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = answer_nothing,
        .hold = HOLD_NOT,
        .during = wait_soon,
        .fallback = "no TLS handshake",
        .destination_fallback = "the source gave up",
    },
    {
        .name = "tls/relay-half",
        .prepare = make_psk,
        .source_options = PSK("client", "right") HASTY,
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = answer_half,
        .hold = HOLD_NOT,
        .during = wait_soon,
        .fallback = "no TLS handshake",
        .destination_fallback = "the source gave up",
    },
    {
        .name = "tls/relay-closes",
        .prepare = make_psk,
        .source_options = PSK("client", "right") HASTY,
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = close_in_the_middle,
        .hold = HOLD_NOT,
        .during = wait_soon,
        .fallback = "cannot open channel",
        .destination_fallback = "the source gave up",
    },
    {
        .name = "tls/silent-destination",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = ask_the_silent,
    },
    {
        .name = "tls/strangers",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = come_and_stay,
        .hold = HOLD_NOT,
        .during = wait_soon,
    },
    {
        .name = "tls/strangers-multifd",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 4 }",
        .channels = 4,
        .before = come_and_stay,
        .hold = HOLD_NOT,
        .during = wait_soon,
    },
    {
        .name = "tls/strangers-multifd-stock-path",
        .prepare = make_psk,
        .source_options = PSK("client", "right") " -global ferry.enabled=off",
        .destination_options = PSK("server", "right"),
        .capabilities = "multifd",
        .parameters = "{ 'tls-creds': 'tls', 'multifd-channels': 4 }",
        .fallback = "switched off",
        .destination_fallback = "the source has no Ferry, or has it switched off",
        .before = come_and_stay,
        .hold = HOLD_NOT,
        .during = wait_soon,
    },
    {
        .name = "tls/half-open",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right") " -global ferry.network-timeout=2000",
        .parameters = USE_TLS,
        .before = crowd_handshakes,
    },
    {
        .name = "tls/plain",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .destination_options = PSK("server", "right"),
        .parameters = USE_TLS,
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = come_plainly,
    },
    {
        .name = "tls/source-only",
        .prepare = make_psk,
        .source_options = PSK("client", "right"),
        .second_options = PSK("server", "right"),
        .source_parameters = USE_TLS,
        .second_destination_parameters = USE_TLS,
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "TLS handshake failed",
    },
};

void add_tls_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
