/*
 * Shares: a host's bandwidth, among those that live, and by a file that nobody has to trust
 *
 * In a time of this test's own, which passes where it says so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What reads this without the build's own flags, to look for faults of ours, sees the functions as well. */
#ifndef FERRY_CLOCK
#define FERRY_CLOCK
#endif

#include "migration/clock.h"
#include "migration/error.h"
#include "migration/wire/shares.h"

#define MB   UINT64_C(1000000)
#define HOST (100 * MB)

/* How often a member looks. */
#define PERIOD_MS 50

/* --- A clock ------------------------------------------------------------------------------------ */

static uint64_t clock_ns = UINT64_C(1000) * 1000 * 1000 * 1000;

uint64_t ferry_now_ns(void)
{
    return clock_ns;
}

bool ferry_cond_wait_until(GCond *cond, GMutex *lock, gint64 deadline_us)
{
    g_assert_not_reached();
}

void ferry_cond_wait(GCond *cond, GMutex *lock)
{
    g_assert_not_reached();
}

void ferry_sleep_us(gint64 us)
{
    clock_ns += (uint64_t)us * 1000;
}

/* --- Sharing out -------------------------------------------------------------------------------- */

#define NR_MOST 20

static void check_fill(const FerryShareClaim *claims, size_t nr, uint64_t total)
{
    double granted = 0, demanded = 0, least = G_MAXDOUBLE;
    /* Of each, what is cut off below one. */
    const double slack = (double)nr + (double)total * 1e-12;

    for (size_t i = 0; i < nr; i++) {
        granted += (double)claims[i].grant;
        demanded += (double)claims[i].demand;
        g_assert_cmpuint(claims[i].grant, <=, claims[i].demand);
        if (claims[i].grant < claims[i].demand) {
            least = MIN(least, ((double)claims[i].grant + slack) / claims[i].weight);
        }
    }
    g_assert_cmpfloat(granted, <=, (double)total + slack);
    g_assert_cmpfloat(granted, >=, MIN((double)total, demanded) - slack);
    /* Whoever has not got what it wants has no less for its weight than anybody else. */
    for (size_t i = 0; i < nr; i++) {
        g_assert_cmpfloat(((double)claims[i].grant - slack) / claims[i].weight, <=, least);
    }
}

static void test_fill(void)
{
    for (unsigned round = 0; round < 20000; round++) {
        FerryShareClaim claims[NR_MOST] = {0};
        size_t nr = (size_t)g_test_rand_int_range(1, NR_MOST);
        uint64_t total = (uint64_t)g_test_rand_double_range(1, 1e12);

        for (size_t i = 0; i < nr; i++) {
            claims[i].weight = (unsigned)g_test_rand_int_range(1, FERRY_SHARES_WEIGHT_MAX + 1);
            claims[i].demand =
                g_test_rand_bit() ? total : (uint64_t)g_test_rand_double_range(0, 2e11);
        }
        ferry_shares_fill(claims, nr, total);
        check_fill(claims, nr, total);
    }
}

/* --- Members ------------------------------------------------------------------------------------ */

typedef struct Member {
    FerryShares *shares;
    uint64_t rate;  /* what it would send a second */
    uint64_t limit; /* its own */
    uint64_t grant, sent;
} Member;

static char *folder;

static char *in_folder(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static Member join_by(const char *path, FerryDirection direction, unsigned weight, uint64_t host)
{
    FerrySharesConfig config = {direction, weight, host};
    GError *error = NULL;
    Member member = {.rate = UINT64_MAX, .grant = host};

    member.shares = ferry_shares_join(path, &config, &error);
    g_assert_no_error(error);
    return member;
}

static Member join(unsigned weight)
{
    g_autofree char *path = in_folder("shares");

    return join_by(path, FERRY_OUTGOING, weight, HOST);
}

static void leave(Member *member)
{
    ferry_shares_leave(member->shares);
    member->shares = NULL;
}

/* All send, as they may and would, and look: so many times. */
static void go_on(Member *const *members, size_t nr, unsigned nr_periods)
{
    for (unsigned i = 0; i < nr_periods; i++) {
        ferry_sleep_us(PERIOD_MS * 1000);
        for (size_t j = 0; j < nr; j++) {
            Member *member = members[j];

            member->sent += MIN(member->rate, member->grant) * PERIOD_MS / 1000;
            member->grant = ferry_shares_update(member->shares, member->sent,
                                                member->rate > member->grant, member->limit);
        }
    }
}

static void expect(const Member *member, uint64_t wanted)
{
    g_assert_cmpuint(member->grant, >=, wanted - wanted / 100);
    g_assert_cmpuint(member->grant, <=, wanted + wanted / 100);
}

static void test_alone(void)
{
    g_autofree char *path = in_folder("shares");
    Member one = join(100);
    FerrySharesStats stats;
    struct stat status;

    go_on((Member *[]){&one}, 1, 3);
    expect(&one, HOST);
    ferry_shares_query(one.shares, &stats);
    g_assert_cmpuint(stats.nr_members, ==, 1);
    g_assert_cmpuint(stats.total_weight, ==, 100);
    /* Others of the group may join. */
    g_assert_cmpint(stat(path, &status), ==, 0);
    g_assert_cmphex(status.st_mode & 0777, ==, 0660);
    /* Its own limit is lower. */
    one.limit = 10 * MB;
    go_on((Member *[]){&one}, 1, 3);
    expect(&one, 10 * MB);
    leave(&one);
}

static void test_weights(void)
{
    Member one = join(100), two = join(300);
    Member *both[] = {&one, &two};
    FerrySharesStats stats;

    go_on(both, 2, 3);
    expect(&one, HOST / 4);
    expect(&two, HOST * 3 / 4);
    ferry_shares_query(one.shares, &stats);
    g_assert_cmpuint(stats.nr_members, ==, 2);
    g_assert_cmpuint(stats.weight, ==, 100);
    g_assert_cmpuint(stats.total_weight, ==, 400);
    leave(&two);
    go_on(both, 1, 3);
    expect(&one, HOST);
    leave(&one);
}

/* What one does not use is the other's, until it wants it. */
static void test_lent(void)
{
    Member one = join(100), two = join(100);
    Member *both[] = {&one, &two};

    two.rate = 8 * MB;
    go_on(both, 2, 5);
    expect(&two, 10 * MB);
    expect(&one, HOST - 10 * MB);
    two.rate = 0;
    go_on(both, 2, 3);
    expect(&one, HOST - HOST / 2 / 16);
    two.rate = UINT64_MAX;
    go_on(both, 2, 4);
    expect(&one, HOST / 2);
    expect(&two, HOST / 2);
    leave(&one);
    leave(&two);
}

static void test_directions(void)
{
    g_autofree char *path = in_folder("shares");
    Member out = join(100), in = join_by(path, FERRY_INCOMING, 100, HOST * 2);
    Member *both[] = {&out, &in};

    go_on(both, 2, 3);
    expect(&out, HOST);
    expect(&in, HOST * 2);
    leave(&out);
    leave(&in);
}

/* The least limit that is set counts, for all. */
static void test_limits_differ(void)
{
    g_autofree char *path = in_folder("shares");
    Member one = join(100), two = join_by(path, FERRY_OUTGOING, 100, HOST / 2);
    Member *both[] = {&one, &two};

    go_on(both, 2, 3);
    expect(&one, HOST / 4);
    expect(&two, HOST / 4);
    leave(&one);
    leave(&two);
}

/* One that stands still, as in a blackout, keeps a little. */
static void test_stands_still(void)
{
    Member one = join(100), two = join(100);
    Member *both[] = {&one, &two};

    go_on(both, 2, 3);
    go_on(both, 1, 30);
    expect(&one, HOST / 2);
    go_on(both, 1, 20);
    expect(&one, HOST - HOST / 2 / 16);
    go_on(both, 2, 3);
    expect(&two, HOST / 2);
    leave(&one);
    leave(&two);
}

/* --- Processes ---------------------------------------------------------------------------------- */

/* A member in a process of its own. */
static pid_t start_member(void)
{
    int ready[2];
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        Member member = join(100);

        (void)member;
        if (write(ready[1], "", 1) != 1) {
            _exit(1);
        }
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static void test_killed(void)
{
    pid_t pid = start_member();
    Member one = join(100);

    go_on((Member *[]){&one}, 1, 2);
    expect(&one, HOST / 2);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    go_on((Member *[]){&one}, 1, 1);
    expect(&one, HOST);
    leave(&one);
}

/* --- The file ----------------------------------------------------------------------------------- */

static void refuse(const char *path, const char *why)
{
    FerrySharesConfig config = {FERRY_OUTGOING, 100, HOST};
    g_autoptr(GError) error = NULL;

    g_assert_null(ferry_shares_join(path, &config, &error));
    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, why));
    g_assert_nonnull(strstr(error->message, path));
}

static void test_refused(void)
{
    g_autofree char *link = in_folder("link"), *fifo = in_folder("fifo");
    g_autofree char *target = in_folder("target"), *content = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_shares_check_file(folder, &error));
    g_assert_no_error(error);
    g_assert_false(ferry_shares_check_file("shares", &error));
    g_assert_cmpstr(error->message, ==, "it does not begin with '/'");
    refuse(folder, "cannot open it");
    refuse("/nowhere/shares", "cannot open it");
    /* To a file of ours: what follows it would write there. */
    g_assert_true(g_file_set_contents(target, "mine", -1, NULL));
    g_assert_cmpint(symlink(target, link), ==, 0);
    refuse(link, "cannot open it");
    g_assert_true(g_file_get_contents(target, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "mine");
    g_unlink(target);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    refuse(fifo, "it is not a regular file");
    refuse("/dev/null", "it is not a regular file");
    if (access("/dev/full", W_OK) == 0) {
        refuse("/dev/full", "it is not a regular file");
    }
    g_unlink(link);
    g_unlink(fifo);
}

/* As on a full disk. */
static void test_no_space(void)
{
    g_autofree char *path = in_folder("no-space");
    struct rlimit before, none;

    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    none = (struct rlimit){0, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &none), ==, 0);
    refuse(path, "cannot write to it");
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_unlink(path);
}

static void test_full(void)
{
    g_autofree char *path = in_folder("full");
    Member members[FERRY_SHARES_MEMBERS];

    for (unsigned i = 0; i < FERRY_SHARES_MEMBERS; i++) {
        members[i] = join_by(path, FERRY_OUTGOING, 100, HOST);
    }
    refuse(path, "256 migrations share the bandwidth already");
    go_on((Member *[]){&members[0]}, 1, 1);
    expect(&members[0], HOST / FERRY_SHARES_MEMBERS);
    for (unsigned i = 0; i < FERRY_SHARES_MEMBERS; i++) {
        leave(&members[i]);
    }
    g_unlink(path);
}

/* Whatever somebody writes to it, nobody gets more than there is, and it heals. */
static void test_garbage(void)
{
    g_autofree char *path = in_folder("shares");
    Member one = join(100), two = join(100);
    Member *both[] = {&one, &two};
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    for (unsigned i = 0; i < 200; i++) {
        uint8_t noise[64];
        struct stat status;

        g_assert_cmpint(fstat(fd, &status), ==, 0);
        for (size_t j = 0; j < sizeof(noise); j++) {
            noise[j] = (uint8_t)g_test_rand_int();
        }
        if (i % 50 == 49) {
            g_assert_cmpint(ftruncate(fd, g_test_rand_int_range(0, 200)), ==, 0);
        } else {
            /* Mostly where the two have theirs. */
            off_t at = g_test_rand_int_range(0, i % 4 ? 2 * 64 : FERRY_SHARES_MEMBERS * 64);

            g_assert_cmpint(pwrite(fd, noise, (size_t)g_test_rand_int_range(1, 65), at), >, 0);
        }
        go_on(both, 2, 1);
        g_assert_cmpuint(one.grant, <=, HOST);
        g_assert_cmpuint(one.grant, >=, HOST / 4);
    }
    go_on(both, 2, 3);
    expect(&one, HOST / 2);
    expect(&two, HOST / 2);
    close(fd);
    leave(&one);
    leave(&two);
}

/* A record of which a part is not what was written: it does not count until its member has written it anew. */
static void test_torn(void)
{
    g_autofree char *path = in_folder("shares");
    Member one = join(100), two = join(100);
    Member *both[] = {&one, &two};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint32_t weight;

    go_on(both, 2, 2);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &weight, sizeof(weight), 64 + 32), ==, sizeof(weight));
    g_assert_cmpuint(weight, ==, 100);
    weight = FERRY_SHARES_WEIGHT_MAX;
    g_assert_cmpint(pwrite(fd, &weight, sizeof(weight), 64 + 32), ==, sizeof(weight));
    go_on(both, 1, 1);
    expect(&one, HOST);
    go_on(both, 2, 4);
    expect(&one, HOST / 2);
    close(fd);
    leave(&one);
    leave(&two);
}

/* Somebody has removed the file: they find each other again by a new one. */
static void test_removed(void)
{
    g_autofree char *path = in_folder("shares");
    Member one = join(100), two = join(100);
    Member *both[] = {&one, &two};

    go_on(both, 2, 2);
    g_assert_cmpint(g_unlink(path), ==, 0);
    go_on(both, 2, 3);
    expect(&one, HOST / 2);
    expect(&two, HOST / 2);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    /* And where none can be made, each has all of it. */
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    go_on(both, 2, 3);
    expect(&one, HOST);
    g_assert_cmpint(g_rmdir(path), ==, 0);
    go_on(both, 2, 3);
    expect(&one, HOST / 2);
    leave(&one);
    leave(&two);
}

int main(int argc, char **argv)
{
    g_autofree char *path = NULL;
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("ferry-shares-XXXXXX", NULL);
    g_assert_nonnull(folder);
    g_test_add_func("/shares/fill", test_fill);
    g_test_add_func("/shares/alone", test_alone);
    g_test_add_func("/shares/weights", test_weights);
    g_test_add_func("/shares/lent", test_lent);
    g_test_add_func("/shares/directions", test_directions);
    g_test_add_func("/shares/limits-differ", test_limits_differ);
    g_test_add_func("/shares/stands-still", test_stands_still);
    g_test_add_func("/shares/killed", test_killed);
    g_test_add_func("/shares/refused", test_refused);
    g_test_add_func("/shares/no-space", test_no_space);
    g_test_add_func("/shares/full", test_full);
    g_test_add_func("/shares/garbage", test_garbage);
    g_test_add_func("/shares/torn", test_torn);
    g_test_add_func("/shares/removed", test_removed);
    status = g_test_run();
    path = in_folder("shares");
    g_unlink(path);
    g_rmdir(folder);
    g_free(folder);
    return status;
}
