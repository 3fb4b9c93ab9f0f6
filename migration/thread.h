/*
 * Threads of the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_THREAD_H
#define FERRY_THREAD_H

#include <glib.h>

/*
 * A thread called @name that runs @run(@opaque), and is to be joined or let go of.  NULL if the system has
 * none to give; @errp says then what can be done about it.  Any thread.
 */
GThread *ferry_thread_new(const char *name, GThreadFunc run, void *opaque, GError **errp);

#endif
