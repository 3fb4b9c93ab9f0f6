/*
 * Post-copy: parts of cases
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_POSTCOPY_H
#define FERRY_QTEST_POSTCOPY_H

#include "case.h"

/* Keeps post-copy going for as long as a test can take. */
#define SLOW_PUSH "{ 'max-postcopy-bandwidth': 131072 }"

/* Wait until the guest runs at the destination. */
void postcopy_wait(Run *run);

/* The same, after migrate-start-postcopy. */
void postcopy_go_over(Run *run);

/* The same, with so little pushed that pages stay missing. */
void postcopy_go_over_slowly(Run *run);

/* The same, and then the source is gone, and the destination knows. */
void postcopy_lose_source(Run *run);

/* The user pauses it at the source, and both ends are paused. */
void postcopy_pause(Run *run);

/* The destination of a paused one listens at another address, behind another proxy if there was one. */
void postcopy_listen_again(Run *run);

/* Tell the source to resume it there. */
void postcopy_resume(Run *run);

/* Both, and wait until it has been. */
void postcopy_recover(Run *run);

/* A number of query-ferry's "fetch". */
uint64_t postcopy_fetch_stat(Vm *vm, const char *name);

/* Pages were missing, and are no more. */
void postcopy_expect_fetched(Run *run);

#endif
