/*
 * The senders: see senders.h.
 *
 * Each Sender belongs to its thread, but for `hint`.  What they share is under `lock`, or atomic.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "senders.h"

#include <stdatomic.h>

#include "../clock.h"
#include "../fault.h"
#include "../thread.h"
#include "../wire/frame.h"
#include "../wire/pace.h"
#include "pack-choice.h"

/* A hint is the region's number, so many bits up, and the granule's plus one. */
#define HINT_SHIFT 40

typedef struct Sender {
    FerrySenders *senders;
    FerryChannel *channel;
    unsigned index; /* its share: granules whose number leaves this rest */
    GThread *thread;
    uint64_t fenced; /* number of the last fence sent */
    FerryPagesFrame frame;
    FerryPackChoice choice; /* if it weighs */
    _Atomic uint64_t hint;  /* where to go on, when pages are being fetched there; 0: nowhere */
} Sender;

struct FerrySenders {
    FerrySendersConfig config;
    FerryBacklog *backlog;
    FerryPace *pace;
    Sender *list;
    _Atomic unsigned nr;
    _Atomic bool frozen; /* they take nothing */

    GMutex lock;
    GCond work;          /* to senders: generation, fence or quit changed */
    GCond idle;          /* to the driver: a sender ran dry or fenced, or quit is set */
    uint64_t generation; /* grows whenever pages were added */
    unsigned nr_busy;    /* senders that have not seen all of generation yet */
    uint64_t fence;      /* number of the fence to send once dry; 0 before the first */
    unsigned nr_fenced;
    bool quit; /* it is over, or has failed */
};

/* --- A sender's thread -------------------------------------------------------------------------- */

/* See what compressing would gain, and whether it is to be done from the next frame on. */
static void try_packing(Sender *sender)
{
    uint32_t nr_bytes = FERRY_PACK_TRY_BYTES, packed_bytes;
    uint64_t since_ns = ferry_now_ns();

    packed_bytes = ferry_pages_frame_try(&sender->frame, &nr_bytes);
    ferry_pack_choice_tried(&sender->choice, nr_bytes, packed_bytes,
                            (int64_t)(ferry_now_ns() - since_ns));
}

/* The frame took @build_ns to build, and all since @since_ns to be sent. */
static void weigh(Sender *sender, uint64_t build_ns, uint64_t since_ns)
{
    FerryPagesFrame *frame = &sender->frame;
    FerryPackChoice *choice = &sender->choice;

    /* It went plain where the next one will be the first to be compressed. */
    if (frame->packs == choice->packs) {
        ferry_pack_choice_sent(choice, frame->content_bytes, (int64_t)build_ns,
                               (int64_t)(ferry_now_ns() - since_ns));
    }
    frame->packs = choice->packs;
}

/* False without @errp set: it is over. */
static bool send_granule(Sender *sender, uint32_t region, uint64_t granule,
                         const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    FerryBacklog *backlog = sender->senders->backlog;
    FerryPagesFrame *frame = &sender->frame;
    const bool weighs = sender->senders->config.compress && sender->senders->config.weigh;
    uint64_t since_ns = weighs ? ferry_now_ns() : 0, build_ns = 0;

    ferry_pages_frame_build(frame, &ferry_backlog_regions(backlog)->list[region], region, granule,
                            pages);
    if (weighs) {
        build_ns = ferry_now_ns() - since_ns;
        if (ferry_pack_choice_wants_try(&sender->choice)) {
            try_packing(sender);
        }
        since_ns = ferry_now_ns();
    }
    if (!ferry_pace_take(sender->senders->pace, ferry_pages_frame_bytes(frame)) ||
        ferry_fault(FERRY_FAULT_SAY_PAGES, errp) ||
        !ferry_pages_frame_send(frame, sender->channel, errp)) {
        return false;
    }
    ferry_backlog_count_sent(backlog, frame);
    if (weighs) {
        weigh(sender, build_ns, since_ns);
    }
    return true;
}

/* Send what is in @granule of @region, if anything. */
static bool drain_granule(Sender *sender, uint32_t region, uint64_t granule, GError **errp)
{
    FerryBacklog *backlog = sender->senders->backlog;
    uint64_t pages[FERRY_GRANULE_WORDS];
    int nr_pages = ferry_backlog_take(backlog, region, granule, pages, errp);
    bool sent;

    if (nr_pages < 0) {
        return false;
    }
    sent = nr_pages == 0 || send_granule(sender, region, granule, pages, errp);
    ferry_backlog_sent(backlog, (unsigned)nr_pages);
    return sent;
}

/* Whether this sender is to go on elsewhere. */
static bool take_hint(Sender *sender, uint32_t *region, int64_t *granule)
{
    uint64_t hint = atomic_load(&sender->hint) ? atomic_exchange(&sender->hint, 0) : 0;

    if (hint) {
        *region = (uint32_t)(hint >> HINT_SHIFT);
        *granule = (int64_t)(hint & ((UINT64_C(1) << HINT_SHIFT) - 1)) - 2;
    }
    return hint;
}

/*
 * Passes over this sender's share of all page sets, from one end to the other; where it is told to go
 * elsewhere, what it leaves behind is left for another pass.
 */
static bool drain(Sender *sender, GError **errp)
{
    FerrySenders *senders = sender->senders;
    const size_t nr_regions = ferry_backlog_regions(senders->backlog)->nr;
    bool jumped;

    do {
        jumped = false;
        for (uint32_t region = 0; region < nr_regions; region++) {
            int64_t granule = -1;

            while (!atomic_load(&senders->frozen) &&
                   (granule = ferry_backlog_next(senders->backlog, region, (uint64_t)(granule + 1),
                                                 sender->index, senders->nr)) >= 0) {
                if (!drain_granule(sender, region, (uint64_t)granule, errp)) {
                    return false;
                }
                jumped |= take_hint(sender, &region, &granule);
            }
        }
    } while (jumped && !atomic_load(&senders->frozen));
    return true;
}

static bool send_fence(Sender *sender, uint64_t number, GError **errp)
{
    FerryFrame frame = {.type = FERRY_FRAME_FENCE, .first_page = number};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    return !ferry_fault(FERRY_FAULT_SAY_FENCE, errp) &&
           ferry_channel_write_all(sender->channel, head, sizeof(head), errp);
}

/*
 * Say that everything up to generation @seen is sent, then sleep until there is more to do.
 * Returns the fence to send, if one is asked for; *quit when it is over.
 */
static uint64_t wait_for_work(Sender *sender, uint64_t seen, bool *quit)
{
    FerrySenders *senders = sender->senders;
    uint64_t fence = 0;

    g_mutex_lock(&senders->lock);
    if (senders->generation == seen) {
        senders->nr_busy--;
        g_cond_signal(&senders->idle);
        while (senders->generation == seen && senders->fence == sender->fenced && !senders->quit) {
            ferry_cond_wait(&senders->work, &senders->lock);
        }
        if (senders->generation == seen && senders->fence != sender->fenced) {
            fence = senders->fence;
            senders->nr_busy++;
        }
    }
    *quit = senders->quit;
    g_mutex_unlock(&senders->lock);
    return fence;
}

static void note_fenced(Sender *sender, uint64_t number)
{
    FerrySenders *senders = sender->senders;

    sender->fenced = number;
    g_mutex_lock(&senders->lock);
    /* A later fence may have been asked for meanwhile: then that one is still to be sent. */
    senders->nr_fenced += senders->fence == number;
    g_cond_signal(&senders->idle);
    g_mutex_unlock(&senders->lock);
}

static gpointer sender_run(gpointer opaque)
{
    Sender *sender = opaque;
    FerrySenders *senders = sender->senders;
    GError *error = NULL;
    bool quit = false;

    while (!quit) {
        uint64_t seen, fence;

        g_mutex_lock(&senders->lock);
        seen = senders->generation;
        g_mutex_unlock(&senders->lock);

        if (!drain(sender, &error)) {
            break;
        }
        fence = wait_for_work(sender, seen, &quit);
        if (fence && !quit) {
            if (!send_fence(sender, fence, &error)) {
                break;
            }
            note_fenced(sender, fence);
        }
    }
    if (error) {
        senders->config.failed(senders->config.opaque, error);
    }
    return NULL;
}

/* --- The beginning and the end ------------------------------------------------------------------ */

FerrySenders *ferry_senders_new(FerryBacklog *backlog, const FerrySendersConfig *config)
{
    FerrySenders *senders = g_new0(FerrySenders, 1);

    senders->config = *config;
    senders->backlog = backlog;
    senders->pace = ferry_pace_new();
    g_mutex_init(&senders->lock);
    g_cond_init(&senders->work);
    g_cond_init(&senders->idle);
    return senders;
}

void ferry_senders_free(FerrySenders *senders)
{
    ferry_senders_end(senders);
    ferry_pace_free(senders->pace);
    g_mutex_clear(&senders->lock);
    g_cond_clear(&senders->work);
    g_cond_clear(&senders->idle);
    g_free(senders);
}

void ferry_senders_init_frame(const FerrySenders *senders, FerryPagesFrame *frame)
{
    ferry_pages_frame_init(frame, senders->config.checksum, senders->config.compress);
    /* Until it is known to pay; pages that are waited for go as they are. */
    frame->packs = senders->config.compress && !senders->config.weigh;
}

bool ferry_senders_start(FerrySenders *senders, FerryChannel **channels, unsigned nr_channels)
{
    GError *error = NULL;

    senders->list = g_new0(Sender, nr_channels);
    senders->nr_busy = nr_channels;
    /* Each sender reads this to know its share, so it is set before the first one runs. */
    senders->nr = nr_channels;
    for (unsigned i = 0; i < nr_channels; i++) {
        Sender *sender = &senders->list[i];
        g_autofree char *name = g_strdup_printf("ferry-send-%u", i);

        sender->senders = senders;
        sender->channel = channels[i];
        sender->index = i;
        ferry_senders_init_frame(senders, &sender->frame);
        ferry_pack_choice_init(&sender->choice);
        if (!error && !ferry_fault(FERRY_FAULT_THREAD_SENDER, &error)) {
            sender->thread = ferry_thread_new(name, sender_run, sender, &error);
        }
    }
    if (error) {
        senders->config.failed(senders->config.opaque, error);
        return false;
    }
    return true;
}

void ferry_senders_interrupt(FerrySenders *senders)
{
    g_mutex_lock(&senders->lock);
    senders->quit = true;
    g_cond_broadcast(&senders->work);
    g_cond_broadcast(&senders->idle);
    g_mutex_unlock(&senders->lock);
    ferry_pace_interrupt(senders->pace);
}

void ferry_senders_end(FerrySenders *senders)
{
    ferry_senders_interrupt(senders);
    for (unsigned i = 0; i < senders->nr; i++) {
        if (senders->list[i].thread) {
            g_thread_join(senders->list[i].thread);
        }
        ferry_pages_frame_clear(&senders->list[i].frame);
    }
    senders->nr = 0;
    g_clear_pointer(&senders->list, g_free);
    senders->quit = false;
    senders->fence = 0;
    ferry_pace_resume(senders->pace);
}

/* --- The driver's -------------------------------------------------------------------------------- */

void ferry_senders_kick(FerrySenders *senders)
{
    g_mutex_lock(&senders->lock);
    senders->generation++;
    /* Sleepers count as busy from here on, not from when they have woken up. */
    senders->nr_busy = senders->nr;
    g_cond_broadcast(&senders->work);
    g_mutex_unlock(&senders->lock);
}

/* With the lock held. */
static bool wait_dry_until(FerrySenders *senders, gint64 deadline)
{
    while (senders->nr_busy > 0 && !senders->quit &&
           ferry_cond_wait_until(&senders->idle, &senders->lock, deadline)) {
    }
    return senders->nr_busy == 0 && !senders->quit;
}

bool ferry_senders_wait_dry(FerrySenders *senders, unsigned timeout_ms)
{
    bool dry;

    g_mutex_lock(&senders->lock);
    dry = wait_dry_until(senders, ferry_now_us() + (gint64)timeout_ms * 1000);
    g_mutex_unlock(&senders->lock);
    return dry;
}

bool ferry_senders_drain(FerrySenders *senders)
{
    bool dry;

    g_mutex_lock(&senders->lock);
    dry = wait_dry_until(senders, G_MAXINT64);
    g_mutex_unlock(&senders->lock);
    return dry;
}

void ferry_senders_fence(FerrySenders *senders, uint64_t number)
{
    g_mutex_lock(&senders->lock);
    senders->fence = number;
    senders->nr_fenced = 0;
    g_cond_broadcast(&senders->work);
    g_mutex_unlock(&senders->lock);
}

bool ferry_senders_wait_fenced(FerrySenders *senders)
{
    bool done;

    g_mutex_lock(&senders->lock);
    while (senders->nr_fenced < senders->nr && !senders->quit) {
        ferry_cond_wait(&senders->idle, &senders->lock);
    }
    done = !senders->quit;
    g_mutex_unlock(&senders->lock);
    return done;
}

bool ferry_senders_freeze(FerrySenders *senders)
{
    atomic_store(&senders->frozen, true);
    ferry_pace_set_rate(senders->pace, 0);
    ferry_senders_kick(senders);
    return ferry_senders_drain(senders);
}

void ferry_senders_unfreeze(FerrySenders *senders)
{
    atomic_store(&senders->frozen, false);
    ferry_senders_kick(senders);
}

void ferry_senders_set_rate(FerrySenders *senders, uint64_t bytes_per_second)
{
    ferry_pace_set_rate(senders->pace, bytes_per_second);
}

bool ferry_senders_held_up(FerrySenders *senders)
{
    return ferry_pace_held_up(senders->pace);
}

void ferry_senders_hint(FerrySenders *senders, uint32_t region, uint64_t granule)
{
    unsigned nr = senders->nr;

    if (nr) {
        atomic_store(&senders->list[granule % nr].hint,
                     (uint64_t)region << HINT_SHIFT | (granule + 1));
    }
}
