/*
 * What QEMU calls: every graft is one call to a function declared here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_FERRY_H
#define FERRY_GLUE_FERRY_H

#include "qemu/typedefs.h"

/* Errors of newer compilers, and of all here: a graft, or what it calls, has got a type wrong. */
#pragma GCC diagnostic error "-Wincompatible-pointer-types"
#pragma GCC diagnostic error "-Wint-conversion"

struct MigrationIncomingState;
struct MigrationInfo;
struct QIOChannel;
struct QIOChannelSocket;
struct QIOChannelTLS;
struct QIONetListener;
struct QIOTask;
struct QemuSemaphore;
struct SaveVMHandlers;
struct SocketAddress;

/* Creates the object behind `-global ferry.NAME=VALUE`.  Main thread, once. */
void ferry_object_init(void);

/* The "ram" section's handlers: Ferry's where a session is in use, else QEMU's @stock. */
struct SaveVMHandlers *ferry_ram_handlers(struct SaveVMHandlers *stock);

/* Whether Ferry carries memory wherever it can. */
bool ferry_is_enabled(void);

/* --- Source --- */

/* Where this migration goes.  Main thread, before it connects. */
void ferry_outgoing_address(struct SocketAddress *address);

/* @ioc, or none, is being connected for this migration; no other is waited for.  Main thread. */
void ferry_outgoing_connecting(struct QIOChannel *ioc);

/*
 * The main channel's TLS handshake begins, or is over: the main loop goes on meanwhile, and network-timeout is the
 * limit.  Main thread.
 */
void ferry_outgoing_handshake(struct QIOChannel *ioc);
void ferry_outgoing_handshake_over(struct QIOChannel *ioc);

/* A connection of a migration, outgoing or incoming, has been made: mark what it sends.  Any thread. */
void ferry_mark_connection(struct QIOChannel *ioc);

/*
 * The TLS handshake of one of multifd's channels begins on a thread of its own: it ends when the migration is
 * cancelled, or after network-timeout.  Main thread.
 */
void ferry_outgoing_side_handshake(struct QIOChannel *ioc);

/* The same is over, and @ioc perhaps gone.  Any thread. */
void ferry_outgoing_side_handshake_over(const void *ioc);

/*
 * One of multifd's channels is connected, and its threads may be blocked in it from now on: it ends when the migration
 * is cancelled.  Any thread.
 */
void ferry_outgoing_side_open(struct QIOChannel *ioc);

/* Whether they are closed after all has been said on them.  Main thread. */
bool ferry_outgoing_says_goodbye(void);

/* They are about to be closed; those of a migration that did not complete end first.  Main thread. */
void ferry_outgoing_side_over(void);

/*
 * A handshake of one has failed, or the connection before it: if it was given up for taking too long, have @err say so.
 * Any thread.
 */
void ferry_outgoing_side_failed(Error **err);

/*
 * qio_channel_socket_connect_async() for one more of QEMU's own channels to @address, to which the main one is
 * connected: it ends when the migration is cancelled or has failed, or after network-timeout.  @told is called with
 * @opaque, in the main loop unless it failed.  Any thread that may use the main channel.
 */
void ferry_outgoing_connect(struct QIOChannelSocket *socket, struct SocketAddress *address,
                            void (*told)(struct QIOTask *task, void *opaque), void *opaque);

/*
 * qio_channel_socket_connect_async(), from the network that the user has given to migrations, if there is one.  Any
 * thread.
 */
void ferry_outgoing_dial(struct QIOChannelSocket *socket, struct SocketAddress *address,
                         void (*told)(struct QIOTask *task, void *opaque), void *opaque,
                         void (*destroy)(void *opaque));

/* The main channel's has failed: if it was given up for taking too long, have @err say so.  Main thread. */
void ferry_outgoing_handshake_failed(Error **err);

/*
 * Whether @ioc, connected or failed, belongs to a migration that is over: then it is to be dropped.  Main
 * thread.
 */
bool ferry_outgoing_is_late(struct QIOChannel *ioc);

/* @ioc is connected, for a migration or to resume one: *@error, if there is none yet, says why not.  Main thread. */
void ferry_outgoing_check(struct QIOChannel *ioc, Error **error);

/*
 * The migration is cancelled before it is connected.  Whether a connection was waited for: it comes too late
 * now, and the caller is to clean up.  Main thread.
 */
bool ferry_outgoing_abandon(void);

/*
 * @s has been cancelled: what has failed because of that is no error, unless it had one before.  Main
 * thread.
 */
void ferry_outgoing_cancelled(MigrationState *s);

/*
 * The migration's thread is about to end: have @cleanup called for @s in the main loop, or earlier by
 * ferry_outgoing_wait_over(); once.  With the BQL.
 */
void ferry_outgoing_over(void (*cleanup)(void *opaque), MigrationState *s);

/*
 * Before anything that the next migration needs: a migration that has ended may not be cleaned up yet; do
 * that.  False, with @errp set, if its thread does not end soon.  Main thread, with the BQL.
 */
bool ferry_outgoing_wait_over(Error **errp);

/*
 * Whether there is to be a return path: because Ferry wants one, or for post-copy, if @postcopy permits it.
 * Main thread.
 */
bool ferry_wants_return_path(MigrationState *s, bool postcopy);

/* Whether nobody there can fetch pages; sets @errp then.  Main thread. */
bool ferry_refuses_postcopy(MigrationState *s, Error **errp);

/* Look for Ferry on the other side and open a session with it.  Migration thread, no BQL. */
void ferry_negotiate(MigrationState *s);

/* Whether a PONG's value was meant for Ferry.  Return path thread. */
bool ferry_outgoing_pong(uint32_t value);

/* The destination's last word on the return path: how loading ended.  Return path thread. */
void ferry_outgoing_shut(uint32_t error);

/*
 * The return path broke with @error, as it does when the destination dies.  If Ferry carries the
 * memory it knows better why; its error comes first then.  Return path thread.
 */
void ferry_return_path_error(MigrationState *s, const Error *error);

/* The migration is about to be cancelled: what fails from now on fails for that.  Main thread. */
void ferry_outgoing_cancelling(void);

/* The migration is being cancelled.  Any thread. */
void ferry_outgoing_cancel(void);

/*
 * Precopy is over, with the vCPUs stopped: save what QEMU saves then, but for what is sent when the BQL is free.
 * Not 0: it failed.  Migration thread, with the BQL.
 */
int ferry_save_devices(QEMUFile *f);

/* The byte that ends QEMU's stream @f is about to be written into it.  With the BQL. */
void ferry_outgoing_end(QEMUFile *f);

/*
 * Precopy is over: send the device state, wait until the destination has loaded it, have it run the guest,
 * and wait until it says that it does.  In post-copy too: wait for what it reports, and end the return path.
 * Not 0: the migration fails.  Where Ferry is not in use, and there is a return path, pre-copy waits for the last word
 * that comes on it: see last-word.c.  Migration thread, no BQL.
 */
int ferry_let_go(MigrationState *s);

/*
 * migration_rp_wait() for the last word of a recovery, no longer than network-timeout.  Not 0: the recovery
 * fails, and the migration stays paused.  Migration thread.
 */
int ferry_resume_wait(MigrationState *s);

/* Whether the guest may run at the destination, so that it must not any more on this side.  Any thread. */
bool ferry_is_gone(void);

/* What is wrong with the stream to the destination; nothing that matters once the guest is gone. */
int ferry_stream_error(MigrationState *s);

/*
 * Whether devices are to hear that the migration failed: not once the destination was told to run the guest,
 * whatever QEMU calls it, as then they are to leave the guest's network and hardware alone.  Once for each
 * migration.  Main thread.
 */
bool ferry_has_failed(MigrationState *s);

/*
 * Whether the destination has said that it has the guest and all of its memory.  With pages missing and the
 * stream broken, the session goes on until it ends or breaks as well.  Migration thread.
 */
bool ferry_has_sent_all(MigrationState *s);

/* What QEMU's handlers say is left; nothing, once the destination has all and the stream is broken.  Likewise. */
void ferry_pending(bool exact, uint64_t *must_precopy, uint64_t *can_postcopy);

/* Whether the user's wish for post-copy can be met, and is to be now.  Migration thread. */
bool ferry_starts_postcopy(MigrationState *s);

/*
 * A person pauses post-copy at the source: the session is not to go on without QEMU's stream, which is about to be
 * broken.  Any thread.
 */
void ferry_outgoing_pause(void);

/* Post-copy is about to be paused at the source, for whatever reason.  Migration thread, no BQL. */
void ferry_outgoing_paused(void);

/* Whether nothing more may be written for now; not once the destination has all.  Migration thread. */
bool ferry_rate_exceeded(QEMUFile *f);

/* Take the block devices back, unless the guest is gone.  With the BQL. */
bool ferry_take_blocks_back(Error **errp);

/* Whether it is too late to cancel; @errp then says why.  Main thread. */
bool ferry_refuses_cancel(Error **errp);

/* Whether a reset has to wait: a stopped guest's memory is being sent, or is loaded and not let go of. */
bool ferry_delays_reset(void);

/* Whether the guest is being given up, and has not been stopped for good yet.  Any thread. */
bool ferry_gives_guest_up(void);

/* Look for written pages, as auto-converge wants it.  False: QEMU is to do it.  With the BQL. */
bool ferry_bitmap_sync(bool last_stage);

/* The guest does not need these pages: leave them out.  False: QEMU is to do it.  Any thread. */
bool ferry_free_page_hint(void *addr, size_t len);

/* How much memory is still to be sent.  False: QEMU is to say it.  Any thread. */
bool ferry_bytes_remaining(uint64_t *bytes);

/* --- Post-copy; with @mis or @s, what QEMU would do is done where no session is open --- */

/* Whether a session is open, at either end. */
bool ferry_has_session(void);

/* The vCPUs have stopped: leave what is missing to be fetched.  Migration thread, with the BQL. */
void ferry_postcopy_leave(MigrationState *s);

/*
 * Send the device state, wait until the destination has it, and have it run the guest.  Not 0: the guest
 * is still this side's.  Migration thread, with the BQL, which is let go of meanwhile.
 */
int ferry_send_packaged(MigrationState *s, const uint8_t *data, size_t nr_bytes);

/* At the destination: QEMU would empty memory now, before anything is received.  Main thread. */
int ferry_postcopy_init(struct MigrationIncomingState *mis);

/*
 * At the destination: whether a device is to empty its memory before post-copy; not when that may hold
 * pages already that have come through Ferry's channels.  Main thread.
 */
bool ferry_postcopy_empties(void);

/* At the destination: memory is about to lack pages.  Main thread. */
int ferry_postcopy_prepare(struct MigrationIncomingState *mis);

/* At the destination: memory lacks pages, which are to be fetched from here on.  Main thread. */
int ferry_postcopy_listen(struct MigrationIncomingState *mis);

/*
 * Whether the migration is to pause when its stream breaks, and not to fail: with Ferry, as soon as the
 * source may have let go of the guest; else if the guest is @running.  The thread that reads the stream.
 */
bool ferry_postcopy_pauses(bool running);

/* What comes of reading the stream to its end, or until it broke, with @ret.  QEMU's listen thread. */
int ferry_postcopy_listened(int ret);

/*
 * The migration stream broke, or what came on it is not good: returns when it is known whether the guest's
 * device state is loaded.  The thread that reads the stream.
 */
void ferry_listen_broke(void);

/* A person pauses post-copy at the destination: the stream is about to be broken.  Any thread. */
void ferry_incoming_pause(void);

/* The migration is paused since.  The thread that reads the stream. */
void ferry_postcopy_paused(struct MigrationIncomingState *mis);

/* Its state says so, unless it has failed meanwhile.  The thread that reads the stream. */
void ferry_listen_paused(struct MigrationIncomingState *mis);

/* It goes on, if true; otherwise it has failed.  The thread that reads the stream. */
bool ferry_listen_resumed(void);

/*
 * Nothing more is to be read from the stream, with @result.  True if the migration has failed, and somebody
 * else sees to all that is left of it: only the thread has to end.  The thread that reads the stream.
 */
bool ferry_listen_ended(struct MigrationIncomingState *mis, int result);

/* How long vCPUs waited for pages, in query-migrate. */
void ferry_fill_blocktime(struct MigrationInfo *info);

/* Whether KVM has dirty rings because the user, and not Ferry, wants them. */
bool ferry_kvm_rings_were_asked_for(void);

/* --- Destination --- */

/*
 * qio_net_listener_open_sync(), with room for Ferry's connections, too, and on the network that the user has given to
 * migrations, if there is one.  Main thread, or that of a recovery.
 */
int ferry_listen(struct QIONetListener *listener, struct SocketAddress *address, int backlog,
                 Error **errp);

/* Whether @ioc, which somebody has passed, keeps to that network.  Main thread, or that of a recovery. */
bool ferry_incoming_may_pass(struct QIOChannel *ioc, Error **errp);

/*
 * Have @listener, whose function for connections is set, refuse those that the user does not allow, and rest when one
 * cannot be taken.  Main thread, or that of a recovery.
 */
void ferry_watch_listener(struct QIONetListener *listener);

/* Answers a PING.  Main thread. */
void ferry_incoming_ping(struct MigrationIncomingState *mis, uint32_t value);

/* Whether @ioc, a new connection, is Ferry's (or nobody's) and was taken over.  Main thread. */
bool ferry_incoming_channel(struct QIOChannel *ioc);

/* Whether no more connections are wanted; @all is what QEMU thinks.  Main thread. */
bool ferry_has_all_channels(bool all);

/* Whether a multifd channel with this @id, which is too high here, is an error.  Main thread. */
bool ferry_incoming_refuses_multifd(int id);

/*
 * Whether @ioc is a multifd channel with an @id that QEMU has no place for, and was taken over.  Main thread.
 */
bool ferry_incoming_extra_multifd(struct QIOChannel *ioc, int id);

/* Multifd's channels are set up, at the destination.  Main thread. */
void ferry_incoming_multifd_begins(void);

/* One of the threads that read them has got a packet.  That thread. */
void ferry_incoming_multifd_gets_on(void);

/* One of the threads that read them ends, whatever for.  That thread. */
void ferry_incoming_multifd_thread_ends(void);

/*
 * Wait for @posted, which each of them posts where QEMU waits for all, and when it ends.  False: one has ended too
 * early, or does not get on though the source has hung up, and the stream ends with it.  Main thread.
 */
bool ferry_incoming_sync_multifd(struct QemuSemaphore *posted);

/*
 * Whether reading the stream may begin now; @may is what QEMU thinks.  With multifd channels missing, it begins
 * later by itself.  Main thread.
 */
bool ferry_incoming_may_start(bool may);

/*
 * qio_channel_tls_handshake() for @tls, which calls @told when it is over: nobody waits for it in the main
 * loop, one that hangs is ended, and of several the one that came first is told first.  The thread that takes
 * connections.
 */
void ferry_incoming_handshake(struct QIOChannelTLS *tls,
                              void (*told)(struct QIOTask *task, void *opaque));

/*
 * The device state is loaded, in precopy or postcopy: have @run called in the main loop when the guest may
 * run.  Main thread.
 */
void ferry_incoming_run(void (*run)(void *opaque), struct MigrationIncomingState *mis);

/*
 * The migration failed of @error, which becomes what Ferry knows of the reason.  When this returns, no other
 * thread reads the stream.  Main thread, with the BQL, which is let go of meanwhile.
 */
void ferry_incoming_failed(struct MigrationIncomingState *mis, Error **error);

/* Whether the source is told that loading has failed, where reading the stream has, or has not.  Main thread. */
bool ferry_incoming_tells_failure(struct MigrationIncomingState *mis, bool stream_failed);

/*
 * Whether post-copy still fills this guest's memory, or is being taken apart; sets @errp then.  Main thread.
 */
bool ferry_incoming_is_open(Error **errp);

#endif
