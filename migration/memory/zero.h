/*
 * Is this memory all zero?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_ZERO_H
#define FERRY_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/**
 * ferry_is_zero: whether all of the @nr_bytes at @data are zero
 *
 * True for no bytes at all. @data needs no alignment and may be guest memory that is being
 * written to: a write during the test may or may not be seen, which is why callers arm their
 * write trace first. A page that is not zero mostly costs one or two cache lines, a zero one is
 * read through. Reading touches memory: an untouched private page becomes the shared zero page,
 * an untouched shared one is allocated; ask ferry_scan() first where that matters. Any thread.
 */
bool ferry_is_zero(const void *data, size_t nr_bytes);

/** ferry_is_zero_portable: the same for every processor; apart so that tests reach it */
bool ferry_is_zero_portable(const void *data, size_t nr_bytes);

#endif
