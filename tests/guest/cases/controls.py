# SPDX-License-Identifier: GPL-2.0-or-later
"""What the other cases and the benchmarks rely on: the guest finds what is wrong, and measures what it says."""

import dataclasses
import time

from case import HALF, Bench, Case, check
from cc import preload
from guest import Guest, GuestError, problem
from suite import Failure


def test_damage(case):
    """The control: each kind of wrong page is found, and found again where it was migrated to."""
    faults = {'byte': 'corrupt', 'zero': 'lost', 'stale': 'stale', 'moved': 'misplaced'}
    with Bench(case) as bench:
        src = bench.source()
        check(Guest(src))
        page = bench.load.fill * 256
        for nr_bad, (how, fault) in enumerate(faults.items(), 1):
            page -= 101  # downwards, so that each new one is the first
            Guest(src).damage(how, page)
            expect_damage(Guest(src), nr_bad, page, fault)
        dst, _ = bench.migrate(src)
        expect_damage(Guest(dst), len(faults), page, fault)


def expect_damage(guest, nr_bad, page, fault):
    verdict = guest.verify()
    if not problem(verdict):
        raise Failure(f'{fault} page {page} was not noticed: {verdict}')
    if (verdict.bad, verdict.first, verdict.fault) != (nr_bad, page, fault):
        raise Failure(f'expected {nr_bad} bad, first {page} ({fault}), but: {verdict}')


def test_accesses(case):
    """What the benchmarks rely on: where all accesses count as slow there are two for each page written.
    The guest remembers the last 8192 until it is told since when they count, and then all."""
    with Bench(case) as bench:
        guest = Guest(bench.source())
        guest.pause()
        guest.watch_accesses(0.001)
        begin, first = guest_time(guest), write_for(guest, 0.2)
        middle, second = guest_time(guest), write_for(guest, 0.2)
        expect_accesses(guest, begin, first + second)
        expect_accesses(guest, middle, second)
        second += write_for(guest, 1.5)
        if second < 8192:
            raise Failure(f'too few pages to be forgotten: {second}')
        expect_accesses(guest, middle, second)
        guest.end_accesses()
        write_for(guest, 0.2)
        expect_accesses(guest, middle, second)
        expect_none(guest, begin)
        expect_none(guest, guest_time(guest))

        guest.watch_accesses(0.001)
        begin = guest_time(guest)
        write_for(guest, 1.5)
        middle, second = guest_time(guest), write_for(guest, 0.2)
        expect_none(guest, begin)
        expect_accesses(guest, middle, second)


def test_gaps(case):
    """The history knows of the same longest gap as the statistics."""
    with Bench(case) as bench:
        src = bench.source()
        guest = Guest(src)
        guest.reset_gaps()
        src.qmp('stop')
        time.sleep(0.3)
        src.qmp('cont')
        time.sleep(0.1)
        longest_us = guest.stats().gap_ns // 1000
        gaps = guest.history(20).gaps_us
        if longest_us not in gaps:
            raise Failure(f'the longest gap was {longest_us} us, but not in the history: {gaps}')


def guest_time(guest):
    """Its clock at a moment that is some way off from what it did before, and does next."""
    time.sleep(0.05)
    now = time.monotonic() - guest.clock_offset().offset
    time.sleep(0.05)
    return now


def write_for(guest, seconds):
    """Let the guest write for a while; how many pages it wrote."""
    before = guest.stats().writes
    guest.go()
    time.sleep(seconds)
    guest.pause()
    return guest.stats().writes - before


def expect_none(guest, since):
    guest.begin_accesses(since)
    try:
        seen = guest.accesses()
    except GuestError:
        return
    raise Failure(f'accesses were forgotten, and yet: {seen.slow}')


def expect_accesses(guest, since, nr_pages):
    guest.begin_accesses(since)
    seen = guest.accesses()
    order = [seen.percentile_us(percent) for percent in (1, 50, 99, 100)] + [seen.longest_us]
    top = max((i for i, nr in enumerate(seen.histogram) if nr), default=0)
    placed = (top == 0 or seen.bound_us(top) <= seen.longest_us) and seen.longest_us < seen.bound_us(top + 1)
    if seen.slow != 2 * nr_pages or sum(seen.histogram) != seen.slow or order != sorted(order) or not placed:
        raise Failure(f'{nr_pages} pages written, {seen.slow} accesses seen, times {order}, '
                      f'histogram {seen.histogram}')


def forgetful():
    """A wrapper for QEMUs: their KVM forgets some of the writes to memory."""
    return preload('tests/guest/forget.c', 'build/guest/forget.so')


def test_lost_writes(case):
    """The control: where KVM loses a write now and then, the guest finds that pages are stale."""
    with Bench(dataclasses.replace(case, vm={**case.vm, 'wrapper': forgetful()})) as bench:
        dst, result = bench.migrate(bench.source())
        verdict = Guest(dst).verify()
        print(f'# {result.total_ms} ms, {verdict.bad} of {verdict.pages} pages are wrong, '
              f'{verdict.writes - verdict.generations} writes are missing')
        if not problem(verdict):
            raise Failure(f'writes were lost, but nothing was noticed: {verdict}')


CASES = [
    Case('native kvm: damaged pages are found', HALF, test=test_damage),
    Case('native kvm: accesses are watched', {'fill': 64, 'write': 64, 'rate': 5000}, vm={'cpus': 2},
         test=test_accesses),
    Case('native kvm: gaps are in the history', HALF, vm={'cpus': 2}, test=test_gaps),
    Case('native kvm: lost writes are found', {'fill': 256, 'write': 64, 'rate': 20000},
         vm={'cpus': 2}, params={'max-bandwidth': 200 << 20}, test=test_lost_writes),
    Case('native tcg: damaged pages are found', {'fill': 64, 'write': 8, 'rate': 1000},
         accel='tcg', test=test_damage),
    Case('linux tcg: damaged pages are found', {'fill': 64, 'write': 8, 'rate': 1000}, 'linux',
         'tcg', test=test_damage),
]
