/*
 * QEMU's own connection, held so that anybody can break it together with a session's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_STREAM_H
#define FERRY_GLUE_STREAM_H

#include "io/channel.h"

/* All zero: it holds none. */
typedef struct FerryStream {
    GMutex lock;    /* for what follows */
    QIOChannel *io; /* a reference */
} FerryStream;

/* Hold @io in place of what was held; NULL: nothing.  Any thread. */
void ferry_stream_hold(FerryStream *stream, QIOChannel *io);

/* Break what is held, if anything is.  Any thread. */
void ferry_stream_break(FerryStream *stream);

#endif
