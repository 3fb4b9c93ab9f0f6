/*
 * The user's limits for all migrations of the host: see shares.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"

#include "ferry/glue/parameters.h"
#include "ferry/glue/shares.h"

uint64_t ferry_host_limit(FerryDirection direction, FerryShares **shares)
{
    g_autoptr(GError) error = NULL;
    FerrySettings settings;
    FerrySharesConfig config = {.direction = direction};

    ferry_settings_copy(&settings);
    config.weight = settings.shares;
    config.host_bytes_per_second =
        (uint64_t)(direction == FERRY_OUTGOING ? settings.host_outgoing_mb
                                               : settings.host_incoming_mb) *
        1000 * 1000;
    *shares = NULL;
    if (config.host_bytes_per_second && *settings.shares_file) {
        *shares = ferry_shares_join(settings.shares_file, &config, &error);
        if (!*shares) {
            warn_report("ferry: the host's bandwidth is not shared: %s", error->message);
        }
    }
    return config.host_bytes_per_second;
}
