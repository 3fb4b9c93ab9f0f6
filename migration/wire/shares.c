/*
 * Shares: see shares.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "shares.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../clock.h"
#include "../error.h"
#include "crc32c.h"
#include "pace.h"

#define RECORD_MAGIC UINT64_C(0x3165726168534659)

/* One for each record, where no record is. */
#define LOCKS_START (INT64_C(1) << 40)

/* Who has not said anything for longer stands still, for all that the others know. */
#define STALE_NS (UINT64_C(2) * 1000 * 1000 * 1000)

/* Less than this is no time to measure in. */
#define PERIOD_MIN_NS (UINT64_C(10) * 1000 * 1000)

/* Somebody who is not held up has so much of what it uses, in percent. */
#define SPARE_PERCENT 125

/* So much of its share somebody gets that uses nothing, so that it can begin. */
#define FLOOR_DIVISOR 16

/* In the file. */
typedef struct Record {
    uint64_t magic;
    uint64_t stamp_ns; /* of the clock that all of the host's processes have */
    uint64_t demand;
    uint64_t host_bytes_per_second;
    uint32_t weight;
    uint32_t zero[6];
    uint32_t crc; /* of all before */
} Record;
_Static_assert(sizeof(Record) == 64, "a record is not torn by a page of the file");

struct FerryShares {
    char *path;
    FerrySharesConfig config;
    int fd; /* -1: the file is lost, and it shares with nobody */
    unsigned slot;

    /* Since the last look. */
    uint64_t last_ns, last_bytes;
    bool measured; /* it has been granted something, and used it or not */
    bool held_up;  /* by that, since it was worked out */

    GMutex lock; /* for what follows */
    FerrySharesStats stats;
};

/* --- Who gets how much ---------------------------------------------------------------------------- */

void ferry_shares_fill(FerryShareClaim *claims, size_t nr_claims, uint64_t total)
{
    double left = (double)total;
    size_t nr_open = nr_claims;

    for (size_t i = 0; i < nr_claims; i++) {
        claims[i].grant = UINT64_MAX;
    }
    while (nr_open > 0) {
        double weights = 0, of_one;
        size_t before = nr_open;

        for (size_t i = 0; i < nr_claims; i++) {
            weights += claims[i].grant == UINT64_MAX ? claims[i].weight : 0;
        }
        of_one = left / weights;
        /* Those that would use less than their part. */
        for (size_t i = 0; i < nr_claims; i++) {
            FerryShareClaim *claim = &claims[i];

            if (claim->grant == UINT64_MAX && (double)claim->demand <= of_one * claim->weight) {
                claim->grant = claim->demand;
                left = MAX(left - (double)claim->demand, 0);
                nr_open--;
            }
        }
        if (nr_open == before) {
            for (size_t i = 0; i < nr_claims; i++) {
                if (claims[i].grant == UINT64_MAX) {
                    claims[i].grant = (uint64_t)(of_one * claims[i].weight);
                }
            }
            break;
        }
    }
}

/* --- The file ------------------------------------------------------------------------------------- */

static int64_t number_of(const FerryShares *shares, unsigned slot)
{
    return (int64_t)shares->config.direction * FERRY_SHARES_MEMBERS + slot;
}

static struct flock lock_of(const FerryShares *shares, unsigned slot)
{
    return (struct flock){
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = LOCKS_START + number_of(shares, slot),
        .l_len = 1,
    };
}

static bool take_slot(FerryShares *shares)
{
    for (unsigned slot = 0; slot < FERRY_SHARES_MEMBERS; slot++) {
        struct flock flock = lock_of(shares, slot);

        if (fcntl(shares->fd, F_OFD_SETLK, &flock) == 0) {
            shares->slot = slot;
            return true;
        }
        if (errno != EAGAIN && errno != EACCES) {
            return false;
        }
    }
    errno = EBUSY;
    return false;
}

static bool lives(const FerryShares *shares, unsigned slot)
{
    struct flock flock = lock_of(shares, slot);

    return fcntl(shares->fd, F_OFD_GETLK, &flock) == 0 && flock.l_type != F_UNLCK;
}

static uint32_t crc_of(const Record *record)
{
    return ferry_crc32c(0, record, offsetof(Record, crc));
}

static bool say(const FerryShares *shares, uint64_t demand, uint64_t now_ns)
{
    Record record = {
        .magic = RECORD_MAGIC,
        .stamp_ns = now_ns,
        .demand = demand,
        .host_bytes_per_second = shares->config.host_bytes_per_second,
        .weight = shares->config.weight,
    };

    record.crc = crc_of(&record);
    return pwrite(shares->fd, &record, sizeof(record),
                  number_of(shares, shares->slot) * (int64_t)sizeof(record)) == sizeof(record);
}

static bool is_sound(const Record *record)
{
    return record->magic == RECORD_MAGIC && record->crc == crc_of(record) && record->weight > 0 &&
           record->weight <= FERRY_SHARES_WEIGHT_MAX && record->host_bytes_per_second > 0;
}

/* A device, say, or a pipe, would have us wait, or do who knows what. */
static bool is_usable(int fd, GError **errp)
{
    struct stat status;

    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        return true;
    }
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "it is not a regular file");
    return false;
}

static void close_file(FerryShares *shares)
{
    if (shares->fd >= 0) {
        close(shares->fd);
        shares->fd = -1;
    }
}

static bool open_file(FerryShares *shares, GError **errp)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

    shares->fd = open(shares->path, flags | O_CREAT | O_EXCL, 0660);
    if (shares->fd >= 0) {
        /* Who makes it need not be all that use it, whatever this process's umask says. */
        (void)fchmod(shares->fd, 0660);
    } else if (errno == EEXIST) {
        shares->fd = open(shares->path, flags);
    }
    if (shares->fd < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot open it: %s", g_strerror(errno));
        return false;
    }
    if (!is_usable(shares->fd, errp)) {
        close_file(shares);
        return false;
    }
    if (!take_slot(shares)) {
        if (errno == EBUSY) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "%d migrations share the bandwidth already", FERRY_SHARES_MEMBERS);
        } else {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot lock it: %s",
                        g_strerror(errno));
        }
        close_file(shares);
        return false;
    }
    if (!say(shares, shares->config.host_bytes_per_second, ferry_now_ns())) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot write to it: %s",
                    g_strerror(errno));
        close_file(shares);
        return false;
    }
    return true;
}

/* Whether those who join now join there. */
static bool is_in_place(const FerryShares *shares)
{
    struct stat ours, now;

    return shares->fd >= 0 && fstat(shares->fd, &ours) == 0 && lstat(shares->path, &now) == 0 &&
           ours.st_dev == now.st_dev && ours.st_ino == now.st_ino;
}

/* --- A member ------------------------------------------------------------------------------------- */

bool ferry_shares_check_file(const char *path, GError **errp)
{
    if (!g_path_is_absolute(path)) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "it does not begin with '/'");
        return false;
    }
    return true;
}

FerryShares *ferry_shares_join(const char *path, const FerrySharesConfig *config, GError **errp)
{
    FerryShares *shares = g_new0(FerryShares, 1);

    shares->path = g_strdup(path);
    shares->config = *config;
    shares->fd = -1;
    shares->last_ns = ferry_now_ns();
    g_mutex_init(&shares->lock);
    shares->stats = (FerrySharesStats){
        .nr_members = 1,
        .weight = config->weight,
        .total_weight = config->weight,
        .host_bytes_per_second = config->host_bytes_per_second,
        .granted_bytes_per_second = config->host_bytes_per_second,
    };
    if (!open_file(shares, errp)) {
        g_prefix_error(errp, "'%s': ", path);
        ferry_shares_leave(shares);
        return NULL;
    }
    return shares;
}

void ferry_shares_leave(FerryShares *shares)
{
    if (shares) {
        close_file(shares);
        g_mutex_clear(&shares->lock);
        g_free(shares->path);
        g_free(shares);
    }
}

/* What it would send a second, by what it has sent. */
static uint64_t find_demand(FerryShares *shares, uint64_t sent_bytes, uint64_t limit,
                            uint64_t now_ns)
{
    const FerrySharesStats *stats = &shares->stats;
    uint64_t demand = shares->config.host_bytes_per_second;
    uint64_t new_bytes =
        sent_bytes >= shares->last_bytes ? sent_bytes - shares->last_bytes : sent_bytes;
    double used = (double)new_bytes * 1e9 / (double)(now_ns - shares->last_ns);
    double own = (double)stats->host_bytes_per_second * stats->weight / (double)stats->total_weight;

    if (shares->measured && !shares->held_up) {
        demand =
            (uint64_t)MIN((double)demand, MAX(used * SPARE_PERCENT / 100, own / FLOOR_DIVISOR));
    }
    return limit ? MIN(demand, limit) : demand;
}

/* All that live, this one first; returns how many there are. */
static size_t list_claims(FerryShares *shares, uint64_t demand, uint64_t now_ns,
                          FerryShareClaim *claims, FerrySharesStats *stats)
{
    g_autofree Record *records = g_new0(Record, FERRY_SHARES_MEMBERS);
    bool stale[FERRY_SHARES_MEMBERS] = {false};
    size_t nr = 1;

    claims[0] = (FerryShareClaim){.weight = shares->config.weight, .demand = demand};
    stats->total_weight = shares->config.weight;
    stats->host_bytes_per_second = shares->config.host_bytes_per_second;
    if (shares->fd < 0 || pread(shares->fd, records, sizeof(Record) * FERRY_SHARES_MEMBERS,
                                number_of(shares, 0) * (int64_t)sizeof(Record)) < 0) {
        stats->nr_members = 1;
        return nr;
    }
    for (unsigned slot = 0; slot < FERRY_SHARES_MEMBERS; slot++) {
        const Record *record = &records[slot];

        if (slot == shares->slot || !is_sound(record) || !lives(shares, slot)) {
            continue;
        }
        stale[nr] = record->stamp_ns < now_ns && now_ns - record->stamp_ns > STALE_NS;
        claims[nr++] = (FerryShareClaim){.weight = record->weight, .demand = record->demand};
        stats->total_weight += record->weight;
        stats->host_bytes_per_second =
            MIN(stats->host_bytes_per_second, record->host_bytes_per_second);
    }
    for (size_t i = 1; i < nr; i++) {
        if (stale[i]) {
            claims[i].demand = (uint64_t)((double)stats->host_bytes_per_second * claims[i].weight /
                                          (double)stats->total_weight / FLOOR_DIVISOR);
        }
    }
    stats->nr_members = (unsigned)nr;
    return nr;
}

uint64_t ferry_shares_update(FerryShares *shares, uint64_t sent_bytes, bool held_up, uint64_t limit)
{
    FerryShareClaim claims[FERRY_SHARES_MEMBERS];
    FerrySharesStats stats = shares->stats;
    uint64_t now_ns = ferry_now_ns(), demand;
    size_t nr;

    shares->held_up |= held_up;
    if (shares->measured && now_ns - shares->last_ns < PERIOD_MIN_NS) {
        return ferry_pace_lower(limit, stats.granted_bytes_per_second);
    }
    demand = now_ns > shares->last_ns ? find_demand(shares, sent_bytes, limit, now_ns)
                                      : shares->config.host_bytes_per_second;
    if (!is_in_place(shares)) {
        /* Somebody has removed it.  Those that go on with the old one follow as they notice. */
        close_file(shares);
        (void)open_file(shares, NULL);
    }
    if (shares->fd >= 0) {
        (void)say(shares, demand, now_ns);
    }
    nr = list_claims(shares, demand, now_ns, claims, &stats);
    ferry_shares_fill(claims, nr, stats.host_bytes_per_second);
    stats.granted_bytes_per_second = MAX(claims[0].grant, 1);
    shares->last_ns = now_ns;
    shares->last_bytes = sent_bytes;
    shares->measured = true;
    shares->held_up = false;

    g_mutex_lock(&shares->lock);
    shares->stats = stats;
    g_mutex_unlock(&shares->lock);
    return stats.granted_bytes_per_second;
}

void ferry_shares_query(FerryShares *shares, FerrySharesStats *stats)
{
    g_mutex_lock(&shares->lock);
    *stats = shares->stats;
    g_mutex_unlock(&shares->lock);
}
