# SPDX-License-Identifier: GPL-2.0-or-later
"""Which cases are walked: all, or a sample."""

from points import EFFECTS, MODES, PLAN, is_of_many, letter
from walk import Case

NR_RANDOM = 6
PASSES_MOST = 4

# Where it has gone wrong before, or would be worst; each effect in each mode but for few.
FIXED = [
    'pre-copy/source/say-go/cut-source/1',
    'pre-copy/source/tracker-harvest/error/1',
    'pre-copy/destination/hear-go/crash-source/1',
    'pre-copy/destination/say-taken/cut-destination/1',
    'pre-copy/source/hear-loaded/silence/1',
    'pre-copy/destination/qemu-load-end/stall/1',
    'post-copy/destination/register/error/1',
    'post-copy/source/say-go/crash-destination/1',
    'post-copy/destination/place/cut-source/1',
    'post-copy/source/say-missing/delay/1',
    'post-copy/source/qemu-let-go/stall/1',
    'resume/source/say-resume/cut-destination/1',
    'resume/destination/hear-resume/delay/1',
    'resume/source/dial/error/1',
    'resume/source/thread-sender/error/1',
    'resume/source/source-fetching/stall/1',
    'fallback/source/dial/delay/1',
    'cancel/source/say-stopped/cut-source/1',
    'cancel/source/source-rounds/crash-destination/1',
]

# What is wrong on purpose, and the words that say so.
LIES = {
    Case('pre-copy', lie='both run'): 'both sides run the guest',
    Case('pre-copy', lie='a page'): 'pages wrong',
    Case('pre-copy', lie='the monitor is silent'): 'query-status was answered after',
    Case('cancel', lie='a descriptor is left'): 'the source holds more: descriptors',
    Case('pre-copy', 'source', 'scan', 'error', lie='no reason'): 'nobody says why',
}


def _cases(mode, side, point, passes):
    """The first time that it is passed; of threads and connections, each."""
    for nth in range(1, (min(passes, PASSES_MOST) if is_of_many(point) else 1) + 1):
        for effect in EFFECTS:
            yield Case(mode, side, point, effect, nth)


def planned():
    """By the plan, without a look at what is passed."""
    return [case for mode in MODES for side, point in PLAN if letter(side, point, mode) in ('y', '*')
            for case in _cases(mode, side, point, 1)]


def passed(usual):
    """usual: {mode: {side: {point: how often}}}"""
    return [case for mode in MODES for side, point in PLAN if usual[mode][side].get(point)
            for case in _cases(mode, side, point, usual[mode][side][point])]


def of_name(name):
    mode, side, point, effect, nth = name.split('/')
    return Case(mode, side, point, effect, int(nth))


def sample(choose, nr_random):
    """The fixed part, and as many more of those that are sure to be reached."""
    fixed = [of_name(name) for name in FIXED]
    others = [case for case in planned() if case not in fixed and letter(case.side, case.point, case.mode) == 'y']
    return fixed + choose.sample(others, nr_random)
