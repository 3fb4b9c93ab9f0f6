/*
 * Warning of frames and buffers that do not fit the path: see sizes.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_SIZES_H
#define FERRY_GLUE_SOURCE_SIZES_H

/* A session has been opened, or goes on over a new connection: what is wrong with that is news.  Migration thread. */
void ferry_sizes_reset(void);

/* Look, at most once a second, and log what is wrong, once for each connection.  Migration thread. */
void ferry_sizes_look(void);

/* The same at the end of the session, however soon that is: once no other thread uses it. */
void ferry_sizes_look_last(void);

#endif
