/*
 * Preloaded into a program that tests run: keeps the texts that the program makes.
 *
 * What makes a text of a format (GLib's functions for errors and strings, and what goes to stderr) is called
 * by way of this library.  It keeps format and outcome, in a file in the directory $FERRY_TEXTS, which texts.py reads.
 *
 * The file is mapped when the program starts.  So nothing is opened or allocated later, a text is kept where
 * the program has no descriptor and no memory left, and stays when the program is killed.
 *
 * Threads: any.  A child that is forked goes on in the same file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RECORD_BYTES (1u << 20)
#define NR_SEEN      4096u

typedef struct {
    _Atomic uint64_t used; /* bytes of `texts` */
    char texts[RECORD_BYTES - sizeof(uint64_t)];
} Record;

static Record *record; /* NULL: nothing is kept */
static _Atomic uint32_t seen[NR_SEEN];

/* GLib's, as far as it matters here. */
typedef struct {
    uint32_t domain;
    int code;
    char *message;
} Error;

typedef struct {
    char *str;
    size_t len;
    size_t allocated;
} String;

/* --- Keeping ---------------------------------------------------------------------------------- */

static bool is_wanted(const char *program)
{
    return !strncmp(program, "qemu-system-", strlen("qemu-system-")) ||
           !strncmp(program, "test-", strlen("test-"));
}

__attribute__((constructor)) static void begin(void)
{
    const char *directory = getenv("FERRY_TEXTS");
    char path[4096];
    void *map;
    int fd;

    if (!directory || !is_wanted(program_invocation_short_name) ||
        snprintf(path, sizeof(path), "%s/XXXXXX", directory) >= (int)sizeof(path)) {
        return;
    }
    fd = mkstemp(path);
    if (fd < 0) {
        return;
    }
    if (!ftruncate(fd, RECORD_BYTES)) {
        map = mmap(NULL, RECORD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        record = map == MAP_FAILED ? NULL : map;
    }
    close(fd);
}

/* Whether this one is kept already.  Two that meet in one place are kept each time. */
static bool was_seen(char kind, const char *text)
{
    uint32_t hash = 2166136261u ^ (uint8_t)kind;

    for (const char *c = text; *c; c++) {
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    }
    return atomic_exchange(&seen[hash % NR_SEEN], hash) == hash;
}

/* kind: 'F' for a format, 'T' for a text. */
static void keep(char kind, const char *text)
{
    size_t size;
    uint64_t at;

    if (!record || !text || !strchr(text, ' ') || was_seen(kind, text)) {
        return;
    }
    size = strlen(text) + 2;
    at = atomic_fetch_add(&record->used, size);
    if (at + size <= sizeof(record->texts)) {
        record->texts[at] = kind;
        memcpy(record->texts + at + 1, text, size - 1);
    }
}

static void keep_both(const char *format, const char *text)
{
    keep('F', format);
    keep('T', text);
}

/* --- What is called instead ------------------------------------------------------------------- */

/* The function of that name that this library hides. */
#define HIDDEN(type, name, ...)                     \
    static type (*hidden)(__VA_ARGS__);             \
    if (!hidden) {                                  \
        *(void **)&hidden = dlsym(RTLD_NEXT, name); \
    }

char *g_strdup_vprintf(const char *format, va_list arguments);

char *g_strdup_vprintf(const char *format, va_list arguments)
{
    HIDDEN(char *, "g_strdup_vprintf", const char *, va_list)
    char *text = hidden(format, arguments);

    keep_both(format, text);
    return text;
}

/* Formats by g_strdup_vprintf(), which keeps it. */
#define FORMATTED(text, format)                       \
    va_list arguments;                                \
    va_start(arguments, format);                      \
    char *text = g_strdup_vprintf(format, arguments); \
    va_end(arguments)

char *g_strdup_printf(const char *format, ...);

char *g_strdup_printf(const char *format, ...)
{
    FORMATTED(text, format);
    return text;
}

char *g_strdup(const char *text);

char *g_strdup(const char *text)
{
    HIDDEN(char *, "g_strdup", const char *)
    keep('T', text);
    return hidden(text);
}

Error *g_error_new_literal(uint32_t domain, int code, const char *message);

Error *g_error_new_literal(uint32_t domain, int code, const char *message)
{
    HIDDEN(Error *, "g_error_new_literal", uint32_t, int, const char *)
    keep('T', message);
    return hidden(domain, code, message);
}

Error *g_error_new_valist(uint32_t domain, int code, const char *format, va_list arguments);

Error *g_error_new_valist(uint32_t domain, int code, const char *format, va_list arguments)
{
    char *text = g_strdup_vprintf(format, arguments);
    Error *error = g_error_new_literal(domain, code, text);

    free(text);
    return error;
}

Error *g_error_new(uint32_t domain, int code, const char *format, ...);

Error *g_error_new(uint32_t domain, int code, const char *format, ...)
{
    FORMATTED(text, format);
    Error *error = g_error_new_literal(domain, code, text);

    free(text);
    return error;
}

void g_set_error_literal(Error **error, uint32_t domain, int code, const char *message);

void g_set_error_literal(Error **error, uint32_t domain, int code, const char *message)
{
    HIDDEN(void, "g_set_error_literal", Error **, uint32_t, int, const char *)
    if (error) {
        keep('T', message);
    }
    hidden(error, domain, code, message);
}

void g_set_error(Error **error, uint32_t domain, int code, const char *format, ...);

void g_set_error(Error **error, uint32_t domain, int code, const char *format, ...)
{
    if (error) {
        FORMATTED(text, format);
        g_set_error_literal(error, domain, code, text);
        free(text);
    }
}

void g_prefix_error(Error **error, const char *format, ...);

void g_prefix_error(Error **error, const char *format, ...)
{
    HIDDEN(void, "g_prefix_error", Error **, const char *, ...)
    if (error && *error) {
        FORMATTED(text, format);
        hidden(error, "%s", text);
        free(text);
    }
}

void g_string_append_vprintf(String *string, const char *format, va_list arguments);

void g_string_append_vprintf(String *string, const char *format, va_list arguments)
{
    HIDDEN(void, "g_string_append_vprintf", String *, const char *, va_list)
    size_t before = string->len;

    hidden(string, format, arguments);
    keep_both(format, string->str + before);
}

void g_string_append_printf(String *string, const char *format, ...);

void g_string_append_printf(String *string, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_string_append_vprintf(string, format, arguments);
    va_end(arguments);
}

void g_string_vprintf(String *string, const char *format, va_list arguments);

void g_string_vprintf(String *string, const char *format, va_list arguments)
{
    HIDDEN(void, "g_string_vprintf", String *, const char *, va_list)
    hidden(string, format, arguments);
    keep_both(format, string->str);
}

String *g_string_append(String *string, const char *text);

String *g_string_append(String *string, const char *text)
{
    HIDDEN(String *, "g_string_append", String *, const char *)
    keep('T', text);
    return hidden(string, text);
}

int g_snprintf(char *buffer, unsigned long size, const char *format, ...);

int g_snprintf(char *buffer, unsigned long size, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(buffer, size, format, arguments);
    va_end(arguments);
    keep('F', format);
    return length;
}

/* What goes to stderr; QEMU is compiled with checks of formats. */
int __vfprintf_chk(FILE *file, int flag, const char *format, va_list arguments);

int __vfprintf_chk(FILE *file, int flag, const char *format, va_list arguments)
{
    HIDDEN(int, "__vfprintf_chk", FILE *, int, const char *, va_list)
    va_list again;
    char *text;

    va_copy(again, arguments);
    if (record && file == stderr && vasprintf(&text, format, again) >= 0) {
        keep_both(format, text);
        free(text);
    }
    va_end(again);
    return hidden(file, flag, format, arguments);
}

/* Formats by itself. */
void g_log(const char *domain, int level, const char *format, ...);

void g_log(const char *domain, int level, const char *format, ...)
{
    HIDDEN(void, "g_logv", const char *, int, const char *, va_list)
    va_list arguments;

    keep('F', format);
    va_start(arguments, format);
    hidden(domain, level, format, arguments);
    va_end(arguments);
}
