# SPDX-License-Identifier: GPL-2.0-or-later
"""What every benchmark's JSON says in the same words, so that `make bench` can put it in one table.

A benchmark that is called with `--json FILE` writes one *document*:

    name       its file's name in tests/bench, such as "fetch"
    command    its command line, a list of words
    machine    common.machine(): cpus, model, memory_mib, kernel, load_average
    qemu       the binary
    date       when it ended, in UTC, as 2026-11-25T08:00:00Z
    options    what was asked for, defaults included
    outcomes   what it measured, in its own form: every single sample
    figures    a list of figures: the rows of the table
    plots      a list of plots, see plot.py

A *figure*, made by figure() below:

    scenario   the guest and the question, such as "4096 MiB guest, half of it filled, idle"
    what       "total time"
    unit       "ms", "MiB", ...; "" for a plain number
    ferry      spread of our samples: {"median": 972, "min": 763, "max": 1013, "n": 5}
    against    what it is compared with: "stock, multifd 4"; "" if with nothing
    other      spread of that one's samples, or null
    ratio      our median over the other one, or null
    goal       null, or {"of": "ratio" or "ferry", "at_most": 0.6} (or "at_least")
    reached    true or false; null without a goal

A benchmark that fails writes what it has measured before that, and ends with a status that is not 0.

A *report*, which `tests/bench/all` writes, is {"documents": [...], "failed": [{"name":, "why":}, ...],
"command":, "machine":, "date":}.

Nothing here measures anything, or knows any benchmark.
"""

import math
import statistics


class BadDocument(ValueError):
    """This is not what a benchmark writes."""


def spread(values):
    """Median, least, greatest and number of `values`; None if there is none."""
    values = [v for v in values if v is not None]
    if not values:
        return None
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values),
            'n': len(values)}


def column(samples, key):
    """What those of the samples say that have it."""
    return [sample[key] for sample in samples if sample.get(key) is not None]


def figure(scenario, what, unit, ferry, other=(), against='', *, at_most=None, at_least=None,
           of='ratio'):
    """One row of the table, or None if there is nothing of Ferry, or nothing to compare it with.

    ferry, other        samples
    at_most, at_least   the goal, if there is one
    of                  what the goal is for: the 'ratio' of the medians, or the median of 'ferry'
    """
    ours, theirs = spread(ferry), spread(other)
    if not ours or (against and not theirs):
        return None
    limit = at_least if at_most is None else at_most
    goal = reached = None
    if limit is not None:
        goal = {'of': of, 'at_least' if at_most is None else 'at_most': limit}
        # Not the ratio: the other one may be 0.
        bound = limit * theirs['median'] if of == 'ratio' else limit
        reached = ours['median'] >= bound if at_most is None else ours['median'] <= bound
    return {'scenario': scenario, 'what': what, 'unit': unit, 'ferry': ours, 'against': against,
            'other': theirs, 'ratio': ours['median'] / theirs['median'] if theirs and theirs['median'] else None,
            'goal': goal, 'reached': reached}


def count_goals(figures):
    """(reached, missed)"""
    goals = [f['reached'] for f in figures if f['reached'] is not None]
    return sum(goals), len(goals) - sum(goals)


# Reports

DOCUMENT_KEYS = {'name': str, 'command': list, 'machine': dict, 'figures': list, 'plots': list}
FIGURE_KEYS = {'scenario': str, 'what': str, 'unit': str, 'ferry': dict, 'against': str}


def check_document(document, where='document'):
    """Raise BadDocument, naming what is wrong, unless it can be put into a report."""
    if not isinstance(document, dict):
        raise BadDocument(f'{where}: not an object')
    require(document, DOCUMENT_KEYS, where)
    for i, row in enumerate(document['figures']):
        at = f'{where}: figure {i + 1}'
        if not isinstance(row, dict):
            raise BadDocument(f'{at}: not an object')
        require(row, FIGURE_KEYS, at)
        for key in ('other', 'ratio', 'goal', 'reached'):
            if key not in row:
                raise BadDocument(f"{at}: no '{key}'")
    return document


def require(thing, keys, where):
    for key, kind in keys.items():
        if key not in thing:
            raise BadDocument(f"{where}: no '{key}'")
        if not isinstance(thing[key], kind):
            raise BadDocument(f"{where}: '{key}' is not a {kind.__name__}")


def merge(contents, **head):
    """One report from documents and reports; `contents` is [(where it is from, what was read), ...].

    A document that comes twice, by its name, counts as it came last; so does a failure.
    """
    documents, failed = {}, {}
    for where, content in contents:
        if isinstance(content, dict) and isinstance(content.get('documents'), list):
            for i, document in enumerate(content['documents']):
                check_document(document, f'{where}: document {i + 1}')
                documents[document['name']] = document
                failed.pop(document['name'], None)
            failed.update({f['name']: f for f in content.get('failed', ())})
            head = {**{k: v for k, v in content.items() if k not in ('documents', 'failed')}, **head}
        else:
            documents[check_document(content, where)['name']] = content
            failed.pop(content['name'], None)
    return {**head, 'documents': list(documents.values()), 'failed': list(failed.values())}


# Words

def number(value, digits=3):
    """With so many digits that matter, and no exponent: 0.0123, 1.23, 12.3, 1230."""
    if value is None:
        return '-'
    if not math.isfinite(value):
        return str(value)
    if value == int(value):
        return f'{value:.0f}'
    rounded = float(f'{value:.{digits}g}')
    return f'{value:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}'


def goal_text(goal, unit=''):
    """'ratio at most 0.6', or 'at most 15 ms'; `unit` is the figure's"""
    if not goal:
        return '-'
    word = 'at_most' if 'at_most' in goal else 'at_least'
    limit = number(goal[word])
    limit = limit.rstrip('0').rstrip('.') if '.' in limit else limit
    text = f"{word.replace('_', ' ')} {limit}"
    return f'ratio {text}' if goal['of'] == 'ratio' else f'{text} {unit}'.rstrip()


def spread_text(value, unit=''):
    """'972 (763-1013) ms'"""
    if not value:
        return '-'
    text = number(value['median'])
    if value['min'] != value['max']:
        text += f" ({number(value['min'])}-{number(value['max'])})"
    return f'{text} {unit}'.rstrip()


def reached_text(row):
    return {True: 'reached', False: 'MISSED', None: ''}[row['reached']]
