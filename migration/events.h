/*
 * Events: what a session does, told as it happens to whoever wants to follow it.
 *
 * The engine calls these at the places they name; in QEMU they are trace events (-trace 'ferry_*').
 * The table is set once, before any session; without one, nothing is told.  A function is called from
 * whatever thread is there, with locks of the engine's held: it must be quick, and call nothing of
 * the engine's.  Strings are valid during the call only.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_EVENTS_H
#define FERRY_EVENTS_H

#include <stdint.h>

/* @side is "source" or "destination"; pages are counted in 4 KiB. */
typedef struct FerryEvents {
    /* The session's phase changed. */
    void (*phase)(const char *side, const char *from, const char *to);
    /* A session that is not over was asked for a transition that its table does not have. */
    void (*phase_refused)(const char *side, const char *from, const char *to);
    /* The first cause of a failure, or one of a higher rank in its place. */
    void (*cause)(const char *side, const char *message);

    /* A connection was made; its hello was good; it was turned away; it broke. */
    void (*channel_opened)(const char *side, const char *name);
    void (*channel_proved)(const char *name);
    void (*channel_refused)(const char *name, const char *why);
    void (*channel_lost)(const char *side, const char *why);

    /* Round @number (the first pass is 0) begins with so many written pages, found in @harvest_ns. */
    void (*round_begun)(unsigned number, uint64_t dirty_pages, uint64_t harvest_ns);
    void (*round_ended)(unsigned number, uint64_t pages, uint64_t zero_pages, uint64_t bytes,
                        uint64_t elapsed_ns);
    /* The dirty tracker failed, and another one begins anew. */
    void (*tracker_replaced)(const char *why);

    /* Pages that will be missing were said, or taken in; that was taken back. */
    void (*draft)(const char *side, uint64_t nr_pages);
    void (*undraft)(const char *side);
    /* The guest is handed off with so many pages missing. */
    void (*handoff)(const char *side, uint64_t nr_missing);
    /* The device state is loaded; the destination may run the guest. */
    void (*loaded)(const char *side);
    void (*go)(const char *side);
    /* The destination has heard it, and has said so. */
    void (*taken)(const char *side);

    /* Somebody waits for a page and it was asked for; it came; the source sent it. */
    void (*fault_asked)(uint32_t region, uint64_t page);
    void (*fault_answered)(uint32_t region, uint64_t page, uint64_t waited_ns);
    void (*fault_served)(uint32_t region, uint64_t page);

    /* The connection broke after the hand-off; it is back, with so many pages missing. */
    void (*paused)(const char *side, const char *why);
    void (*resumed)(const char *side, uint64_t nr_missing);
    /* Nothing is missing any more. */
    void (*complete)(const char *side);
} FerryEvents;

/* Set before the first session, or NULL. */
extern const FerryEvents *ferry_events;

/* Tell of event @name with its arguments, which nobody evaluates unless somebody wants to know. */
#define ferry_event(name, ...)               \
    do {                                     \
        if (ferry_events) {                  \
            ferry_events->name(__VA_ARGS__); \
        }                                    \
    } while (0)

#endif
