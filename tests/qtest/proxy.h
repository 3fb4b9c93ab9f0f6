/*
 * A relay of our own between source and destination: it can keep connections waiting, cut them, let
 * nothing through, and damage what goes through.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_PROXY_H
#define FERRY_QTEST_PROXY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Proxy Proxy;

/* Relay to @target ("tcp:127.0.0.1:PORT"). */
Proxy *proxy_new(const char *target);

/* "tcp:127.0.0.1:PORT", where it listens. To be freed. */
char *proxy_uri(const Proxy *proxy);

/* Only the first @nr connections are relayed from now on; later ones are accepted and wait. */
void proxy_limit(Proxy *proxy, unsigned nr);

/* Connections from the @from-th on, beginning with 0, stay open, but nothing gets through, nor that one end closes. */
void proxy_stall_from(Proxy *proxy, unsigned from);

/*
 * Connections from the @from-th on, beginning with 0, get so many bytes of an answer; then nothing more comes
 * through, or the connection is reset.
 */
void proxy_halve(Proxy *proxy, unsigned from, uint64_t nr_bytes, bool closes);

/* From the first connection on, after so many bytes of an answer the source reads its end, and can go on talking. */
void proxy_end_way_back(Proxy *proxy, uint64_t nr_bytes);

/* The first one only, and it stays open. */
void proxy_halve_first(Proxy *proxy, uint64_t nr_bytes);

/* After the @nr-th connection nobody else is let in: refused, or not answered at all. */
void proxy_end_after(Proxy *proxy, unsigned nr, bool refuses);

/* Wait until this many connections have been made in all. */
void proxy_wait_connections(Proxy *proxy, unsigned nr);

/* Break every connection, and every new one. */
void proxy_cut(Proxy *proxy);

/*
 * The same for one connection only, the @number-th that was made, beginning with 0; new ones are not
 * touched.  stall: it stays open, but nothing gets through any more.  damage: one bit of what comes
 * from the source, @offset bytes from now, is turned over.
 */
void proxy_cut_one(Proxy *proxy, unsigned number);
void proxy_stall(Proxy *proxy, unsigned number);
void proxy_damage(Proxy *proxy, unsigned number, uint64_t offset);

/* How many connections have been made so far. */
unsigned proxy_nr_connections(Proxy *proxy);

/* Break every connection, but not new ones. */
void proxy_cut_all(Proxy *proxy);

/* A socket of the test's own that takes connections, with this backlog; *@uri, to be freed, says where it is. */
int listen_somewhere(int backlog, char **uri);

/* A connection to tcp:127.0.0.1:PORT, or -1 when it is refused. */
int connect_to(const char *uri);

#endif
