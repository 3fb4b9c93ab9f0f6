/*
 * A destination that has all pages when its connection breaks: whether it waits for another one, and says why.
 *
 * It does, unless the source was told all there is to know, and so may be done.  Whoever reads the migration
 * stream must not wait there then: a relay may keep that open, and silent.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <sys/socket.h>

#include "hand.h"
#include "migration/error.h"
#include "migration/wire/control.h"

#define STREAM "the migration stream broke"

/* All pages have come before LOADED, which the source has heard. */
static Hand *loaded_with_all(void)
{
    Hand *hand = hand_new();

    hand_leave(hand);
    hand_page(hand->fetch, 3);
    hand_page(hand->fetch, 5);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    g_assert_cmpint(hand_phase(hand), ==, DONE);
    return hand;
}

static void go(Hand *hand)
{
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_await_count(&hand->nr_went, 1);
}

/* It waits, whoever reads the stream knows, and what it says has @words in it. */
static void expect_pause(Hand *hand, const char *words)
{
    hand_await_phase(hand, PARTED);
    hand_await_count(&hand->nr_broken, 1);
    g_assert_nonnull(strstr(hand->why_broken, words));
    g_assert_true(ferry_destination_stream_broke(hand->destination, STREAM));
    g_assert_cmpuint(hand->nr_broken, ==, 1);
    g_assert_cmpuint(hand_told.nr_paused, ==, 1);
}

/* The source comes back, and both sides know that they are done. */
static void resume_to_the_end(Hand *hand)
{
    hand_cut(hand);
    ferry_destination_stream_came(hand->destination);
    hand_connect(hand, 1);
    g_assert_cmpuint(hand_expect(hand, FERRY_FRAME_RESUMED, NULL), ==, 0);
    hand_expect(hand, FERRY_FRAME_COMPLETE, NULL);
    go(hand);
    g_assert_cmpuint(hand->nr_went, ==, 1);
    g_assert_false(ferry_destination_stream_broke(hand->destination, STREAM));
    hand_free(hand);
}

/* Before GO; which is lost, or comes on what is left of the connection, before the stream shows that it broke. */
static void test_before_go(gconstpointer data)
{
    bool comes_late = GPOINTER_TO_INT(data);
    Hand *hand = loaded_with_all();

    g_clear_pointer(&hand->data, ferry_channel_free);
    hand_await_phase(hand, PARTED);
    if (comes_late) {
        hand_send(hand, FERRY_FRAME_GO, 0);
        hand_await_count(&hand->nr_went, 1);
        hand_expect_silence(hand);
    }
    expect_pause(hand, "channel 'data 0'");
    resume_to_the_end(hand);
}

/* The stream itself is the first to break. */
static void test_stream_first(void)
{
    Hand *hand = loaded_with_all();

    g_assert_true(ferry_destination_stream_broke(hand->destination, STREAM));
    expect_pause(hand, STREAM);
    resume_to_the_end(hand);
}

/*
 * A channel breaks, and the thread that reads it comes to say so only later; meanwhile the stream breaks, too.  Whoever
 * finds the session paused finds the reason.
 */
static void test_reason_first(gconstpointer data)
{
    bool with_all = GPOINTER_TO_INT(data);
    Hand *hand = with_all ? loaded_with_all() : hand_new();

    if (!with_all) {
        hand_leave(hand);
        g_assert_true(ferry_destination_loaded(hand->destination, NULL));
        hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    }
    atomic_store(&hand->hears_ms, 300);
    g_clear_pointer(&hand->data, ferry_channel_free);
    hand_await_phase(hand, with_all ? PARTED : PAUSED);
    g_assert_true(ferry_destination_stream_broke(hand->destination, STREAM));
    g_assert_cmpuint(hand->nr_broken, ==, 1);
    g_assert_nonnull(strstr(hand->why_broken, "channel 'data 0'"));
    hand_free(hand);
}

/* A page that had been read is placed when the connection has broken: the source was not told that all have come. */
static void test_last_page_too_late(void)
{
    const FerryFrame frame = {.type = FERRY_FRAME_PAGES, .nr_extents = 1};
    const FerryExtent last = {.first = 5, .nr_pages = 1, .zero = true};
    Hand *hand = hand_new();
    g_autoptr(GError) error = NULL;

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    go(hand);
    hand_page(hand->fetch, 3);
    while (ferry_missing_count(&hand->machine->regions,
                               ferry_fetch_missing(hand->destination->receiver.fetch)) > 1) {
        g_usleep(1000);
    }
    g_clear_pointer(&hand->control, ferry_channel_free);
    hand_await_phase(hand, PAUSED);
    g_assert_true(
        ferry_fetch_place(hand->destination->receiver.fetch, &frame, &last, NULL, &error));
    expect_pause(hand, "channel 'control'");
    resume_to_the_end(hand);
}

/* TAKEN, or COMPLETE, cannot be said: the control channel broke towards the source. */
static void test_untold(gconstpointer data)
{
    bool complete = GPOINTER_TO_INT(data);
    Hand *hand = complete ? hand_new() : loaded_with_all();

    if (complete) {
        hand_leave(hand);
        g_assert_true(ferry_destination_loaded(hand->destination, NULL));
        hand_expect(hand, FERRY_FRAME_LOADED, NULL);
        go(hand);
    }
    shutdown(ferry_channel_fd(hand->control), SHUT_RD);
    if (complete) {
        hand_page(hand->data, 3);
        hand_page(hand->data, 5);
        hand_await_phase(hand, DONE);
    } else {
        hand_send(hand, FERRY_FRAME_GO, 0);
        hand_await_count(&hand->nr_went, 1);
    }
    g_usleep(50000);
    hand_cut(hand);
    expect_pause(hand, "channel '");
    resume_to_the_end(hand);
}

/* The source was told all: that it closes its channels says that it is done, and the stream brings its end. */
static void test_content(void)
{
    Hand *hand = loaded_with_all();

    go(hand);
    hand_cut(hand);
    hand_await_phase(hand, PARTED);
    g_usleep(50000);
    g_assert_cmpuint(hand->nr_broken, ==, 0);
    g_assert_cmpuint(hand_told.nr_paused, ==, 0);
    g_assert_false(ferry_destination_stream_broke(hand->destination, STREAM));
    hand_free(hand);
}

/*
 * This side fails before GO, with pages missing or not, and says so: the source takes the guest back, and
 * says so in its turn.
 */
static void test_fails_here(gconstpointer data)
{
    bool with_all = GPOINTER_TO_INT(data);
    Hand *hand = with_all ? loaded_with_all() : hand_new();
    g_autofree char *text = NULL;

    if (!with_all) {
        hand_leave(hand);
        g_assert_true(ferry_destination_loaded(hand->destination, NULL));
        hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    }
    ferry_destination_fail(hand->destination, g_error_new_literal(FERRY_ERROR, FERRY_ERROR_SYSTEM,
                                                                  "no memory is left"));
    g_assert_cmpint(hand_phase(hand), ==, with_all ? PARTED : PAUSED);
    g_assert_cmpuint(hand->nr_broken, ==, 1);
    g_assert_cmpstr(hand->why_broken, ==, "no memory is left");
    hand_expect(hand, FERRY_FRAME_ERROR, &text);
    g_assert_cmpstr(text, ==, "no memory is left");
    ferry_control_send_error(hand->control, "the guest goes on at the source");
    hand_await_phase(hand, FAILED);
    g_assert_cmpuint(hand->nr_went, ==, 0);
    hand_free(hand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    hand_listen();
    g_test_add_data_func("/parted/before-go/lost", GINT_TO_POINTER(FALSE), test_before_go);
    g_test_add_data_func("/parted/before-go/late", GINT_TO_POINTER(TRUE), test_before_go);
    g_test_add_func("/parted/stream-first", test_stream_first);
    g_test_add_data_func("/parted/reason-first/missing", GINT_TO_POINTER(FALSE), test_reason_first);
    g_test_add_data_func("/parted/reason-first/all", GINT_TO_POINTER(TRUE), test_reason_first);
    g_test_add_func("/parted/last-page-too-late", test_last_page_too_late);
    g_test_add_data_func("/parted/untold/taken", GINT_TO_POINTER(FALSE), test_untold);
    g_test_add_data_func("/parted/untold/complete", GINT_TO_POINTER(TRUE), test_untold);
    g_test_add_func("/parted/content", test_content);
    g_test_add_data_func("/parted/fails-here/missing", GINT_TO_POINTER(FALSE), test_fails_here);
    g_test_add_data_func("/parted/fails-here/all", GINT_TO_POINTER(TRUE), test_fails_here);
    return g_test_run();
}
