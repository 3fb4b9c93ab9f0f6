/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where things are in the native guest's memory; read by start.S, image.lds and main.c. */
#ifndef FERRY_GUEST_LAYOUT_H
#define FERRY_GUEST_LAYOUT_H

#define ROM_BASE  0xffff0000 /* the 64 KiB image, as the firmware of the machine */
#define ROM_RESET 0xfffff000 /* its last page: from the reset vector to protected mode */

#define AP_TRAMPOLINE    0x8000   /* where further CPUs start, in real mode: SIPI vector 8 */
#define PROGRAM_BASE     0x100000 /* the program, copied out of the image */
#define TABLES_BASE      0x200000 /* page tables: PML4, PDPT, then one page for each GiB */
#define TABLES_MAX_GIB   1024     /* two PDPTs' worth; all of it ends below STACKS_BASE */
#define TABLES_HIGH_PDPT (TABLES_BASE + 0x2000 + TABLES_MAX_GIB * 0x1000) /* from 512 GiB on */
#define STACKS_BASE      0x800000                                         /* one for each CPU */
#define STACK_BYTES      0x10000
#define CHUNKS_BASE      0xc00000 /* which 2 MiB of memory hold which pages of the load */
#define CHUNKS_MAX       262144
#define GENERATIONS_BASE 0x1000000

/* Selectors */
#define CODE32    0x08
#define DATA32    0x10
#define CODE64    0x18
#define USER_DATA 0x23
#define USER_CODE 0x2b

/* Page table entries: present, writable, for ring 3 too, accessed; leaves also dirty and 2 MiB. */
#define ENTRY_TABLE 0x27
#define ENTRY_LEAF  0xe7

#endif
