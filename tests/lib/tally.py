# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make check` says of its suites: how each case ended, what was skipped and why, what took long.

    tally = Tally(least=read_least(path))
    suite = SuiteTally('unit', tally)
    for line in output:
        suite.read(line)
    suite.end(status)
    for line in tally.summary():
        print(line)

A suite fails also when it says less than it should: no case at all, no plan, fewer cases than planned, or
fewer that ran than a list has, without one of the reasons that this machine gives (lacks.py).
"""

import collections
import re
import time

from lacks import excuses
from tap import read_case, read_plan

CONTEXT_LINES = 60
REMINDER_LINES = 12
SLOWEST = 10
TOOK = re.compile(r'# took ([\d.]+) s')


def read_least(path):
    """{suite: how many of its cases must run}; a suite that is not there need not run any."""
    least = {}
    with open(path, encoding='utf-8') as file:
        for line in file:
            words = line.split('#')[0].split()
            if words:
                least[words[0]] = int(words[1])
    return least


def write_least(path, counts):
    """Change the numbers of these suites; comments and the others stay."""
    with open(path, encoding='utf-8') as file:
        head = [line for line in file if line.startswith('#') or not line.strip()]
    least = {**read_least(path), **counts}
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(head)
        file.writelines(f'{name} {count}\n' for name, count in sorted(least.items()))


def grouped(reasons):
    """Those that differ in figures only are one: [(how many, one of them)], the most frequent first."""
    groups = collections.defaultdict(list)
    for reason in reasons:
        groups[re.sub(r'\d+', '0', reason)].append(reason)
    return sorted(((len(group), group[0]) for group in groups.values()), key=lambda entry: (-entry[0], entry[1]))


class Tally:
    """All suites."""

    def __init__(self, least=None, show=print, lacking=excuses):
        """least: as read_least(). lacking: tells which reasons to skip a case hold on this machine."""
        self.least = least or {}
        self.show = show
        self.lacking = lacking
        self.passed = self.failed = self.skipped = 0
        self.failures = []  # (name, lines around it)
        self.reasons = []   # why cases were skipped
        self.cases = []     # (seconds, name)
        self.suites = []    # (seconds, name)

    def fail(self, name, around=()):
        self.failed += 1
        self.failures.append((name, list(around)))
        self.show(f'FAIL  {name}')
        for line in around[-CONTEXT_LINES:]:
            self.show(f'      {line}')

    def summary(self):
        """The lines at the end."""
        if self.reasons:
            yield 'skipped:'
        for count, reason in grouped(self.reasons):
            yield f'{count:7}  {reason}'
        if len(self.suites) > 1:
            yield 'suites, the slowest first:'
            yield from slowest(self.suites)
        if self.cases:
            yield 'the slowest cases:'
        yield from slowest(self.cases, SLOWEST)
        for name, around in self.failures:
            yield f'failed: {name}'
            for line in around[-REMINDER_LINES:]:
                yield f'      {line}'
        yield f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped'


def slowest(timed, count=None):
    for seconds, name in sorted(timed, reverse=True)[:count]:
        yield f'{seconds:7.1f} s  {name}'


class SuiteTally:
    """One suite, line by line."""

    def __init__(self, name, tally, clock=time.monotonic):
        self.name = name
        self.tally = tally
        self.clock = clock
        self.cases = self.ran = self.failures = 0
        self.excused = 0       # skipped, and this machine can do no better
        self.planned = None
        self.excused_all = False
        self.around = []
        self.after_failure = False
        self.began = self.last = clock()

    def read(self, line):
        """Take one line of output."""
        case, plan, took = read_case(line), read_plan(line), TOOK.fullmatch(line)
        if case:
            self.case(case)
        elif plan:
            self.planned = plan.count
            if plan.count == 0 and plan.skip is not None:
                self.skips('all of it', plan.skip)
                self.excused_all = self.excused > 0
                self.planned = self.cases
        elif line.startswith('Bail out!'):
            self.fails(line)
        elif self.after_failure:
            self.tally.show(f'      {line}')
            self.tally.failures[-1][1].append(line)
        else:
            self.around.append(line)
        if took and self.cases:
            # It knows better than we, who see when a line is printed.
            self.tally.cases[-1] = (float(took[1]), self.tally.cases[-1][1])

    def case(self, case):
        self.after_failure = not case.good
        now = self.clock()
        self.tally.cases.append((now - self.last, f'{self.name}: {case.name}'))
        self.last = now
        if not case.good:
            self.fails(case.name)
        elif case.skip is not None:
            self.skips(case.name, case.skip)
        else:
            self.cases += 1
            self.ran += 1
            self.tally.passed += 1
            self.tally.show(f'pass  {self.name}: {case.name}')
        self.around = []

    def skips(self, name, reason):
        reason = reason or 'no reason given'
        self.cases += 1
        self.tally.skipped += 1
        self.tally.reasons.append(reason)
        self.excused += self.tally.lacking(reason)
        self.tally.show(f'skip  {self.name}: {name} ({reason})')

    def fails(self, name):
        self.cases += 1
        self.ran += 1
        self.failures += 1
        self.tally.fail(f'{self.name}: {name}', self.around)

    def end(self, status, killed=None, whole=True):
        """It ended with this exit status; killed: after how many seconds, if it was. whole: all cases were to run."""
        self.after_failure = False
        seconds = self.clock() - self.began
        least = self.tally.least.get(self.name, 0) if whole else 0
        if killed is not None:
            self.fails(f'was killed after {killed} s')
        elif status and not self.failures:
            self.fails(f'ended with status {status}')
        elif not self.cases:
            self.fails('ran no test')
        elif self.planned is None and not self.failures:
            self.fails('printed no plan: it may have ended before its end')
        elif self.planned is not None and self.planned != self.cases:
            self.fails(f'ran {self.cases} of {self.planned} tests')
        elif self.ran + self.excused < least and not self.excused_all:
            self.fails(f'only {self.ran} cases ran, {self.excused} were skipped because this machine can do no better, '
                       f'and {least} must run (tests/least)')
        self.tally.suites.append((seconds, self.name))
        self.tally.show(f'      {self.name}: {self.cases} tests in {seconds:.0f} s')
