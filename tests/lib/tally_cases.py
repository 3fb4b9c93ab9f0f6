# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of `tests/lib/test`: what is counted of suites, and when a suite has failed."""

import importlib.machinery
import importlib.util
import os
import tempfile

from suite import Failure, same
from tally import SuiteTally, Tally, grouped, read_least, write_least
from vm import ROOT


def tally_of(*lines, status=0, least=None, lacking=(), killed=None, whole=True, times=()):
    """What is counted of one suite, 'x', that prints these lines; and what is shown of it."""
    shown, clock = [], iter([0, *times, *[1000] * 99])
    tally = Tally({'x': least or 0}, shown.append, lambda reason: reason in lacking)
    suite = SuiteTally('x', tally, lambda: next(clock))
    for line in lines:
        suite.read(line)
    suite.end(status, killed, whole)
    return tally, shown


def failures(*lines, **more):
    return [name for name, _ in tally_of(*lines, **more)[0].failures]


PLAN, ONE, TWO = '1..2', 'ok 1 - one', 'ok 2 - two'


def test_a_good_suite_is_counted():
    tally, shown = tally_of(PLAN, ONE, TWO)
    same((tally.passed, tally.failed, tally.skipped), (2, 0, 0))
    same(shown[:2], ['pass  x: one', 'pass  x: two'])
    same(list(tally.summary())[-1], '2 passed, 0 failed, 0 skipped')


def test_a_plan_may_come_last():
    same(failures(ONE, TWO, PLAN), [])


def test_a_failing_case_shows_what_is_around_it():
    tally, shown = tally_of(PLAN, 'before', 'not ok 1 - one', '# after', TWO, status=1)
    same(tally.failures, [('x: one', ['before', '# after'])])
    same(shown[:3], ['FAIL  x: one', '      before', '      # after'])
    same((tally.passed, tally.failed), (1, 1))


def test_a_suite_without_a_plan_has_failed():
    same(failures(ONE, TWO), ['x: printed no plan: it may have ended before its end'])


def test_a_suite_that_says_nothing_has_failed():
    same(failures(), ['x: ran no test'])
    same(failures('1..0'), ['x: ran no test'])


def test_a_suite_that_ends_too_early_has_failed():
    same(failures(PLAN, ONE), ['x: ran 1 of 2 tests'])
    same(failures(PLAN, ONE, TWO, 'ok 3 - three'), ['x: ran 3 of 2 tests'])


def test_a_suite_that_ends_badly_has_failed():
    same(failures(PLAN, ONE, TWO, status=3), ['x: ended with status 3'])
    same(failures(PLAN, ONE, TWO, status=-9, killed=60), ['x: was killed after 60 s'])
    same(failures(PLAN, ONE, 'Bail out! no engine', status=1), ['x: Bail out! no engine'])


def test_fewer_cases_than_must_run_have_failed():
    same(failures(PLAN, ONE, TWO, least=2), [])
    same(failures('1..1', ONE, least=2), [
        'x: only 1 cases ran, 0 were skipped because this machine can do no better, and 2 must run (tests/least)'])


def test_more_cases_than_must_run_are_well():
    same(failures(PLAN, ONE, TWO, least=1), [])


def test_a_part_of_a_suite_need_not_be_all():
    same(failures('1..1', ONE, least=2, whole=False), [])


def test_skipped_cases_have_not_run():
    lines = (PLAN, ONE, 'ok 2 - two # SKIP no KVM')
    same(len(failures(*lines, least=2)), 1)
    same(failures(*lines, least=2, lacking=['no KVM']), [])
    same(len(failures(*lines, least=3, lacking=['no KVM'])), 1)


def test_a_suite_skipped_as_a_whole_has_not_run():
    line = '1..0 # SKIP needs root'
    same(len(failures(line, least=2)), 1)
    same(failures(line, least=2, lacking=['needs root']), [])
    same(failures(line), [])


def test_skips_are_grouped_by_reason():
    same(grouped(['5 of 7 MiB', 'no KVM', '6 of 70 MiB', 'no swap']),
         [(2, '5 of 7 MiB'), (1, 'no KVM'), (1, 'no swap')])
    tally, _ = tally_of(PLAN, 'ok 1 - one # SKIP no KVM', 'ok 2 - two # SKIP')
    same(list(tally.summary())[:3], ['skipped:', '      1  no KVM', '      1  no reason given'])


def test_the_slowest_cases_are_named():
    tally, _ = tally_of('1..12', *(f'ok {i} - case {i}' for i in range(12)),
                        times=[i * (i + 1) / 2 for i in range(12)])
    lines = list(tally.summary())
    same(lines[:3], ['the slowest cases:', '   11.0 s  x: case 11', '   10.0 s  x: case 10'])
    same(len(lines), 1 + 10 + 1)


def test_a_case_knows_better_how_long_it_took():
    tally, _ = tally_of(PLAN, ONE, '# took 2.5 s', TWO, times=[7, 7])
    same(tally.cases, [(2.5, 'x: one'), (0, 'x: two')])


def test_suites_are_timed():
    tally = Tally(show=lambda text: None)
    clock = iter([0, 0, 5, 5, 5, 12])
    for name in 'a', 'b':
        suite = SuiteTally(name, tally, lambda: next(clock))
        suite.read('1..1')
        suite.read(ONE)
        suite.end(0)
    same(list(tally.summary())[:3], ['suites, the slowest first:', '    7.0 s  b', '    5.0 s  a'])


def test_numbers_are_written_and_read():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'least')
        with open(path, 'w', encoding='ascii') as file:
            file.write('# What it is.\n\nb 2\na 3\n')
        same(read_least(path), {'a': 3, 'b': 2})
        write_least(path, {'b': 5, 'c': 1})
        with open(path, encoding='ascii') as file:
            same(file.read(), '# What it is.\n\na 3\nb 5\nc 1\n')


def test_every_suite_has_a_number():
    loader = importlib.machinery.SourceFileLoader('check', os.path.join(ROOT, 'scripts', 'check'))
    check = importlib.util.module_from_spec(importlib.util.spec_from_loader('check', loader))
    loader.exec_module(check)
    missing = {suite[0] for suite in check.SUITES} - set(read_least(check.LEAST))
    if missing:
        raise Failure(f'tests/least has no number for {sorted(missing)}: scripts/check SUITE && scripts/check --write')
