/*
 * Multifd channels that QEMU has no place for: see kept.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_KEPT_H
#define FERRY_GLUE_DESTINATION_KEPT_H

struct QIOChannel;

/* What a multifd channel's first packet begins with. */
#define FERRY_MULTIFD_MAGIC 0x11223344U

/* Keep @ioc, which is registered for yank no more, open.  Takes a reference.  Any thread. */
void ferry_kept_add(struct QIOChannel *ioc);

/* The migration is over, or QEMU's own path has it: close what was kept.  Any thread. */
void ferry_kept_drop(void);

#endif
