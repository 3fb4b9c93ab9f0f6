/*
 * System calls that the kernel denies this process from now on, as in a container, on an older kernel, or at a limit.
 *
 * Nothing takes that back, so a test does it in a process of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_DENY_H
#define FERRY_TESTS_UNIT_DENY_H

#include <glib.h>

/* Each fails with errno @error.  With 0 it does nothing, and does not fail. */
void deny_call(int call, int error);
void deny_ioctl(guint64 request, int error);

/* Memory of exactly this size. */
void deny_mmap(guint64 nr_bytes, int error);

/* Call @fn in a process of its own; that must end well.  */
void deny_elsewhere(void (*fn)(void));

#endif
