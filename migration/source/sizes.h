/*
 * Sizes: whether frames and socket buffers fit the path.
 *
 * Pure decisions over numbers: they look at what the kernel says of the path, and change nothing.
 *
 * Threads: none.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SIZES_H
#define FERRY_SIZES_H

#include "../stats.h"

/*
 * Jumbo frames are set up where the path begins, and do not get through: what is wrong and what would help, to be
 * freed; NULL if all is well, or nothing is known.
 */
char *ferry_sizes_judge_frames(const FerryPath *path);

/*
 * The kernel's limits for buffers keep the data channels, all together, below what is allowed on the path: the
 * same.  What is told is true at least; buffers hold the kernel's own bookkeeping as well.
 */
char *ferry_sizes_judge_buffers(const FerryPath *path);

#endif
