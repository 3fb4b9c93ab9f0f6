/*
 * Macros that spatch must know to parse the functions that are hooked, on top of QEMU's own list
 * for Coccinelle.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define WITH_QEMU_LOCK_GUARD(lock) YACFE_ITERATOR
#define WITH_RCU_READ_LOCK_GUARD() YACFE_ITERATOR
