/*
 * Whose connections are taken: the parameter `allow`, and bind-address and bind-interface as they are now.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_ALLOWED_H
#define FERRY_GLUE_DESTINATION_ALLOWED_H

#include "io/channel-socket.h"

/*
 * Whether @socket, which was just accepted, is from a subnet that the user allows, and came in on the network that is
 * the migration's.  If not, that is counted, and told now and then, and the peer finds its connection reset when
 * @socket is closed.  Main thread, or that of a recovery.
 */
bool ferry_allows(QIOChannelSocket *socket);

/* How many were not, since this QEMU began.  Any thread. */
uint64_t ferry_nr_refused(void);

#endif
