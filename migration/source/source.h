/*
 * The source's side of a session: copies guest memory until the rest is small enough, then hands
 * over.
 *
 * The caller drives it from one thread (in QEMU, the migration thread):
 *
 *     ferry_source_new           regions, trackers, parameters
 *     ferry_source_connect       opens the channels, has the regions checked
 *     ferry_source_step ...      copies for a while; harvest when little is left
 *     ferry_source_harvest ...   a new round
 *     (the caller stops the vCPUs)
 *     ferry_source_hand_off      last harvest, last pages, fence: nothing is left missing
 *     (the caller sends the device state)
 *     ferry_source_wait_loaded   the destination has it
 *     ferry_source_go            it is to run the guest: the caller must not any more
 *     ferry_source_wait_taken    it says that it does
 *     ferry_source_finish        waits for the destination's report
 *     ferry_source_free
 *
 * or, to hand off with pages missing:
 *
 *     ferry_source_draft         the destination discards what it holds out of date
 *     (the caller stops the vCPUs)
 *     ferry_source_leave         last harvest, bitmap
 *     (the caller sends the device state)
 *     ferry_source_wait_loaded, ferry_source_go
 *     ferry_source_push ...      until ferry_source_is_complete
 *     ferry_source_reconnect     after a failure in between
 *     ferry_source_finish, ferry_source_free
 *
 * One thread per data channel sends; one reads the control channel.  ferry_source_cancel and the
 * queries may be called from any thread, as long as the source exists.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SOURCE_H
#define FERRY_SOURCE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../tracker.h"
#include "../wire/channel.h"
#include "../memory/region.h"
#include "../stats.h"
#include "../wire/frame.h"
#include "../wire/shares.h"
#include "phase.h"

typedef struct FerrySource FerrySource;

typedef struct FerrySourceConfig {
    uint64_t session;     /* the token that the destination gave */
    uint16_t version;     /* of the protocol, as settled on */
    unsigned nr_channels; /* data channels, 1 to FERRY_DATA_CHANNELS_MAX */
    unsigned
        nr_fetch; /* fetch channels, 0 to FERRY_FETCH_CHANNELS_MAX; none: nothing is left missing */
    unsigned timeout_ms; /* silence that means a broken connection: see heartbeat.h */
    /* For how long the destination may take to load the device state, and to answer GO. */
    unsigned switchover_ms;
    bool compress;          /* compress payloads where that helps (costs a stable copy) */
    bool weigh_compression; /* with it: only on channels, and while, that is faster than not to */
    bool checksum;          /* send a CRC32C of each payload (costs a stable copy of it) */
    uint64_t
        host_bytes_per_second; /* how fast it may send besides its own bandwidth; 0: no limit */
    FerryShares *shares; /* of the host's outgoing bandwidth, or NULL; the session's from here on */
    bool send_hot;       /* do not put off pages that stay hot: to measure what that saves */
    /*
     * Until when READY must have come, of ferry_now_us(); 0: no limit.  A destination that says
     * that it is at work gets open_timeout_ms more, each time.
     */
    gint64 open_deadline_us;
    unsigned open_timeout_ms;
    /*
     * Open @nr connections to the destination, all at once, until @deadline_us of ferry_now_us().
     * Called from the driving thread while it connects.  @names are for messages, the control channel's
     * first.  Fills @dialled, which begins with NULLs; on failure with none.
     */
    bool (*dial)(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp);
    /*
     * The tracker may have missed writes; optional.  Called from the driving thread.  Give *@next,
     * which begins from scratch, or return false: then the migration fails with @why.  The old one
     * has not been stopped yet.
     */
    bool (*next_tracker)(void *opaque, const GError *why, FerryTracker *next);
    /*
     * The session's connection is of no use any more, after it had been opened: whatever else belongs to
     * the migration can be broken off; optional.  Once for each connection, from a thread of its own,
     * while the cause is known: see ferry_source_cause.
     */
    void (*broken)(void *opaque);
    void *opaque;
} FerrySourceConfig;

typedef struct FerryCounters {
    uint64_t sent_bytes; /* on all channels */
    uint64_t normal_pages;
    uint64_t zero_pages;
} FerryCounters;

/* Page sets over all regions that a source has, with its tracker's: whether they fit is to be seen first. */
#define FERRY_SOURCE_PAGESETS 14

/* Takes over @regions (its list is cleared); copies @tracker, whose opaque must outlive it. */
FerrySource *ferry_source_new(const FerrySourceConfig *config, FerryRegions *regions,
                              const FerryTracker *tracker);

/* Ends all threads and channels, whatever the phase. */
void ferry_source_free(FerrySource *source);

/*
 * Open the channels and have the destination check the regions.  FERRY_ERROR_REFUSED: the
 * destination cannot take this guest.  Any other error: no session came about, nothing was moved,
 * and migrating some other way is still possible.  FERRY_ERROR_CANCELLED: that is not wanted.
 */
bool ferry_source_connect(FerrySource *source, GError **errp);

/*
 * The guest is about to be asked which pages are free.  A hint is about what they hold at that moment: the
 * guest may use a page again before anybody here has read the hint.  So what was touched has to be armed
 * before; the first call does that for all of it, ahead of its copy.  After connecting, and after each
 * harvest; the driver's.
 */
bool ferry_source_expect_hints(FerrySource *source, GError **errp);

/*
 * The guest has declared pages free: they need not be sent, unless they were written since hints were
 * expected, or will be.  From ferry_source_connect() on; any thread.
 */
void ferry_source_hint(FerrySource *source, uint32_t region, uint64_t first_page,
                       uint64_t nr_pages);

/* Arms and queues chunks, and waits at most @timeout_ms while the channels drain them. */
bool ferry_source_step(FerrySource *source, unsigned timeout_ms, GError **errp);

/* Bytes still to send as far as known; memory not looked at yet counts in full. */
uint64_t ferry_source_remaining_bytes(const FerrySource *source);

/*
 * What @page_bytes of pages will take on the wire, by what the last rounds took: that is what counts when they are
 * compared with a bandwidth, or with what was sent.  Any thread.
 */
uint64_t ferry_source_wire_bytes(FerrySource *source, uint64_t page_bytes);

/*
 * What ferry_source_remaining_bytes() will take on the wire: pages that are put off because they stay hot may
 * compress worse, or better, than those that go.  Any thread.
 */
uint64_t ferry_source_remaining_wire_bytes(FerrySource *source);

/* True once every chunk was armed and queued: from then on a harvest makes sense. */
bool ferry_source_first_pass_done(const FerrySource *source);

/*
 * Whether a harvest is due: all of the first pass, or of the round under way, has arrived.
 * Earlier, what is found would mix with what is still waiting or on its way.
 */
bool ferry_source_may_harvest(FerrySource *source);

/*
 * Ask the tracker what was written meanwhile: starts the next round.  @dirty_pages (or NULL) is
 * how many pages that added.
 */
bool ferry_source_harvest(FerrySource *source, uint64_t *dirty_pages, GError **errp);

/* Whether another round of pre-copy would still shorten the blackout: see converge.h. */
bool ferry_source_wants_round(FerrySource *source, uint64_t limit_bytes);

/*
 * The vCPUs have stopped: the blackout begins, of at most @limit_ms as ferry_source_limit_blackout says.
 * Tells the destination at once.
 */
bool ferry_source_stopped(FerrySource *source, unsigned limit_ms, GError **errp);

/* Last harvest, all that is left, fences and the hand-off; the tracker is not used afterwards. */
bool ferry_source_hand_off(FerrySource *source, GError **errp);

/*
 * While the vCPUs run: stop sending, and tell the destination which pages will be missing as far as
 * known, so that it discards them.  The next step takes it back.  Needs fetch channels, like all below.
 */
bool ferry_source_draft(FerrySource *source, GError **errp);

/*
 * With the vCPUs stopped: the last harvest, and the bitmap of what is missing.  From here on the
 * destination is served; nothing else is sent yet.  The tracker is not used afterwards.
 */
bool ferry_source_leave(FerrySource *source, GError **errp);

/* Wait until the destination has loaded the device state, and can run the guest. */
bool ferry_source_wait_loaded(FerrySource *source, GError **errp);

/*
 * Have the destination run the guest.  Does not wait.  False: it was not told, the guest may be taken back, and
 * ferry_source_fail is to end the session and say why.  After it returned true, the guest must never run on
 * this side again.
 */
bool ferry_source_go(FerrySource *source);

/*
 * The session cannot go on: hang up, and say why, to a user.  Waits a moment for the destination's own words.
 * Always false.
 */
bool ferry_source_fail(FerrySource *source, GError **errp);

/*
 * With nothing missing: wait until the destination says that it has the guest.  False: the connection broke
 * before that, and only a person can find out who has it.
 */
bool ferry_source_wait_taken(FerrySource *source, GError **errp);

/* Let the channels work for at most @timeout_ms.  False: the connection broke; reconnect. */
bool ferry_source_push(FerrySource *source, unsigned timeout_ms, GError **errp);

/* Whether the destination has said that it has all pages, and that it has the guest. */
bool ferry_source_is_complete(FerrySource *source);

/*
 * With pages missing there, and the connection broken: end what is left of it.  Nothing is told of it any more when
 * this returns.
 */
void ferry_source_pause(FerrySource *source);

/*
 * Open new channels, as in ferry_source_connect, to a destination that has said @version and
 * @session on the new way to it; learn what is missing there, and go on.  On failure it can be tried
 * again.
 */
bool ferry_source_reconnect(FerrySource *source, uint16_t version, uint64_t session, GError **errp);

/* Wait at most @timeout_ms for the destination's report of the blackout.  True if it came. */
bool ferry_source_finish(FerrySource *source, unsigned timeout_ms);

/* Bytes a second over all channels, 0 for no limit. */
void ferry_source_set_bandwidth(FerrySource *source, uint64_t bytes_per_second);

/* What it is doing.  Any thread. */
FerrySourcePhase ferry_source_phase(const FerrySource *source);

/* Whether the vCPUs of this side have stopped for the hand-off.  Any thread. */
bool ferry_source_is_stopped(const FerrySource *source);

/* Whether the guest may run at the destination, or may come to run there: from GO on.  Any thread. */
bool ferry_source_is_gone(const FerrySource *source);

/* Whether the guest was handed off with pages missing.  Any thread. */
bool ferry_source_is_left(const FerrySource *source);

/* Whether something has failed, whether or not that has been noticed by a call.  Any thread. */
bool ferry_source_has_failed(const FerrySource *source);

/*
 * Why it failed: a copy of the cause, the caller's to free, or NULL.  Waits at most @timeout_ms while
 * nothing is known, or only that a channel broke, whose reason the destination may still give.  Any
 * thread.
 */
GError *ferry_source_cause(FerrySource *source, unsigned timeout_ms);

/* Whether nothing comes after its phase.  Any thread. */
bool ferry_source_is_over(const FerrySource *source);

/*
 * From now on, the session fails unless ferry_source_go has been called @limit_ms later; 0: whenever.  The
 * driver's, or with what keeps that from going on.
 */
void ferry_source_limit_blackout(FerrySource *source, unsigned limit_ms);

/*
 * Something failed, on a channel or anywhere else that the migration needs: note @error (taken over), and have
 * nobody wait for senders.  Any thread.
 */
void ferry_source_note_failure(FerrySource *source, GError *error);

/* Break all channels, as a broken network would.  Any thread. */
void ferry_source_shutdown(FerrySource *source);

/* Break all channels; every call under way and every later one fails with FERRY_ERROR_CANCELLED. */
void ferry_source_cancel(FerrySource *source);

/* What changes quickly, without locks. */
void ferry_source_count(FerrySource *source, FerryCounters *counters);

/* The way to the destination, as it is now; false where it is not TCP.  Any thread. */
bool ferry_source_query_path(FerrySource *source, FerryPath *path);

/* @stats is to be cleared by the caller. */
void ferry_source_query(FerrySource *source, FerryStats *stats);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerrySource, ferry_source_free)

#endif
