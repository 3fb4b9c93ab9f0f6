/*
 * The user's limits for all migrations of the host: see shares.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/shares.h"
#include "ferry/migration/error.h"
#include "internal.h"

bool ferry_shares_check_file(const char *path, GError **errp)
{
    if (!g_path_is_absolute(path)) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "it does not begin with '/'");
        return false;
    }
    return true;
}

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
