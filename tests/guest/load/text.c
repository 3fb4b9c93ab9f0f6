/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said on the serial line, and read from there */
#include "internal.h"

void say(const char *text)
{
    while (*text) {
        guest_putc(*text++);
    }
}

void say_number(const char *before, uint64_t n)
{
    char digits[20];
    unsigned int nr = 0;

    say(before);
    do {
        digits[nr++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (nr) {
        guest_putc(digits[--nr]);
    }
}

void say_end(void)
{
    say("\r\n");
}

void load_say(const char *text, const uint64_t *value)
{
    say(text);
    if (value) {
        say_number(" ", *value);
    }
    say_end();
}

const char *after(const char *text, const char *word)
{
    while (*word) {
        if (*text++ != *word++) {
            return NULL;
        }
    }
    return text;
}

const char *parse_number(const char *text, uint64_t *n)
{
    const char *begin = text;

    for (*n = 0; *text >= '0' && *text <= '9'; text++) {
        *n = *n * 10 + (uint64_t)(*text - '0');
    }
    return text == begin ? NULL : text;
}
