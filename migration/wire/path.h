/*
 * Path: what the kernel knows of the way to the other end of a TCP connection.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PATH_H
#define FERRY_PATH_H

#include <stdbool.h>

#include "../stats.h"

/* What does not change: the interface and the limits; and the rest as ferry_path_look().  False if it is not TCP. */
bool ferry_path_find(int fd, FerryPath *path);

/* What the kernel knows by now; nothing else in @path is changed.  False if it is not TCP. */
bool ferry_path_look(int fd, FerryPath *path);

#endif
