/*
 * Where Ferry is not to be used, QEMU's own path must do what it always did.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "postcopy.h"

/* Debian's QEMU has no accelerator for tests. */
#define VCPU "-accel tcg -bios {dir}/halt.bin"

/* Names it in FERRY_STOCK_QEMU, where the environment does not, by asking scripts/fetch-stock. */
static const char *no_stock(void)
{
    static const char *reason;
    g_autofree char *script = NULL;
    g_autofree char *path = NULL;
    int status = -1;

    if (reason || g_getenv("FERRY_STOCK_QEMU")) {
        return reason;
    }
    if (!g_getenv("FERRY_ROOT")) {
        reason = "neither FERRY_STOCK_QEMU nor FERRY_ROOT is set";
        return reason;
    }
    script = g_build_filename(g_getenv("FERRY_ROOT"), "scripts/fetch-stock", NULL);
    if (!g_spawn_command_line_sync(script, &path, NULL, &status, NULL) || status != 0) {
        reason = "scripts/fetch-stock does not get Debian's QEMU";
        return reason;
    }
    g_setenv("FERRY_STOCK_QEMU", g_strstrip(path), TRUE);
    return NULL;
}

static const Case cases[] = {
    {
        .name = "fallback/source-off",
        .source_options = "-global ferry.enabled=off",
        .fallback = "switched off with -global ferry.enabled=off",
        .destination_fallback = "the source has no Ferry, or has it switched off",
    },
    {
        .name = "fallback/destination-off",
        .destination_options = "-global ferry.enabled=off",
        .fallback = "the destination has no Ferry, or has it switched off",
        .destination_fallback = "switched off with -global ferry.enabled=off",
    },
    {
        .name = "fallback/off-by-command",
        .ferry_parameters = "{ 'enabled': false }",
        .fallback = "switched off",
    },
    {
        .name = "fallback/off-multifd",
        .source_options = "-global ferry.enabled=off",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "switched off",
    },
    {
        .name = "fallback/destination-off-multifd",
        .destination_options = "-global ferry.enabled=off",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-unix",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .uri = "unix:{dir}/migration",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-multifd",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-return-path",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "return-path",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-cancel",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
        .then = THEN_CANCEL,
    },
    {
        .name = "fallback/stock-destination-dies",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
        .then = THEN_KILL_DESTINATION,
        .error = HANGS_UP,
    },
    {
        .name = "fallback/stock-source-dies",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .destination_fallback = "the source has no Ferry",
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "fallback/stock-source",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-return-path",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "return-path",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-multifd",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-postcopy",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "postcopy-ram",
        .destination_fallback = "the source has no Ferry",
        .during = postcopy_go_over,
    },
    {
        .name = "fallback/stock-destination-postcopy",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "postcopy-ram",
        .fallback = "the destination has no Ferry",
        .during = postcopy_go_over,
    },
    {
        .name = "fallback/xbzrle",
        .capabilities = "xbzrle",
        .fallback = "capability xbzrle is set",
    },
    {
        .name = "fallback/multifd-zstd",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2, 'multifd-compression': 'zstd' }",
        .fallback = "multifd-compression is set",
    },
};

void add_fallback_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
