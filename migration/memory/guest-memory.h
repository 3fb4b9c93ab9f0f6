/*
 * Reading memory while the guest writes it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GUEST_MEMORY_H
#define FERRY_GUEST_MEMORY_H

/* In front of a function: guest memory changes under our feet by design; that is no finding. */
#if defined(__clang__)
#define READS_GUEST_MEMORY __attribute__((no_sanitize("thread")))
#else
#define READS_GUEST_MEMORY
#endif

#endif
