/*
 * A clock of the tests' own: minutes in which nothing happens cost nothing.
 *
 * Time passes as it does anyway.  But when every thread of the program sleeps, it jumps to the next moment
 * that anybody waits for by way of migration/clock.h.  Threads that work, or have been woken to, always
 * have the time that they would have: a busy machine makes a test slow, and not wrong.
 *
 * How it is known that all of them sleep: the kernel says so of each, and all of them have been given a
 * processor as often as when they were looked at before.  Each has slept between its two looks then, and so all of them
 * have between the first round of looks and the second.  Nobody is left who could wake anybody.
 *
 * What is asleep in any other way (g_usleep(), poll() with a time-out) is asleep for real, and may miss
 * any length of this clock's time.
 *
 * For a program that is linked with an engine built with FERRY_CLOCK, which defines migration/clock.h's functions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TEST_STEERED_CLOCK_H
#define FERRY_TEST_STEERED_CLOCK_H

/* What reads this without the build's own flags, to look for faults of ours, sees the functions as well. */
#ifndef FERRY_CLOCK
#define FERRY_CLOCK
#endif

#include "migration/clock.h"

/* From here on time jumps; not to be undone.  Nobody waits yet. */
void steered_clock_start(void);

/* The end of a program: how much time was jumped over, as a comment of TAP's.  Returns @status. */
int steered_clock_report(int status);

#endif
