/*
 * The first cause of a failure: ranks, and waiting for it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/cause.h"

#include "migration/error.h"

/* Far longer than anything here takes. */
#define LONG_MS 60000

static void note(FerryCause *cause, FerryErrorCode code, const char *message)
{
    ferry_cause_note(cause, g_error_new_literal(FERRY_ERROR, (int)code, message));
}

static void assert_cause(FerryCause *cause, FerryErrorCode code, const char *message)
{
    g_autoptr(GError) error = ferry_cause_wait(cause, 0);

    g_assert_error(error, FERRY_ERROR, (int)code);
    g_assert_cmpstr(error->message, ==, message);
}

static void test_ranks(void)
{
    FerryCause cause = {0};

    ferry_cause_init(&cause);
    g_assert_false(ferry_cause_is_known(&cause));
    g_assert_null(ferry_cause_wait(&cause, 0));
    note(&cause, FERRY_ERROR_IO, "broken pipe");
    g_assert_true(ferry_cause_is_known(&cause));
    assert_cause(&cause, FERRY_ERROR_LOST, "lost the connection to the destination: broken pipe");
    /* Of the same rank the first one counts. */
    note(&cause, FERRY_ERROR_LOST, "another");
    assert_cause(&cause, FERRY_ERROR_LOST, "lost the connection to the destination: broken pipe");
    note(&cause, FERRY_ERROR_PROTOCOL, "nonsense");
    note(&cause, FERRY_ERROR_TRACKER, "no ring");
    note(&cause, FERRY_ERROR_IO, "reset");
    assert_cause(&cause, FERRY_ERROR_PROTOCOL, "nonsense");
    note(&cause, FERRY_ERROR_REFUSED, "the destination says: no");
    note(&cause, FERRY_ERROR_SYSTEM, "no memory");
    assert_cause(&cause, FERRY_ERROR_REFUSED, "the destination says: no");
    g_assert_false(ferry_cause_is_cancelled(&cause));
    note(&cause, FERRY_ERROR_CANCELLED, "cancelled");
    note(&cause, FERRY_ERROR_REFUSED, "too late");
    assert_cause(&cause, FERRY_ERROR_CANCELLED, "cancelled");
    g_assert_true(ferry_cause_is_cancelled(&cause));
    ferry_cause_destroy(&cause);
}

/* Another connection may fail for a reason of its own; that somebody cancelled stays. */
static void test_reset(void)
{
    FerryCause cause = {0};

    ferry_cause_init(&cause);
    note(&cause, FERRY_ERROR_REFUSED, "first");
    ferry_cause_close(&cause);
    ferry_cause_reset(&cause);
    g_assert_false(ferry_cause_is_known(&cause));
    g_assert_false(ferry_cause_is_closed(&cause));
    note(&cause, FERRY_ERROR_IO, "second");
    assert_cause(&cause, FERRY_ERROR_LOST, "lost the connection to the destination: second");
    note(&cause, FERRY_ERROR_CANCELLED, "cancelled");
    ferry_cause_reset(&cause);
    g_assert_true(ferry_cause_is_known(&cause));
    g_assert_true(ferry_cause_is_cancelled(&cause));
    ferry_cause_destroy(&cause);
}

typedef struct Later {
    FerryCause *cause;
    bool closes;
} Later;

static gpointer speak_later(gpointer opaque)
{
    Later *later = opaque;

    g_usleep(50000);
    if (later->closes) {
        ferry_cause_close(later->cause);
    } else {
        note(later->cause, FERRY_ERROR_REFUSED, "the destination says: full");
    }
    return NULL;
}

/* A broken channel waits for the peer's words, or for that there will be none. */
static void test_waits(gconstpointer data)
{
    FerryCause cause = {0};
    Later later = {.cause = &cause, .closes = GPOINTER_TO_INT(data)};
    g_autoptr(GError) error = NULL;
    gint64 start_us = g_get_monotonic_time();
    GThread *thread;

    ferry_cause_init(&cause);
    note(&cause, FERRY_ERROR_IO, "reset");
    thread = g_thread_new("later", speak_later, &later);
    error = ferry_cause_wait(&cause, LONG_MS);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, LONG_MS * 1000 / 2);
    g_assert_true(g_error_matches(error, FERRY_ERROR,
                                  (int)(later.closes ? FERRY_ERROR_LOST : FERRY_ERROR_REFUSED)));
    g_thread_join(thread);
    ferry_cause_destroy(&cause);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cause/ranks", test_ranks);
    g_test_add_func("/cause/reset", test_reset);
    g_test_add_data_func("/cause/waits/words", GINT_TO_POINTER(FALSE), test_waits);
    g_test_add_data_func("/cause/waits/closed", GINT_TO_POINTER(TRUE), test_waits);
    return g_test_run();
}
