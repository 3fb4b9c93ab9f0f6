# SPDX-License-Identifier: GPL-2.0-or-later
"""A program of test cases: which of them run, for how long at most, and how each ended.

    suite = Suite('guest', __doc__)
    suite.parser.add_argument('--qemu')
    options = suite.parse()
    chosen = suite.choose(CASES)
    sys.exit(suite.run([Test(case.name, functools.partial(run_case, case)) for case in chosen]))

Output is TAP. A case that raises has failed, or was skipped if it raises Skip. The logs that hang at
the exception (see logs.py) are kept in build/check/SUITE/CASE, and their last words printed.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import time
import traceback
import typing

from logs import keep_logs, logs_of
from tap import Printer
from vm import ROOT, exit_on_signals


class Failure(Exception):
    """What a case found wrong, in words that need no traceback."""


class Skip(Exception):
    """Why a case cannot run here."""


class OutOfTime(Exception):
    """A case was stopped. Not a TimeoutError: cases wait for those themselves."""


def require(condition, otherwise, info):
    """otherwise: what is wrong if the condition does not hold, which `info` shows."""
    if not condition:
        raise Failure(f'{otherwise}: {info}')


class Test(typing.NamedTuple):
    """One case: it is called, and all is well if it returns."""
    name: str
    call: typing.Callable


@contextlib.contextmanager
def time_limit(seconds):
    """Raise OutOfTime in here, which must be the main thread, after so long."""
    def over(*_):
        raise OutOfTime(f'not over after {seconds:g} s')

    handler = signal.signal(signal.SIGALRM, over)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, outer)


def same(found, expected):
    if found != expected:
        raise AssertionError(f'{found!r}, not {expected!r}')


def tests_of(module):
    """A Test of each function of a module, or globals(), that is called test_...: its name is the rest, in words."""
    return [Test(name.removeprefix('test_').replace('_', ' '), function)
            for name, function in module.items() if name.startswith('test_')]


class Suite:
    """The frame of such a program.

    name      the folder of its logs
    about     what --help says
    limit_s   how long a case may take
    plain     exceptions that, like Failure, need no traceback
    """

    def __init__(self, name, about, *, limit_s=600, plain=()):
        self.name = name
        self.limit_s = limit_s
        self.plain = (Failure, OutOfTime, TimeoutError, *plain)
        self.tap = Printer()
        self.parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.parser.add_argument('--list', action='store_true', help='print the names of the cases')
        self.parser.add_argument('pattern', nargs='*', metavar='PATTERN',
                                 help='run only cases with one of these in their names')
        self.options = None

    def parse(self, arguments=None):
        """Read the command line; returns the options."""
        self.options = self.parser.parse_args(arguments)
        return self.options

    def choose(self, cases):
        """Those that the command line asks for. With --list, prints their names and ends the program."""
        patterns = self.options.pattern
        chosen = [case for case in cases if not patterns or any(pattern in case.name for pattern in patterns)]
        if not chosen:
            self.parser.error('no case has such a name')
        if self.options.list:
            print('\n'.join(case.name for case in chosen))
            raise SystemExit(0)
        return chosen

    def skip_all(self, reason):
        """None can run here. Returns the exit status."""
        self.tap.plan(0, reason)
        return 0

    def run(self, tests, note=None):
        """Run them all. note: a first comment. Returns the exit status."""
        exit_on_signals()
        self.tap.plan(len(tests))
        if note:
            self.tap.note(note)
        for test in tests:
            self.run_one(test)
        return 1 if self.tap.failed else 0

    def run_one(self, test):
        begin = time.monotonic()
        directory = os.path.join(ROOT, 'build', 'check', self.name, re.sub(r'\W+', '-', test.name).strip('-'))
        shutil.rmtree(directory, ignore_errors=True)  # what an earlier run has left
        try:
            with time_limit(self.limit_s):
                test.call()
        except Skip as e:
            self.tap.case(True, test.name, e)
        except Exception as e:
            self.tap.case(False, test.name)
            self.tap.note(e if isinstance(e, self.plain) else traceback.format_exc())
            for log in logs_of(e):
                self.tap.note('\n'.join(f'{log.name}: {line}' for line in log.last_words.splitlines()))
            keep_logs(e, directory)
            if logs_of(e):
                self.tap.note(f'the logs: {os.path.relpath(directory, ROOT)}')
        else:
            self.tap.case(True, test.name)
            took = time.monotonic() - begin
            if took >= 0.1:
                self.tap.note(f'took {took:.1f} s')
