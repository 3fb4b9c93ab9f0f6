# SPDX-License-Identifier: GPL-2.0-or-later
"""The Test Anything Protocol: printing it, and reading what other programs print."""

import re
import typing

CASE = re.compile(r'(not )?ok\b(?:\s+\d+)?(?:\s+-)?\s*(.*)')
SKIPPED = re.compile(r'(.*?)\s*#\s*skip\S*\s*(.*)', re.IGNORECASE)
PLAN = re.compile(r'1\.\.(\d+)(?:\s*#\s*skip\S*\s*(.*))?', re.IGNORECASE)


def skipping(reason):
    """What ends a line. None: nothing was skipped."""
    return '' if reason is None else f' # SKIP {reason}'


class Printer:
    """Prints cases as they end, numbered."""

    def __init__(self):
        self.count = self.failed = 0

    def plan(self, count=None, skip=None):
        """How many cases there will be, or have been. With none, `skip` says why."""
        print(f'1..{self.count if count is None else count}{skipping(skip)}', flush=True)

    def case(self, good, name, skip=None):
        """skip: why it did not run, which is no failure."""
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}{skipping(skip)}", flush=True)

    def note(self, text):
        for line in str(text).splitlines():
            print(f'# {line}', flush=True)


class Outcome(typing.NamedTuple):
    """What one line says of a case."""
    good: bool
    name: str
    skip: str  # why it did not run, '' for no reason given; None: it did run


class Plan(typing.NamedTuple):
    """What one line says of how many cases there are."""
    count: int
    skip: str  # as above


def read_case(line):
    """The Outcome in a line of output, or None."""
    case = CASE.match(line)
    if not case:
        return None
    skipped = SKIPPED.fullmatch(case[2])
    name, skip = skipped.groups() if skipped else (case[2], None)
    return Outcome(not case[1], name, skip)


def read_plan(line):
    """The Plan in a line of output, or None."""
    plan = PLAN.fullmatch(line)
    return Plan(int(plan[1]), plan[2]) if plan else None
