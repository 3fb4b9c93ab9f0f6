/*
 * One case: a source and a destination, a migration from one to the other, and what comes of it.
 *
 * What happens when nothing else is said: both QEMUs start, the source's memory is filled, the
 * migration is held at `hold` by its bandwidth while memory goes on being written, then it is let
 * go; it completes; every byte at the destination is as it should be. Where the migration fails or
 * is cancelled, the source must go on running with its memory intact, and a second migration, to a
 * destination that is as the source would have it, must complete.
 *
 * Text may name the test's own directory as {dir}; options may name the QEMU as {vm}.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_CASE_H
#define FERRY_QTEST_CASE_H

#include "memory.h"
#include "proxy.h"
#include "vm.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* Where a ferry-storm may write, in machines of 160 MiB: above what the test itself fills. */
#define STORM_START (120 * MIB)
#define STORM_BYTES (32 * MIB)

/* QEMU's own words at the source when the destination hangs up before a session of Ferry's: by what it was doing. */
#define HANGS_UP                                                      \
    "Channel error: Input/output error|Unable to read from socket: |" \
    "Unable to write to socket: |ram_save_setup failed: Input/output error"

typedef struct Case Case;

/* A case as it runs. */
typedef struct Run {
    const Case *c;
    Vm *source;
    Vm *destination;
    Memory *memory;
    Proxy *proxy;    /* between them, where the case wants one; not in the second migration */
    char *uri;       /* where the destination can be reached */
    void *opaque;    /* the case's own */
    bool answer_due; /* the source has been told something and has not answered yet */
    bool second;     /* it is the second migration, after one that failed */
} Run;

/* Where a migration is held, in the order in which it gets there. */
typedef enum {
    HOLD_COPY,     /* the default */
    HOLD_CONNECT,  /* the destination does not answer */
    HOLD_CHANNELS, /* the two have found each other, but no channel gets through (by a proxy) */
    HOLD_ROUNDS,
    HOLD_PRE_SWITCHOVER, /* the guest is stopped; sets pause-before-switchover */
    HOLD_HAND_OFF,       /* the last pages are under way, the destination does not answer */
    HOLD_NOT,            /* it runs through as fast as it can */
} Hold;

typedef enum {
    THEN_GO_ON, /* the default: let it go */
    THEN_CANCEL,
    THEN_KILL_DESTINATION,
    THEN_KILL_SOURCE, /* the destination must end by itself; that is the case's end */
    THEN_CUT,         /* the network breaks (by a proxy) */
} Then;

typedef enum {
    COMPLETES,  /* the default */
    FAILS,      /* the migration starts, and fails */
    IS_REFUSED, /* the command "migrate" itself fails */
} Outcome;

typedef enum {
    OURS,
    STOCK_SOURCE, /* Debian's own QEMU */
    STOCK_DESTINATION,
} Peers;

struct Case {
    /* Required: its name, below /ferry. */
    const char *name;

    /* Optional: why it cannot run here, or NULL. */
    const char *(*cannot)(void);
    /* Optional: makes files and the like before any QEMU starts. */
    void (*prepare)(Run *run);

    /* --- The machines --- */

    /* Optional: options that give the machine its memory. */
    const char *ram;
    /* Optional: how much memory that makes, in MiB, if not 32. */
    unsigned ram_mib;
    /* Optional: further options of both QEMUs. */
    const char *options;
    /* Optional: further options of one QEMU only. */
    const char *source_options, *destination_options;
    /* Optional: for a second destination, instead of destination_options. */
    const char *second_options;
    /* Optional: whether one of them is Debian's own QEMU. */
    Peers peers;
    /* Optional: the guest is paused from the start. */
    bool paused;
    /* Optional: the destination is started with -S. */
    bool destination_paused;

    /* --- The migration --- */

    /* Optional: where the destination listens, if not on a free port of tcp. */
    const char *uri;
    /* Optional: where the source goes to, if not where the destination listens. */
    const char *source_uri;
    /* Optional: the case has the destination listen itself, in `before`. */
    bool no_listen;
    /* Optional: it goes to a file: the destination starts when the source has finished. */
    bool stored;
    /* Optional: there is a proxy between them. */
    bool proxy;
    /* Optional: capabilities of both, separated by spaces. */
    const char *capabilities;
    /* Optional: of one only. */
    const char *source_capabilities, *destination_capabilities;
    /* Optional: migrate-set-parameters of both, as JSON. */
    const char *parameters;
    /* Optional: of one only. */
    const char *source_parameters, *destination_parameters;
    /* Optional: for a second migration, after the others. */
    const char *second_capabilities;
    /* Optional: for a second migration, at either side. */
    const char *second_parameters, *second_destination_parameters;
    /* Optional: ferry-set-parameters of the source, as JSON. */
    const char *ferry_parameters;

    /* --- What happens --- */

    /* Optional: called once both run and memory is filled, before the migration starts. */
    void (*before)(Run *run);
    /* Optional: where the migration is held. */
    Hold hold;
    /* Optional: called while it is held. */
    void (*during)(Run *run);
    /* Optional: what ends the hold. */
    Then then;

    /* --- What comes of it --- */

    /* Optional: if not that it completes (or is cancelled, when `then` says so). */
    Outcome outcome;
    /* Required where it fails: part of error-desc; or several, with "|" between, one of which it must have. */
    const char *error;
    /* Optional where it fails: part of what the destination logs, if the source cannot know it. */
    const char *destination_log;
    /* Optional: a destination that it fails at does not end: it waits for the next one, or stays. */
    bool destination_stays;
    /* Optional: why Ferry is not in use: part of query-ferry's reason at our source. */
    const char *fallback;
    /* Optional: the same, at our destination. */
    const char *destination_fallback;
    /* Optional: how many data channels there are, if that matters. */
    unsigned channels;
    /* Optional: pages are left missing, and fetched. */
    bool postcopy;
    /* Optional: the tracker that our source must use: query-ferry's mode. */
    const char *tracker;
    /* Required with it: part of the reason. */
    const char *tracker_reason;
    /* Optional: both guests stay stopped at the end, and must be equal: the guest writes itself. */
    bool guest_writes;
    /* Optional: a ferry-storm has STORM_BYTES from STORM_START on, which are not compared. */
    bool storm;
    /* Optional: called at the end, with the guest at the destination. */
    void (*after)(Run *run);
};

void case_run(const Case *c);

/* Have it count as skipped, though it has begun: what it is about does not happen here. */
void case_skip(const char *reason);

/* Registers cases; called by main() for each group. */
void cases_add(const Case *cases, size_t nr_cases);
void add_blocked_cases(void);
void add_descriptor_cases(void);
void add_device_cases(void);
void add_ending_cases(void);
void add_fallback_cases(void);
void add_handshake_cases(void);
void add_kind_cases(void);
void add_marks_cases(void);
void add_network_cases(void);
void add_opening_cases(void);
void add_parameter_cases(void);
void add_phase_cases(void);
void add_postcopy_cases(void);
void add_reason_cases(void);
void add_recovery_cases(void);
void add_refusal_cases(void);
void add_report_cases(void);
void add_ring_cases(void);
void add_storm_cases(void);
void add_story_cases(void);
void add_stranger_cases(void);
void add_tls_cases(void);
void add_tracker_cases(void);
void add_transport_cases(void);
void add_write_cases(void);

/* Why there is no KVM here, or NULL. */
const char *no_kvm(void);

/* --- Firmware for QEMUs with vCPUs that run: options name {dir}/halt.bin or {dir}/write.bin --- */

/* A file with @code, in real mode at 0xf0000. */
void make_firmware(const char *name, const uint8_t *code, size_t nr_bytes);

/* Does nothing at all. */
void make_halting_firmware(Run *run);

/* Counts in every page of a part of low memory, round and round. */
void make_writing_firmware(Run *run);

/* --- Parts, for cases that do something of their own --- */

/* Start a QEMU as the case says; @incoming ones wait for migrate-incoming. */
Vm *run_start_vm(Run *run, const char *name, bool incoming);

/* Capabilities and parameters, as the case says. */
void run_settings(Run *run, Vm *vm, bool incoming);

/* Where this QEMU says that it listens; to be freed. */
char *run_listening_uri(Vm *vm);

/* Have the destination listen; finds run->uri. */
void run_listen(Run *run);

/* "migrate" to run->uri or where the case says. */
void run_migrate(Run *run);

/* No limit on bandwidth any more, and whatever else holds it. */
void run_release(Run *run);

/* Wait for the end at both sides, and compare memory. */
void run_expect_completion(Run *run);

/* After a migration that did not succeed: the source runs on, and can be migrated. */
void run_second(Run *run);

/* Fails the test unless the comparison of memory, on which all this rests, sees a wrong byte. */
void run_check_comparison(Run *run);

/* The destination becomes the source, and gets a new destination. */
void run_turn(Run *run, const char *name);

/* query-ferry must show that memory goes (or went) through Ferry, as the case says. */
void run_check_ferry(Run *run);

#endif
