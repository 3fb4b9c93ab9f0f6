/*
 * The destination's phases: which may follow which, what they mean, what a failure makes of each; and a
 * source, played by hand, that does things in an order that no Ferry would, or just about could.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hand.h"
#include "migration/error.h"
#include "migration/wire/control.h"

/* --- The table ---------------------------------------------------------------------------------- */

/* May the column follow the row?  As written down in state.h, and not taken from the code. */
static const char *const table[FERRY_DESTINATION_NR_PHASES] = {
    /*               opening copying drafting handed-off in-place loaded fetching paused done parted failed */
    [OPENING] =
        "       -       y       -         -         -       -       -       -     -     -      y",
    [COPYING] =
        "       -       y       y         y         -       -       -       -     -     -      y",
    [DRAFTING] =
        "      -       y       y         y         -       -       -       -     -     -      y",
    [HANDED_OFF] =
        "    -       -       -         -         y       -       y       -     -     -      y",
    [IN_PLACE] =
        "      -       -       -         -         -       y       -       -     -     -      y",
    [LOADED] =
        "        -       -       -         -         -       -       -       -     y     -      y",
    [FETCHING] =
        "      -       -       -         -         -       -       -       y     y     -      y",
    [PAUSED] =
        "        -       -       -         -         -       -       y       -     -     y      y",
    [DONE] =
        "          -       -       -         -         -       -       -       -     -     y      y",
    [PARTED] =
        "        -       -       -         -         -       -       -       -     y     -      y",
    [FAILED] =
        "        -       -       -         -         -       -       -       -     -     -      -",
};

static bool may_follow(FerryDestinationPhase from, FerryDestinationPhase to)
{
    g_auto(GStrv) cells = g_strsplit_set(table[from], " ", -1);
    unsigned column = 0;

    for (char **cell = cells; *cell; cell++) {
        if (**cell && column++ == to) {
            return g_str_equal(*cell, "y");
        }
    }
    g_assert_not_reached();
}

static void set_phase(Hand *hand, FerryDestinationPhase phase)
{
    g_mutex_lock(&hand->destination->lock);
    hand->destination->phase = phase;
    g_mutex_unlock(&hand->destination->lock);
}

static void test_table(void)
{
    Hand *hand = hand_new();
    unsigned nr_allowed = 0;

    for (unsigned from = 0; from < FERRY_DESTINATION_NR_PHASES; from++) {
        for (unsigned to = 0; to < FERRY_DESTINATION_NR_PHASES; to++) {
            g_autofree char *story = g_strdup_printf("%s %s", ferry_destination_phase_name(from),
                                                     ferry_destination_phase_name(to));
            bool may = may_follow(from, to);

            hand_forget_told();
            set_phase(hand, from);
            g_mutex_lock(&hand->destination->lock);
            g_assert_cmpint(ferry_destination_may_enter(hand->destination, to), ==, may);
            g_assert_cmpint(ferry_destination_enter(hand->destination, to), ==, may);
            g_mutex_unlock(&hand->destination->lock);
            g_assert_cmpint(hand_phase(hand), ==, may ? to : from);
            hand_assert_phases(may ? story : "");
            /* What has failed stays so, and is no news. */
            g_assert_cmpuint(hand_told.nr_refused, ==, !may && from != FERRY_DESTINATION_FAILED);
            nr_allowed += may;
        }
    }
    g_assert_cmpuint(nr_allowed, ==, 27);
    set_phase(hand, OPENING);
    hand_free(hand);
}

static void test_names(void)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    for (unsigned phase = 0; phase < FERRY_DESTINATION_NR_PHASES; phase++) {
        const char *name = ferry_destination_phase_name(phase);

        g_assert_nonnull(name);
        g_assert_true(g_hash_table_add(names, (gpointer)name));
    }
}

/* What the phases say; without pages that are left missing. */
static void test_predicates(void)
{
    static const struct {
        FerryDestinationPhase phase;
        bool before_handoff, committed, cut_off, connected, has_all;
        FerrySessionPhase session;
    } cases[] = {
        {OPENING, true, false, false, true, false, FERRY_SESSION_CONNECT},
        {COPYING, true, false, false, true, false, FERRY_SESSION_COPY},
        {DRAFTING, true, false, false, true, false, FERRY_SESSION_COPY},
        {HANDED_OFF, false, false, false, true, false, FERRY_SESSION_HAND_OFF},
        {IN_PLACE, false, false, false, true, true, FERRY_SESSION_HAND_OFF},
        {LOADED, false, false, false, true, true, FERRY_SESSION_HAND_OFF},
        {FETCHING, false, true, false, true, false, FERRY_SESSION_FETCH},
        {PAUSED, false, true, true, false, false, FERRY_SESSION_PAUSED},
        {DONE, false, false, false, true, true, FERRY_SESSION_DONE},
        {PARTED, false, true, true, false, true, FERRY_SESSION_PAUSED},
        {FAILED, false, false, false, false, false, FERRY_SESSION_FAILED},
    };
    Hand *hand = hand_new();
    FerryDestination *destination = hand->destination;

    G_STATIC_ASSERT(G_N_ELEMENTS(cases) == FERRY_DESTINATION_NR_PHASES);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        FerryStats stats;

        set_phase(hand, cases[i].phase);
        g_assert_cmpint(ferry_destination_is_before_handoff(destination), ==,
                        cases[i].before_handoff);
        g_assert_cmpint(ferry_destination_is_committed(destination), ==, cases[i].committed);
        g_assert_cmpint(ferry_destination_is_cut_off(destination), ==, cases[i].cut_off);
        g_assert_cmpint(ferry_destination_is_connected(destination), ==, cases[i].connected);
        g_assert_cmpint(ferry_destination_has_all(destination), ==, cases[i].has_all);
        g_assert_cmpint(ferry_destination_is_complete(destination, NULL), ==, cases[i].has_all);
        ferry_destination_query(destination, &stats);
        g_assert_cmpint(stats.phase, ==, cases[i].session);
        ferry_stats_clear(&stats);
    }
    set_phase(hand, OPENING);
    hand_free(hand);
}

/* A failure ends a session that nobody runs yet, pauses one that somebody may, and no other. */
static void test_failures(void)
{
    static const struct {
        FerryDestinationPhase from, to;
        unsigned nr_complete, nr_broken;
    } cases[] = {
        {OPENING, FAILED, 1, 0},  {COPYING, FAILED, 1, 0},    {DRAFTING, FAILED, 1, 0},
        {FETCHING, PAUSED, 0, 1}, {HANDED_OFF, FAILED, 1, 0}, {PAUSED, PAUSED, 0, 0},
        {IN_PLACE, FAILED, 1, 0}, {LOADED, FAILED, 1, 0},     {DONE, DONE, 0, 0},
        {PARTED, PARTED, 0, 0},   {FAILED, FAILED, 0, 0},
    };

    G_STATIC_ASSERT(G_N_ELEMENTS(cases) == FERRY_DESTINATION_NR_PHASES);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Hand *hand = hand_new();

        set_phase(hand, cases[i].from);
        hand->destination->may_run = cases[i].from == DONE;
        ferry_destination_fail(hand->destination,
                               g_error_new_literal(FERRY_ERROR, FERRY_ERROR_SYSTEM, "first"));
        g_assert_cmpint(hand_phase(hand), ==, cases[i].to);
        ferry_destination_stream_broke(hand->destination, "second");
        g_assert_cmpint(hand_phase(hand), ==, cases[i].to);
        g_assert_cmpuint(hand->nr_complete, ==, cases[i].nr_complete);
        g_assert_cmpuint(hand->nr_broken, ==, cases[i].nr_broken);
        g_assert_cmpuint(hand_told.nr_causes, ==, cases[i].nr_complete);
        g_assert_cmpuint(hand_told.nr_paused, ==, cases[i].nr_broken);
        g_assert_cmpuint(hand_told.nr_refused, ==, 0);
        if (cases[i].nr_complete) {
            g_autoptr(GError) error = NULL;

            g_assert_false(ferry_destination_wait_complete(hand->destination, &error));
            g_assert_cmpstr(error->message, ==, "first");
        }
        hand_free(hand);
    }
}

static void test_abandon(void)
{
    for (unsigned i = 0; i < 2 * FERRY_DESTINATION_NR_PHASES; i++) {
        const unsigned from = i / 2;
        const bool may_run = i % 2, whole = from == PARTED && may_run;
        const bool fails = !whole && (from == PAUSED || from == PARTED), may = fails || whole;
        Hand *hand = hand_new();
        g_autoptr(GError) error = NULL;

        set_phase(hand, from);
        hand->destination->may_run = may_run;
        g_assert_cmpint(ferry_destination_abandon(hand->destination, &error), ==, may);
        g_assert_cmpint(hand_phase(hand), ==, fails ? FAILED : from);
        if (whole) {
            g_assert_no_error(error);
            g_assert_false(ferry_destination_stream_broke(hand->destination, "it broke"));
        } else if (fails) {
            g_assert_false(ferry_destination_is_complete(hand->destination, &error));
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
        } else {
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
        }
        g_assert_cmpuint(hand->nr_complete, ==, fails);
        hand_free(hand);
    }
}

/* --- Stories ------------------------------------------------------------------------------------ */

static void test_nothing_missing(void)
{
    Hand *hand = hand_new();

    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_page(hand->data, 7);
    hand_fence(hand, 1);
    hand_send(hand, FERRY_FRAME_STOPPED, 0);
    /* Said before it has come. */
    hand_handoff(hand, 2, 0);
    hand_await_phase(hand, HANDED_OFF);
    g_assert_false(ferry_destination_is_complete(hand->destination, NULL));
    hand_fence(hand, 2);
    g_assert_true(ferry_destination_wait_complete(hand->destination, NULL));
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    g_assert_cmpuint(hand->nr_went, ==, 0);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_await_count(&hand->nr_went, 1);
    ferry_destination_send_report(hand->destination);
    hand_expect(hand, FERRY_FRAME_REPORT, NULL);
    g_assert_cmpuint(hand->nr_complete, ==, 1);
    hand_assert_phases("opening copying handed-off in-place loaded done");
    g_assert_cmpuint(hand_told.nr_proved, ==, 3);
    g_assert_cmpuint(hand_told.nr_opened, ==, 3);
    g_assert_cmpuint(hand_told.nr_refused, ==, 0);
    hand_free(hand);
}

/* The whole way: drafted, taken back, fetched, paused, resumed, done, parted, resumed again. */
static void test_fetched(void)
{
    Hand *hand = hand_new();

    hand_leave(hand);
    g_assert_cmpuint(hand_told.nr_drafted, ==, 1);
    g_assert_cmpuint(hand_told.nr_missing, ==, 2);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_await_count(&hand->nr_went, 1);
    hand_page(hand->data, 3);

    hand_cut(hand);
    hand_await_count(&hand->nr_broken, 1);
    hand_connect(hand, 1);
    /* Page 3 has come, or has not: it may have been cut off with the channel. */
    hand_expect(hand, FERRY_FRAME_MISSING, NULL);
    hand_expect(hand, FERRY_FRAME_RESUMED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_page(hand->fetch, 3);
    hand_page(hand->data, 5);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    g_assert_true(ferry_destination_wait_complete(hand->destination, NULL));

    hand_cut(hand);
    hand_await_phase(hand, PARTED);
    g_assert_true(ferry_destination_is_complete(hand->destination, NULL));
    hand_connect(hand, 2);
    g_assert_cmpuint(hand_expect(hand, FERRY_FRAME_RESUMED, NULL), ==, 0);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    ferry_destination_send_report(hand->destination);
    hand_expect(hand, FERRY_FRAME_REPORT, NULL);

    hand_assert_phases(
        "opening copying drafting handed-off fetching paused fetching done parted done");
    g_assert_cmpuint(hand->nr_complete, ==, 1);
    g_assert_cmpuint(hand->nr_broken, ==, 1);
    g_assert_cmpuint(hand->nr_resumed, ==, 2);
    g_assert_cmpuint(hand->nr_went, ==, 1);
    g_assert_cmpuint(hand_told.nr_go, ==, 1);
    g_assert_cmpuint(hand_told.nr_loaded, ==, 1);
    g_assert_cmpuint(hand_told.nr_paused, ==, 1);
    g_assert_cmpuint(hand_told.nr_resumed, ==, 2);
    g_assert_cmpuint(hand_told.nr_complete, ==, 1);
    g_assert_cmpuint(hand_told.nr_proved, ==, 9);
    g_assert_cmpuint(hand_told.nr_refused, ==, 0);
    hand_free(hand);
}

static void test_taken_back(void)
{
    Hand *hand = hand_new();

    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    /* Announced, but not to its end; drafted; and drafted some more. */
    hand_announce_page(hand, 3);
    hand_send(hand, FERRY_FRAME_FORGET, 0);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_announce_page(hand, 4);
    hand_send(hand, FERRY_FRAME_DRAFT, 1);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_announce_page(hand, 5);
    hand_send(hand, FERRY_FRAME_DRAFT, 2);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_send(hand, FERRY_FRAME_FORGET, 0);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_assert_phases("opening copying copying drafting drafting copying");
    g_assert_cmpuint(hand_told.nr_undrafted, ==, 2);
    hand_free(hand);
}

/* Loading the device state needs the last pages: the session is done when the source knows of both. */
static void test_last_page_first(void)
{
    Hand *hand = hand_new();
    FerryStats stats;

    hand_leave(hand);
    hand_page(hand->fetch, 3);
    hand_page(hand->fetch, 5);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    g_assert_cmpint(hand_phase(hand), ==, HANDED_OFF);
    g_assert_cmpuint(hand->nr_complete, ==, 0);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    g_assert_cmpint(hand_phase(hand), ==, DONE);
    g_assert_cmpuint(hand->nr_complete, ==, 1);
    g_assert_cmpuint(hand_told.nr_refused, ==, 0);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_await_count(&hand->nr_went, 1);
    ferry_destination_query(hand->destination, &stats);
    g_assert_true(stats.has_report && stats.has_fetch);
    g_assert_cmpuint(stats.fetch.missing_pages, ==, 0);
    ferry_stats_clear(&stats);
    hand_free(hand);
}

/* The connection breaks before LOADED, whether or not pages are missing still: the source has the guest. */
static void test_broken_before_loaded(gconstpointer data)
{
    bool with_pages = GPOINTER_TO_INT(data);
    Hand *hand = hand_new();
    g_autoptr(GError) error = NULL;

    hand_leave(hand);
    if (with_pages) {
        hand_page(hand->fetch, 3);
        hand_page(hand->fetch, 5);
        hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    }
    hand_cut(hand);
    hand_await_phase(hand, FAILED);
    g_assert_false(ferry_destination_loaded(hand->destination, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    g_assert_false(ferry_destination_wait_complete(hand->destination, &error));
    g_assert_nonnull(error);
    /* By now it has been told, for that happens before who waits is woken. */
    g_assert_cmpuint(hand->nr_went, ==, 0);
    g_assert_cmpuint(hand->nr_broken, ==, 0);
    hand_free(hand);
}

/* A report is due while another connection takes over: it is not sent, nor missed. */
static void test_report_when_parted(void)
{
    Hand *hand = hand_new();

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_page(hand->data, 3);
    hand_page(hand->data, 5);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    hand_cut(hand);
    hand_await_phase(hand, PARTED);
    g_mutex_lock(&hand->destination->lock);
    /* As it is while the old connection's channels are let go. */
    hand->destination->control = NULL;
    g_mutex_unlock(&hand->destination->lock);
    ferry_destination_send_report(hand->destination);
    hand_free(hand);
}

/* A source opens as many channels as it says, but others: that is not all of them. */
static void test_other_channels(void)
{
    const FerryLayout layout = {.nr_data = 2};
    Hand *hand = hand_new();
    g_autoptr(GByteArray) body = ferry_regions_encode(&hand->machine->regions, &layout);
    FerryChannel *fifth, *first;

    hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, 0);
    hand->data = hand_dial(hand, FERRY_ROLE_DATA, 0);
    fifth = hand_dial_index(hand, FERRY_ROLE_DATA, 5, 0);
    g_usleep(50000);
    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_REGIONS, 0, body, NULL));
    g_usleep(100000);
    g_assert_cmpint(hand_phase(hand), ==, OPENING);
    first = hand_dial_index(hand, FERRY_ROLE_DATA, 1, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    ferry_channel_free(fifth);
    ferry_channel_free(first);
    hand_free(hand);
}

/* The source keeps the guest after LOADED: nobody waits for it, whichever channel shows first that it does. */
static void test_kept(gconstpointer data)
{
    bool data_first = GPOINTER_TO_INT(data);
    Hand *hand = hand_new();

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    if (data_first) {
        g_clear_pointer(&hand->data, ferry_channel_free);
        hand_await_phase(hand, PAUSED);
    }
    ferry_control_send_error(hand->control, "the guest goes on at the source");
    hand_await_phase(hand, FAILED);
    hand_await_count(&hand->nr_complete, 1);
    g_assert_cmpuint(hand->nr_went, ==, 0);
    hand_free(hand);
}

/*
 * GO on what is left of a broken connection: the guest runs, but the source has to come back for its answer,
 * or nobody would resume this side.
 */
static void test_go_when_paused(void)
{
    Hand *hand = hand_new();

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    g_clear_pointer(&hand->data, ferry_channel_free);
    hand_await_phase(hand, PAUSED);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_await_count(&hand->nr_went, 1);
    g_assert_true(ferry_destination_has_guest(hand->destination));
    hand_expect_silence(hand);
    /* From here on the source cannot keep it. */
    ferry_control_send_error(hand->control, "the guest goes on at the source");
    hand_cut(hand);
    g_assert_cmpint(hand_phase(hand), ==, PAUSED);
    hand_connect(hand, 1);
    hand_expect(hand, FERRY_FRAME_MISSING, NULL);
    hand_expect(hand, FERRY_FRAME_RESUMED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_await_count(&hand->nr_went, 1);
    hand_free(hand);
}

/* With nothing missing, a connection that breaks before GO is a failure, and after it none of our business. */
static void test_broken_with_all(gconstpointer data)
{
    bool gone = GPOINTER_TO_INT(data);
    Hand *hand = hand_new();

    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_fence(hand, 1);
    hand_handoff(hand, 1, 0);
    g_assert_true(ferry_destination_wait_complete(hand->destination, NULL));
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    if (gone) {
        hand_send(hand, FERRY_FRAME_GO, 0);
        hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
        hand_await_count(&hand->nr_went, 1);
    }
    hand_cut(hand);
    hand_await_phase(hand, gone ? DONE : FAILED);
    g_usleep(20000);
    g_assert_cmpint(hand_phase(hand), ==, gone ? DONE : FAILED);
    g_assert_cmpuint(hand->nr_went, ==, gone);
    g_assert_cmpuint(hand->nr_complete, ==, gone ? 1 : 2);
    hand_free(hand);
}

typedef struct Turn {
    const char *name;
    bool left; /* else right after READY */
    FerryFrameType type;
    bool with_count; /* a body is needed: a number of pages, none */
    bool with_layout;
} Turn;

static void test_out_of_turn(gconstpointer data)
{
    const Turn *turn = data;
    const FerryLayout layout = {.nr_data = 1, .nr_fetch = 1};
    g_autofree char *wanted = g_strdup_printf("frame type %u out of turn", (unsigned)turn->type);
    g_autofree char *text = NULL;
    g_autoptr(GByteArray) body = turn->with_count    ? ferry_count_encode(0)
                                 : turn->with_layout ? ferry_layout_encode(&layout)
                                                     : NULL;
    Hand *hand = hand_new();

    if (turn->left) {
        hand_leave(hand);
    } else {
        hand_connect(hand, 0);
        hand_expect(hand, FERRY_FRAME_READY, NULL);
    }
    g_assert_true(
        ferry_control_send(hand->control, turn->type, turn->with_count ? 1 : 0, body, NULL));
    hand_expect(hand, FERRY_FRAME_ERROR, &text);
    g_assert_cmpstr(text, ==, wanted);
    hand_await_phase(hand, FAILED);
    g_assert_cmpuint(hand->nr_went, ==, 0);
    hand_free(hand);
}

/*
 * Nothing but a list of regions opens a session.  The source is not told that it failed: it sees the channel
 * close, and memory comes another way.
 */
static void test_too_early(void)
{
    static const FerryFrameType types[] = {FERRY_FRAME_DRAFT, FERRY_FRAME_FORGET, FERRY_FRAME_GO,
                                           FERRY_FRAME_RESUME};

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        g_autofree char *wanted = g_strdup_printf("frame type %u out of turn", (unsigned)types[i]);
        g_autofree char *why = NULL;
        g_autoptr(GByteArray) body = NULL;
        g_autoptr(GError) error = NULL;
        FerryFrame frame;
        Hand *hand = hand_new();

        hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, 0);
        hand_send(hand, types[i], 1);
        g_assert_false(ferry_control_receive(hand->control, &frame, &body, &error));
        g_assert_error(error, FERRY_ERROR, FERRY_ERROR_IO);
        hand_await_phase(hand, FAILED);
        why = ferry_destination_opening_failure(hand->destination);
        g_assert_cmpstr(why, ==, wanted);
        hand_free(hand);
    }
}

int main(int argc, char **argv)
{
    static const Turn turns[] = {
        {.name = "go", .type = FERRY_FRAME_GO},
        {.name = "resume", .type = FERRY_FRAME_RESUME, .with_layout = true},
        {.name = "go-before-loaded", .left = true, .type = FERRY_FRAME_GO},
        {.name = "second-handoff", .left = true, .type = FERRY_FRAME_HANDOFF, .with_count = true},
        {.name = "draft-after-handoff", .left = true, .type = FERRY_FRAME_DRAFT},
        {.name = "forget-after-handoff", .left = true, .type = FERRY_FRAME_FORGET},
        {.name = "resume-unbroken", .left = true, .type = FERRY_FRAME_RESUME, .with_layout = true},
    };

    g_test_init(&argc, &argv, NULL);
    hand_listen();
    g_test_add_func("/destination/phases/table", test_table);
    g_test_add_func("/destination/phases/names", test_names);
    g_test_add_func("/destination/phases/predicates", test_predicates);
    g_test_add_func("/destination/phases/failures", test_failures);
    g_test_add_func("/destination/phases/abandon", test_abandon);
    g_test_add_func("/destination/nothing-missing", test_nothing_missing);
    g_test_add_func("/destination/fetched", test_fetched);
    g_test_add_func("/destination/taken-back", test_taken_back);
    g_test_add_func("/destination/last-page-first", test_last_page_first);
    g_test_add_data_func("/destination/broken-before-loaded/missing", GINT_TO_POINTER(FALSE),
                         test_broken_before_loaded);
    g_test_add_data_func("/destination/broken-before-loaded/complete", GINT_TO_POINTER(TRUE),
                         test_broken_before_loaded);
    g_test_add_func("/destination/report-when-parted", test_report_when_parted);
    g_test_add_func("/destination/other-channels", test_other_channels);
    g_test_add_data_func("/destination/kept/control-first", GINT_TO_POINTER(FALSE), test_kept);
    g_test_add_data_func("/destination/kept/data-first", GINT_TO_POINTER(TRUE), test_kept);
    g_test_add_func("/destination/go-when-paused", test_go_when_paused);
    g_test_add_data_func("/destination/broken-with-all/before-go", GINT_TO_POINTER(FALSE),
                         test_broken_with_all);
    g_test_add_data_func("/destination/broken-with-all/after-go", GINT_TO_POINTER(TRUE),
                         test_broken_with_all);
    for (size_t i = 0; i < G_N_ELEMENTS(turns); i++) {
        g_autofree char *path = g_strdup_printf("/destination/out-of-turn/%s", turns[i].name);

        g_test_add_data_func(path, &turns[i], test_out_of_turn);
    }
    g_test_add_func("/destination/too-early", test_too_early);
    return g_test_run();
}
