/*
 * GLib's locks, rebuilt on pthreads for ThreadSanitizer builds
 *
 * GLib is not built with ThreadSanitizer and its locks are bare futexes, so the sanitizer sees
 * no order between two critical sections and reports races that are none. Symbols defined in
 * the executable come before those of a shared library: these replace GLib's for our code, on
 * top of pthread locks, which the sanitizer understands. GLib's own calls may go to either
 * version, but one object never meets both. What GLib locks inside itself (GAsyncQueue,
 * GThreadPool) stays invisible to the sanitizer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

/* The object behind *slot, made by whoever comes first: static GLib locks start as zeroes. */
static void *slot_get(gpointer *slot, void *(*make)(void), void (*destroy)(void *))
{
    void *object = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
    gpointer expected = NULL;

    if (object != NULL) {
        return object;
    }
    object = make();
    if (!__atomic_compare_exchange_n(slot, &expected, object, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        destroy(object);
        object = expected;
    }
    return object;
}

static void *slot_take(gpointer *slot)
{
    return __atomic_exchange_n(slot, NULL, __ATOMIC_ACQ_REL);
}

static void must(int rc)
{
    if (rc != 0) {
        abort();
    }
}

static void *mutex_make_type(int type)
{
    pthread_mutex_t *mutex = malloc(sizeof(*mutex));
    pthread_mutexattr_t attr;

    if (mutex == NULL) {
        abort();
    }
    must(pthread_mutexattr_init(&attr));
    must(pthread_mutexattr_settype(&attr, type));
    must(pthread_mutex_init(mutex, &attr));
    must(pthread_mutexattr_destroy(&attr));
    return mutex;
}

static void *mutex_make(void)
{
    return mutex_make_type(PTHREAD_MUTEX_ERRORCHECK);
}

static void *rec_mutex_make(void)
{
    return mutex_make_type(PTHREAD_MUTEX_RECURSIVE);
}

static void mutex_destroy(void *mutex)
{
    if (mutex != NULL) {
        must(pthread_mutex_destroy(mutex));
        free(mutex);
    }
}

static void *cond_make(void)
{
    pthread_cond_t *cond = malloc(sizeof(*cond));
    pthread_condattr_t attr;

    if (cond == NULL) {
        abort();
    }
    must(pthread_condattr_init(&attr));
    must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC));
    must(pthread_cond_init(cond, &attr));
    must(pthread_condattr_destroy(&attr));
    return cond;
}

static void cond_destroy(void *cond)
{
    if (cond != NULL) {
        must(pthread_cond_destroy(cond));
        free(cond);
    }
}

static void *rwlock_make(void)
{
    pthread_rwlock_t *lock = malloc(sizeof(*lock));

    if (lock == NULL) {
        abort();
    }
    must(pthread_rwlock_init(lock, NULL));
    return lock;
}

static void rwlock_destroy(void *lock)
{
    if (lock != NULL) {
        must(pthread_rwlock_destroy(lock));
        free(lock);
    }
}

static pthread_mutex_t *mutex_of(GMutex *mutex)
{
    return slot_get(&mutex->p, mutex_make, mutex_destroy);
}

static pthread_mutex_t *rec_mutex_of(GRecMutex *mutex)
{
    return slot_get(&mutex->p, rec_mutex_make, mutex_destroy);
}

static pthread_cond_t *cond_of(GCond *cond)
{
    return slot_get(&cond->p, cond_make, cond_destroy);
}

static pthread_rwlock_t *rwlock_of(GRWLock *lock)
{
    return slot_get(&lock->p, rwlock_make, rwlock_destroy);
}

void g_mutex_init(GMutex *mutex)
{
    mutex->p = mutex_make();
}

void g_mutex_clear(GMutex *mutex)
{
    mutex_destroy(slot_take(&mutex->p));
}

void g_mutex_lock(GMutex *mutex)
{
    must(pthread_mutex_lock(mutex_of(mutex)));
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    return pthread_mutex_trylock(mutex_of(mutex)) == 0;
}

void g_mutex_unlock(GMutex *mutex)
{
    must(pthread_mutex_unlock(mutex_of(mutex)));
}

void g_rec_mutex_init(GRecMutex *mutex)
{
    mutex->p = rec_mutex_make();
}

void g_rec_mutex_clear(GRecMutex *mutex)
{
    mutex_destroy(slot_take(&mutex->p));
}

void g_rec_mutex_lock(GRecMutex *mutex)
{
    must(pthread_mutex_lock(rec_mutex_of(mutex)));
}

gboolean g_rec_mutex_trylock(GRecMutex *mutex)
{
    return pthread_mutex_trylock(rec_mutex_of(mutex)) == 0;
}

void g_rec_mutex_unlock(GRecMutex *mutex)
{
    must(pthread_mutex_unlock(rec_mutex_of(mutex)));
}

void g_cond_init(GCond *cond)
{
    cond->p = cond_make();
}

void g_cond_clear(GCond *cond)
{
    cond_destroy(slot_take(&cond->p));
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
    must(pthread_cond_wait(cond_of(cond), mutex_of(mutex)));
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    struct timespec end = {
        .tv_sec = end_time / G_USEC_PER_SEC,
        .tv_nsec = (end_time % G_USEC_PER_SEC) * 1000,
    };
    int rc = pthread_cond_timedwait(cond_of(cond), mutex_of(mutex), &end);

    if (rc != ETIMEDOUT) {
        must(rc);
    }
    return rc == 0;
}

void g_cond_signal(GCond *cond)
{
    must(pthread_cond_signal(cond_of(cond)));
}

void g_cond_broadcast(GCond *cond)
{
    must(pthread_cond_broadcast(cond_of(cond)));
}

void g_rw_lock_init(GRWLock *lock)
{
    lock->p = rwlock_make();
}

void g_rw_lock_clear(GRWLock *lock)
{
    rwlock_destroy(slot_take(&lock->p));
}

void g_rw_lock_reader_lock(GRWLock *lock)
{
    must(pthread_rwlock_rdlock(rwlock_of(lock)));
}

gboolean g_rw_lock_reader_trylock(GRWLock *lock)
{
    return pthread_rwlock_tryrdlock(rwlock_of(lock)) == 0;
}

void g_rw_lock_reader_unlock(GRWLock *lock)
{
    must(pthread_rwlock_unlock(rwlock_of(lock)));
}

void g_rw_lock_writer_lock(GRWLock *lock)
{
    must(pthread_rwlock_wrlock(rwlock_of(lock)));
}

gboolean g_rw_lock_writer_trylock(GRWLock *lock)
{
    return pthread_rwlock_trywrlock(rwlock_of(lock)) == 0;
}

void g_rw_lock_writer_unlock(GRWLock *lock)
{
    must(pthread_rwlock_unlock(rwlock_of(lock)));
}

static pthread_mutex_t once_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t once_cond = PTHREAD_COND_INITIALIZER;

/* Locations being initialised right now; NULL ends the list. No caller nests this deep. */
static volatile void *once_busy[16];

static volatile void **once_find(volatile void *location)
{
    for (size_t i = 0; i < G_N_ELEMENTS(once_busy); i++) {
        if (once_busy[i] == location) {
            return &once_busy[i];
        }
    }
    return NULL;
}

#undef g_once_init_enter
gboolean g_once_init_enter(volatile void *location)
{
    volatile gsize *value = location;
    gboolean ours = FALSE;

    must(pthread_mutex_lock(&once_lock));
    while (once_find(location) != NULL) {
        must(pthread_cond_wait(&once_cond, &once_lock));
    }
    if (__atomic_load_n(value, __ATOMIC_ACQUIRE) == 0) {
        volatile void **entry = once_find(NULL);

        if (entry == NULL) {
            abort();
        }
        *entry = location;
        ours = TRUE;
    }
    must(pthread_mutex_unlock(&once_lock));
    return ours;
}

#undef g_once_init_leave
void g_once_init_leave(volatile void *location, gsize result)
{
    volatile gsize *value = location;
    volatile void **entry;

    must(pthread_mutex_lock(&once_lock));
    __atomic_store_n(value, result, __ATOMIC_RELEASE);
    entry = once_find(location);
    if (entry == NULL) {
        abort();
    }
    *entry = NULL;
    must(pthread_cond_broadcast(&once_cond));
    must(pthread_mutex_unlock(&once_lock));
}
