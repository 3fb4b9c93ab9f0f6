/*
 * Settling what each end's memory is to the other, with files that both map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migration/destination/settle.h"
#include "migration/error.h"
#include "migration/memory/mark.h"

#define SESSION  UINT64_C(0xfedcba9876543210)
#define NR_BYTES (UINT64_C(16) * FERRY_PAGE_BYTES)

#define FILE_FLAGS (FERRY_REGION_SHARED | FERRY_REGION_FOREIGN)

static bool is_on_server; /* what files are on, as far as can be seen */

/* In place of the C library's; the structures are one on 64-bit hosts. */
int fstatfs(int fd, struct statfs *fs)
{
    int result = (int)syscall(SYS_fstatfs, fd, fs);

    fs->f_type = is_on_server ? NFS_SUPER_MAGIC : fs->f_type;
    return result;
}

static void add(FerryRegion *region, const char *id, const char *path, uint64_t offset_bytes,
                uint32_t flags)
{
    int fd = open(path, flags & FERRY_REGION_READ_ONLY ? O_RDONLY | O_CLOEXEC : O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    *region = (FerryRegion){
        .length_bytes = NR_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .flags = flags,
        .fd = fd,
        .fd_offset_bytes = offset_bytes,
        .scan = FERRY_SCAN_ALL,
        .host =
            mmap(NULL, NR_BYTES, PROT_READ | (flags & FERRY_REGION_READ_ONLY ? 0 : PROT_WRITE),
                 flags & FERRY_REGION_SHARED ? MAP_SHARED : MAP_PRIVATE, fd, (off_t)offset_bytes),
    };
    g_assert_true(region->host != MAP_FAILED);
    g_strlcpy(region->id, id, sizeof(region->id));
}

static char *make_file(bool with_data)
{
    char path[] = "/dev/shm/ferry-test-settle-XXXXXX";
    int fd = mkstemp(path);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 2 * NR_BYTES), ==, 0);
    for (uint64_t at = 0; with_data && at < 2 * NR_BYTES; at += FERRY_PAGE_BYTES) {
        g_assert_cmpint(pwrite(fd, "data", 4, (off_t)at), ==, 4);
    }
    close(fd);
    return g_strdup(path);
}

static FerryRegions list_of(const FerryRegion *regions, size_t nr)
{
    FerryRegions list = {.list = g_memdup2(regions, nr * sizeof(*regions)), .nr = nr};

    ferry_regions_set_host(&list);
    return list;
}

static void drop(FerryRegion *region)
{
    munmap(region->host, NR_BYTES);
    close(region->fd);
}

/* What the destination answers for a region each; NULL if it refuses, with *@error set. */
static uint8_t *settle(const FerryRegion *source, const FerryRegion *destination, size_t nr,
                       bool may_leave, bool other_host, FerryRegions *there, GError **error)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    FerryRegions here = list_of(source, nr);
    uint8_t *answers;

    *there = list_of(destination, nr);
    here.host[3] ^= other_host;
    ferry_regions_mark(&here, SESSION);
    answers = ferry_settle(scanner, there, &here, SESSION, may_leave, error);
    ferry_regions_unmark(&here, SESSION);
    ferry_regions_clear(&here);
    return answers;
}

typedef struct Case {
    const char *name;
    uint32_t source, destination; /* flags */
    bool other_file, blank;
    bool written;   /* through the mapping, at the destination */
    bool on_server; /* where blocks are counted by somebody who does not know what is dirty here */
    uint64_t offset_bytes; /* in the file, at the destination */
    bool other_host, may_leave;
    int answer;          /* or -1: it is refused, */
    const char *refused; /* in words with this in them */
} Case;

static const Case cases[] = {
    {.name = "same", .source = FILE_FLAGS, .destination = FILE_FLAGS, .answer = FERRY_ANSWER_SAME},
    {.name = "same-post-copy",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .may_leave = true,
     .answer = FERRY_ANSWER_SAME},
    {.name = "same-read-only",
     .source = FILE_FLAGS | FERRY_REGION_READ_ONLY,
     .destination = FILE_FLAGS | FERRY_REGION_READ_ONLY,
     .answer = FERRY_ANSWER_SAME},
    {.name = "same-not-known-to-be-foreign",
     .source = FERRY_REGION_SHARED,
     .destination = FERRY_REGION_SHARED,
     .answer = FERRY_ANSWER_SAME},
    {.name = "another-host",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .other_host = true,
     .answer = -1,
     .refused = "x-ignore-shared"},
    {.name = "overlapping",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .offset_bytes = NR_BYTES / 2,
     .answer = -1,
     .refused = "same part of a file"},
    {.name = "another-part",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .offset_bytes = NR_BYTES,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "another-file",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .other_file = true,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "another-file-read-only",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS | FERRY_REGION_READ_ONLY,
     .other_file = true,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "read-only-post-copy",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS | FERRY_REGION_READ_ONLY,
     .other_file = true,
     .may_leave = true,
     .answer = -1,
     .refused = "read-only"},
    {.name = "blank-file",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .other_file = true,
     .blank = true,
     .answer = FERRY_ANSWER_EMPTY},
    {.name = "blank-file-on-server",
     .source = FILE_FLAGS,
     .destination = FILE_FLAGS,
     .other_file = true,
     .blank = true,
     .on_server = true,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "private-both", .source = FERRY_REGION_FOREIGN, .destination = FERRY_REGION_FOREIGN},
    {.name = "private-here",
     .source = FERRY_REGION_FOREIGN,
     .destination = FILE_FLAGS,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "private-there", .source = FILE_FLAGS, .destination = FERRY_REGION_FOREIGN},
    {.name = "private-there-not-known-to-be-foreign", .source = FILE_FLAGS, .written = true},
    {.name = "private-virtio-mem",
     .source = FERRY_REGION_FOREIGN | FERRY_REGION_SPARSE,
     .destination = FERRY_REGION_FOREIGN | FERRY_REGION_SPARSE,
     .other_file = true,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "private-virtio-mem-written",
     .source = FERRY_REGION_FOREIGN | FERRY_REGION_SPARSE,
     .destination = FERRY_REGION_FOREIGN | FERRY_REGION_SPARSE,
     .other_file = true,
     .blank = true,
     .written = true,
     .answer = FERRY_ANSWER_IN_FULL},
    {.name = "private-blank-post-copy",
     .source = FERRY_REGION_FOREIGN,
     .destination = FERRY_REGION_FOREIGN,
     .other_file = true,
     .blank = true,
     .may_leave = true,
     .answer = -1,
     .refused = "private mapping"},
    {.name = "private-blank-huge-post-copy",
     .source = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .destination = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .other_file = true,
     .blank = true,
     .may_leave = true,
     .answer = FERRY_ANSWER_EMPTY},
    {.name = "private-blank-huge-post-copy-on-server",
     .source = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .destination = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .other_file = true,
     .blank = true,
     .on_server = true,
     .may_leave = true,
     .answer = -1,
     .refused = "private mapping"},
    {.name = "private-huge-post-copy",
     .source = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .destination = FERRY_REGION_FOREIGN | FERRY_REGION_HUGETLB,
     .may_leave = true,
     .answer = -1,
     .refused = "private mapping"},
};

static void test_case(gconstpointer data)
{
    const Case *test = data;
    g_autofree char *path = make_file(true), *other = make_file(!test->blank);
    g_autofree uint8_t *answers = NULL;
    g_autoptr(GError) error = NULL;
    FerryRegion source, destination;
    FerryRegions there;

    add(&source, "nv", path, 0, test->source);
    add(&destination, "nv", test->other_file ? other : path, test->offset_bytes, test->destination);
    if (test->written) {
        destination.host[0] = 'x';
    }
    if (!(test->destination & FERRY_REGION_SHARED)) {
        /* What was written is dropped, and not only cleared. */
        destination.scan = FERRY_SCAN_PRIVATE;
    }
    is_on_server = test->on_server;
    answers = settle(&source, &destination, 1, test->may_leave, test->other_host, &there, &error);
    is_on_server = false;
    if (test->answer < 0) {
        g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
        g_assert_nonnull(strstr(error->message, test->refused));
        g_assert_nonnull(strstr(error->message, "'nv'"));
    } else {
        g_assert_no_error(error);
        g_assert_cmpint(answers[0], ==, test->answer);
        g_assert_cmpint(there.list[0].flags & FERRY_REGION_SAME, ==,
                        test->answer == FERRY_ANSWER_SAME ? FERRY_REGION_SAME : 0);
    }
    /* Whatever was answered, the source reads what it did. */
    for (uint64_t at = 0; at < NR_BYTES; at += FERRY_PAGE_BYTES) {
        g_assert_cmpmem(source.host + at, 4, "data", 4);
    }
    ferry_regions_clear(&there);
    drop(&source);
    drop(&destination);
    unlink(path);
    unlink(other);
}

/* Two regions that have changed places: each is somebody else's. */
static void test_swapped(void)
{
    g_autofree char *first = make_file(true), *second = make_file(true);
    FerryRegion source[2], destination[2];
    g_autoptr(GError) error = NULL;
    FerryRegions there;

    add(&source[0], "a", first, 0, FILE_FLAGS);
    add(&source[1], "b", second, 0, FILE_FLAGS);
    add(&destination[0], "b", first, 0, FILE_FLAGS);
    add(&destination[1], "a", second, 0, FILE_FLAGS);
    g_assert_null(settle(source, destination, 2, false, false, &there, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    for (size_t i = 0; i < 2; i++) {
        g_assert_cmpmem(source[i].host, 4, "data", 4);
        drop(&source[i]);
        drop(&destination[i]);
    }
    ferry_regions_clear(&there);
    unlink(first);
    unlink(second);
}

/* Many regions of one file, each found by its number. */
static void test_one_file(void)
{
    g_autofree char *path = make_file(true);
    g_autofree uint8_t *answers = NULL;
    FerryRegion source[2], destination[2];
    g_autoptr(GError) error = NULL;
    FerryRegions there;

    for (size_t i = 0; i < 2; i++) {
        add(&source[i], i ? "b" : "a", path, i * NR_BYTES, FILE_FLAGS);
        add(&destination[i], i ? "b" : "a", path, i * NR_BYTES, FILE_FLAGS);
    }
    answers = settle(source, destination, 2, false, false, &there, &error);
    g_assert_no_error(error);
    g_assert_cmpint(answers[0], ==, FERRY_ANSWER_SAME);
    g_assert_cmpint(answers[1], ==, FERRY_ANSWER_SAME);
    for (size_t i = 0; i < 2; i++) {
        drop(&source[i]);
        drop(&destination[i]);
    }
    ferry_regions_clear(&there);
    unlink(path);
}

/* Both ends were given the same open file: another process sees the mark all the same. */
static void test_mark_of_open_file(void)
{
    g_autofree char *path = make_file(true);
    FerryRegions list;
    FerryRegion region;
    bool hidden;
    int status;
    pid_t child;

    add(&region, "nv", path, 0, FILE_FLAGS);
    list = list_of(&region, 1);
    ferry_regions_mark(&list, SESSION);
    child = fork();
    if (child == 0) {
        g_autoptr(GArray) marks = ferry_region_find_marks(&region, SESSION, &hidden);
        g_autoptr(GArray) others = ferry_region_find_marks(&region, SESSION + 1, &hidden);

        _exit(marks->len == 1 && others->len == 0 ? 0 : 1);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    ferry_regions_unmark(&list, SESSION);
    child = fork();
    if (child == 0) {
        g_autoptr(GArray) marks = ferry_region_find_marks(&region, SESSION, &hidden);

        _exit((int)marks->len);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    ferry_regions_clear(&list);
    drop(&region);
    unlink(path);
}

/* Somebody has locked all of the file: that is no mark, and nothing is known. */
static void test_lock_of_somebody(void)
{
    g_autofree char *path = make_file(true);
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    g_autoptr(GArray) marks = NULL;
    g_autofree uint8_t *answers = NULL;
    g_autoptr(GError) error = NULL;
    FerryRegion region, source;
    FerryRegions there;
    bool hidden = false;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &all), ==, 0);
    add(&region, "nv", path, 0, FILE_FLAGS);
    marks = ferry_region_find_marks(&region, SESSION, &hidden);
    g_assert_cmpuint(marks->len, ==, 0);
    g_assert_true(hidden);
    drop(&region);

    /* It may be the source's own: a copy of it is emptied, and the file left as it is. */
    add(&region, "nv", path, 0, 0);
    add(&source, "nv", path, 0, FERRY_REGION_FOREIGN);
    answers = settle(&source, &region, 1, false, false, &there, &error);
    g_assert_no_error(error);
    g_assert_cmpint(answers[0], ==, FERRY_ANSWER_EMPTY);
    g_assert_true(there.list[0].flags & FERRY_REGION_FOREIGN);
    g_assert_cmpmem(source.host, 4, "data", 4);
    ferry_regions_clear(&there);
    drop(&source);
    close(fd);
    drop(&region);
    unlink(path);
}

/* Pages of other sizes: a matter of post-copy only. */
static void test_page_sizes(void)
{
    g_autofree char *path = make_file(false), *other = make_file(false);
    FerryRegion source, destination;

    add(&source, "ram", path, 0, FERRY_REGION_SHARED);
    add(&destination, "ram", other, 0, FERRY_REGION_SHARED);
    source.page_size_bytes = UINT32_C(2) << 20;
    for (int may_leave = 0; may_leave < 2; may_leave++) {
        g_autoptr(GError) error = NULL;
        FerryRegions there;
        g_autofree uint8_t *answers =
            settle(&source, &destination, 1, may_leave, false, &there, &error);

        if (may_leave) {
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
            g_assert_nonnull(strstr(error->message, "postcopy-ram"));
        } else {
            g_assert_no_error(error);
            g_assert_nonnull(answers);
        }
        ferry_regions_clear(&there);
    }
    drop(&source);
    drop(&destination);
    unlink(path);
    unlink(other);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/settle/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/settle/swapped", test_swapped);
    g_test_add_func("/settle/one-file", test_one_file);
    g_test_add_func("/settle/mark-of-open-file", test_mark_of_open_file);
    g_test_add_func("/settle/lock-of-somebody", test_lock_of_somebody);
    g_test_add_func("/settle/page-sizes", test_page_sizes);
    return g_test_run();
}
