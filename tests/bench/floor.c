/*
 * What it costs to move memory from one process to another over a socket, and nothing else
 *
 *   floor [--bytes N] [--transport tcp|unix] [--receive pages|huge|copy] [--send-chunk N]
 *         [--receive-chunk N] [--check]
 *   floor --warm N
 *
 * The sender fills N bytes of memory, none of which is zero, and sends them straight from there. The
 * receiver, another process, receives them into memory that nobody has touched:
 *
 *   pages   straight into pages of 4 KiB
 *   huge    straight into huge pages, where the kernel gives them
 *   copy    into a small buffer that stays in the cache, and on with UFFDIO_COPY
 *
 * Each side notes its CPU time around the transfer alone. Just before, the receiver touches and frees
 * more memory than it will need: free memory that a hypervisor has taken back is dear to touch again.
 * With --check the receiver compares what came with what should have, after the clocks were read.
 * Prints one line of JSON; times are in seconds.
 *
 * With --warm nothing is sent: N bytes are touched until that is cheap, the line tells what the last time
 * cost, and they are freed for the next one who asks for memory: as many as each line of standard input
 * says, and what is left when it ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB        ((size_t)1 << 20)
#define GIB        ((size_t)1 << 30)
#define HUGE_BYTES (2 * MIB)

/* Clearing memory that is there takes 0.1 s a GiB, less than this; getting it from a hypervisor, more. */
#define WARM_S_PER_GIB 0.2
#define WARM_TRIES     8

enum receive_form {
    RECEIVE_PAGES,
    RECEIVE_HUGE,
    RECEIVE_COPY,
    NR_RECEIVE_FORMS
};

static const char *const form_names[NR_RECEIVE_FORMS] = {
    [RECEIVE_PAGES] = "pages",
    [RECEIVE_HUGE] = "huge",
    [RECEIVE_COPY] = "copy",
};

struct options {
    size_t size_bytes;
    size_t send_bytes;
    size_t receive_bytes;
    enum receive_form form;
    bool is_unix;
    bool check;
    bool warm_only;
};

/* What one side reports; the receiver sends its own to the sender through a pipe. */
struct report {
    double begin_s; /* CLOCK_MONOTONIC */
    double end_s;
    double user_s;
    double system_s;
    double touch_s_per_gib; /* what touching memory cost just before */
    uint64_t nr_calls;
    uint64_t nr_wrong; /* words that are not what was sent; only looked for with --check */
};

static void __attribute__((noreturn)) die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double timeval_s(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static void clocks_begin(struct report *r)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    *r = (struct report){.user_s = -timeval_s(usage.ru_utime),
                         .system_s = -timeval_s(usage.ru_stime),
                         .begin_s = now_s()};
}

static void clocks_end(struct report *r)
{
    struct rusage usage;

    r->end_s = now_s();
    getrusage(RUSAGE_SELF, &usage);
    r->user_s += timeval_s(usage.ru_utime);
    r->system_s += timeval_s(usage.ru_stime);
}

/* Never zero: an odd number times one that is not zero. */
static uint64_t word_at(size_t index)
{
    return (uint64_t)(index + 1) * 0x9e3779b97f4a7c15u;
}

static void *map(size_t size_bytes, int advice)
{
    uint8_t *p = mmap(NULL, size_bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        die("mmap");
    }
    p = (uint8_t *)(((uintptr_t)p + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    if (madvise(p, size_bytes, advice) && errno != EINVAL) {
        die("madvise");
    }
    return p;
}

/*
 * Touches memory until that is cheap, and returns it with the CPU time the last touch took for each GiB.
 * In huge pages: what is freed in smaller ones is not what the next one gets who wants huge ones. (And
 * free pages that are not part of a huge one are not handed back to hypervisors.)
 */
static void *warm(size_t size_bytes, double *s_per_gib)
{
    for (int tries_left = WARM_TRIES;; tries_left--) {
        void *p = map(size_bytes, MADV_HUGEPAGE);
        struct report r;

        clocks_begin(&r);
        if (madvise(p, size_bytes, MADV_POPULATE_WRITE)) {
            die("touching memory");
        }
        clocks_end(&r);
        *s_per_gib = (r.user_s + r.system_s) * (double)GIB / (double)size_bytes;
        if (*s_per_gib <= WARM_S_PER_GIB || tries_left == 1) {
            return p;
        }
        munmap(p, size_bytes);
    }
}

/* Each line of the input is a number of bytes, which are freed; at its end the rest is. */
static int warm_and_hold(size_t size_bytes)
{
    double s_per_gib;
    char *at = warm(size_bytes, &s_per_gib), *end = at + size_bytes;
    char line[32];

    printf("{\"bytes\": %zu, \"touch_s_per_gib\": %.3f}\n", size_bytes, s_per_gib);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        size_t nr = strtoull(line, NULL, 10) / HUGE_BYTES * HUGE_BYTES;

        nr = nr > (size_t)(end - at) ? (size_t)(end - at) : nr;
        if (nr) {
            munmap(at, nr);
            at += nr;
        }
    }
    return 0;
}

static int userfault_register(void *at, size_t size_bytes)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)at, .len = size_bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range)) {
        die("userfaultfd");
    }
    return fd;
}

static size_t at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Receives exactly @size_bytes, and returns in how many calls. */
static uint64_t receive_all(int sock, uint8_t *to, size_t size_bytes, size_t call_bytes)
{
    uint64_t nr_calls = 0;

    while (size_bytes > 0) {
        ssize_t n = recv(sock, to, at_most(size_bytes, call_bytes), MSG_WAITALL);

        if (n <= 0) {
            die("recv");
        }
        to += n;
        size_bytes -= (size_t)n;
        nr_calls++;
    }
    return nr_calls;
}

static uint64_t receive_copy(int sock, int fault_fd, uint8_t *to, uint8_t *buffer,
                             const struct options *o)
{
    uint64_t nr_calls = 0;

    for (size_t done = 0; done < o->size_bytes;) {
        size_t n = at_most(o->size_bytes - done, o->receive_bytes);
        struct uffdio_copy copy = {
            .dst = (uintptr_t)(to + done),
            .src = (uintptr_t)buffer,
            .len = n,
            .mode = UFFDIO_COPY_MODE_DONTWAKE,
        };

        nr_calls += receive_all(sock, buffer, n, n);
        if (ioctl(fault_fd, UFFDIO_COPY, &copy)) {
            die("UFFDIO_COPY");
        }
        done += n;
    }
    return nr_calls;
}

static void __attribute__((noreturn)) receiver(int sock, int pipe_fd, const struct options *o)
{
    size_t warm_bytes = o->size_bytes + o->size_bytes / 4 + 64 * MIB;
    uint8_t *to, *buffer = NULL;
    double touch_s_per_gib;
    int fault_fd = -1;
    struct report r;
    uint64_t nr_calls;

    munmap(warm(warm_bytes, &touch_s_per_gib), warm_bytes);
    to = map(o->size_bytes, o->form == RECEIVE_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    if (o->form == RECEIVE_COPY) {
        fault_fd = userfault_register(to, o->size_bytes);
        buffer = map(o->receive_bytes, MADV_HUGEPAGE);
        memset(buffer, 1, o->receive_bytes);
    }
    if (write(pipe_fd, "r", 1) != 1) {
        die("write");
    }

    clocks_begin(&r);
    if (o->form == RECEIVE_COPY) {
        nr_calls = receive_copy(sock, fault_fd, to, buffer, o);
    } else {
        nr_calls = receive_all(sock, to, o->size_bytes, o->receive_bytes);
    }
    clocks_end(&r);

    r.touch_s_per_gib = touch_s_per_gib;
    r.nr_calls = nr_calls;
    if (o->check) {
        for (size_t i = 0; i < o->size_bytes / 8; i++) {
            r.nr_wrong += ((const uint64_t *)to)[i] != word_at(i);
        }
    }
    if (write(pipe_fd, &r, sizeof(r)) != sizeof(r)) {
        die("write");
    }
    _exit(0);
}

static void tcp_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || pair[0] < 0 || bind(listener, (struct sockaddr *)&address, length) ||
        listen(listener, 1) || getsockname(listener, (struct sockaddr *)&address, &length) ||
        connect(pair[0], (struct sockaddr *)&address, length)) {
        die("tcp");
    }
    pair[1] = accept(listener, NULL, NULL);
    if (pair[1] < 0) {
        die("accept");
    }
    close(listener);
}

static uint64_t *fill(size_t size_bytes)
{
    uint64_t *words = map(size_bytes, MADV_HUGEPAGE); /* as QEMU asks for its guest's memory */

    for (size_t i = 0; i < size_bytes / 8; i++) {
        words[i] = word_at(i);
    }
    if (madvise(words, size_bytes, MADV_DONTFORK)) {
        die("madvise");
    }
    return words;
}

/* Waits until the receiver is ready, sends everything, and fills in both reports. */
static void sender(int sock, int pipe_fd, const struct options *o, const uint64_t *from,
                   struct report *sent, struct report *received)
{
    uint64_t nr_calls = 0;
    char ready;

    if (read(pipe_fd, &ready, 1) != 1) {
        die("the receiver did not start");
    }
    clocks_begin(sent);
    for (size_t done = 0; done < o->size_bytes; nr_calls++) {
        ssize_t n = send(sock, (const uint8_t *)from + done,
                         at_most(o->size_bytes - done, o->send_bytes), MSG_NOSIGNAL);

        if (n < 0) {
            die("send");
        }
        done += (size_t)n;
    }
    clocks_end(sent);
    sent->nr_calls = nr_calls;
    if (read(pipe_fd, received, sizeof(*received)) != sizeof(*received)) {
        die("the receiver said nothing");
    }
}

static size_t size_of(const char *text)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 0);

    if (end == text || *end != '\0' || n == 0 || n % 4096 != 0) {
        fprintf(stderr, "floor: %s: not a positive multiple of 4096\n", text);
        exit(2);
    }
    return (size_t)n;
}

static enum receive_form form_of(const char *text)
{
    for (unsigned int i = 0; i < NR_RECEIVE_FORMS; i++) {
        if (strcmp(text, form_names[i]) == 0) {
            return (enum receive_form)i;
        }
    }
    fprintf(stderr, "floor: --receive %s: there are pages, huge and copy\n", text);
    exit(2);
}

static bool transport_is_unix(const char *text)
{
    if (strcmp(text, "unix") != 0 && strcmp(text, "tcp") != 0) {
        fprintf(stderr, "floor: --transport %s: there are tcp and unix\n", text);
        exit(2);
    }
    return *text == 'u';
}

static struct options parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"bytes", required_argument, NULL, 'b'},
        {"transport", required_argument, NULL, 't'},
        {"receive", required_argument, NULL, 'r'},
        {"send-chunk", required_argument, NULL, 's'},
        {"receive-chunk", required_argument, NULL, 'c'},
        {"check", no_argument, NULL, 'k'},
        {"warm", required_argument, NULL, 'w'},
        {0},
    };
    struct options o = {
        .size_bytes = 1024 * MIB,
        .send_bytes = MIB,
        .receive_bytes = MIB,
    };
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (c) {
        case 'b':
            o.size_bytes = size_of(optarg);
            break;
        case 't':
            o.is_unix = transport_is_unix(optarg);
            break;
        case 'r':
            o.form = form_of(optarg);
            break;
        case 's':
            o.send_bytes = size_of(optarg);
            break;
        case 'c':
            o.receive_bytes = size_of(optarg);
            break;
        case 'k':
            o.check = true;
            break;
        case 'w':
            o.size_bytes = size_of(optarg);
            o.warm_only = true;
            break;
        default:
            exit(2);
        }
    }
    return o;
}

static void print_side(const char *name, const struct report *r)
{
    printf(", \"%s\": {\"user_s\": %.4f, \"system_s\": %.4f, \"calls\": %llu}", name, r->user_s,
           r->system_s, (unsigned long long)r->nr_calls);
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    const uint64_t *from;
    struct report sent, received;
    int sockets[2], pipe_fds[2], status;
    pid_t child;

    if (o.warm_only) {
        return warm_and_hold(o.size_bytes);
    }
    /* Filled before the receiver starts, so that what this one warms up is its own. */
    from = fill(o.size_bytes);
    if (o.is_unix) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets)) {
            die("socketpair");
        }
    } else {
        tcp_pair(sockets);
    }
    if (pipe(pipe_fds)) {
        die("pipe");
    }
    child = fork();
    if (child < 0) {
        die("fork");
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(sockets[0]);
        close(pipe_fds[0]);
        receiver(sockets[1], pipe_fds[1], &o);
    }
    close(sockets[1]);
    close(pipe_fds[1]);
    sender(sockets[0], pipe_fds[0], &o, from, &sent, &received);
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "floor: the receiver failed\n");
        return 1;
    }
    if (received.nr_wrong) {
        fprintf(stderr, "floor: %llu words arrived wrong\n", (unsigned long long)received.nr_wrong);
        return 1;
    }
    printf("{\"bytes\": %zu, \"transport\": \"%s\", \"receive\": \"%s\", \"wall_s\": %.4f",
           o.size_bytes, o.is_unix ? "unix" : "tcp", form_names[o.form],
           received.end_s - sent.begin_s);
    print_side("sender", &sent);
    print_side("receiver", &received);
    printf(", \"touch_s_per_gib\": %.3f}\n", received.touch_s_per_gib);
    return 0;
}
