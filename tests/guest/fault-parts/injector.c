/*
 * What fault points do in a QEMU that is built with them: they ask whoever runs the tests.
 *
 * QEMU and that program share a file, the board, which the environment names (FERRY_FAULT_BOARD).  board.py has the
 * same layout.  Without a board nothing happens.
 *
 *   the program                            a thread of QEMU's
 *
 *   slot.point, slot.pass := where
 *   armed := ALL
 *                                          comes to the point: passes[point] += 1
 *                                          passes[point] == slot.pass:
 *                                            slot.state := ASKED (release), and waits
 *   sees ASKED, does what is to be done
 *   slot.state := GO_ON or FAIL
 *                                          sees that (acquire), and goes on, or fails
 *
 * Threads: any; locks of the engine's and QEMU's may be held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/error.h"
#include "migration/fault.h"

#define NR_SLOTS 4

/* How long the program may take to be asked again. */
#define POLL_US 200

typedef enum SlotState {
    SLOT_IDLE,
    SLOT_ASKED,
    SLOT_GO_ON,
    SLOT_FAIL,
} SlotState;

enum {
    ARMED_NOTHING,
    ARMED_EVENTS, /* all slots but the first, which is what is walked */
    ARMED_ALL,
};

typedef struct Slot {
    _Atomic uint32_t point; /* from 1 on; 0: none */
    _Atomic uint32_t pass;  /* from 1 on */
    _Atomic uint32_t state;
    uint32_t reserved;
} Slot;

typedef struct Board {
    _Atomic uint32_t armed;
    uint32_t reserved[3];
    Slot slots[NR_SLOTS];
    _Atomic uint32_t passes[FERRY_FAULT_NR_ALL_POINTS]; /* while armed */
} Board;

static const char *point_name(FerryFaultPoint point)
{
#define NAME(name) #name,
    static const char *const names[] = {FERRY_FAULT_POINTS(NAME) FERRY_FAULT_QEMU_POINTS(NAME)};

    return names[point];
}

static gpointer map_board(gpointer unused)
{
    const char *path = g_getenv("FERRY_FAULT_BOARD");
    void *board;
    int fd;

    if (!path) {
        return NULL;
    }
    fd = open(path, O_RDWR | O_CLOEXEC);
    board =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED) {
        g_error("%s: no board of fault points", path);
    }
    close(fd);
    return board;
}

static Board *board(void)
{
    static GOnce once = G_ONCE_INIT;

    return g_once(&once, map_board, NULL);
}

/* Whether what comes next is to fail. */
static bool ask(Slot *slot)
{
    uint32_t state = SLOT_IDLE;

    if (!atomic_compare_exchange_strong(&slot->state, &state, SLOT_ASKED)) {
        return false;
    }
    do {
        g_usleep(POLL_US);
        state = atomic_load_explicit(&slot->state, memory_order_acquire);
    } while (state == SLOT_ASKED);
    return state == SLOT_FAIL;
}

bool ferry_fault(FerryFaultPoint point, GError **errp)
{
    Board *b = board();
    bool fails = false;
    unsigned armed, pass;

    armed = b ? atomic_load(&b->armed) : ARMED_NOTHING;
    if (armed == ARMED_NOTHING) {
        return false;
    }
    pass = armed == ARMED_ALL ? atomic_fetch_add(&b->passes[point], 1) + 1 : 1;
    for (unsigned i = armed == ARMED_ALL ? 0 : 1; i < NR_SLOTS; i++) {
        if (atomic_load(&b->slots[i].point) == (unsigned)point + 1 &&
            atomic_load(&b->slots[i].pass) == pass) {
            fails |= ask(&b->slots[i]);
        }
    }
    if (fails) {
        g_set_error(errp, FERRY_ERROR,
                    point >= FERRY_FAULT_TRACKER_START && point <= FERRY_FAULT_TRACKER_FEED
                        ? FERRY_ERROR_TRACKER
                    : point == FERRY_FAULT_DIAL ||
                            (point >= FERRY_FAULT_SAY_HELLO && point < FERRY_FAULT_SOURCE_COPYING)
                        ? FERRY_ERROR_IO
                        : FERRY_ERROR_SYSTEM,
                    "fault point %s", point_name(point));
    }
    return fails;
}
