/*
 * userfaultfd: memory whose missing pages the kernel asks for.
 *
 * Errors name what is to be changed on the host.  Everything may be called from any thread.
 *
 * Source: Documentation/admin-guide/mm/userfaultfd.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_USERFAULT_H
#define FERRY_USERFAULT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "region.h"

typedef struct FerryUserfault FerryUserfault;

/*
 * Open one for faults of the kernel's too: KVM and devices touch memory from there.  NULL with
 * FERRY_ERROR_SYSTEM if this process may not, or the kernel cannot.
 */
FerryUserfault *ferry_userfault_new(GError **errp);

/* Closes it: whatever is registered no longer is, and who waits for a page finds it zero. */
void ferry_userfault_free(FerryUserfault *uffd);

/* Whether @region's missing pages could be asked for; changes nothing that is seen outside. */
bool ferry_userfault_probe(FerryUserfault *uffd, const FerryRegion *region, GError **errp);

/* From here on, who touches a page of @region that is not there waits for it. */
bool ferry_userfault_register(FerryUserfault *uffd, const FerryRegion *region, GError **errp);

/* The end of that; who still waits goes on. */
void ferry_userfault_unregister(FerryUserfault *uffd, const FerryRegion *region);

/* To poll for faults. */
int ferry_userfault_fd(const FerryUserfault *uffd);

typedef struct FerryUserfaultEvent {
    uint64_t address; /* somewhere in the page */
    uint32_t thread;  /* the kernel's number of the thread that waits; 0 if it does not tell */
} FerryUserfaultEvent;

/* Read up to @max faults that are waiting; 0 when there are none. */
size_t ferry_userfault_read(FerryUserfault *uffd, FerryUserfaultEvent *events, size_t max);

typedef enum {
    FERRY_PLACED,
    FERRY_PLACE_PRESENT,      /* a page was there; pages before it were placed */
    FERRY_PLACE_UNREGISTERED, /* the memory is not registered (any more) */
    FERRY_PLACE_NO_MEMORY,    /* there is none left for it; later there may be */
    FERRY_PLACE_FAILED,
} FerryPlaceResult;

/*
 * Put pages in place, all at once for whoever looks, and wake who waits for them.  @from: what is to
 * be in them; NULL for zero.  Whole pages of the region.  *@done_bytes is how far it came.
 */
FerryPlaceResult ferry_userfault_place(FerryUserfault *uffd, const FerryRegion *region,
                                       uint64_t offset_bytes, const uint8_t *from,
                                       uint64_t nr_bytes, uint64_t *done_bytes, GError **errp);

/* Wake who waits for these pages: they are there. */
void ferry_userfault_wake(FerryUserfault *uffd, const FerryRegion *region, uint64_t offset_bytes,
                          uint64_t nr_bytes);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryUserfault, ferry_userfault_free)

#endif
