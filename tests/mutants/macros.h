/*
 * What spatch must know to parse the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define g_autofree
#define g_autoptr(type) type *
#define g_auto(type)    type
#define G_GNUC_PRINTF(format, first)
#define READS_GUEST_MEMORY
#define AVX2_INSTRUCTIONS
