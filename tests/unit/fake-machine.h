/*
 * A fake machine: real memory, a workload that keeps writing it, a tracker over it, and sockets
 * between a source and a destination in one process.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FAKE_MACHINE_H
#define FERRY_FAKE_MACHINE_H

#include "migration/tracker.h"
#include "migration/destination/destination.h"
#include "migration/source/source.h"
#include "relay.h"

#define FAKE_REGIONS_MAX 4

typedef struct FakeRegion {
    const char *id;
    uint64_t nr_pages;
    bool shared;            /* a memfd instead of anonymous memory */
    uint64_t touched_pages; /* written before the migration, scattered */
    uint32_t huge_pages;    /* pages of the wire's size that are one of this region; 0: one */
} FakeRegion;

typedef struct FakeMachine {
    FerryRegions regions;
    _Atomic uint64_t *dirty[FAKE_REGIONS_MAX]; /* the "hardware" dirty log, a bit per page */
    _Atomic uint64_t *armed[FAKE_REGIONS_MAX]; /* a bit per page: is a write to it logged? */
    FerryTrackerClient client;
    bool lossy;        /* the positive control: the tracker forgets some writes */
    unsigned fails_at; /* the ordered tracker's harvest with this number fails; 0: none does */
    unsigned nr_harvests;
    unsigned early_words; /* the ordered tracker reports every so-manieth word early; 0: none */
    /* Called before pages from @first_page on are armed, or again; or NULL. */
    void (*arming)(struct FakeMachine *machine, uint64_t first_page);
    uint32_t feed_region;
    uint64_t feed_word;
    GThread *workload;
    _Atomic bool stop;
    _Atomic uint64_t nr_writes;
} FakeMachine;

/* A machine with the given regions (ended by one without id), filled as they say. */
FakeMachine *fake_machine_new(const FakeRegion *regions, bool fill);
void fake_machine_free(FakeMachine *machine);

/* Its write log as a tracker: with reset(), or one that feeds pages in its own order. */
FerryTracker fake_machine_tracker(FakeMachine *machine, bool ordered);

/* Start and stop a thread that writes pages all over the machine's touched part. */
void fake_machine_run(FakeMachine *machine);
void fake_machine_stop(FakeMachine *machine);

/* Where a page is. */
uint64_t *fake_machine_page(const FakeMachine *machine, uint32_t region, uint64_t page);

/* Like a guest's store: change a page, and have it logged if it is armed. */
void fake_machine_write(FakeMachine *machine, uint32_t region, uint64_t page, uint64_t value);

/* A copy of the list, for the engine to take over. */
FerryRegions fake_machine_list(const FakeMachine *machine);

/* How many pages differ. */
uint64_t fake_machine_compare(const FakeMachine *a, const FakeMachine *b);

/* A source and a destination, connected by socket pairs. */
typedef struct FakePair {
    FakeMachine *from, *to;
    FerrySource *source;
    FerryDestination *destination;
    unsigned nr_dialled;
    unsigned dial_limit; /* the dial after so many fails; 0: none does */
    int strangers;       /* connections that are not the source's */
    GMutex lock;
    GPtrArray *warnings; /* of char * */
    _Atomic unsigned nr_complete;
    FerrySourceConfig config; /* the source's, like the tracker */
    FerryTracker tracker;
    char *failed_tracker; /* why it was replaced */

    /* Pages may be left missing: every connection goes through a relay. */
    bool fetching;
    GPtrArray *relays;   /* of Relay *: in the order of dialling; those of broken connections too */
    uint64_t cut_after;  /* the next control channels break after so many bytes; 0: they do not */
    guint first_relay;   /* of the connection in use */
    GCond news;          /* with the lock: one of the next three has changed */
    bool went;           /* the destination may run the guest */
    unsigned nr_resumed; /* how often it was resumed */
    unsigned nr_broken;  /* how often the destination has said that the connection broke */
    char *damaged;       /* why the destination's memory is damaged */
} FakePair;

FakePair *fake_pair_new(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels,
                        bool checksum);
/* The same, with a tracker that feeds pages in its own order. */
FakePair *fake_pair_new_ordered(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels);
/* The same, with fetch channels; @timeout_ms: see heartbeat.h. */
FakePair *fake_pair_new_fetching(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels,
                                 unsigned nr_fetch, unsigned timeout_ms, bool ordered);
/* The same, configured like this; with a tracker that feeds if @ordered. */
FakePair *fake_pair_new_full(const FakeRegion *from, const FakeRegion *to,
                             const FerrySourceConfig *wanted, bool ordered);
/* Wait until @what, a flag of the pair's that is told by the session, is set. */
void fake_pair_wait(FakePair *pair, const bool *what);

/* A source with another tracker instead, which must outlive it; only before it connects. */
void fake_pair_set_tracker(FakePair *pair, const FerryTracker *tracker);
void fake_pair_free(FakePair *pair);

/* Cut all connections that are in use, or only the one that was dialled @number-th of them. */
void fake_pair_cut(FakePair *pair);
Relay *fake_pair_relay(FakePair *pair, unsigned number);

/* The rounds of a source that is done follow one another: nothing that was sent lies between two. */
void fake_check_rounds(const FerryStats *stats);

/* A new connection to the destination; returns the other end's descriptor. */
int fake_pair_dial(FakePair *pair);

#endif
