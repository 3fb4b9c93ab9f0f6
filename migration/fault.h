/*
 * Fault points: where a test makes things go wrong.
 *
 * A build for tests (FERRY_FAULTS) calls ferry_fault() wherever a session takes something from the system, says or
 * hears a frame, or changes its phase; and so does qemu/glue, where QEMU and a session meet.  The test program, or
 * tests/guest/fault-parts/injector.c in a QEMU for tests, defines that function.  Any other build has nothing of it:
 * the macro is false, and its arguments are gone.
 *
 * The order of frames is that of wire/frame.h; the phases are in the order of source/phase.h and
 * destination/internal.h.  tests/unit/test-faults.c holds all of them against each other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FAULT_H
#define FERRY_FAULT_H

#ifdef FERRY_FAULTS

#include <glib.h>
#include <stdbool.h>

#define FERRY_FAULT_FRAMES(POINT, VERB) \
    POINT(VERB##_HELLO)                 \
    POINT(VERB##_REGIONS)               \
    POINT(VERB##_READY)                 \
    POINT(VERB##_ERROR)                 \
    POINT(VERB##_PAGES)                 \
    POINT(VERB##_STOPPED)               \
    POINT(VERB##_FENCE)                 \
    POINT(VERB##_HANDOFF)               \
    POINT(VERB##_REPORT)                \
    POINT(VERB##_REACHED)               \
    POINT(VERB##_MISSING)               \
    POINT(VERB##_DRAFT)                 \
    POINT(VERB##_DRAFTED)               \
    POINT(VERB##_LOADED)                \
    POINT(VERB##_GO)                    \
    POINT(VERB##_FETCH)                 \
    POINT(VERB##_COMPLETE)              \
    POINT(VERB##_BEAT)                  \
    POINT(VERB##_RESUME)                \
    POINT(VERB##_RESUMED)               \
    POINT(VERB##_FORGET)                \
    POINT(VERB##_TAKEN)

/* What is taken from the system, the frames on the wire, and the phases but for the first of each side. */
#define FERRY_FAULT_POINTS(POINT)   \
    POINT(DIAL)                     \
    POINT(THREAD_CONTROL)           \
    POINT(THREAD_SENDER)            \
    POINT(THREAD_SERVER)            \
    POINT(THREAD_BEAT)              \
    POINT(THREAD_SILENCE)           \
    POINT(THREAD_RECEIVER)          \
    POINT(THREAD_FAULT)             \
    POINT(TRACKER_START)            \
    POINT(TRACKER_ARM)              \
    POINT(TRACKER_RESET)            \
    POINT(TRACKER_HARVEST)          \
    POINT(TRACKER_FEED)             \
    POINT(SCAN)                     \
    POINT(EMPTY)                    \
    POINT(PROVIDE)                  \
    POINT(USERFAULTFD)              \
    POINT(EVENTFD)                  \
    POINT(REGISTER)                 \
    POINT(DISCARD)                  \
    POINT(GATHER)                   \
    POINT(PLACE)                    \
    POINT(PLACE_MEMORY)             \
    FERRY_FAULT_FRAMES(POINT, SAY)  \
    FERRY_FAULT_FRAMES(POINT, HEAR) \
    POINT(SOURCE_COPYING)           \
    POINT(SOURCE_ROUNDS)            \
    POINT(SOURCE_DRAFTED)           \
    POINT(SOURCE_STOPPED)           \
    POINT(SOURCE_HANDED_OFF)        \
    POINT(SOURCE_RELEASED)          \
    POINT(SOURCE_FETCHING)          \
    POINT(SOURCE_PAUSED)            \
    POINT(SOURCE_RESUMING)          \
    POINT(SOURCE_IN_DOUBT)          \
    POINT(SOURCE_DONE)              \
    POINT(SOURCE_FAILED)            \
    POINT(SOURCE_CANCELLED)         \
    POINT(DESTINATION_COPYING)      \
    POINT(DESTINATION_DRAFTING)     \
    POINT(DESTINATION_HANDED_OFF)   \
    POINT(DESTINATION_IN_PLACE)     \
    POINT(DESTINATION_LOADED)       \
    POINT(DESTINATION_FETCHING)     \
    POINT(DESTINATION_PAUSED)       \
    POINT(DESTINATION_DONE)         \
    POINT(DESTINATION_PARTED)       \
    POINT(DESTINATION_FAILED)

/* Those of qemu/glue, first the source's. */
#define FERRY_FAULT_QEMU_POINTS(POINT) \
    POINT(QEMU_OPEN)                   \
    POINT(QEMU_SOCKET)                 \
    POINT(QEMU_SAVE_SETUP)             \
    POINT(QEMU_SAVE_END)               \
    POINT(QEMU_SAVE_DEVICES)           \
    POINT(QEMU_LET_GO)                 \
    POINT(QEMU_ACCEPT)                 \
    POINT(QEMU_ANSWER)                 \
    POINT(QEMU_LOAD_SETUP)             \
    POINT(QEMU_LOAD_END)               \
    POINT(QEMU_LOADED)                 \
    POINT(QEMU_START)

#define FERRY_FAULT_ENUMERATOR(name) FERRY_FAULT_##name,

typedef enum FerryFaultPoint {
    FERRY_FAULT_POINTS(FERRY_FAULT_ENUMERATOR) FERRY_FAULT_NR_POINTS,
    FERRY_FAULT_LAST = FERRY_FAULT_NR_POINTS - 1,
    FERRY_FAULT_QEMU_POINTS(FERRY_FAULT_ENUMERATOR) FERRY_FAULT_NR_ALL_POINTS
} FerryFaultPoint;

/*
 * The session has come to @point.  True, with @errp set, if what comes next there is to fail; where nothing can,
 * callers take no notice.  Any thread, with locks of the engine's held.
 */
bool ferry_fault(FerryFaultPoint point, GError **errp);

#else
#define ferry_fault(point, errp) false
#endif

/* The point at which a frame of @type is said (SAY), or has been heard (HEAR). */
#define ferry_fault_frame(verb, type, errp) \
    ferry_fault(FERRY_FAULT_##verb##_HELLO + (unsigned)(type)-1, errp)

/* The point at which @SIDE (SOURCE, DESTINATION) has come to @phase, which is not its first one. */
#define ferry_fault_phase(SIDE, phase) \
    (void)ferry_fault(FERRY_FAULT_##SIDE##_COPYING + (unsigned)(phase)-1, NULL)

#endif
