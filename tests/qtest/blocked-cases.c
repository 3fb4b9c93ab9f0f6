/*
 * Post-copy that is recovered while the destination's main loop waits for a page: only oob commands, and the thread
 * that runs them, get on then.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include <sys/un.h>

#include "postcopy.h"

static void make_psk(Run *run)
{
    g_autofree char *dir = in_dir("{dir}/tls");
    g_autofree char *file = in_dir("{dir}/tls/keys.psk");

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(
        file, "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", -1, NULL));
}

/* Answers and events up to the answer to the command with this id; no other answer may be an error. */
static QDict *next_answer(Vm *vm, const char *id)
{
    for (;;) {
        QDict *answer = qtest_qmp_receive(vm->qts);

        if (g_strcmp0(qdict_get_try_str(answer, "id"), id) == 0) {
            return answer;
        }
        if (qdict_haskey(answer, "error")) {
            g_error("%s fails: %s", id, qdict_get_str(qdict_get_qdict(answer, "error"), "desc"));
        }
        qobject_unref(answer);
    }
}

static void take_answer(Vm *vm, const char *id)
{
    QDict *answer = next_answer(vm, id);

    if (qdict_haskey(answer, "error")) {
        g_error("%s fails: %s", id, qdict_get_str(qdict_get_qdict(answer, "error"), "desc"));
    }
    qobject_unref(answer);
}

/* From here on the main loop waits for a page, with QEMU's lock. */
static void block_main_loop(Run *run)
{
    postcopy_go_over_slowly(run);
    vm_do(run->source, "migrate-pause", NULL);
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
    qtest_qmp_send_raw(run->destination->qts,
                       "{ 'execute': 'pmemsave', 'id': 'save', 'arguments': { 'val': 0,"
                       "  'size': 33554432, 'filename': '/dev/null' } }");
    g_usleep(200 * 1000);
}

static void send_recover(Run *run, const char *where)
{
    g_autofree char *raw = g_strdup_printf(
        "{ 'exec-oob': 'migrate-recover', 'id': 'recover', 'arguments': { 'uri': '%s' } }", where);
    g_autofree char *text = in_dir(raw);

    qtest_qmp_send_raw(run->destination->qts, "%s", text);
}

static void recover_over(Run *run, const char *where)
{
    send_recover(run, where);
    take_answer(run->destination, "recover");
}

/* The first that comes is taken for the main channel; this one says nothing, and stays. */
static int connect_silently(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *text = in_dir(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_strlcpy(address.sun_path, text, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* As recover_over(), as soon as that can be. */
static void recover_again_over(Run *run, const char *where)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    bool done = false;

    while (!done) {
        QDict *answer;

        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(100 * 1000);
        send_recover(run, where);
        answer = next_answer(run->destination, "recover");
        done = qdict_haskey(answer, "return");
        qobject_unref(answer);
    }
}

static void resume_to(Run *run, const char *where)
{
    g_autofree char *raw = g_strdup_printf("{ 'uri': '%s', 'resume': true }", where);

    vm_do(run->source, "migrate", raw);
    /* All of the memory comes, and the main loop gets on. */
    take_answer(run->destination, "save");
    postcopy_wait(run);
}

static void recover_blocked(Run *run)
{
    block_main_loop(run);
    recover_over(run, "unix:{dir}/again");
    resume_to(run, "unix:{dir}/again");
}

/* A socket that is connected already: then Ferry listens itself. */
static void recover_blocked_over_fd(Run *run)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    vm_pass_fd(run->source, fds[0], "again");
    vm_pass_fd(run->destination, fds[1], "again");
    block_main_loop(run);
    recover_over(run, "fd:again");
    resume_to(run, "fd:again");
}

static void recover_from_silence(Run *run)
{
    int stranger;

    block_main_loop(run);
    recover_over(run, "unix:{dir}/again");
    stranger = connect_silently("{dir}/again");
    recover_again_over(run, "unix:{dir}/once-more");
    resume_to(run, "unix:{dir}/once-more");
    close(stranger);
}

#define PSK(endpoint) "-object tls-creds-psk,id=tls,dir={dir}/tls,endpoint=" endpoint

static const Case cases[] = {
    {
        .name = "postcopy/blocked/recover",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = recover_blocked,
    },
    {
        .name = "postcopy/blocked/silence",
        .options = "-global ferry.network-timeout=2000 -global ferry.open-timeout=1000",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = recover_from_silence,
    },
    {
        .name = "postcopy/blocked/recover-tls",
        .prepare = make_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server"),
        .capabilities = "postcopy-ram",
        .parameters = "{ 'tls-creds': 'tls' }",
        .postcopy = true,
        .during = recover_blocked,
    },
    {
        .name = "postcopy/blocked/recover-fd",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = recover_blocked_over_fd,
    },
};

void add_blocked_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
