/*
 * What a page holds that a storm has written: see storm-page.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "storm-page.h"
#include "storm-random.h"

/* "Ferry!st" */
#define MAGIC UINT64_C(0x7473217972726546)

#define BODY_BYTES (FERRY_STORM_PAGE_BYTES - FERRY_STORM_STAMP_BYTES)
#define BODY_WORDS (BODY_BYTES / sizeof(uint64_t))

/* A page of content "compressible" has one word of noise in so many. */
#define NOISE_ONE_IN 4

typedef struct Encoded {
    uint64_t magic;
    uint64_t page;
    uint64_t generation;
    uint64_t body;
    uint64_t content;
    uint64_t check;
} Encoded;

G_STATIC_ASSERT(sizeof(Encoded) == FERRY_STORM_STAMP_BYTES);
G_STATIC_ASSERT(BODY_WORDS % 2 == 0);

static uint64_t check_of(uint64_t seed, const FerryStormStamp *stamp)
{
    uint64_t check = ferry_storm_mix(seed ^ MAGIC);

    check = ferry_storm_mix(check + stamp->page);
    check = ferry_storm_mix(check + stamp->generation);
    check = ferry_storm_mix(check + stamp->body);
    check = ferry_storm_mix(check + stamp->content);
    return check ? check : 1;
}

static bool is_zero(const uint8_t *host, size_t nr_bytes)
{
    /* The first word is zero, and each is the same as the next. */
    uint64_t first;

    memcpy(&first, host, sizeof(first));
    return first == 0 && memcmp(host, host + sizeof(first), nr_bytes - sizeof(first)) == 0;
}

FerryStormPageState ferry_storm_page_peek(const uint8_t *host, uint64_t seed, uint64_t page,
                                          FerryStormStamp *stamp)
{
    Encoded encoded;
    uint64_t content;

    if (is_zero(host, sizeof(encoded))) {
        return FERRY_STORM_PAGE_BLANK;
    }
    memcpy(&encoded, host, sizeof(encoded));
    content = GUINT64_FROM_LE(encoded.content);
    if (GUINT64_FROM_LE(encoded.magic) != MAGIC || content >= FERRY_STORM_NR_CONTENTS) {
        return FERRY_STORM_PAGE_BAD_STAMP;
    }
    *stamp = (FerryStormStamp){
        .page = GUINT64_FROM_LE(encoded.page),
        .generation = GUINT64_FROM_LE(encoded.generation),
        .body = GUINT64_FROM_LE(encoded.body),
        .content = (FerryStormContent)content,
        .check = GUINT64_FROM_LE(encoded.check),
    };
    if (stamp->check != check_of(seed, stamp)) {
        return FERRY_STORM_PAGE_BAD_STAMP;
    }
    return stamp->page == page ? FERRY_STORM_PAGE_STAMPED : FERRY_STORM_PAGE_MISPLACED;
}

FerryStormPageState ferry_storm_page_check(const uint8_t *host, uint64_t seed, uint64_t page,
                                           FerryStormStamp *stamp)
{
    FerryStormPageState state = ferry_storm_page_peek(host, seed, page, stamp);
    uint8_t expected[FERRY_STORM_PAGE_BYTES];

    if (state == FERRY_STORM_PAGE_BLANK) {
        return is_zero(host, FERRY_STORM_PAGE_BYTES) ? state : FERRY_STORM_PAGE_BAD_STAMP;
    }
    if (state != FERRY_STORM_PAGE_STAMPED) {
        return state;
    }
    ferry_storm_page_fill(expected, seed, stamp);
    return memcmp(host + FERRY_STORM_STAMP_BYTES, expected + FERRY_STORM_STAMP_BYTES, BODY_BYTES)
               ? FERRY_STORM_PAGE_BAD_BODY
               : state;
}

void ferry_storm_page_stamp(uint8_t *host, uint64_t seed, FerryStormStamp *stamp)
{
    Encoded encoded;

    stamp->check = check_of(seed, stamp);
    encoded = (Encoded){
        .magic = GUINT64_TO_LE(MAGIC),
        .page = GUINT64_TO_LE(stamp->page),
        .generation = GUINT64_TO_LE(stamp->generation),
        .body = GUINT64_TO_LE(stamp->body),
        .content = GUINT64_TO_LE((uint64_t)stamp->content),
        .check = GUINT64_TO_LE(stamp->check),
    };
    memcpy(host, &encoded, sizeof(encoded));
}

/* --- Content ---------------------------------------------------------------------------------- */

static void put_word(uint8_t *to, uint64_t word)
{
    word = GUINT64_TO_LE(word);
    memcpy(to, &word, sizeof(word));
}

/* One product gives two words. */
static void fill_noise(uint8_t *to, uint64_t key)
{
    for (size_t i = 0; i < BODY_WORDS; i += 2) {
        FerryStormWide product;

        key += UINT64_C(0x9e3779b97f4a7c15);
        product = (FerryStormWide)key * (key ^ UINT64_C(0xe7037ed1a0b428db));
        put_word(to + i * 8, (uint64_t)product ^ key);
        put_word(to + (i + 1) * 8, (uint64_t)(product >> 64) ^ (key << 32 | key >> 32));
    }
}

static void fill_compressible(uint8_t *to, uint64_t key)
{
    FerryStormRandom random = {.state = key};

    memset(to, (int)(key & 0x7f), BODY_BYTES);
    for (size_t i = 0; i < BODY_WORDS; i += NOISE_ONE_IN) {
        put_word(to + i * 8, ferry_storm_random_next(&random));
    }
}

#define LONGEST_WORD 15

typedef struct Word {
    uint8_t nr_bytes;
    char text[LONGEST_WORD];
} Word;

#define WORD(text)             \
    (Word)                     \
    {                          \
        sizeof(text) - 1, text \
    }

/* Each with the space or the line's end that follows it. */
static const Word vocabulary[64] = {
    WORD("the "),      WORD("ferry "),   WORD("leaves "),    WORD("at "),      WORD("dawn "),
    WORD("and "),      WORD("carries "), WORD("all "),       WORD("of "),      WORD("its "),
    WORD("cargo "),    WORD("over "),    WORD("water "),     WORD("without "), WORD("a "),
    WORD("stop.\n"),   WORD("pages "),   WORD("travel "),    WORD("first, "),  WORD("then "),
    WORD("what "),     WORD("changed "), WORD("since "),     WORD("again,\n"), WORD("nobody "),
    WORD("on "),       WORD("board "),   WORD("notices "),   WORD("when "),    WORD("engines "),
    WORD("halt "),     WORD("briefly "), WORD("because "),   WORD("harbour "), WORD("lights "),
    WORD("guide "),    WORD("every "),   WORD("passenger "), WORD("to "),      WORD("shore.\n"),
    WORD("waves "),    WORD("may "),     WORD("rise "),      WORD("higher "),  WORD("than "),
    WORD("before,\n"), WORD("yet "),     WORD("nothing "),   WORD("is "),      WORD("lost "),
    WORD("in "),       WORD("transit "), WORD("if "),        WORD("count "),   WORD("weight "),
    WORD("agree "),    WORD("both "),    WORD("banks "),     WORD("keep "),    WORD("their "),
    WORD("books "),    WORD("with "),    WORD("great "),     WORD("care.\n"),
};

static void fill_text(uint8_t *to, uint64_t key)
{
    FerryStormRandom random = {.state = key};
    uint8_t *end = to + BODY_BYTES;

    while (to < end) {
        uint64_t choice = ferry_storm_random_next(&random);

        for (unsigned i = 0; i < 10 && to < end; i++, choice >>= 6) {
            const Word *word = &vocabulary[choice & 63];
            size_t left = (size_t)(end - to);

            /* A copy of constant size is one instruction; the next word covers what is too much. */
            if (left >= LONGEST_WORD) {
                memcpy(to, word->text, LONGEST_WORD);
                to += word->nr_bytes;
            } else {
                memcpy(to, word->text, left);
                to = end;
            }
        }
    }
}

void ferry_storm_page_fill(uint8_t *host, uint64_t seed, const FerryStormStamp *stamp)
{
    uint8_t *to = host + FERRY_STORM_STAMP_BYTES;
    uint64_t key = ferry_storm_mix(ferry_storm_mix(seed + stamp->page) + stamp->body);

    if (stamp->body == 0) {
        memset(to, 0, BODY_BYTES);
        return;
    }
    switch (stamp->content) {
    case FERRY_STORM_NOISE:
        fill_noise(to, key);
        break;
    case FERRY_STORM_COMPRESSIBLE:
        fill_compressible(to, key);
        break;
    case FERRY_STORM_TEXT:
        fill_text(to, key);
        break;
    default:
        memset(to, 0, BODY_BYTES);
        break;
    }
}
