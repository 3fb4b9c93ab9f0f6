/*
 * A source played by hand: a session with one channel of each kind, in which a test sends each frame to a
 * destination, looks at its phase, and at what it tells.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HAND_H
#define FERRY_HAND_H

#include "fake-machine.h"
#include "migration/destination/state.h"
#include "migration/events.h"

#define OPENING    FERRY_DESTINATION_OPENING
#define COPYING    FERRY_DESTINATION_COPYING
#define DRAFTING   FERRY_DESTINATION_DRAFTING
#define HANDED_OFF FERRY_DESTINATION_HANDED_OFF
#define FETCHING   FERRY_DESTINATION_FETCHING
#define PAUSED     FERRY_DESTINATION_PAUSED
#define IN_PLACE   FERRY_DESTINATION_IN_PLACE
#define LOADED     FERRY_DESTINATION_LOADED
#define DONE       FERRY_DESTINATION_DONE
#define PARTED     FERRY_DESTINATION_PARTED
#define FAILED     FERRY_DESTINATION_FAILED

/* What all sessions of the program have told since it was forgotten last: see events.h. */
typedef struct HandTold {
    GMutex lock;
    GString *phases; /* under the lock: each that was entered, after the first that was left */
    _Atomic unsigned nr_refused, nr_causes, nr_paused, nr_resumed, nr_go, nr_loaded, nr_complete;
    _Atomic unsigned nr_opened, nr_proved, nr_turned_away, nr_lost, nr_undrafted;
    _Atomic uint64_t nr_drafted, nr_missing; /* at the last draft; at the hand-off */
    GString *refusal; /* under the lock: why a connection was turned away last */
} HandTold;

extern HandTold hand_told;

/* First of all, once: listen to what is told. */
void hand_listen(void);
void hand_forget_told(void);

/* The phases since then are @story: "opening copying". */
void hand_assert_phases(const char *story);

typedef struct Hand {
    FerryDestination *destination;
    FakeMachine *machine;
    FerryChannel *control, *data, *fetch; /* the source's ends of the connection in use */
    char why_broken[256];                 /* last, before it was counted */
    _Atomic unsigned hears_ms;            /* how long the machine takes to hear it */
    _Atomic unsigned nr_complete, nr_broken, nr_resumed, nr_went;
} Hand;

/* A destination, with nobody connected and a machine of 64 pages; forgets what was told. */
Hand *hand_new(void);
void hand_free(Hand *hand);

/* One more connection, which has said hello. */
FerryChannel *hand_dial(Hand *hand, uint8_t role, uint32_t attempt);

/* The same, with an index other than 0. */
FerryChannel *hand_dial_index(Hand *hand, uint8_t role, uint8_t index, uint32_t attempt);

/* All channels; the first frame on the control channel says what is to be done with them. */
void hand_connect(Hand *hand, uint32_t attempt);
void hand_cut(Hand *hand);

void hand_send(Hand *hand, FerryFrameType type, uint64_t number);

/* The next frame on the control channel but for heartbeats is a @type; returns its number. */
uint64_t hand_expect(Hand *hand, FerryFrameType type, char **text);

/* Nothing but heartbeats comes on the control channel, for a while. */
void hand_expect_silence(Hand *hand);

/* A fence on the data channel, which the destination reaches. */
void hand_fence(Hand *hand, uint64_t number);

/* Say that a page will be missing. */
void hand_announce_page(Hand *hand, uint64_t page);
void hand_handoff(Hand *hand, uint64_t fence, uint64_t nr_missing);

/* A page of zeroes: what the destination wants to see is the place, not the content. */
void hand_page(FerryChannel *channel, uint64_t page);

FerryDestinationPhase hand_phase(Hand *hand);
void hand_await_phase(Hand *hand, FerryDestinationPhase phase);
void hand_await_count(_Atomic unsigned *what, unsigned nr);

/* Up to a hand-off with pages 3 and 5 missing, which the destination has taken. */
void hand_leave(Hand *hand);

#endif
