/*
 * A relay between source and destination: see proxy.h. A thread for each direction of each
 * connection; all of them last until the test's process ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <arpa/inet.h>
#include <poll.h>

#include "qemu/atomic.h"

#include "proxy.h"
#include "vm.h"

struct Proxy {
    char *target;
    int listener;
    GMutex lock; /* for all that follows */
    GCond changed;
    unsigned limit;
    unsigned nr_connections;
    bool cut;
    unsigned stall_from; /* connections from this one on stall from their beginning */
    unsigned half_from;  /* connections from this one on get so many bytes of an answer ... */
    unsigned half_to;    /* ... but not from this one on */
    int64_t half_bytes;
    bool half_closes, half_ends;
    unsigned end_after;     /* so many connections are let in */
    bool end_refuses;       /* and others are refused */
    GPtrArray *connections; /* of Connection */
};

typedef struct Connection {
    int client, server; /* -1: it was not relayed */
    bool stalled;       /* atomic */
    int64_t damage;     /* atomic; after so many bytes from the client; negative: never */
    int64_t answer;     /* so many bytes from the server get through; negative: all */
    bool closes;        /* and then it is closed */
    bool ends;          /* and then that way is */
} Connection;

typedef struct Pump {
    Connection *connection;
    int from, to;
} Pump;

static struct sockaddr_in inet_address(const char *uri)
{
    g_auto(GStrv) parts = g_strsplit(uri, ":", -1);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };

    g_assert_cmpuint(g_strv_length(parts), ==, 3);
    address.sin_port = htons((uint16_t)atoi(parts[2]));
    return address;
}

/* Where a socket is bound. */
static char *bound_uri(int fd)
{
    struct sockaddr_in address;
    socklen_t length = sizeof(address);

    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &length), ==, 0);
    return g_strdup_printf("tcp:127.0.0.1:%u", ntohs(address.sin_port));
}

int listen_somewhere(int backlog, char **uri)
{
    struct sockaddr_in address = inet_address("tcp:127.0.0.1:0");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener, backlog), ==, 0);
    *uri = bound_uri(listener);
    return listener;
}

int connect_to(const char *uri)
{
    struct sockaddr_in address = inet_address(uri);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Neither what comes goes through, nor that one end has closed. */
static void wait_while_stalled(Pump *p)
{
    while (qatomic_read(&p->connection->stalled)) {
        g_usleep(10000);
    }
}

/* What has come from the source goes through unless it stalls; it may be damaged. */
static void treat(Pump *p, char *buffer, ssize_t nr)
{
    int64_t damage = qatomic_read(&p->connection->damage);

    wait_while_stalled(p);
    if (p->from == p->connection->client && damage >= 0) {
        if (damage < nr) {
            buffer[damage] ^= 0x20;
        }
        qatomic_set(&p->connection->damage, damage < nr ? -1 : damage - nr);
    }
}

/*
 * What is sent here can go nowhere any more: have the sender told, as by the host of a dead process.
 * A connection that is shut down, but not closed, would let it wait when its buffers are full.
 */
static void reset(int fd)
{
    connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
}

/* How much of this gets through; less than @nr: it is the last. */
static ssize_t part_of(Pump *p, ssize_t nr)
{
    if (p->from != p->connection->server || p->connection->answer < 0) {
        return nr;
    }
    nr = MIN(nr, p->connection->answer);
    p->connection->answer -= nr;
    return nr;
}

/* The peer hears no more, and can go on talking. */
static void end_way_back(Pump *p)
{
    char buffer[4096];

    shutdown(p->to, SHUT_WR);
    while (recv(p->from, buffer, sizeof(buffer), 0) > 0) {
    }
}

/* Half an answer has been given. */
static void end_answer(Pump *p)
{
    if (p->connection->ends) {
        end_way_back(p);
        return;
    }
    if (p->connection->closes) {
        reset(p->to);
        reset(p->from);
        return;
    }
    for (;;) {
        g_usleep(G_USEC_PER_SEC);
    }
}

static gpointer pump(gpointer opaque)
{
    Pump *p = opaque;
    g_autofree char *buffer = g_malloc(64 << 10);
    ssize_t nr;

    while ((nr = recv(p->from, buffer, 64 << 10, 0)) > 0) {
        const ssize_t part = part_of(p, nr);

        treat(p, buffer, nr);
        for (ssize_t done = 0, sent; done < part; done += sent) {
            sent = send(p->to, buffer + done, (size_t)(part - done), MSG_NOSIGNAL);
            if (sent <= 0) {
                nr = -1;
                break;
            }
        }
        if (part < nr) {
            end_answer(p);
        }
        if (nr < 0) {
            break;
        }
    }
    wait_while_stalled(p);
    /* The descriptors stay: another thread may be about to use them. */
    if (nr < 0) {
        reset(p->from);
    } else {
        shutdown(p->from, SHUT_RD);
    }
    shutdown(p->to, SHUT_WR);
    g_free(p);
    return NULL;
}

static void start_pump(Connection *connection, int from, int to)
{
    Pump *p = g_new(Pump, 1);

    *p = (Pump){.connection = connection, .from = from, .to = to};
    g_thread_unref(g_thread_new("pump", pump, p));
}

/* Nobody is let in from now on, and whoever is let in is in already. */
static void end(Proxy *proxy)
{
    g_autofree char *uri = proxy_uri(proxy);

    if (proxy->end_refuses) {
        shutdown(proxy->listener, SHUT_RDWR);
        return;
    }
    /* One waits to be taken, which it never will be: the kernel drops whoever comes after it. */
    g_assert_cmpint(listen(proxy->listener, 0), ==, 0);
    g_assert_cmpint(connect_to(uri), >=, 0);
}

static gpointer serve(gpointer opaque)
{
    Proxy *proxy = opaque;
    bool ends;

    do {
        int client = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
        Connection *connection = g_new(Connection, 1);
        int server;

        g_assert_cmpint(client, >=, 0);
        g_mutex_lock(&proxy->lock);
        proxy->nr_connections++;
        g_cond_broadcast(&proxy->changed);
        if (proxy->nr_connections == proxy->end_after) {
            end(proxy);
        }
        while (proxy->nr_connections > proxy->limit && !proxy->cut) {
            g_cond_wait(&proxy->changed, &proxy->lock);
        }
        server = proxy->cut ? -1 : connect_to(proxy->target);
        *connection = (Connection){
            .client = server >= 0 ? client : -1,
            .server = server,
            .stalled = proxy->connections->len >= proxy->stall_from,
            .damage = -1,
            .answer = proxy->connections->len >= proxy->half_from &&
                              proxy->connections->len < proxy->half_to
                          ? proxy->half_bytes
                          : -1,
            .closes = proxy->half_closes,
            .ends = proxy->half_ends,
        };
        g_ptr_array_add(proxy->connections, connection);
        if (server >= 0) {
            start_pump(connection, client, server);
            start_pump(connection, server, client);
        } else {
            close(client);
        }
        ends = proxy->nr_connections == proxy->end_after;
        g_mutex_unlock(&proxy->lock);
    } while (!ends);
    return NULL;
}

Proxy *proxy_new(const char *target)
{
    Proxy *proxy = g_new0(Proxy, 1);
    g_autofree char *uri = NULL;

    proxy->target = g_strdup(target);
    proxy->limit = UINT_MAX;
    proxy->stall_from = UINT_MAX;
    proxy->half_from = proxy->half_to = UINT_MAX;
    proxy->connections = g_ptr_array_new();
    g_mutex_init(&proxy->lock);
    g_cond_init(&proxy->changed);
    proxy->listener = listen_somewhere(64, &uri);
    g_thread_unref(g_thread_new("proxy", serve, proxy));
    return proxy;
}

char *proxy_uri(const Proxy *proxy)
{
    return bound_uri(proxy->listener);
}

void proxy_limit(Proxy *proxy, unsigned nr)
{
    g_mutex_lock(&proxy->lock);
    proxy->limit = nr;
    g_cond_broadcast(&proxy->changed);
    g_mutex_unlock(&proxy->lock);
}

void proxy_stall_from(Proxy *proxy, unsigned from)
{
    g_mutex_lock(&proxy->lock);
    proxy->stall_from = from;
    g_mutex_unlock(&proxy->lock);
}

void proxy_halve(Proxy *proxy, unsigned from, uint64_t nr_bytes, bool closes)
{
    g_mutex_lock(&proxy->lock);
    proxy->half_from = from;
    proxy->half_bytes = (int64_t)nr_bytes;
    proxy->half_closes = closes;
    g_mutex_unlock(&proxy->lock);
}

void proxy_end_way_back(Proxy *proxy, uint64_t nr_bytes)
{
    proxy->half_ends = true;
    proxy_halve(proxy, 0, nr_bytes, false);
}

void proxy_halve_first(Proxy *proxy, uint64_t nr_bytes)
{
    proxy_halve(proxy, 0, nr_bytes, false);
    g_mutex_lock(&proxy->lock);
    proxy->half_to = 1;
    g_mutex_unlock(&proxy->lock);
}

void proxy_end_after(Proxy *proxy, unsigned nr, bool refuses)
{
    g_mutex_lock(&proxy->lock);
    proxy->end_after = nr;
    proxy->end_refuses = refuses;
    g_mutex_unlock(&proxy->lock);
}

void proxy_wait_connections(Proxy *proxy, unsigned nr)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    bool ok = true;

    g_mutex_lock(&proxy->lock);
    while (proxy->nr_connections < nr && ok) {
        ok = g_cond_wait_until(&proxy->changed, &proxy->lock, deadline);
    }
    g_mutex_unlock(&proxy->lock);
    g_assert_true(ok);
}

static void cut(Connection *connection)
{
    if (connection->server >= 0) {
        shutdown(connection->client, SHUT_RDWR);
        shutdown(connection->server, SHUT_RDWR);
        qatomic_set(&connection->stalled, false);
    }
}

/* With the lock held. */
static void cut_all(Proxy *proxy)
{
    for (guint i = 0; i < proxy->connections->len; i++) {
        cut(g_ptr_array_index(proxy->connections, i));
    }
}

void proxy_cut(Proxy *proxy)
{
    g_mutex_lock(&proxy->lock);
    proxy->cut = true;
    cut_all(proxy);
    g_cond_broadcast(&proxy->changed);
    g_mutex_unlock(&proxy->lock);
}

void proxy_cut_all(Proxy *proxy)
{
    g_mutex_lock(&proxy->lock);
    cut_all(proxy);
    g_mutex_unlock(&proxy->lock);
}

static Connection *find(Proxy *proxy, unsigned number)
{
    Connection *connection;

    g_mutex_lock(&proxy->lock);
    g_assert_cmpuint(number, <, proxy->connections->len);
    connection = g_ptr_array_index(proxy->connections, number);
    g_mutex_unlock(&proxy->lock);
    return connection;
}

void proxy_cut_one(Proxy *proxy, unsigned number)
{
    cut(find(proxy, number));
}

void proxy_stall(Proxy *proxy, unsigned number)
{
    Connection *connection = find(proxy, number);
    const int little = 1;

    /* It does not take long until who goes on sending is blocked. */
    setsockopt(connection->client, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
    setsockopt(connection->server, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
    qatomic_set(&connection->stalled, true);
}

void proxy_damage(Proxy *proxy, unsigned number, uint64_t offset)
{
    qatomic_set(&find(proxy, number)->damage, (int64_t)offset);
}

unsigned proxy_nr_connections(Proxy *proxy)
{
    unsigned nr;

    g_mutex_lock(&proxy->lock);
    nr = proxy->connections->len;
    g_mutex_unlock(&proxy->lock);
    return nr;
}
