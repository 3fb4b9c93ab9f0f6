/*
 * Firmware for QEMUs with vCPUs that run: see case.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "case.h"

#define FIRMWARE_BYTES (64u << 10)

/* An image with @code at its start, where it goes from reset, in real mode. */
void make_firmware(const char *name, const uint8_t *code, size_t nr_bytes)
{
    /* jmp far 0xf000:0 */
    static const uint8_t reset[] = {0xea, 0x00, 0x00, 0x00, 0xf0};
    g_autofree uint8_t *image = g_malloc0(FIRMWARE_BYTES);
    g_autofree char *path = in_dir(name);

    memcpy(image, code, nr_bytes);
    memcpy(image + FIRMWARE_BYTES - 16, reset, sizeof(reset));
    g_assert_true(g_file_set_contents(path, (char *)image, FIRMWARE_BYTES, NULL));
}

void make_halting_firmware(Run *run)
{
    static const uint8_t code[] = {
        0xfa,       /* cli */
        0xf4,       /* again: hlt */
        0xeb, 0xfd, /* jmp again */
    };

    make_firmware("{dir}/halt.bin", code, sizeof(code));
}

void make_writing_firmware(Run *run)
{
    /* 0x20000 to 0x60000: 64 pages. */
    static const uint8_t code[] = {
        0xfa,                   /* cli */
        0xb8, 0x00, 0x20,       /* again: mov $0x2000, %ax */
        0x8e, 0xd8,             /* next: mov %ax, %ds */
        0xff, 0x06, 0x08, 0x00, /* incw 8 */
        0x05, 0x00, 0x01,       /* add $0x100, %ax */
        0x3d, 0x00, 0x60,       /* cmp $0x6000, %ax */
        0x72, 0xf2,             /* jb next */
        0xeb, 0xed,             /* jmp again */
    };

    make_firmware("{dir}/write.bin", code, sizeof(code));
}
