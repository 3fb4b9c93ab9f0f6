/*
 * TLS handshakes of connections that come in: nobody waits for them in the main loop, and one that hangs is ended.
 *
 * QEMU runs them in the main loop, on sockets that block: there it would wait for whatever the other end says, or
 * does not say.  Here the sockets do not block, so whoever hangs holds up nobody.  But then handshakes may end in
 * another order than the connections came in, and of several QEMU takes the first for the main channel.  So
 * until there is a main channel, one that is ready gives those before it some time.
 *
 * Threads: whoever takes connections runs their handshakes, and tells QEMU: the main thread, or the monitor's own
 * after an oob migrate-recover, as then the main one may wait for a page that is to be recovered.  The main thread
 * looks for those that hang.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "io/channel-tls.h"
#include "io/task.h"
#include "migration/migration.h"
#include "migration/options.h"

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "session.h"

/* How often handshakes are looked at. */
#define LOOK_MS 500

/*
 * For how long one that is ready waits for those before it.  A source opens other channels when the handshake of the
 * main one is over at its end: what may still be missing here is one packet.
 */
#define ORDER_MS 500

typedef struct Handshake {
    QIOChannel *ioc;       /* QEMU's, until it is told how the handshake ended */
    GMainContext *context; /* of the thread that runs it; NULL: the main one */
    QIOTaskFunc tell;
    int64_t since_ms;
    int64_t ready_ms; /* when it was over, or 0 */
    bool ended;       /* broken here: its end is on its way */
} Handshake;

static GMutex lock;        /* for what follows */
static GArray *handshakes; /* of Handshake, in the order in which they came */
static QEMUTimer *timer;

static Handshake *get(guint i)
{
    return &g_array_index(handshakes, Handshake, i);
}

/* With the lock held. */
static void end(Handshake *handshake, const char *why)
{
    if (!handshake->ended && !handshake->ready_ms) {
        handshake->ended = true;
        warn_report("ferry: a connection whose TLS handshake was not over was closed: %s", why);
        qio_channel_shutdown(handshake->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

/*
 * QEMU gets the channel, or the error, of what is no longer in the list.  What was ended here may have succeeded,
 * with what had come before.
 */
static void tell(const Handshake *one, Error *err)
{
    QIOTask *task;

    if (!err && (one->ended || ferry_incoming_is_over())) {
        object_unref(OBJECT(one->ioc));
        return;
    }
    qio_channel_set_blocking(one->ioc, true, NULL);
    task = qio_task_new(OBJECT(one->ioc), one->tell, NULL, NULL);
    if (err) {
        qio_task_set_error(task, err);
    }
    qio_task_complete(task);
    /* With it goes a reference to the channel. */
    qio_task_free(task);
}

/* Whether it matters which comes first: of a recovery, the source opens other channels when it has been answered. */
static bool keeps_order(void)
{
    const MigrationIncomingState *mis = migration_incoming_get_current();

    return (migrate_multifd() || migrate_postcopy_preempt()) && !mis->from_src_file &&
           mis->state != MIGRATION_STATUS_POSTCOPY_PAUSED;
}

/* Takes the next one that QEMU may get from the list; false: there is none that this thread has run. */
static bool take_ready(const GMainContext *context, Handshake *taken)
{
    bool first = true, found = false;

    g_mutex_lock(&lock);
    for (guint i = 0; i < handshakes->len && !found; i++) {
        const Handshake *one = get(i);
        bool in_order =
            first || !keeps_order() || ferry_incoming_clock_ms() - one->ready_ms >= ORDER_MS;

        first = first && one->ended;
        if (one->context == context && one->ready_ms && in_order) {
            *taken = *one;
            g_array_remove_index(handshakes, i);
            found = true;
        }
    }
    g_mutex_unlock(&lock);
    return found;
}

/* End those that hang, and see to it that this happens again as long as there are any. */
static void end_late(void)
{
    bool waits = false;

    g_mutex_lock(&lock);
    for (guint at = 0; at < handshakes->len; at++) {
        waits |= get(at)->ready_ms != 0;
        if (ferry_incoming_is_over()) {
            end(get(at), "the migration is over");
        } else if (ferry_incoming_clock_ms() - get(at)->since_ms >
                   ferry_settings()->network_timeout_ms) {
            end(get(at), "it has taken longer than network-timeout");
        }
    }
    if (handshakes->len) {
        timer_mod(timer, ferry_incoming_clock_ms() + (waits ? LOOK_MS / 10 : LOOK_MS));
    }
    g_mutex_unlock(&lock);
}

/* On the thread that has run those of @context. */
static void look_at_all(const GMainContext *context)
{
    Handshake one;

    while (take_ready(context, &one)) {
        tell(&one, NULL);
    }
    end_late();
}

static void look(void *opaque)
{
    look_at_all(NULL);
}

/* Takes it from the list if it has failed; else it is ready.  It is there: nobody else takes what is not ready. */
static Handshake note_over(const Object *ioc, bool failed)
{
    Handshake one = {0};

    g_mutex_lock(&lock);
    for (guint i = 0; i < handshakes->len && !one.ioc; i++) {
        if (OBJECT(get(i)->ioc) == ioc) {
            get(i)->ready_ms = ferry_incoming_clock_ms();
            one = *get(i);
            if (failed) {
                g_array_remove_index(handshakes, i);
            }
        }
    }
    g_mutex_unlock(&lock);
    return one;
}

static void over(QIOTask *task, gpointer opaque)
{
    Object *ioc = qio_task_get_source(task);
    Error *err = NULL;
    Handshake one;

    qio_task_propagate_error(task, &err);
    one = note_over(ioc, err);
    if (err) {
        tell(&one, err);
    }
    look_at_all(one.context);
    object_unref(ioc);
}

/* All that a source may open at once, and as many strangers as are let in without TLS. */
static unsigned handshakes_max(void)
{
    return FERRY_STRANGERS_MAX + (migrate_multifd() ? migrate_multifd_channels() : 0);
}

/* Makes room for it if there are too many: whoever came first has had the most time. */
static void add(const Handshake *handshake)
{
    unsigned nr = 0;

    g_mutex_lock(&lock);
    if (!handshakes) {
        handshakes = g_array_new(false, false, sizeof(Handshake));
        timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, NULL);
    }
    g_array_append_val(handshakes, *handshake);
    for (guint i = handshakes->len; i-- > 0;) {
        nr += !get(i)->ended;
        if (nr > handshakes_max()) {
            end(get(i), "there are too many");
        }
    }
    timer_mod(timer, ferry_incoming_clock_ms() + LOOK_MS);
    g_mutex_unlock(&lock);
}

void ferry_incoming_handshake(QIOChannelTLS *tls, QIOTaskFunc told)
{
    const Handshake handshake = {
        .ioc = QIO_CHANNEL(tls),
        .context = g_main_context_get_thread_default(),
        .tell = told,
        .since_ms = ferry_incoming_clock_ms(),
    };

    if (!ferry_settings()->enabled) {
        qio_channel_tls_handshake(tls, told, NULL, NULL, NULL);
        return;
    }
    qio_channel_set_blocking(handshake.ioc, false, NULL);
    add(&handshake);
    /* It may be over before this returns, and QEMU may have dropped the channel. */
    object_ref(OBJECT(tls));
    qio_channel_tls_handshake(tls, over, NULL, NULL, handshake.context);
}
