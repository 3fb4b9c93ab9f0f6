/*
 * Machines that do not fit each other, and destinations that refuse.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "case.h"

#define DIMM "-object memory-backend-ram,id=dimm,size=16M -device pc-dimm,memdev=dimm"

static const Case cases[] = {
    {
        .name = "refusal/size",
        .destination_options = "-m 80M",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "the destination says: RAM block 'pc.ram' is 33554432 bytes at the source but",
    },
    {
        .name = "refusal/missing-block",
        .options = "-m 32M,slots=1,maxmem=1G",
        .source_options = DIMM,
        .second_options = DIMM,
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "the destination says: RAM block 'dimm' of the source does not exist",
    },
    {
        .name = "refusal/missing-vga",
        .source_options = "-device VGA",
        .second_options = "-device VGA",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "vga.vram' of the source does not exist at the destination",
    },
    {
        /* Found only when all memory has arrived and the guest is stopped. */
        .name = "refusal/missing-device",
        .source_options = "-device virtio-rng-pci",
        .second_options = "-device virtio-rng-pci",
        .outcome = FAILS,
        .error = "the destination says: it could not load the state of the guest",
    },
    {
        .name = "refusal/uuid",
        .capabilities = "validate-uuid",
        .source_options = "-uuid 11111111-1111-1111-1111-111111111111",
        .destination_options = "-uuid 22222222-2222-2222-2222-222222222222",
        .second_options = "-uuid 11111111-1111-1111-1111-111111111111",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        /* Seen before Ferry has a session: in QEMU's own words. */
        .error = HANGS_UP,
        .destination_log = "UUID received is 11111111-1111-1111-1111-111111111111",
    },
    {
        .name = "refusal/uuid-right",
        .capabilities = "validate-uuid",
        .options = "-uuid 11111111-1111-1111-1111-111111111111",
    },
};

void add_refusal_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
