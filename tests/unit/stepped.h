/*
 * What a file of the engine is compiled with so that all it does atomically is a step: see steps.h.
 *
 * Included before anything else.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TEST_STEPPED_H
#define FERRY_TEST_STEPPED_H

#include <glib.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "steps.h"

#ifdef __clang__
#define STEPPED(operation, at, ...) __c11_atomic_##operation(at, __VA_ARGS__)
#else
#define STEPPED(operation, at, ...) __atomic_##operation(at, __VA_ARGS__)
#endif

#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_and
#undef atomic_fetch_or
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit

#define atomic_load(at) (steps_at(at, false), atomic_load_explicit(at, memory_order_seq_cst))
#define atomic_store(at, value) \
    (steps_at(at, true), atomic_store_explicit(at, value, memory_order_seq_cst))
#define atomic_exchange(at, value) \
    (steps_at(at, true), atomic_exchange_explicit(at, value, memory_order_seq_cst))
#define atomic_fetch_and(at, operand) \
    (steps_at(at, true), atomic_fetch_and_explicit(at, operand, memory_order_seq_cst))
#define atomic_fetch_or(at, operand) \
    (steps_at(at, true), atomic_fetch_or_explicit(at, operand, memory_order_seq_cst))
#define atomic_fetch_add_explicit(at, operand, order) \
    (steps_at(at, true), STEPPED(fetch_add, at, operand, order))
#define atomic_fetch_sub_explicit(at, operand, order) \
    (steps_at(at, true), STEPPED(fetch_sub, at, operand, order))
#define atomic_fetch_add(at, operand) atomic_fetch_add_explicit(at, operand, memory_order_seq_cst)
#define atomic_fetch_sub(at, operand) atomic_fetch_sub_explicit(at, operand, memory_order_seq_cst)

/* A macro's own name in it is left alone. */
#define __atomic_load_n(at, order)         (steps_at(at, false), __atomic_load_n(at, order))
#define __atomic_store_n(at, value, order) (steps_at(at, true), __atomic_store_n(at, value, order))

#define g_mutex_lock    steps_lock
#define g_mutex_trylock steps_trylock
#define g_mutex_unlock  steps_unlock
#define sched_yield     steps_yield

#define poll  steps_poll
#define ioctl steps_ioctl

#endif
