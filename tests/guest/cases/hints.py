# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that a Linux guest says are free: not sent, and given back to the guest however it ends.

Linux takes each such page out of what is free until the balloon is done: MemFree tells.
"""

import time

from case import Bench, Case
from cases.postcopy import handed_over
from guest import Guest
from migration import migrate
from postcopy import go_over
from suite import Failure

FREED_MIB = 320
SLACK_MIB = 16  # the kernel's own comings and goings
MORE_MIB = 96


class Hold:
    """An on_poll for migrate(): once the guest has given its free pages, which a slow start leaves time
    for, calls act() and lets the migration go."""

    SLOW = {'max-bandwidth': 4 << 20}
    WAIT_S = 20

    def __init__(self, src, act=None):
        self.src = src
        self.act = act
        self.before = Guest(src).free_mib()
        self.least = None
        self.until = time.monotonic() + self.WAIT_S

    def __call__(self, info, _):
        if self.least is not None or info['status'] != 'active':
            return
        free = Guest(self.src).free_mib()
        if free > self.before - FREED_MIB / 2:
            if time.monotonic() > self.until:
                raise Failure(f'{free:.0f} of {self.before:.0f} MiB are still free: the guest gave no page')
            return
        self.least = free
        if self.act:
            self.act()
        self.src.qmp('migrate-set-parameters', {'max-bandwidth': 0})

    def check_given(self):
        if self.least is None:
            raise Failure('the migration was over before the guest had given its pages')


def check_given_back(vm, expected):
    """Linux has so many MiB free, soon."""
    guest = Guest(vm)
    end = time.monotonic() + 10
    while abs((free := guest.free_mib()) - expected) > SLACK_MIB:
        if time.monotonic() > end:
            raise Failure(f'{vm.name}: {free:.0f} MiB are free, not {expected:.0f}')
        time.sleep(0.1)
    return free


def migrate_hinted(bench, src, act=None, more_mib=0):
    """To a new QEMU; returns it, and how many MiB of the guest's memory were sent."""
    hold = Hold(src, act)
    dst, result = bench.migrate(src, params=Hold.SLOW, on_poll=hold, poll_s=0.05)
    hold.check_given()
    free = check_given_back(dst, hold.before - more_mib)
    sent_mib = (result.ferry or {}).get('normal-pages', result.info['ram']['normal']) / 256
    print(f'# {result.total_ms} ms; free: {hold.before:.0f} MiB before, {hold.least:.0f} meanwhile, '
          f'{free:.0f} after; {sent_mib:.0f} MiB sent')
    bench.check_goes_on(dst)
    src.kill()
    return dst, sent_mib


def migrate_unsent(bench, src, act=None, more_mib=0):
    """As migrate_hinted(), from where the guest has touched what it then freed, which must not be sent."""
    touched_mib = sum(src.memory()[name] for name in ('RssAnon', 'RssShmem')) / 1024
    dst, sent_mib = migrate_hinted(bench, src, act, more_mib)
    if sent_mib > touched_mib + more_mib - FREED_MIB * 3 / 4:
        raise Failure(f'{sent_mib:.0f} of {touched_mib:.0f} MiB were sent, of which {FREED_MIB} are free')
    return dst


def migrate_postcopy(bench, src):
    """Where post-copy is possible QEMU asks for no hints: the guest has its memory all the while."""
    before = Guest(src).free_mib()
    dst = bench.start(True)
    poll, _ = go_over(src, dst)
    result = migrate(src, dst, caps={'postcopy-ram': True}, poll_s=0.02, on_poll=poll)
    handed_over(result)
    print(f'# {result.total_ms} ms; free: {before:.0f} MiB before, {check_given_back(dst, before):.0f} after')
    bench.check_goes_on(dst)


def test_in_a_row(case):
    """The second QEMU asks for hints, too; and then post-copy."""
    with Bench(case) as bench:
        src = migrate_unsent(bench, bench.source())
        src, _ = migrate_hinted(bench, src)
        migrate_postcopy(bench, src)


def test_used_again(case):
    """The guest takes pages back that it had given, and writes to them; after a migration that was cancelled."""
    with Bench(case) as bench:
        src = bench.source()
        hold = Hold(src, lambda: src.qmp('migrate_cancel'))
        bench.expect_cancelled(src, 'the migration was over too soon', params=Hold.SLOW, on_poll=hold,
                               poll_s=0.05)
        free = check_given_back(src, hold.before)
        print(f'# cancelled: free: {hold.before:.0f} MiB before, {hold.least:.0f} meanwhile, {free:.0f} after')

        def use():
            if Guest(src).free_mib() > MORE_MIB:
                raise Failure('the guest needs none of the pages that it has given')
            Guest(src).fill_more(MORE_MIB)
            bench.load.fill += MORE_MIB

        migrate_unsent(bench, src, use, MORE_MIB)


def hinted(name, test):
    return Case(f'linux tcg: free page hints, {name}', {'fill': 64, 'write': 8, 'rate': 1000}, 'linux', 'tcg',
                vm={'freed': FREED_MIB, 'memory_mib': 640,
                    'args': ['-object', 'iothread,id=io0',
                             '-device', 'virtio-balloon-pci,free-page-hint=on,iothread=io0']}, test=test)


CASES = [
    hinted('in a row', test_in_a_row),
    hinted('cancelled, and used again', test_used_again),
]
