/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The 64 KiB image: the program first, the page with the reset vector last. */
#include "layout.h"

OUTPUT_FORMAT("elf64-x86-64")
ENTRY(reset_page)

SECTIONS
{
    .program PROGRAM_BASE : AT(ROM_BASE) {
        program_begin = .;
        *(.start)
        *(.text .text.*)
        *(.rodata .rodata.*)
        *(.data .data.*)
        . = ALIGN(4);
        program_end = .;
    }
    .bss (NOLOAD) : {
        bss_begin = .;
        *(.bss .bss.* COMMON)
        bss_end = .;
    }
    .reset ROM_RESET : AT(ROM_RESET) {
        *(.reset)
    }
    program_longs = (program_end - program_begin) / 4;
    ASSERT(program_end - program_begin <= ROM_RESET - ROM_BASE, "the program is too large for the image")
    ASSERT(bss_end <= TABLES_BASE, "the variables reach into the page tables")
    ASSERT(. == ROM_RESET + 0x1000, "the reset page is not one page")
    /DISCARD/ : { *(.comment) *(.note*) *(.eh_frame*) }
}
