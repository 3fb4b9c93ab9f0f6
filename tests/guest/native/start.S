/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From reset to C at ring 3, in as few instructions as possible: where KVM emulates rings 0 to 2,
 * each costs half a microsecond, while ring 3 runs at full speed. So only the first 4 GiB are mapped
 * here; C maps the rest. Memory that is never written is expected to read as zero, as it does after
 * power-on; a reset leaves memory as it was.
 */
#include "layout.h"

        .section .reset, "ax"
        .globl  reset_page
reset_page:
        .code16
reset16:
        cli
        lgdtl   %cs:(rom_gdtr - reset_page + (ROM_RESET & 0xffff))
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $CODE32, $reset32

        .code32
reset32:
        movw    $DATA32, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss

        movl    $ROM_BASE, %esi
        movl    $PROGRAM_BASE, %edi
        movl    $program_longs, %ecx
        cld
        rep movsl

        movl    $(TABLES_BASE + 0x1000 + ENTRY_TABLE), TABLES_BASE
        movl    $(TABLES_BASE + 0x2000 + ENTRY_TABLE), %eax
        movl    $(TABLES_BASE + 0x1000), %edi
        movl    $4, %ecx
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    1b

        movl    $ENTRY_LEAF, %eax
        movl    $(TABLES_BASE + 0x2000), %edi
        movl    $(4 * 512), %ecx
2:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    2b

        ljmpl   $CODE32, $enter_long

rom_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt - PROGRAM_BASE + ROM_BASE

        .org    0xff0
        .code16
        jmp     reset16
        .org    0x1000

        .section .start, "ax"
        /* From protected mode to start_entry(start_argument) at ring 3. */
        .code32
enter_long:
        movw    $DATA32, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        lgdtl   gdtr
        movl    $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    $TABLES_BASE, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       /* EFER.LME */
        xorl    %edx, %edx
        movl    $0x100, %eax
        wrmsr
        movl    $0x80000031, %eax       /* PG, NE, ET, PE */
        movl    %eax, %cr0
        ljmpl   $CODE64, $enter_ring3

        .code64
enter_ring3:
        movl    start_argument, %edi
        movl    start_stack, %esp
        movl    %esp, %eax
        pushq   $USER_DATA
        pushq   %rax
        pushq   $0x3002                 /* I/O at ring 3, interrupts off */
        pushq   $USER_CODE
        pushq   start_entry
        iretq

        /* A further CPU starts here, copied to AP_TRAMPOLINE. */
        .globl  ap_start, ap_end
        .code16
ap_start:
        cli
        lgdtl   %cs:(ap_gdtr - ap_start)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $CODE32, $enter_long
ap_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt
ap_end:

        .section .data, "aw"
        /* Accessed bits are set, so that no CPU writes here. */
        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* CODE32 */
        .quad   0x00cf93000000ffff      /* DATA32 */
        .quad   0x00af9b000000ffff      /* CODE64 */
        .quad   0x00cff3000000ffff      /* USER_DATA */
        .quad   0x00affb000000ffff      /* USER_CODE */
gdt_end:
gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt

        .balign 8
        .globl  start_entry, start_stack, start_argument
start_entry:
        .quad   guest_main
start_stack:
        .quad   STACKS_BASE + STACK_BYTES - 8
start_argument:
        .quad   0

        .section .note.GNU-stack, "", @progbits
