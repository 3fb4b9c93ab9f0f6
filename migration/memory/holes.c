/*
 * Where a file has data, and where holes: see holes.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "holes.h"

#include <linux/magic.h>
#include <stdint.h>
#include <sys/vfs.h>
#include <unistd.h>

/* As many as there may be regions, and places in them, that somebody is at by turns. */
#define NR_RUNS 16

typedef struct Run {
    int fd;
    off_t start, end; /* equal: there is none */
} Run;

struct FerryDataRuns {
    GMutex lock; /* for what follows */
    Run list[NR_RUNS];
    unsigned next; /* to be replaced */
};

bool ferry_file_has_honest_holes(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0) {
        return false;
    }
    switch ((uint32_t)fs.f_type) {
    case TMPFS_MAGIC:
    case HUGETLBFS_MAGIC:
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
        return true;
    default:
        /* Others ask a server, which does not know what is dirty here. */
        return false;
    }
}

FerryDataRuns *ferry_data_runs_new(void)
{
    FerryDataRuns *runs = g_new0(FerryDataRuns, 1);

    g_mutex_init(&runs->lock);
    return runs;
}

void ferry_data_runs_free(FerryDataRuns *runs)
{
    if (runs) {
        g_mutex_clear(&runs->lock);
        g_free(runs);
    }
}

/* The end of the run that @data is in; @data if none is known. */
static off_t known_end(FerryDataRuns *runs, int fd, off_t data)
{
    off_t end = data;

    g_mutex_lock(&runs->lock);
    for (unsigned i = 0; i < NR_RUNS && end == data; i++) {
        const Run *run = &runs->list[i];

        if (run->fd == fd && data >= run->start && data < run->end) {
            end = run->end;
        }
    }
    g_mutex_unlock(&runs->lock);
    return end;
}

static void remember(FerryDataRuns *runs, int fd, off_t start, off_t end)
{
    Run *run = NULL;

    g_mutex_lock(&runs->lock);
    for (unsigned i = 0; i < NR_RUNS && !run; i++) {
        /* The same one, from an earlier place on. */
        if (runs->list[i].fd == fd && runs->list[i].end == end) {
            run = &runs->list[i];
        }
    }
    if (!run) {
        run = &runs->list[runs->next];
        runs->next = (runs->next + 1) % NR_RUNS;
        *run = (Run){.fd = fd, .start = start, .end = end};
    }
    run->start = MIN(run->start, start);
    g_mutex_unlock(&runs->lock);
}

off_t ferry_data_runs_end(FerryDataRuns *runs, int fd, off_t data, off_t end)
{
    off_t hole = known_end(runs, fd, data);

    if (hole == data) {
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole > data && hole > end) {
            remember(runs, fd, data, hole);
        }
    }
    return hole;
}
