# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a guest is what it was: every page, that it goes on, its clock, and what its kernel said."""

import time

from guest import Guest, check_memory


class Wrong(Exception):
    """What is wrong with a guest, or with a migration, in words."""


# In seconds. How much a guest's clock may be off by another's idea of a second, and by what makes no difference.
DRIFT = 0.01
SLACK_S = 1.0
BUSY_HOST = 'hrtimer: interrupt took'  # a vCPU that waited for a CPU; Linux says it once
STOOD_STILL = 'clocksource: Long readout interval'  # it waited for a page in the middle of that
FREE_SLACK_MIB = 24  # the kernel's own comings and goings


class Before:
    """What is known of a guest before a migration."""

    def __init__(self, vm, plan):
        guest = Guest(vm)
        self.writes = guest.stats().writes
        guest.reset_gaps()
        self.clock = guest.clock_offset(5) if plan.is_linux else None
        self.warnings = guest.kernel_warnings()[0] if plan.is_linux else 0
        self.free_mib = guest.free_mib() if plan.is_linux else 0


class Seen:
    """What check() saw of it: the longest gap, in ms."""

    def __init__(self, gap_ms):
        self.gap_ms = gap_ms


def check_clock(before, after, stopped_s):
    """Its clock did not go back, and stood still for no longer than it may have been stopped."""
    behind = after.offset - before.offset
    doubt = before.doubt + after.doubt + DRIFT * (after.ours - before.ours) + 0.01
    if behind < -doubt:
        raise Wrong(f"the guest's clock went {-behind:.3f} s ahead of ours (in doubt: {doubt:.3f} s)")
    if behind > stopped_s + doubt + SLACK_S:
        raise Wrong(f"the guest's clock stood still for {behind:.3f} s, where {stopped_s:.3f} s are known")


def check_kernel(guest, before, stopped_s):
    """Its kernel has nothing new to complain of, and has its memory: what the balloon took for hints came back."""
    nr, last = guest.kernel_warnings()
    usual = (BUSY_HOST, STOOD_STILL) if stopped_s > 1 else BUSY_HOST
    if nr > before.warnings and not (nr == before.warnings + 1 and last.startswith(usual)):
        raise Wrong(f"{guest.vm.name}: the guest's kernel warns: {last} ({nr - before.warnings} new)")
    end = time.monotonic() + 20
    while (free := guest.free_mib()) < before.free_mib - FREE_SLACK_MIB:
        if time.monotonic() > end:
            raise Wrong(f'{guest.vm.name}: {free:.0f} MiB are free, {before.free_mib:.0f} were')
        time.sleep(0.2)


def check(vm, plan, before=None, stopped_s=0):
    """Everything, where it runs; plan: the guest's. Raises Wrong. before: None if the guest has been reset since."""
    guest = Guest(vm)
    gap_ms = guest.stats().gap_ns / 1e6
    verdict, wrong = check_memory(guest)
    if wrong:
        raise Wrong(f'{vm.name}: {wrong}')
    if before:
        if verdict.writes < before.writes:
            raise Wrong(f'{vm.name}: {verdict.writes} writes are known, {before.writes} had been made')
        if before.clock:
            check_clock(before.clock, guest.clock_offset(5), stopped_s)
            check_kernel(guest, before, stopped_s)
    if plan.load['write']:
        guest.wait_progress(verdict, 60)
        time.sleep(0.05)
        verdict, wrong = check_memory(guest)
        if wrong:
            raise Wrong(f'{vm.name}: after it went on: {wrong}')
    return Seen(gap_ms)
