/*
 * Where a file has data, and where holes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HOLES_H
#define FERRY_HOLES_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* Whether a file system is one in which a hole is sure to mean that nothing was ever stored there. */
bool ferry_file_has_honest_holes(int fd);

/* Runs of data that were found. Any thread. */
typedef struct FerryDataRuns FerryDataRuns;

FerryDataRuns *ferry_data_runs_new(void);
void ferry_data_runs_free(FerryDataRuns *runs); /* NULL is allowed */

/*
 * Where the run of data that @data of file @fd is in ends; at or before @data, if the file does not tell.
 *
 * To find that, the kernel goes over the whole run, be it the whole file.  So where a run reaches beyond
 * @end, up to which the caller wants to know, it is remembered, and not looked for again.  Holes are never
 * remembered: what was punched into a run since may be taken for data.
 */
off_t ferry_data_runs_end(FerryDataRuns *runs, int fd, off_t data, off_t end);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryDataRuns, ferry_data_runs_free)

#endif
