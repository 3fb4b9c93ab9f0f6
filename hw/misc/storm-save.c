/*
 * A storm moves to another host.
 *
 * What is saved are numbers of 64 bits, little-endian, in the order of the enumeration below, then
 * two for each block of the digest, then a check over all that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "storm-internal.h"

/* "storm" and the version of what follows */
#define MAGIC UINT64_C(0x73746f726d000001)

enum {
    AT_MAGIC,
    AT_NR_PAGES,
    AT_SEED,
    AT_PATTERN,
    AT_CONTENT,
    AT_WHOLE,
    AT_WORKING_PAGES,
    AT_HOT_PAGES,
    AT_RANDOM,
    AT_POSITION,
    AT_HOT_FIRST,
    AT_HOT_LEFT,
    AT_NR_WRITTEN,
    AT_DIGEST_PAGES,
    AT_BLOCK_PAGES,
    AT_BLOCKS,
};

/* All but the sums of blocks: what comes before them, and the check. */
#define FIXED_WORDS (AT_BLOCKS + 1)

G_STATIC_ASSERT(FERRY_STORM_MAX_SAVED_BYTES ==
                (FIXED_WORDS + 2 * FERRY_STORM_MAX_BLOCKS) * sizeof(uint64_t));

static uint64_t check_of(const uint64_t *words, size_t nr_words)
{
    uint64_t check = MAGIC;

    for (size_t i = 0; i < nr_words; i++) {
        check = ferry_storm_mix(check + words[i]);
    }
    return check;
}

uint8_t *ferry_storm_save(const FerryStorm *storm, size_t *nr_bytes)
{
    const FerryStormSettings *settings = &storm->settings;
    uint64_t nr_blocks = ferry_storm_digest_nr_blocks(&storm->digest);
    size_t nr_words = FIXED_WORDS + 2 * nr_blocks;
    uint64_t *words = g_new0(uint64_t, nr_words);

    words[AT_MAGIC] = MAGIC;
    words[AT_NR_PAGES] = storm->nr_pages;
    words[AT_SEED] = storm->seed;
    words[AT_PATTERN] = settings->pattern;
    words[AT_CONTENT] = settings->content;
    words[AT_WHOLE] = settings->whole;
    words[AT_WORKING_PAGES] = settings->working_pages;
    words[AT_HOT_PAGES] = settings->hot_pages;
    words[AT_RANDOM] = storm->pattern.place.random.state;
    words[AT_POSITION] = storm->pattern.place.position;
    words[AT_HOT_FIRST] = storm->pattern.place.hot_first;
    words[AT_HOT_LEFT] = storm->pattern.place.hot_left;
    words[AT_NR_WRITTEN] = storm->nr_written;
    words[AT_DIGEST_PAGES] = storm->digest.nr_pages;
    words[AT_BLOCK_PAGES] = storm->digest.block_pages;
    for (uint64_t i = 0; i < nr_blocks; i++) {
        words[AT_BLOCKS + 2 * i] = storm->digest.blocks[i].plain;
        words[AT_BLOCKS + 2 * i + 1] = storm->digest.blocks[i].weighted;
    }
    words[nr_words - 1] = check_of(words, nr_words - 1);
    for (size_t i = 0; i < nr_words; i++) {
        words[i] = GUINT64_TO_LE(words[i]);
    }
    *nr_bytes = nr_words * sizeof(uint64_t);
    return (uint8_t *)words;
}

#define REFUSE(errp, ...) \
    (g_set_error((errp), FERRY_STORM_ERROR, FERRY_STORM_ERROR_SAVED, __VA_ARGS__), false)

GQuark ferry_storm_error_quark(void)
{
    return g_quark_from_static_string("ferry-storm-error");
}

static bool check_words(const FerryStorm *storm, const uint64_t *words, size_t nr_words,
                        GError **errp)
{
    uint64_t hot_most = MAX(words[AT_HOT_PAGES], words[AT_WORKING_PAGES]);
    uint64_t block_pages = words[AT_BLOCK_PAGES];

    if (words[AT_MAGIC] != MAGIC) {
        return REFUSE(errp, "the storm was saved in a format that is not known here");
    }
    if (words[nr_words - 1] != check_of(words, nr_words - 1)) {
        return REFUSE(errp, "the saved storm is damaged: its checksum does not match");
    }
    if (words[AT_NR_PAGES] != storm->nr_pages) {
        return REFUSE(errp,
                      "the storm had a region of %" PRIu64 " pages and has one of %" PRIu64
                      " here: give both the same start and size",
                      words[AT_NR_PAGES], storm->nr_pages);
    }
    if (words[AT_SEED] != storm->seed) {
        return REFUSE(errp,
                      "the storm had seed %" PRIu64 " and has %" PRIu64
                      " here: give both the same seed",
                      words[AT_SEED], storm->seed);
    }
    if (words[AT_PATTERN] >= FERRY_STORM_NR_PATTERNS ||
        words[AT_CONTENT] >= FERRY_STORM_NR_CONTENTS || words[AT_WHOLE] > 1 ||
        words[AT_WORKING_PAGES] < 1 || words[AT_WORKING_PAGES] > storm->nr_pages ||
        words[AT_HOT_PAGES] > storm->nr_pages || words[AT_POSITION] >= words[AT_WORKING_PAGES] ||
        words[AT_HOT_FIRST] >= words[AT_WORKING_PAGES] ||
        words[AT_HOT_LEFT] > FERRY_STORM_HOT_TURNS * hot_most) {
        return REFUSE(errp, "the saved storm has settings that are out of bounds");
    }
    if (block_pages == 0 || block_pages > FERRY_STORM_MAX_PAGES ||
        (block_pages & (block_pages - 1)) || words[AT_DIGEST_PAGES] > storm->nr_pages ||
        (words[AT_DIGEST_PAGES] + block_pages - 1) / block_pages > FERRY_STORM_MAX_BLOCKS ||
        (words[AT_DIGEST_PAGES] + block_pages - 1) / block_pages * 2 + FIXED_WORDS != nr_words) {
        return REFUSE(errp, "the saved storm has a digest of another size than it says");
    }
    return true;
}

bool ferry_storm_load(FerryStorm *storm, const uint8_t *bytes, size_t nr_bytes, GError **errp)
{
    size_t nr_words = nr_bytes / sizeof(uint64_t);
    g_autofree uint64_t *words = NULL;
    FerryStormSettings settings;

    if (nr_bytes % sizeof(uint64_t) || nr_words < FIXED_WORDS ||
        nr_bytes > FERRY_STORM_MAX_SAVED_BYTES) {
        return REFUSE(errp, "the saved storm has %zu bytes, which no storm has", nr_bytes);
    }
    words = g_new(uint64_t, nr_words);
    memcpy(words, bytes, nr_bytes);
    for (size_t i = 0; i < nr_words; i++) {
        words[i] = GUINT64_FROM_LE(words[i]);
    }
    if (!check_words(storm, words, nr_words, errp)) {
        return false;
    }
    settings = (FerryStormSettings){
        .pattern = (FerryStormPatternKind)words[AT_PATTERN],
        .content = (FerryStormContent)words[AT_CONTENT],
        .whole = words[AT_WHOLE],
        .working_pages = words[AT_WORKING_PAGES],
        .hot_pages = words[AT_HOT_PAGES],
    };
    storm->pattern.place.random.state = words[AT_RANDOM];
    storm->pattern.place.position = words[AT_POSITION];
    storm->pattern.place.hot_first = words[AT_HOT_FIRST];
    storm->pattern.place.hot_left = words[AT_HOT_LEFT];
    ferry_storm_set(storm, &settings);
    storm->nr_written = words[AT_NR_WRITTEN];
    ferry_storm_digest_init(&storm->digest);
    storm->digest.nr_pages = words[AT_DIGEST_PAGES];
    storm->digest.block_pages = words[AT_BLOCK_PAGES];
    for (size_t i = 0; i < (nr_words - FIXED_WORDS) / 2; i++) {
        storm->digest.blocks[i].plain = words[AT_BLOCKS + 2 * i];
        storm->digest.blocks[i].weighted = words[AT_BLOCKS + 2 * i + 1];
    }
    return true;
}

bool ferry_storm_pace_load(FerryStormPace *pace, GError **errp)
{
    uint64_t rate = pace->rate ? pace->rate : FERRY_STORM_COUNTED_RATE;

    if (pace->rate > FERRY_STORM_MOST_RATE) {
        return REFUSE(
            errp, "the saved storm writes %" PRIu64 " pages a second, and %" PRIu64 " is the most",
            pace->rate, FERRY_STORM_MOST_RATE);
    }
    if (pace->rest >= UINT64_C(1000000000)) {
        return REFUSE(errp, "the saved storm has %" PRIu64 " billionths of a page to write",
                      pace->rest);
    }
    pace->due = MIN(pace->due, rate / 10 + 1);
    return true;
}
