/*
 * The engine's error domain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "error.h"

G_DEFINE_QUARK(ferry_error, ferry_error)
