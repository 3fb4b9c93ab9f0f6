# SPDX-License-Identifier: GPL-2.0-or-later
"""The fault points, and which mode passes which, and why not.

Both are told by the walk on the fake machine: migration/fault.h and tests/unit/fault-plan.c.  What is different in a
real QEMU stands in REAL.
"""

import os
import re

from vm import ROOT

SIDES = ('source', 'destination')
MODES = ('pre-copy', 'post-copy', 'resume', 'fallback', 'cancel')
EFFECTS = ('error', 'delay', 'stall', 'silence', 'crash-source', 'crash-destination', 'cut-source', 'cut-destination')


def _read(*path):
    with open(os.path.join(ROOT, *path), encoding='utf-8') as f:
        return f.read()


def _kebab(name):
    return name.lower().replace('_', '-')


def _read_points():
    """In the order of FerryFaultPoint."""
    text = _read('migration', 'fault.h')
    frames = re.findall(r'POINT\(VERB##_([A-Z]+)\)', text)
    found = []
    for name, verb in re.findall(r'^ +(?:POINT\(([A-Z_]+)\)|FERRY_FAULT_FRAMES\(POINT, ([A-Z]+)\)).*',
                                 text.split('define FERRY_FAULT_POINTS')[1], re.M):
        found += [_kebab(name)] if name else [_kebab(f'{verb}_{frame}') for frame in frames]
    return found


POINTS = _read_points()


# Nothing comes next there that could fail; nor does it at a phase, which has been reached.
CANNOT_FAIL = ('qemu-let-go', 'qemu-accept', 'qemu-answer', 'qemu-load-end', 'qemu-loaded', 'qemu-start')


def can_fail(point):
    return not point.startswith(SIDES) and point not in CANNOT_FAIL


def is_frame(point):
    return point.startswith(('say-', 'hear-'))


def is_of_many(point):
    """Whether each pass is for something else: threads, and connections."""
    return point.startswith('thread-') or point in ('qemu-socket', 'qemu-accept')


def _read_plan():
    """({(side, point): a letter for each mode}, {letter: why not})"""
    text = _read('tests', 'unit', 'fault-plan.c')
    plan = {(_kebab(side), _kebab(point)): letters.split()[:len(MODES)] for side, point, letters in re.findall(
        r'\{FAULT_(SOURCE|DESTINATION), FERRY_FAULT_(\w+), "([^"]+)"\}', text)}
    return plan, dict(re.findall(r"\{'(.)', \"[^\"]+\", \"([^\"]+)\"\}", text))


PLAN, REASONS = _read_plan()

# (side, point): a letter for each mode, where a real QEMU is not like the fake machine, which has no QEMU.
REAL = {
    ('source', 'tracker-reset'): 't t t f t',
    ('source', 'tracker-feed'): 'y y e f y',
    ('source', 'say-forget'): 'm * e f *',
    ('destination', 'hear-forget'): 'm * e f *',
    ('destination', 'gather'): 'm s s f c',
    ('destination', 'place'): 'm y * f c',
    ('destination', 'place-memory'): 'm y * f c',
    ('source', 'qemu-open'): 'y y e y y',
    ('source', 'qemu-socket'): 'y y y y y',
    ('source', 'qemu-save-setup'): 'y y e f y',
    ('source', 'qemu-save-end'): 'y w w f w',
    ('source', 'qemu-save-devices'): 'y w w f w',
    ('source', 'qemu-let-go'): 'y y e f c',
    ('destination', 'qemu-accept'): 'y y y y y',
    ('destination', 'qemu-answer'): 'y y y y y',
    ('destination', 'qemu-load-setup'): 'y y e f y',
    ('destination', 'qemu-load-end'): 'y y y f c',
    ('destination', 'qemu-loaded'): 'y y e f c',
    ('destination', 'qemu-start'): 'y y e f c',
}
REASONS['s'] = 'small: the guest has no huge pages of a pool'
PLAN.update((key, letters.split()) for key, letters in REAL.items())


def letter(side, point, mode):
    """'y': the mode passes it.  '*': it may.  Others: REASONS says why not.  None: no mode does, on that side."""
    letters = PLAN.get((side, point))
    return letters[MODES.index(mode)] if letters else None
