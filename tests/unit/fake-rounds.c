/*
 * Whether the rounds that a source reports can be: see fake-machine.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-machine.h"

void fake_check_rounds(const FerryStats *stats)
{
    uint64_t nr_bytes = 0, nr_pages = 0, elapsed_ns = 0;

    for (guint i = 0; i < stats->rounds->len; i++) {
        const FerryRoundStats *round = &g_array_index(stats->rounds, FerryRoundStats, i);

        nr_bytes += round->bytes;
        nr_pages += round->pages;
        elapsed_ns += round->elapsed_ns;
        g_assert_cmpuint(round->elapsed_ns, >, 0);
        g_assert_cmpuint(round->elapsed_ns, >=, round->harvest_ns);
    }
    g_assert_cmpuint(nr_bytes, ==, stats->sent_bytes);
    g_assert_cmpuint(nr_pages, ==, stats->normal_pages);
    g_assert_cmpuint(elapsed_ns, ==, stats->elapsed_ns);
}
