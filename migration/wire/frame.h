/*
 * The wire protocol: frames on Ferry's own channels.
 *
 * Opening a session (the control channel first, then the data channels; one hello each):
 *
 *   source                                         destination
 *     | -- HELLO session, version, role, index --> |   every channel, its first frame
 *     | -- REGIONS list ------------------------->  |   control
 *     |                                            |   checks the list, empties its memory,
 *     | <-- READY answers, or ERROR text --------- |   waits until every data channel is in
 *
 * Copying, on the data channels; a granule always travels on the same one:
 *
 *     | -- PAGES extents + contents --------------> |  any number of times
 *
 *     | -- FENCE number -------------------------> |  each data channel, when it has run dry
 *     | <-- REACHED number ---------------------- |  control: all before it is in place
 *
 * Before a hand-off with pages missing, while the guest still runs; no pages are on their way:
 *
 *     | -- MISSING region, segment -------------->  |  control: pages that will be missing, as far
 *     | -- DRAFT number of pages ---------------->  |  as known: the destination discards its copies
 *     | <-- DRAFTED ----------------------------- |
 *
 * It may be taken back, as long as no hand-off has followed; more pages come only after that:
 *
 *     | -- FORGET ------------------------------->  |  control
 *     | <-- DRAFTED ----------------------------- |
 *
 * Handing off, after the vCPUs have stopped:
 *
 *     | -- STOPPED -------------------------------> |  control: the blackout begins
 *     | -- PAGES, then FENCE number --------------> |  each data channel, if there are any left
 *     | -- MISSING region, segment -------------->  |  control: what the draft did not have
 *     | -- HANDOFF number, pages missing --------->  |  number of the last fence
 *     | <-- LOADED ------------------------------- |  control: the device state is in
 *     | -- GO ------------------------------------> |  control: run.  Until it sent this, the source
 *     |                                            |  may take the guest back; after it, never
 *     | <-- TAKEN -------------------------------- |  control: the guest is the destination's
 *     | <-- REPORT blackout ---------------------- |  control: once the guest runs, if nothing is
 *     |                                            |  missing; else when nothing is any more
 *
 * With pages missing, the destination asks for them from HANDOFF on, and the source pushes the rest
 * after GO:
 *
 *     | <-- FETCH page --------------------------- |  fetch channel: the guest waits for it
 *     | -- PAGES ---------------------------------> |  the same channel
 *     | -- PAGES ---------------------------------> |  data channels: the rest
 *     | <-- COMPLETE ----------------------------- |  control: nothing is missing any more
 *
 * After a broken connection, between LOADED and COMPLETE with pages missing, on new channels (HELLO as
 * above):
 *
 *     | -- RESUME number of channels ------------>  |  control
 *     | <-- MISSING region, segment -------------- |  control: all that is missing now
 *     | <-- RESUMED pages missing ---------------- |
 *     | -- GO ------------------------------------> |  it may have been lost; TAKEN answers again
 *
 * From READY on, both sides send BEAT on every channel that they write to and that is idle, so
 * that silence means a broken connection.
 *
 * Either side may send ERROR on the control channel at any time before it closes it.
 *
 * A receiver's states: HELLO expected -> (control) REGIONS expected -> copying -> handed off; and if
 * pages are missing then -> fetching -> complete, or broken -> RESUME expected -> fetching.  A frame
 * that does not belong to the state, an unknown type, a wrong magic, version, session, checksum,
 * or a number outside its limit is a protocol error; it ends the session, or only the channel while
 * that has not proved that it belongs to the session.
 *
 * Versions: HELLO carries the one version both sides settled on beforehand (in QEMU: by PING and
 * PONG inside the migration stream).  A change that an older peer cannot ignore is a new version.
 *
 * Everything is little-endian and fixed-width.  A frame is a header of FERRY_FRAME_BYTES; a table
 * of extents with its own CRC32C (PAGES only); then the payload.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FRAME_H
#define FERRY_FRAME_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../memory/region.h"
#include "../stats.h"

#define FERRY_WIRE_MAGIC       UINT32_C(0x59525246) /* "FRRY" */
#define FERRY_WIRE_VERSION_MIN 4
#define FERRY_WIRE_VERSION_MAX 4

#define FERRY_FRAME_BYTES  32
#define FERRY_EXTENT_BYTES 8

/* A PAGES frame covers at most one granule, so it can hold no more extents than pages. */
#define FERRY_EXTENTS_MAX        FERRY_GRANULE_PAGES
/* The longest body of a control frame; bounds what a peer can make us allocate. */
#define FERRY_BODY_MAX           (UINT32_C(1) << 20)
/* The longest text of an ERROR frame. */
#define FERRY_ERROR_TEXT_MAX     1024
#define FERRY_DATA_CHANNELS_MAX  64
#define FERRY_FETCH_CHANNELS_MAX 8
/* All that a session can have, the control channel too. */
#define FERRY_CHANNELS_MAX       (1 + FERRY_DATA_CHANNELS_MAX + FERRY_FETCH_CHANNELS_MAX)

typedef enum {
    FERRY_FRAME_INVALID = 0,
    FERRY_FRAME_HELLO = 1,
    FERRY_FRAME_REGIONS = 2,
    FERRY_FRAME_READY = 3,
    FERRY_FRAME_ERROR = 4,
    FERRY_FRAME_PAGES = 5,
    FERRY_FRAME_STOPPED = 6,
    FERRY_FRAME_FENCE = 7,
    FERRY_FRAME_HANDOFF = 8,
    FERRY_FRAME_REPORT = 9,
    FERRY_FRAME_REACHED = 10,
    FERRY_FRAME_MISSING = 11,
    FERRY_FRAME_DRAFT = 12,
    FERRY_FRAME_DRAFTED = 13,
    FERRY_FRAME_LOADED = 14,
    FERRY_FRAME_GO = 15,
    FERRY_FRAME_FETCH = 16,
    FERRY_FRAME_COMPLETE = 17,
    FERRY_FRAME_BEAT = 18,
    FERRY_FRAME_RESUME = 19,
    FERRY_FRAME_RESUMED = 20,
    FERRY_FRAME_FORGET = 21,
    FERRY_FRAME_TAKEN = 22,
    FERRY_FRAME_LAST = FERRY_FRAME_TAKEN,
} FerryFrameType;

typedef enum {
    FERRY_FRAME_PAYLOAD_CRC = 1 << 0, /* payload_crc holds the CRC32C of the payload */
    FERRY_FRAME_ZSTD = 1 << 1,        /* PAGES: the payload is one zstd frame, and smaller for it */
} FerryFrameFlags;

/*
 * A frame's header.  On the wire: magic u32, type u8, flags u8, region u16, nr_extents u32,
 * payload_bytes u32, first_page u64, payload_crc u32, CRC32C of the 28 bytes before it u32.
 */
typedef struct FerryFrame {
    uint8_t type;  /* FerryFrameType */
    uint8_t flags; /* FerryFrameFlags */
    uint16_t region;
    uint32_t nr_extents;
    uint32_t payload_bytes;
    uint64_t
        first_page; /* PAGES: extents count from here.  FETCH: the page.  Else a number, or 0 */
    uint32_t payload_crc;
} FerryFrame;

/*
 * A run of pages inside a PAGES frame.  On the wire: first u32, count and kind u32 (the top bit set
 * for zero pages, whose content does not follow).
 */
typedef struct FerryExtent {
    uint32_t first; /* page, relative to the frame's first_page */
    uint32_t nr_pages;
    bool zero;
} FerryExtent;

typedef enum {
    FERRY_ROLE_INVALID = 0,
    FERRY_ROLE_CONTROL = 1,
    FERRY_ROLE_DATA = 2,
    FERRY_ROLE_FETCH = 3,
} FerryRole;

typedef struct FerryHello {
    uint64_t session; /* the token that the destination chose */
    uint32_t attempt; /* 0 for a session's first channels, more for each time that it is resumed */
    uint16_t version;
    uint8_t role;  /* FerryRole */
    uint8_t index; /* among the channels of that role */
} FerryHello;

/* Encoders write exactly FERRY_FRAME_BYTES, nr_extents * FERRY_EXTENT_BYTES + 4, and so on. */
void ferry_frame_encode(const FerryFrame *frame, uint8_t out[FERRY_FRAME_BYTES]);
void ferry_extents_encode(const FerryExtent *extents, size_t nr_extents, uint8_t *out);
size_t ferry_extents_encoded_bytes(size_t nr_extents);

/*
 * Decode and check what can be checked without knowing the session: magic, checksum, type, flags,
 * and every length against its limit.
 */
bool ferry_frame_decode(const uint8_t in[FERRY_FRAME_BYTES], FerryFrame *frame, GError **errp);

/*
 * Decode the extents of @frame and check them against a region of @region_pages: ascending, not
 * overlapping, not empty, within one granule and the region, and adding up to the frame's payload.
 */
bool ferry_extents_decode(const FerryFrame *frame, const uint8_t *in, uint64_t region_pages,
                          FerryExtent *extents, GError **errp);

/* Bodies of control frames.  Encoders return a new array; decoders check every byte. */
GByteArray *ferry_hello_encode(const FerryHello *hello);
bool ferry_hello_decode(const uint8_t *in, size_t nr_bytes, FerryHello *hello, GError **errp);

/* How many channels of each kind a session has, and what may be done with them. */
typedef struct FerryLayout {
    unsigned nr_data;  /* 1 to FERRY_DATA_CHANNELS_MAX */
    unsigned nr_fetch; /* 0 to FERRY_FETCH_CHANNELS_MAX; none: pages cannot be left missing */
} FerryLayout;

GByteArray *ferry_layout_encode(const FerryLayout *layout);
bool ferry_layout_decode(const uint8_t *in, size_t nr_bytes, FerryLayout *layout, GError **errp);

/* Carries the layout, the host, and id, length, page size, flags and offset of each region. */
GByteArray *ferry_regions_encode(const FerryRegions *regions, const FerryLayout *layout);
/* @regions is to be cleared by the caller; unset on failure. */
bool ferry_regions_decode(const uint8_t *in, size_t nr_bytes, FerryRegions *regions,
                          FerryLayout *layout, GError **errp);

/* What the destination has done with a region before it is ready: one byte each in READY's body. */
typedef enum {
    FERRY_ANSWER_EMPTY = 0,   /* it reads as zero: pages that were never touched need not be sent */
    FERRY_ANSWER_IN_FULL = 1, /* it was left as it is: every page has to be sent, zero ones too */
    FERRY_ANSWER_SAME = 2,    /* both ends map the same memory: nothing may be sent */
} FerryAnswer;

/* No body at all says that every region is empty; @answers gets @nr_regions bytes in any case. */
GByteArray *ferry_answers_encode(const uint8_t *answers, size_t nr_regions);
bool ferry_answers_decode(const uint8_t *in, size_t nr_bytes, uint8_t *answers, size_t nr_regions,
                          GError **errp);

/* A number of pages: the body of HANDOFF. */
GByteArray *ferry_count_encode(uint64_t nr_pages);
bool ferry_count_decode(const uint8_t *in, size_t nr_bytes, uint64_t *nr_pages, GError **errp);

GByteArray *ferry_report_encode(const FerryReport *report);
bool ferry_report_decode(const uint8_t *in, size_t nr_bytes, FerryReport *report, GError **errp);

/* The text of an ERROR frame, with everything that is not printable replaced; never NULL. */
char *ferry_error_text_decode(const uint8_t *in, size_t nr_bytes);

#endif
