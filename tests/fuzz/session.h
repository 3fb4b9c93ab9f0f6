/*
 * What the fuzzers of whole sessions share: inputs as sequences of steps, and connections whose other end is the
 * fuzzer's.
 *
 * An input is a few bytes of settings, then steps of an opcode and its operands.  Where it ends, operands read as
 * zero, so every input means something.
 *
 * Threads: the fuzzer's own; the engine's only within the channels that are handed to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_FUZZ_SESSION_H
#define FERRY_TESTS_FUZZ_SESSION_H

#include "fuzz.h"

#include "migration/wire/channel.h"
#include "migration/wire/frame.h"

#define FUZZ_SESSION UINT64_C(0xfe44)

/* Connections in one input, those that are closed too. */
#define FUZZ_ENDS_MAX 24

/* What is left of an input. */
typedef struct FuzzInput {
    const uint8_t *at, *end;
} FuzzInput;

static inline bool fuzz_has_more(const FuzzInput *input)
{
    return input->at < input->end;
}

static inline uint8_t fuzz_byte(FuzzInput *input)
{
    return fuzz_has_more(input) ? *input->at++ : 0;
}

/* Up to 0xef in one byte; 0xf0 and 0xf1 have two and eight more; the others stand for values at limits. */
uint64_t fuzz_number(FuzzInput *input);
void fuzz_put_number(GByteArray *to, uint64_t number);

/* The next *@nr_bytes, or fewer if there are not as many: then *@nr_bytes becomes less. */
const uint8_t *fuzz_bytes(FuzzInput *input, uint64_t *nr_bytes);

/* How the body of a frame is said. */
typedef enum FuzzBody {
    FUZZ_BODY_NONE,
    FUZZ_BODY_RAW,    /* number of bytes, bytes */
    FUZZ_BODY_COUNT,  /* number */
    FUZZ_BODY_LAYOUT, /* data channels, fetch channels: a byte each */
    FUZZ_BODY_REPORT, /* three numbers */
    FUZZ_BODY_FILLED, /* number of bytes, what they are */
    FUZZ_BODIES
} FuzzBody;

/* A frame that is not one of pages: type, region, number, FuzzBody and what it needs. */
typedef struct FuzzFrame {
    FerryFrameType type;
    uint8_t region;
    uint64_t number;
    GByteArray *body; /* or NULL */
} FuzzFrame;

FuzzFrame fuzz_read_frame(FuzzInput *input);

/* A head that may say anything. */
FerryFrame fuzz_read_head(FuzzInput *input);

/* One connection: the engine has the channel, the fuzzer what follows. */
typedef struct FuzzEnd {
    int fd, engine_fd;
    uint8_t role; /* what its hello said; or 0 */
    bool writable;

    GMutex lock;  /* for what follows */
    bool reading; /* the engine waits for more, or is about to */
    bool over;    /* it has seen the end */
    bool gone;    /* it has closed the channel */
    uint64_t sent, consumed;

    GByteArray *heard; /* what the engine has written, as far as it is no whole frame */
    unsigned nr_heard[FERRY_FRAME_LAST + 1]; /* whole frames */
} FuzzEnd;

/* A frame that the engine has written, with what follows its head. */
typedef void FuzzHeardFn(void *opaque, FuzzEnd *end, const FerryFrame *frame, const uint8_t *rest);

typedef struct FuzzEnds {
    FuzzEnd list[FUZZ_ENDS_MAX];
    unsigned nr;
    FuzzHeardFn *heard; /* or NULL */
    void *opaque;
    bool torn; /* bytes were sent that may be anything: what is in memory then may be too */
} FuzzEnds;

/* One more connection; returns the engine's channel, or NULL if there are too many. */
FerryChannel *fuzz_ends_add(FuzzEnds *ends, const char *name);

/* The end with that number, as far as there are any; else NULL. */
FuzzEnd *fuzz_ends_get(FuzzEnds *ends, uint8_t number);

/* The end that belongs to @channel. */
FuzzEnd *fuzz_end_of(const FerryChannel *channel);

/* Send to the engine, if it can be taken at once. */
void fuzz_send(FuzzEnds *ends, FuzzEnd *end, const void *bytes, size_t nr_bytes);
void fuzz_send_frame(FuzzEnds *ends, FuzzEnd *end, const FuzzFrame *frame);

/* No more goes to the engine (@way 0), or comes from it (1), or both; 3: closed. */
void fuzz_close(FuzzEnds *ends, FuzzEnd *end, uint8_t way);

/* Read whatever the engine has written; each whole frame must be a good one. */
void fuzz_hear(FuzzEnds *ends);

/* Whether the engine has read all that was sent, and waits for more, or will not read again. */
bool fuzz_is_idle(FuzzEnd *end);

/* Pages' extents, as an input says them, and the frame for them. */
typedef struct FuzzPages {
    FerryFrame frame;
    FerryExtent extents[4];
    uint8_t content[4]; /* what the pages of that extent are full of */
    GByteArray *bytes;  /* the whole frame; the caller's */
    bool torn;          /* its length is not what it says */
} FuzzPages;

/* What pages can be full of: one of FUZZ_CONTENTS, or zero. */
#define FUZZ_CONTENTS 8
static inline uint8_t fuzz_content(uint8_t number)
{
    return (uint8_t)(0x11 * (1 + number % FUZZ_CONTENTS));
}

FuzzPages fuzz_read_pages(FuzzInput *input);

/* All closed, and forgotten; the engine must have let go of its channels. */
void fuzz_ends_clear(FuzzEnds *ends);

#endif
