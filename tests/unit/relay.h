/*
 * A relay: the network between two sockets, which can be cut or hang.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TEST_RELAY_H
#define FERRY_TEST_RELAY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Relay Relay;

/* Between two descriptors, which it takes over, with a thread of its own. */
Relay *relay_new(int a, int b);

/* Break the connection, at once for both sides. */
void relay_cut(Relay *relay);

/* Break it by itself after so many more bytes, in whatever direction. */
void relay_cut_after(Relay *relay, uint64_t nr_bytes);

/* Let nothing through from now on, or again. */
void relay_stall(Relay *relay, bool stall);

void relay_free(Relay *relay);

#endif
