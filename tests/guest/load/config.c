/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The load's parameters, as text */
#include "internal.h"

/* If `text` begins with "NAME" and a number, store the number times `unit` and return what follows. */
static const char *setting(const char *text, const char *name, uint64_t unit, uint64_t *value)
{
    const char *rest = after(text, name);
    uint64_t n;

    rest = rest ? parse_number(rest, &n) : NULL;
    if (rest) {
        *value = n * unit;
    }
    return rest;
}

static const char *choice(const char *text, const char *word, int *value, int meaning)
{
    const char *rest = after(text, word);

    if (rest) {
        *value = meaning;
    }
    return rest;
}

static const char *parse_one(struct load_config *c, const char *text)
{
    const uint64_t mib = (1 << 20) / PAGE_BYTES;
    int kind = (int)c->kind, random = c->random, spread = c->spread, paused = c->paused;
    const char *rest;

    (void)((rest = setting(text, "fill=", mib, &c->fill_pages)) ||
           (rest = setting(text, "write=", mib, &c->write_pages)) ||
           (rest = setting(text, "rate=", 1, &c->rate)) ||
           (rest = setting(text, "seed=", 1, &c->seed)) ||
           (rest = setting(text, "poll=", 1, &c->poll_ms)) ||
           (rest = choice(text, "kind=random", &kind, PAGE_RANDOM)) ||
           (rest = choice(text, "kind=compressible", &kind, PAGE_COMPRESSIBLE)) ||
           (rest = choice(text, "kind=mixed", &kind, PAGE_MIXED)) ||
           (rest = choice(text, "pattern=random", &random, true)) ||
           (rest = choice(text, "pattern=sequential", &random, false)) ||
           (rest = choice(text, "layout=packed", &spread, false)) ||
           (rest = choice(text, "layout=spread", &spread, true)) ||
           (rest = choice(text, "start=going", &paused, false)) ||
           (rest = choice(text, "start=paused", &paused, true)));
    c->kind = (enum page_kind)kind;
    c->random = random;
    c->spread = spread;
    c->paused = paused;
    return rest;
}

const char *load_parse(struct load_config *c, const char *text)
{
    while (*text) {
        const char *rest = parse_one(c, text);

        if (!rest || (*rest != ':' && *rest != '\0')) {
            return text;
        }
        text = *rest ? rest + 1 : rest;
    }
    return c->write_pages > c->fill_pages ? "write=" : NULL;
}
