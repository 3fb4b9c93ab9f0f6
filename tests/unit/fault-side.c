/*
 * What both sides have: see fault-world.h.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/error.h"

/* Long enough for everybody else to get on meanwhile, shorter than any limit. */
#define DELAY_MS 150

/* How long threads and descriptors of a session that has ended may take to be gone. */
#define GONE_MS 5000

FaultWorld *fault_world;
FaultSide fault_me;
int fault_ask_fd;
void (*fault_fail_session)(GError *error);

const FakeRegion fault_regions[] = {
    {.id = "pc.ram", .nr_pages = 1600, .touched_pages = 400},
    {.id = "shared", .nr_pages = 128, .touched_pages = 64, .shared = true},
    /* A page of 4 MiB, which comes in two parts.  No kernel has such, so it may not be there in part. */
    {.id = "huge", .nr_pages = 1024, .touched_pages = 1024, .huge_pages = 1024},
    {0},
};

/* --- Fault points ----------------------------------------------------------------------------- */

const char *fault_point_name(FerryFaultPoint point)
{
#define NAME(name) #name,
    static const char *const names[] = {FERRY_FAULT_POINTS(NAME)};
    static __thread char text[32];

    g_strlcpy(text, names[point], sizeof(text));
    for (char *c = text; *c; c++) {
        *c = *c == '_' ? '-' : g_ascii_tolower(*c);
    }
    return text;
}

bool fault_is_phase(FerryFaultPoint point)
{
    return point >= FERRY_FAULT_SOURCE_COPYING;
}

bool fault_is_frame(FerryFaultPoint point)
{
    return point >= FERRY_FAULT_SAY_HELLO && point <= FERRY_FAULT_HEAR_TAKEN;
}

static GError *make_error(FerryFaultPoint point)
{
    bool tracker = point >= FERRY_FAULT_TRACKER_START && point <= FERRY_FAULT_TRACKER_FEED;
    bool channel = point == FERRY_FAULT_DIAL || fault_is_frame(point);

    return g_error_new(FERRY_ERROR,
                       tracker   ? FERRY_ERROR_TRACKER
                       : channel ? FERRY_ERROR_IO
                                 : FERRY_ERROR_SYSTEM,
                       "fault point %s", fault_point_name(point));
}

static gpointer fail_session(gpointer opaque)
{
    fault_fail_session(opaque);
    return NULL;
}

void fault_ask_network(FaultEffect effect)
{
    const char byte = 0;

    atomic_store(&fault_world->asked[fault_me], (int)effect);
    if (write(fault_ask_fd, &byte, 1) != 1) {
        return;
    }
    while (atomic_load(&fault_world->asked[fault_me]) >= 0) {
        g_usleep(100);
    }
}

static void crash(FaultSide side)
{
    kill(atomic_load(&fault_world->pids[side]), SIGKILL);
    while (!atomic_load(&fault_world->dead[side])) {
        g_usleep(100);
    }
}

static bool apply(FerryFaultPoint point, FaultEffect effect, GError **errp)
{
    switch (effect) {
    case FAULT_ERROR:
        if (!fault_is_phase(point)) {
            g_propagate_error(errp, make_error(point));
            return true;
        }
        /* The session's lock may be held here. */
        g_thread_unref(g_thread_new("fault", fail_session, make_error(point)));
        break;
    case FAULT_DELAY:
        g_usleep(DELAY_MS * 1000);
        break;
    case FAULT_CRASH_SOURCE:
        crash(FAULT_SOURCE);
        break;
    case FAULT_CRASH_DESTINATION:
        crash(FAULT_DESTINATION);
        break;
    case FAULT_CANCEL:
        atomic_store(&fault_world->cancel, true);
        while (atomic_load(&fault_world->cancel)) {
            g_usleep(100);
        }
        break;
    case FAULT_NOTHING:
        break;
    default:
        fault_ask_network(effect);
    }
    return false;
}

static bool is_at(const FaultSpec *spec, FerryFaultPoint point)
{
    return spec->effect != FAULT_NOTHING && spec->side == fault_me && spec->point == point;
}

bool ferry_fault(FerryFaultPoint point, GError **errp)
{
    FaultWorld *world = fault_world;
    unsigned pass;

    if (is_at(&world->event, point) && atomic_load(&world->event_armed) &&
        !atomic_exchange(&world->event_fired, true)) {
        atomic_store(&world->armed, true);
        if (apply(point, world->event.effect, errp)) {
            return true;
        }
    }
    if (!atomic_load(&world->armed)) {
        return false;
    }
    pass = atomic_fetch_add(&world->passes[fault_me][point], 1) + 1;
    if (!is_at(&world->fault, point) || pass != world->fault.nth ||
        atomic_exchange(&world->fired, true)) {
        return false;
    }
    if (world->mode == FAULT_CANCELLED && !atomic_exchange(&world->event_fired, true)) {
        atomic_store(&world->cancel, true);
    }
    return apply(point, world->fault.effect, errp);
}

/* --- What is told ----------------------------------------------------------------------------- */

void fault_set_runs(bool runs)
{
    atomic_store(&fault_world->runs[fault_me], runs);
    if (runs && atomic_load(&fault_world->runs[!fault_me])) {
        atomic_store(&fault_world->ran_both, true);
    }
}

void fault_complain(const char *format, ...)
{
    FaultTold *told = &fault_world->told[fault_me];
    va_list args;

    va_start(args, format);
    if (!told->complaint[0]) {
        g_vsnprintf(told->complaint, sizeof(told->complaint), format, args);
    }
    va_end(args);
}

void fault_set_reason(const char *reason)
{
    g_strlcpy(fault_world->told[fault_me].reason, reason, sizeof(fault_world->told[0].reason));
}

void fault_add_warning(const char *text)
{
    g_strlcat(fault_world->told[fault_me].warnings, text, sizeof(fault_world->told[0].warnings));
}

void fault_doing(const char *what)
{
    g_strlcpy(fault_world->told[fault_me].doing, what, sizeof(fault_world->told[0].doing));
}

/* --- What an attempt leaves behind ------------------------------------------------------------ */

static unsigned count_entries(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    unsigned nr = 0;

    while (g_dir_read_name(dir)) {
        nr++;
    }
    return nr;
}

FaultCensus fault_census(void)
{
    return (FaultCensus){
        .nr_fds = count_entries("/proc/self/fd"),
        .nr_threads = count_entries("/proc/self/task"),
    };
}

void fault_check_census(FaultCensus before)
{
    gint64 deadline = g_get_monotonic_time() + GONE_MS * 1000;
    FaultCensus now = fault_census();

    while ((now.nr_fds != before.nr_fds || now.nr_threads != before.nr_threads) &&
           g_get_monotonic_time() < deadline) {
        g_usleep(1000);
        now = fault_census();
    }
    if (now.nr_fds != before.nr_fds || now.nr_threads != before.nr_threads) {
        fault_complain("the attempt began with %u descriptors and %u threads, and left %u and %u",
                       before.nr_fds, before.nr_threads, now.nr_fds, now.nr_threads);
    }
}

/* --- The stream ------------------------------------------------------------------------------- */

static bool transfer(int fd, char *data, size_t nr_bytes, unsigned timeout_ms, bool out)
{
    while (nr_bytes > 0) {
        struct pollfd pollfd = {.fd = fd, .events = out ? POLLOUT : POLLIN};
        ssize_t done;

        if (poll(&pollfd, 1, (int)timeout_ms) <= 0) {
            errno = ETIMEDOUT;
            return false;
        }
        done = out ? send(fd, data, nr_bytes, MSG_NOSIGNAL | MSG_DONTWAIT)
                   : recv(fd, data, nr_bytes, MSG_DONTWAIT);
        if (done == 0 || (done < 0 && errno != EAGAIN)) {
            errno = done == 0 ? EPIPE : errno;
            return false;
        }
        if (done > 0) {
            data += done;
            nr_bytes -= (size_t)done;
        }
    }
    return true;
}

bool fault_read(int fd, void *data, size_t nr_bytes, unsigned timeout_ms)
{
    return transfer(fd, data, nr_bytes, timeout_ms, false);
}

bool fault_write(int fd, const void *data, size_t nr_bytes, unsigned timeout_ms)
{
    return transfer(fd, (char *)data, nr_bytes, timeout_ms, true);
}

bool fault_write_byte(int fd, char byte)
{
    return fault_write(fd, &byte, 1, fault_keepalive_ms());
}

unsigned fault_keepalive_ms(void)
{
    return fault_world->timeout_ms * 2;
}

/* --- Machines --------------------------------------------------------------------------------- */

FakeMachine *fault_machine_new(uint64_t seed)
{
    FakeMachine *machine = fake_machine_new(fault_regions, false);

    for (uint32_t region = 0; region < machine->regions.nr; region++) {
        const FakeRegion *fake = &fault_regions[region];

        for (uint64_t i = 0; i < fake->touched_pages; i++) {
            uint64_t page = i / 5 * 5 * (fake->nr_pages / fake->touched_pages) + i % 5;

            /* Every eleventh is zero, though touched. */
            fake_machine_write(machine, region, (page + seed % 3) % fake->nr_pages,
                               (i + seed) % 11 ? (i + seed) * UINT64_C(0x9e3779b97f4a7c15) : 0);
        }
    }
    return machine;
}

uint64_t fault_memory_bytes(void)
{
    uint64_t nr_pages = 0;

    for (const FakeRegion *region = fault_regions; region->id; region++) {
        nr_pages += region->nr_pages;
    }
    return nr_pages * FERRY_PAGE_BYTES;
}
