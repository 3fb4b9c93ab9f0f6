/*
 * Pacing: a second is what it should be, and nothing goes out in bursts
 *
 * One sender that always has something to send, on a host that runs it late, in a time of this test's own: it passes
 * where the sender waits or sends, and nowhere else. So all of it is the same each time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
/* What reads this without the build's own flags, to look for faults of ours, sees the functions as well. */
#ifndef FERRY_CLOCK
#define FERRY_CLOCK
#endif

#include "migration/clock.h"
#include "migration/wire/pace.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

#define SECONDS 20

/* --- A clock ------------------------------------------------------------------------------------ */

static struct {
    int64_t now_us;
    int64_t late_us; /* at most; a sender runs so much later than it could */
} host;

uint64_t ferry_now_ns(void)
{
    return (uint64_t)host.now_us * 1000;
}

static int64_t how_late(void)
{
    /* Mostly a little, now and then as much as it gets. */
    return host.late_us == 0              ? 0
           : g_test_rand_int_range(0, 50) ? g_test_rand_int_range(0, (gint32)host.late_us / 5)
                                          : host.late_us;
}

bool ferry_cond_wait_until(GCond *cond, GMutex *lock, gint64 deadline_us)
{
    host.now_us = MAX(host.now_us, deadline_us) + how_late();
    return false;
}

void ferry_cond_wait(GCond *cond, GMutex *lock)
{
    g_assert_not_reached();
}

void ferry_sleep_us(gint64 us)
{
    host.now_us += us;
}

/* --- A sender ----------------------------------------------------------------------------------- */

typedef struct Take {
    int64_t at_us;
    uint64_t total_bytes; /* with all before it */
} Take;

/* What it sent in @SECONDS, over a wire that is far faster than it may be. */
static GArray *send_all(uint64_t rate, uint64_t take_bytes)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    GArray *takes = g_array_new(FALSE, FALSE, sizeof(Take));
    Take take = {0};

    host.now_us = 1000 * G_USEC_PER_SEC;
    ferry_pace_set_rate(pace, rate);
    while (host.now_us < (1000 + SECONDS) * (int64_t)G_USEC_PER_SEC) {
        g_assert_true(ferry_pace_take(pace, take_bytes));
        take.at_us = host.now_us;
        take.total_bytes += take_bytes;
        g_array_append_val(takes, take);
        host.now_us += (int64_t)(take_bytes * G_USEC_PER_SEC / rate / 50);
    }
    return takes;
}

/* The most, or the least, that was sent in any @period_us. */
static void find_extremes(const GArray *takes, int64_t period_us, uint64_t *least, uint64_t *most)
{
    guint first = 0;

    *least = UINT64_MAX;
    *most = 0;
    for (guint i = 0; i < takes->len; i++) {
        const Take *last = &g_array_index(takes, Take, i);
        uint64_t sent;

        while (g_array_index(takes, Take, first).at_us < last->at_us - period_us) {
            first++;
        }
        sent = last->total_bytes - (first ? g_array_index(takes, Take, first - 1).total_bytes : 0);
        *most = MAX(*most, sent);
        /* From just after one that is not in it, to just before the last one. */
        if (first > 0) {
            *least = MIN(*least, i ? g_array_index(takes, Take, i - 1).total_bytes -
                                         g_array_index(takes, Take, first - 1).total_bytes
                                   : 0);
        }
    }
}

static void check(uint64_t rate, uint64_t take_bytes, unsigned least_percent)
{
    static const int64_t short_ms[] = {0, 1, 5, 10, 50, 100};
    g_autoptr(GArray) takes = send_all(rate, take_bytes);
    uint64_t least, most;

    find_extremes(takes, G_USEC_PER_SEC, &least, &most);
    g_test_message("%" G_GUINT64_FORMAT " B/s: %.4f to %.4f in a second", rate,
                   (double)least / (double)rate, (double)most / (double)rate);
    g_assert_cmpuint(most, <=, rate * 103 / 100 + take_bytes);
    g_assert_cmpuint(least + 2 * take_bytes, >=, rate * least_percent / 100);
    for (size_t i = 0; i < G_N_ELEMENTS(short_ms); i++) {
        find_extremes(takes, short_ms[i] * 1000, &least, &most);
        g_assert_cmpuint(most, <=,
                         rate / 100 + rate * 3 / 2000 * (uint64_t)short_ms[i] + take_bytes);
    }
}

static void check_rates(int64_t late_us, unsigned least_percent)
{
    host.late_us = late_us;
    for (uint64_t rate = 4 * MIB; rate <= 4096 * MIB; rate *= 4) {
        check(rate, 64 * KIB, least_percent);
        check(rate, 256 * KIB, least_percent);
    }
}

static void test_quiet(void)
{
    check_rates(0, 97);
}

static void test_busy(void)
{
    check_rates(5 * 1000, 97);
}

static void test_very_busy(void)
{
    /* What it loses where it is this late several times in a row cannot all be caught up on. */
    check_rates(15 * 1000, 94);
}

/* What was not sent in time that passed idle is not sent after it. */
static void test_idle(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    const uint64_t rate = 64 * MIB;
    uint64_t sent = 0;
    int64_t start_us;

    host.late_us = 0;
    host.now_us = 1000 * G_USEC_PER_SEC;
    ferry_pace_set_rate(pace, rate);
    ferry_sleep_us(10 * G_USEC_PER_SEC);
    start_us = host.now_us;
    while (host.now_us - start_us < G_USEC_PER_SEC) {
        g_assert_true(ferry_pace_take(pace, 64 * KIB));
        sent += 64 * KIB;
    }
    g_assert_cmpuint(sent, <=, rate * 103 / 100 + 64 * KIB);
    g_assert_cmpuint(sent, >=, rate);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pace-exact/quiet", test_quiet);
    g_test_add_func("/pace-exact/busy", test_busy);
    g_test_add_func("/pace-exact/very-busy", test_very_busy);
    g_test_add_func("/pace-exact/idle", test_idle);
    return g_test_run();
}
