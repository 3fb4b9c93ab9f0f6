# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cases are made of: a guest, the QEMUs that it migrates between, and how it is checked."""

import dataclasses
import time

from guest import Guest, Load, NoLinux, check_memory, linux_guest, native_guest
from migration import MigrationFailed, StatusPoller, migrate
from suite import Failure, Skip
from vm import VM, kvm_problem

# Load's arguments for a guest of 1 GiB.
HALF = {'fill': 512, 'write': 64, 'rate': 20000}


@dataclasses.dataclass
class Case:
    """One guest and what is done to it."""
    name: str
    load: dict                    # Load's arguments
    guest: str = 'native'         # or 'linux'
    accel: str = 'kvm'
    vm: dict = dataclasses.field(default_factory=dict)  # VM's other arguments
    uri: str = 'tcp'
    caps: dict = None
    params: dict = None
    hops: int = 1                 # how many migrations in a row, each to a new QEMU
    prepare: callable = None      # called with each VM that was started
    test: callable = None         # None: test_migrate

    def run(self):
        (self.test or test_migrate)(self)


class Bench:
    """Makes the QEMUs of one case, and ends them with it."""

    def __init__(self, case):
        self.case = case
        self.load = Load(**case.load)
        self.vms = []
        if case.accel.startswith('kvm') and kvm_problem():
            raise Skip(kvm_problem())
        make = {'native': native_guest, 'linux': linux_guest}[case.guest]
        try:
            self.arguments = make(self.load, case.accel, **case.vm)
        except NoLinux as e:
            raise Skip(e) from e

    def __enter__(self):
        return self

    def __exit__(self, *why):
        for vm in self.vms:
            vm.__exit__(*why)

    def start(self, incoming):
        vm = VM(f'vm{len(self.vms)}', incoming=incoming, **self.arguments)
        self.vms.append(vm)
        vm.start()
        if self.case.prepare:
            self.case.prepare(vm)
        return vm

    def source(self):
        """A running guest that has filled its memory, and has been writing for a moment."""
        vm = self.start(False)
        ready = Guest(vm).wait_ready(180)
        if ready.pages != self.load.fill * 256 or ready.workers != vm.cpus:
            raise Failure(f'the guest is not what was asked for: {ready}')
        time.sleep(0.3)
        return vm

    def migrate(self, src, **more):
        """Migrate to a new QEMU, return (it, Result); the monitors answer within a second all the while."""
        dst = self.start(True)
        caps = more.get('caps', self.case.caps) or {}
        # In post-copy, the destination's main thread may be waiting for a page.
        polled = [src] if caps.get('postcopy-ram') else [src, dst]
        with StatusPoller(*polled) as poller:
            result = migrate(src, dst, self.case.uri, **{
                'caps': self.case.caps, 'params': self.case.params, **more})
        if poller.longest_s > 1:
            raise Failure(f'{poller.where}: query-status was answered after {poller.longest_s:.1f} s')
        if result.ferry is not None and not result.ferry_used:
            raise Failure(f"Ferry was not used: {result.ferry.get('reason', 'no reason given')}")
        return dst, result

    def expect_cancelled(self, src, otherwise, **how):
        """As migrate(), which the case cancels; the target is gone after that. otherwise: what went wrong if not."""
        try:
            self.migrate(src, **how)
        except MigrationFailed as e:
            if e.status != 'cancelled':
                raise
            self.vms[-1].kill()
            return
        raise Failure(otherwise)

    def check_goes_on(self, vm):
        """Memory is right, the guest goes on writing, and memory is right after that; check()'s first answer."""
        guest = Guest(vm)
        verdict = check(guest)
        check_progress(guest, self.load, verdict)
        check(guest)
        return verdict


def check(guest):
    """Every page is right, and memory never written is still zero."""
    verdict, wrong = check_memory(guest)
    if wrong:
        raise Failure(wrong)
    return verdict


def check_progress(guest, load, before):
    """The guest goes on writing, if writing is what it does."""
    if load.settings['write']:
        guest.wait_progress(before)


def check_not_older(verdict, before):
    """before: the guest's own statistics, from before the migration."""
    if verdict.writes < before.writes:
        raise Failure(f'{verdict.writes} writes are known, {before.writes} had been made')


def sent_bytes(info):
    """By query-migrate's answer, which at first knows of none."""
    return info.get('ram', {}).get('transferred', 0)


class Once:
    """An on_poll for migrate() that calls act(), once, when so many MiB were sent."""

    def __init__(self, mib, act):
        self.mib = mib
        self.act = act
        self.done = False

    def __call__(self, info, _):
        if not self.done and sent_bytes(info) > self.mib << 20:
            self.done = True
            self.act()


def test_migrate(case):
    with Bench(case) as bench:
        src = bench.source()
        for _ in range(case.hops):
            before = Guest(src).stats()
            dst, result = bench.migrate(src)
            print(f'# {result.total_ms} ms, downtime {result.downtime_ms} ms, '
                  f'{result.bytes >> 20} MiB, CPU {result.src_cpu_s:.2f} + {result.dst_cpu_s:.2f} s')
            check_not_older(bench.check_goes_on(dst), before)
            src.kill()
            src = dst
