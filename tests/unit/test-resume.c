/*
 * A destination that is resumed, by a source that is played by hand.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "hand.h"

/*
 * A connection is made anew, and its stream breaks at once, unseen by the source: resumed on its channels alone, the
 * source would push all pages and be done, and the destination would be paused for good.
 */
static void test_resumed_without_stream(void)
{
    Hand *hand = hand_new();
    g_autofree char *text = NULL;

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    hand_cut(hand);
    hand_await_phase(hand, PAUSED);
    ferry_destination_stream_came(hand->destination);
    g_assert_true(ferry_destination_stream_broke(hand->destination, "the stream broke"));
    hand_connect(hand, 1);
    hand_expect(hand, FERRY_FRAME_MISSING, NULL);
    hand_expect(hand, FERRY_FRAME_RESUMED, NULL);
    hand_expect(hand, FERRY_FRAME_ERROR, &text);
    g_assert_nonnull(strstr(text, "the migration stream broke"));
    g_assert_cmpint(hand_phase(hand), ==, PAUSED);
    hand_cut(hand);
    ferry_destination_stream_came(hand->destination);
    hand_connect(hand, 2);
    hand_expect(hand, FERRY_FRAME_MISSING, NULL);
    hand_expect(hand, FERRY_FRAME_RESUMED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    g_assert_cmpint(hand_phase(hand), ==, FETCHING);
    hand_free(hand);
}

static gpointer abandon(gpointer opaque)
{
    return GINT_TO_POINTER(ferry_destination_abandon(opaque, NULL));
}

/* GO has come, and the connection broke; the machine is about to be told.  Not after it was given up. */
static void test_abandoned_at_go(void)
{
    Hand *hand = hand_new();
    FerryDestination *destination = hand->destination;
    GThread *person;

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_await_count(&hand->nr_went, 1);
    hand_cut(hand);
    hand_await_phase(hand, PAUSED);
    g_mutex_lock(&destination->lock);
    destination->telling_go = true;
    g_mutex_unlock(&destination->lock);
    person = g_thread_new("person", abandon, destination);
    g_usleep(100000);
    g_assert_cmpint(hand_phase(hand), ==, PAUSED);
    g_mutex_lock(&destination->lock);
    destination->telling_go = false;
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    g_assert_true(GPOINTER_TO_INT(g_thread_join(person)));
    g_assert_cmpint(hand_phase(hand), ==, FAILED);
    hand_free(hand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    hand_listen();
    g_test_add_func("/resume/without-stream", test_resumed_without_stream);
    g_test_add_func("/resume/abandoned-at-go", test_abandoned_at_go);
    return g_test_run();
}
