/*
 * A destination that says things out of turn, or that cannot be: the source refuses them, and says why.
 *
 * The destination is a thread for each channel, which does what a destination has to, and no more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "fake-machine.h"
#include "migration/error.h"
#include "migration/source/internal.h"
#include "migration/wire/control.h"

/* Nothing in it was touched: there is nothing to send. */
static const FakeRegion regions[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

/* Pages that are not there. */
static const FerryRange absent = {
    .start_bytes = 32 * FERRY_PAGE_BYTES,
    .end_bytes = 64 * FERRY_PAGE_BYTES,
};

#define SOON_US (10 * G_USEC_PER_SEC)

typedef struct Bed {
    FakeMachine *machine;
    FerryTracker tracker;
    FerrySource *source;
    FerryChannel *control, *data, *fetch; /* the destination's ends */
    GThread *control_thread, *data_thread;
    _Atomic uint64_t fence;   /* the last that came */
    _Atomic uint64_t handoff; /* the one that the hand-off names */
    uint64_t missing_page;    /* what it says on RESUME: this page, and that there are so many */
    uint64_t nr_missing;
    FerryFrameType unheard; /* it does nothing about frames of this type */
    bool breaks_dial;       /* somebody ends the connection while it is opened */
    bool closes_data;       /* it closes that channel at once */
    _Atomic bool told;      /* that it broke */
} Bed;

static void say(Bed *bed, FerryFrameType type, uint64_t number)
{
    ferry_control_send(bed->control, type, number, NULL, NULL);
}

static void say_missing(Bed *bed)
{
    FerryPageset *set = ferry_pageset_new(regions[0].nr_pages);

    ferry_pageset_add(set, bed->missing_page, 1);
    ferry_missing_send(bed->control, &bed->machine->regions, &set, true, NULL);
    say(bed, FERRY_FRAME_RESUMED, bed->nr_missing);
    ferry_pageset_free(set);
}

static gpointer control_run(gpointer opaque)
{
    Bed *bed = opaque;
    FerryFrame frame;

    for (;;) {
        g_autoptr(GByteArray) body = NULL;

        if (!ferry_control_receive(bed->control, &frame, &body, NULL)) {
            return NULL;
        }
        switch (frame.type == bed->unheard ? FERRY_FRAME_INVALID : frame.type) {
        case FERRY_FRAME_REGIONS:
            say(bed, FERRY_FRAME_READY, 0);
            break;
        case FERRY_FRAME_DRAFT:
            say(bed, FERRY_FRAME_DRAFTED, 0);
            break;
        case FERRY_FRAME_HANDOFF:
            atomic_store(&bed->handoff, frame.first_page);
            say(bed, FERRY_FRAME_LOADED, 0);
            break;
        case FERRY_FRAME_GO:
            say(bed, FERRY_FRAME_TAKEN, 0);
            break;
        case FERRY_FRAME_RESUME:
            say_missing(bed);
            break;
        default:
            break;
        }
    }
}

/* Nothing but fences and heartbeats come: no page was ever touched. */
static gpointer data_run(gpointer opaque)
{
    Bed *bed = opaque;
    uint8_t head[FERRY_FRAME_BYTES];
    g_autoptr(GByteArray) body = NULL;
    FerryFrame frame;

    if (!ferry_control_receive(bed->data, &frame, &body, NULL)) {
        return NULL;
    }
    if (bed->closes_data) {
        ferry_channel_shutdown(bed->data);
    }
    while (ferry_channel_read_all(bed->data, head, sizeof(head), NULL)) {
        g_assert_true(ferry_frame_decode(head, &frame, NULL));
        if (frame.type == FERRY_FRAME_FENCE) {
            atomic_store(&bed->fence, frame.first_page);
            say(bed, FERRY_FRAME_REACHED, frame.first_page);
        }
    }
    return NULL;
}

static void hang_up(Bed *bed)
{
    FerryChannel **channels[] = {&bed->control, &bed->data, &bed->fetch};

    for (size_t i = 0; i < G_N_ELEMENTS(channels); i++) {
        if (*channels[i]) {
            ferry_channel_shutdown(*channels[i]);
        }
    }
    if (bed->control_thread) {
        g_thread_join(g_steal_pointer(&bed->control_thread));
        g_thread_join(g_steal_pointer(&bed->data_thread));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(channels); i++) {
        g_clear_pointer(channels[i], ferry_channel_free);
    }
}

/* --- The source's end of the control channel ------------------------------------------------------ */

/* A socket, whose write of HANDOFF returns when the source has read the answer: a destination may be quick. */
typedef struct Quick {
    Bed *bed;
    FerryChannel *socket;
} Quick;

static bool has_heard(Bed *bed)
{
    bool loaded;

    g_mutex_lock(&bed->source->lock);
    loaded = bed->source->loaded;
    g_mutex_unlock(&bed->source->lock);
    return loaded || ferry_source_has_failed(bed->source);
}

static ssize_t quick_readv(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    const Quick *quick = opaque;

    return quick->socket->ops->readv(quick->socket->opaque, iov, nr_iov, errp);
}

static ssize_t quick_writev(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    const Quick *quick = opaque;
    gint64 end_us = g_get_monotonic_time() + SOON_US;
    FerryFrame frame = {0};
    bool handoff = iov[0].iov_len == FERRY_FRAME_BYTES &&
                   ferry_frame_decode(iov[0].iov_base, &frame, NULL) &&
                   frame.type == FERRY_FRAME_HANDOFF;
    ssize_t done = quick->socket->ops->writev(quick->socket->opaque, iov, nr_iov, errp);

    while (handoff && !has_heard(quick->bed)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
    return done;
}

static int quick_fd(void *opaque)
{
    return ferry_channel_fd(((Quick *)opaque)->socket);
}

static void quick_shutdown(void *opaque)
{
    ferry_channel_shutdown(((Quick *)opaque)->socket);
}

static void quick_destroy(void *opaque)
{
    Quick *quick = opaque;

    ferry_channel_free(quick->socket);
    g_free(quick);
}

static FerryChannel *quick_new(Bed *bed, int fd)
{
    static const FerryChannelOps quick_ops = {
        .readv = quick_readv,
        .writev = quick_writev,
        .fd = quick_fd,
        .shutdown = quick_shutdown,
        .destroy = quick_destroy,
    };
    Quick *quick = g_new0(Quick, 1);

    quick->bed = bed;
    quick->socket = ferry_channel_new_socket(fd, "control");
    return ferry_channel_new(&quick_ops, quick, "control");
}

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    Bed *bed = opaque;

    hang_up(bed);
    for (unsigned i = 0; i < nr; i++) {
        FerryChannel **end = g_str_has_prefix(names[i], "data")    ? &bed->data
                             : g_str_has_prefix(names[i], "fetch") ? &bed->fetch
                                                                   : &bed->control;
        int fds[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
        *end = ferry_channel_new_socket(fds[1], "end");
        dialled[i] = end == &bed->control ? quick_new(bed, fds[0])
                                          : ferry_channel_new_socket(fds[0], names[i]);
    }
    bed->control_thread = g_thread_new("control", control_run, bed);
    bed->data_thread = g_thread_new("data", data_run, bed);
    if (bed->breaks_dial) {
        ferry_source_shutdown(bed->source);
    }
    return true;
}

/* Not connected yet. */
static Bed *bed_prepare(void)
{
    Bed *bed = g_new0(Bed, 1);
    FerryRegions list;
    FerrySourceConfig config = {
        .dial = dial,
        .opaque = bed,
        .session = 1,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = 1,
        .nr_fetch = 1,
        .timeout_ms = 10000,
        .switchover_ms = 10000,
        .open_timeout_ms = 10000,
        .open_deadline_us = g_get_monotonic_time() + SOON_US,
    };

    bed->machine = fake_machine_new(regions, false);
    bed->tracker = fake_machine_tracker(bed->machine, false);
    list = fake_machine_list(bed->machine);
    list.list[0].absent = g_array_new(FALSE, FALSE, sizeof(FerryRange));
    g_array_append_val(list.list[0].absent, absent);
    bed->source = ferry_source_new(&config, &list, &bed->tracker);
    return bed;
}

static Bed *bed_new(void)
{
    Bed *bed = bed_prepare();
    g_autoptr(GError) error = NULL;

    ferry_source_connect(bed->source, &error);
    g_assert_no_error(error);
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_source_free(bed->source);
    hang_up(bed);
    fake_machine_free(bed->machine);
    g_free(bed);
}

typedef struct Turn {
    const char *name;
    FerryFrameType type;
    const char *words;
} Turn;

/* Said while the source has only begun to copy. */
static void test_turn(gconstpointer data)
{
    const Turn *turn = data;
    Bed *bed = bed_new();
    gint64 end_us = g_get_monotonic_time() + SOON_US;
    g_autoptr(GError) error = NULL;

    say(bed, turn->type, 0);
    while (!ferry_source_has_failed(bed->source)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
    error = ferry_source_cause(bed->source, 0);
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    if (!strstr(error->message, turn->words)) {
        g_error("'%s' is not in '%s'", turn->words, error->message);
    }
    bed_free(bed);
}

/* The hand-off names a fence that was sent after the last pages, not the one of the round before. */
static void test_handoff_fence(void)
{
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;
    uint64_t before;

    while (!ferry_source_may_harvest(bed->source)) {
        ferry_source_step(bed->source, 20, &error);
        g_assert_no_error(error);
    }
    before = atomic_load(&bed->fence);
    g_assert_cmpuint(before, >, 0);
    g_assert_true(ferry_source_stopped(bed->source, 0, &error));
    ferry_source_hand_off(bed->source, &error);
    g_assert_no_error(error);
    ferry_source_wait_loaded(bed->source, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(atomic_load(&bed->handoff), >, before);
    bed_free(bed);
}

/* Up to a guest that is gone, with a page missing. */
static void go(Bed *bed)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_stopped(bed->source, 0, &error));
    ferry_source_leave(bed->source, &error);
    g_assert_no_error(error);
    ferry_source_wait_loaded(bed->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_go(bed->source));
    ferry_source_wait_taken(bed->source, &error);
    g_assert_no_error(error);
}

/* The connection breaks; returns what the source says of that. */
static GError *break_off(Bed *bed)
{
    GError *error = NULL;

    hang_up(bed);
    while (ferry_source_push(bed->source, 50, &error)) {
    }
    return error;
}

static void go_and_break(Bed *bed)
{
    GError *error;

    go(bed);
    error = break_off(bed);
    g_clear_error(&error);
}

typedef struct Lack {
    const char *name;
    uint64_t page, nr;
    const char *words; /* NULL: all is well */
} Lack;

/* What the destination says that it lacks, after a break. */
static void test_lack(gconstpointer data)
{
    const Lack *lack = data;
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;

    go_and_break(bed);
    bed->missing_page = lack->page;
    bed->nr_missing = lack->nr;
    if (ferry_source_reconnect(bed->source, FERRY_WIRE_VERSION_MAX, 1, &error)) {
        g_assert_null(lack->words);
    } else if (!lack->words || !strstr(error->message, lack->words)) {
        g_error("'%s' is not in '%s'", lack->words, error->message);
    }
    bed_free(bed);
}

static void assert_says(const GError *error, int code, const char *words)
{
    g_assert_error(error, FERRY_ERROR, code);
    if (!strstr(error->message, words)) {
        g_error("'%s' is not in '%s'", words, error->message);
    }
}

/* It says nothing of what is missing; or it could not take a channel, and waits for what it has closed. */
static void test_silent_resume(gconstpointer closed)
{
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;

    go_and_break(bed);
    bed->unheard = FERRY_FRAME_RESUME;
    bed->closes_data = closed;
    bed->source->config.timeout_ms = closed ? 60000 : 200;
    g_assert_false(ferry_source_reconnect(bed->source, FERRY_WIRE_VERSION_MAX, 1, &error));
    assert_says(error, closed ? FERRY_ERROR_LOST : FERRY_ERROR_TIMEOUT,
                closed ? "channel 'data 0': the other side closed it"
                       : "did not go on saying what is missing for 200 ms");
    bed_free(bed);
}

/* As soon as it is connected again, before it is asked. */
static void test_early_resumed(void)
{
    Bed *bed = bed_new();
    const FerryLayout layout = {.nr_data = 1, .nr_fetch = 1};
    gint64 end_us = g_get_monotonic_time() + SOON_US;
    g_autoptr(GError) error = NULL;

    go_and_break(bed);
    ferry_source_enter(bed->source, FERRY_SOURCE_PAUSED);
    ferry_source_hang_up(bed->source);
    ferry_cause_reset(&bed->source->cause);
    ferry_source_enter(bed->source, FERRY_SOURCE_RESUMING);
    ferry_source_open(bed->source, &layout, end_us, &error);
    g_assert_no_error(error);
    say(bed, FERRY_FRAME_RESUMED, 0);
    ferry_source_listen(bed->source);
    while (!ferry_cause_is_known(&bed->source->cause)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
    error = ferry_source_cause(bed->source, 0);
    assert_says(error, FERRY_ERROR_PROTOCOL, "unasked");
    bed_free(bed);
}

#define LAST_WORD_REMEDY \
    "quit this QEMU if the migration is completed at the destination, else resume it"

/* With all sent, the destination may have all, and have said so: one sees that there.  Not with pages left. */
static void test_last_word_lost(gconstpointer left)
{
    Bed *bed = bed_new();
    gint64 end_us = g_get_monotonic_time() + SOON_US;
    g_autoptr(GError) error = NULL;

    go(bed);
    while (ferry_backlog_unsent(bed->source->backlog)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
    if (left) {
        g_assert_true(ferry_senders_freeze(bed->source->senders));
        g_assert_cmpuint(ferry_backlog_queue(bed->source->backlog, 0, 1, 1), ==, 1);
    }
    error = break_off(bed);
    g_assert_cmpint(strstr(error->message, LAST_WORD_REMEDY) != NULL, ==, !left);
    bed_free(bed);
}

static void tell_late(void *opaque)
{
    g_usleep(200000);
    atomic_store(&((Bed *)opaque)->told, true);
}

/* Whoever hears of the pause may resume at once: nobody tells of the connection that broke any more. */
static void test_paused_at_last(void)
{
    Bed *bed = bed_new();

    bed->source->config.broken = tell_late;
    go_and_break(bed);
    ferry_source_pause(bed->source);
    g_assert_true(atomic_load(&bed->told));
    bed_free(bed);
}

static void test_another_migration(void)
{
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;

    go_and_break(bed);
    g_assert_false(ferry_source_reconnect(bed->source, FERRY_WIRE_VERSION_MAX, 2, &error));
    assert_says(error, FERRY_ERROR_REFUSED, "waits for another migration than this one");
    bed_free(bed);
}

/* Whether it runs the guest is not known, and why is: it said nothing. */
static void test_silent_go(void)
{
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;

    bed->unheard = FERRY_FRAME_GO;
    g_assert_true(ferry_source_stopped(bed->source, 0, &error));
    ferry_source_leave(bed->source, &error);
    g_assert_no_error(error);
    ferry_source_wait_loaded(bed->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_go(bed->source));
    bed->source->config.switchover_ms = 200;
    g_assert_false(ferry_source_wait_taken(bed->source, &error));
    assert_says(error, FERRY_ERROR_LOST, "did not say that it does (nothing came)");
    bed_free(bed);
}

/* The guest is stopped, and the last pages do not get there within the limit. */
static void test_long_blackout(void)
{
    Bed *bed = bed_new();
    gint64 end_us = g_get_monotonic_time() + SOON_US;
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_stopped(bed->source, 100, &error));
    /* Its phase says so a moment before the reason is known. */
    while (!ferry_cause_is_known(&bed->source->cause)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
    error = ferry_source_cause(bed->source, 0);
    assert_says(error, FERRY_ERROR_TIMEOUT,
                "stopped for 100 ms (switchover-timeout), waiting for the last pages to arrive");
    bed_free(bed);
}

static void test_broken_while_opened(void)
{
    Bed *bed = bed_prepare();
    g_autoptr(GError) error = NULL;

    bed->breaks_dial = true;
    g_assert_false(ferry_source_connect(bed->source, &error));
    assert_says(error, FERRY_ERROR_IO, "the connection was broken while it was opened");
    bed_free(bed);
}

/* A second time, and nobody has said why that cannot be. */
static void test_handed_off_again(void)
{
    Bed *bed = bed_new();
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_stopped(bed->source, 0, &error));
    ferry_source_hand_off(bed->source, &error);
    g_assert_no_error(error);
    g_assert_false(ferry_source_hand_off(bed->source, &error));
    assert_says(error, FERRY_ERROR_LOST, "lost the connection to the destination: it is gone");
    bed_free(bed);
}

int main(int argc, char **argv)
{
    static const Turn turns[] = {
        {"loaded", FERRY_FRAME_LOADED, "out of turn"},
        {"complete", FERRY_FRAME_COMPLETE, "out of turn"},
        {"taken", FERRY_FRAME_TAKEN, "out of turn"},
        {"ready", FERRY_FRAME_READY, "ready a second time"},
        {"report", FERRY_FRAME_REPORT, "out of turn"},
        {"resumed", FERRY_FRAME_RESUMED, "unasked"},
        {"go", FERRY_FRAME_GO, "not its to send"},
    };
    static const Lack lacks[] = {
        {"well", 3, 1, NULL},
        {"counted", 3, 2, "wrong number of pages"},
        {"absent", 40, 1, "cannot be missing"},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(turns); i++) {
        g_autofree char *path = g_strdup_printf("/turns-source/%s", turns[i].name);

        g_test_add_data_func(path, &turns[i], test_turn);
    }
    g_test_add_func("/turns-source/handoff-fence", test_handoff_fence);
    g_test_add_data_func("/turns-source/silent-resume", NULL, test_silent_resume);
    g_test_add_data_func("/turns-source/closed-resume", "closed", test_silent_resume);
    g_test_add_func("/turns-source/early-resumed", test_early_resumed);
    g_test_add_func("/turns-source/silent-go", test_silent_go);
    g_test_add_data_func("/turns-source/last-word-lost", NULL, test_last_word_lost);
    g_test_add_data_func("/turns-source/pages-left", "left", test_last_word_lost);
    g_test_add_func("/turns-source/paused-at-last", test_paused_at_last);
    g_test_add_func("/turns-source/another-migration", test_another_migration);
    g_test_add_func("/turns-source/long-blackout", test_long_blackout);
    g_test_add_func("/turns-source/broken-while-opened", test_broken_while_opened);
    g_test_add_func("/turns-source/handed-off-again", test_handed_off_again);
    for (size_t i = 0; i < G_N_ELEMENTS(lacks); i++) {
        g_autofree char *path = g_strdup_printf("/turns-source/lacks/%s", lacks[i].name);

        g_test_add_data_func(path, &lacks[i], test_lack);
    }
    return g_test_run();
}
