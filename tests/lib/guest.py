# SPDX-License-Identifier: GPL-2.0-or-later
"""The test guests, and how to talk to them. See docs/guests.md for the protocol.

    load = Load(fill=512, write=64, rate=20000)
    vm = VM('source', **native_guest(load))
    with vm:
        vm.start()
        guest = Guest(vm)
        guest.wait_ready()
        assert guest.verify().bad == 0
"""

import collections
import os
import subprocess
import sys
import time

from vm import ROOT

BUILD = os.path.join(ROOT, 'build', 'guest')


class GuestError(Exception):
    """The guest answered ERROR, or something that is no answer to what was asked."""


class NoLinux(Exception):
    """The Linux guest's packages could not be fetched."""


class Load:
    """What a guest does; the names are those of the guest's parameter string.

    fill, write   MiB filled at start, and how much of that is rewritten all the time
    rate          pages a second and vCPU; 0: as fast as possible
    kind          'random', 'compressible' or 'mixed'
    pattern       'random' or 'sequential'
    layout        'packed', or 'spread' over all of memory (native guest only)
    start         'going' or 'paused'
    """

    def __init__(self, *, fill, write=0, rate=0, kind='random', pattern='random', layout='packed',
                 seed=1, poll=2, start='going'):
        self.fill = fill
        self.settings = {'fill': fill, 'write': write, 'rate': rate, 'kind': kind,
                         'pattern': pattern, 'layout': layout, 'seed': seed, 'poll': poll,
                         'start': start}

    def __str__(self):
        return ':'.join(f'{k}={v}' for k, v in self.settings.items())


def native_guest(load, accel='kvm', **vm):
    """VM's arguments for the native guest. Builds its image if that is missing or out of date."""
    subprocess.run([os.path.join(ROOT, 'tests', 'guest', 'build'), '--if-needed'], check=True,
                   timeout=120)
    args = ['-bios', os.path.join(BUILD, 'native.bin'),
            '-fw_cfg', f'name=opt/ferry/load,string={load}', *vm.pop('args', ())]
    return {'accel': accel, 'args': args, **vm}


def linux_guest(load, accel='tcg', freed=0, plugged=0, **vm):
    """VM's arguments for the Linux guest. Fetches its kernel once (or raises NoLinux), and builds
    its initramfs. With `freed`, it first loads virtio-balloon's driver, and writes and frees that
    many MiB. With `plugged`, it loads virtio-mem's, and waits until it has so many MiB."""
    made = subprocess.run([sys.executable, os.path.join(ROOT, 'tests', 'guest', 'linux', 'make')],
                          check=False, timeout=900, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    if made.returncode == 77:
        raise NoLinux(made.stderr.strip())
    if made.returncode:
        raise GuestError(made.stderr.strip())
    made = made.stdout.split()
    # Were memory cleared when it is allocated, the balloon's driver would clear what it takes.
    more = f'freed={freed} init_on_alloc=0 ' if freed else ''
    more += f'memory={plugged} memhp_default_state=online_movable ' if plugged else ''
    args = ['-kernel', made[0], '-initrd', made[1],
            '-append', f'console=ttyS0 quiet loglevel=1 panic=-1 nokaslr {more}ferry={load}',
            *vm.pop('args', ())]
    return {'accel': accel, 'args': args, **vm}


class Answer:
    """The guest's words as attributes: 'VERIFY pages=3 bad=0' has pages == 3 and bad == 0."""

    def __init__(self, text):
        self.text = text
        for word in text.split()[1:]:
            key, found, value = word.partition('=')
            if found:
                setattr(self, key, _number(value))

    def __str__(self):
        return self.text


def _number(value):
    if value.isdigit():
        return int(value)
    parts = value.split(',')
    return [int(p) for p in parts] if all(p.isdigit() for p in parts) else value


class Accesses:
    """How long slow accesses took: `slow` is their number, `longest_us` the longest."""

    def __init__(self, histogram, longest_us):
        self.slow = sum(histogram)
        self.longest_us = longest_us
        self.histogram = histogram

    @staticmethod
    def bound_us(i):
        """Where bucket i begins: there are eight for each power of two."""
        return (8 + i % 8) * 2 ** (i // 8 + 7) / 1e3

    def percentile_us(self, percent):
        """As if the accesses were spread evenly over their bucket; None if there was none."""
        wanted, below = self.slow * percent / 100, 0
        for i, nr in enumerate(self.histogram):
            if nr and below + nr >= wanted:
                low, high = self.bound_us(i), self.bound_us(i + 1)
                return min(low + (high - low) * (wanted - below) / nr, self.longest_us)
            below += nr
        return None


# In seconds: our time, ours minus the guest's, and by how much that may be wrong.
ClockOffset = collections.namedtuple('ClockOffset', 'ours offset doubt')


class Clock:
    """The guest's clock by ours, from two ClockOffsets: its idea of a second may be a little off."""

    def __init__(self, first, last):
        span = last.ours - first.ours
        self.last = last
        self.drift = (last.offset - first.offset) / span
        self.drift_doubt = (last.doubt + first.doubt) / span

    def offset(self, ours):
        """Ours less the guest's at our time `ours`, unless the guest's stood still since."""
        return self.last.offset + self.drift * (ours - self.last.ours)

    def doubt(self, ours):
        """By how much that may be wrong."""
        return self.last.doubt + self.drift_doubt * (ours - self.last.ours)

    def stopped(self, after):
        """How long it stood still before the ClockOffset `after`, and by how much that may be wrong;
        nothing if it is less than that."""
        stopped, doubt = after.offset - self.offset(after.ours), after.doubt + self.doubt(after.ours)
        return (stopped if stopped > doubt else 0.0), doubt


class Guest:
    """The program in the guest. After a migration, make another one with the target VM."""

    def __init__(self, vm):
        self.vm = vm

    def ask(self, command, answer, timeout=30):
        """Send a command and return the Answer that begins with the word `answer`."""
        console = self.vm.console
        since = len(console.lines)
        console.send(command)

        def find():
            for _, text in console.lines[since:]:
                if text.split(' ')[0] in (answer, 'ERROR'):
                    return text
            return None

        text = console.wait(find, timeout, f'{answer} from the guest')
        if text.startswith('ERROR'):
            raise GuestError(f'{self.vm.name}: {command}: {text}')
        return Answer(text)

    def wait_ready(self, timeout=120):
        """Wait until memory is filled and the writers go (or are paused, if so asked)."""
        console = self.vm.console

        def find():
            for _, text in console.lines:
                if text.startswith(('READY', 'ERROR')) or 'Kernel panic' in text:
                    return text
            return None

        text = console.wait(find, timeout, 'READY from the guest')
        if not text.startswith('READY'):
            said = ' / '.join(text for _, text in console.lines)
            raise GuestError(f'{self.vm.name}: {said}')
        return Answer(text)

    def verify(self, timeout=300):
        """Check every page that was filled. `bad` counts wrong ones; see problem()."""
        return self.ask('V', 'VERIFY', timeout)

    def check_untouched(self, timeout=300):
        """Check that memory never written reads as zero (native guest)."""
        return self.ask('Z', 'ZERO', timeout)

    def free_mib(self):
        """MemFree of its kernel (Linux guest)."""
        return self.ask('M', 'MEMORY').free_kib / 1024

    def kernel_warnings(self):
        """(how many warnings or worse its kernel has logged, the last of them) (Linux guest)"""
        answer = self.ask('K', 'KERNEL')
        return answer.warnings, answer.text.partition(' last=')[2]

    def fill_more(self, mib):
        """Fill so much more, which verify() looks at from then on (Linux guest)."""
        self.ask(f'E {mib}', 'FILLED', 60)

    def stats(self):
        return self.ask('S', 'STATS')

    def wait_progress(self, before, timeout=10):
        """Wait until it has written more than when it gave the Answer `before`."""
        deadline = time.monotonic() + timeout
        while self.stats().writes == before.writes:
            if time.monotonic() > deadline:
                raise TimeoutError(f'{self.vm.name}: the guest no longer writes')
            time.sleep(0.05)

    def history(self, slots):
        """Pages written (`writes`) in each of the last `slots` slots of the guest's time that are over,
        and the longest gap that began there (`gaps_us`), oldest first: each slot_ns long, the first
        of them from first_ns on."""
        answer = self.ask(f'H {slots}', 'HISTORY')
        for name in ('writes', 'gaps_us'):
            if not isinstance(getattr(answer, name), list):
                setattr(answer, name, [getattr(answer, name)])
        return answer

    def watch_accesses(self, least_us):
        """Watch from now on how long it takes to touch a page that is written; what takes `least_us`
        is slow. 0: watch no longer."""
        self.ask(f'A {round(least_us * 1000)}', 'WATCHING')

    def begin_accesses(self, since):
        """Let accesses() know only of accesses that began at `since` by the guest's clock (seconds), or
        later.  It remembers the last few thousand until it is told."""
        self.ask(f'F {round(since * 1e9)}', 'FROM')

    def end_accesses(self):
        """Let accesses() know only of accesses until now. The guest goes on as if it still watched them."""
        self.ask('N', 'NOTED')

    def accesses(self):
        """The slow accesses since what begin_accesses() said."""
        answer = self.ask('L', 'ACCESSES')
        return Accesses(answer.hist_1us, answer.longest_ns / 1e3)

    def pause(self):
        self.ask('P', 'PAUSED')

    def go(self):
        self.ask('G', 'GOING')

    def reset_gaps(self):
        self.ask('R', 'RESET')

    def set_rate(self, pages_per_second):
        self.ask(f'W {pages_per_second}', 'RATE')

    def damage(self, how, page):
        """how: 'byte', 'zero', 'stale' or 'moved'. Leaves the writers stopped."""
        self.ask(f'X {how} {page}', 'DAMAGED')

    def clock_offset(self, tries=25):
        """Compare our clock with the guest's, by the quickest of some answers; a ClockOffset.

        What the offset grows by over a migration is how long the guest's clock stood still.
        """
        best = None
        for _ in range(tries):
            since = len(self.vm.console.lines)
            sent = time.monotonic()
            self.vm.console.send('T')
            stamp, text = self.vm.console.wait_line('TIME', 30, since)
            ours, doubt = (stamp + sent) / 2, (stamp - sent) / 2
            if best is None or doubt < best.doubt:
                best = ClockOffset(ours, ours - int(text.split()[1]) / 1e9, doubt)
        return best


def problem(verdict):
    """None if a verify() found everything right, else what is wrong, in words."""
    if verdict.bad:
        return f'{verdict.bad} of {verdict.pages} pages wrong, first {verdict.first} ({verdict.fault})'
    if verdict.pages == 0:
        return 'no page was looked at'
    if verdict.writes != verdict.generations:
        return f'{verdict.writes} writes made, but the generation table says {verdict.generations}'
    return None


def check_memory(guest, timeout=300):
    """Check every filled page, and that all memory never written is zero: (verify()'s answer, None or
    what is wrong in words)."""
    verdict = guest.verify(timeout)
    wrong = problem(verdict)
    if not wrong:
        zero = guest.check_untouched(timeout)
        if zero.bad:
            wrong = (f'{zero.bad} of {zero.pages} pages never written are not zero, '
                     f'first at {zero.first:#x}')
    return verdict, wrong


class Blackout:
    """How long the guest stood still over a migration, as the guest saw it.

        blackout = Blackout(Guest(src))
        ... migrate ...
        seen = blackout.end(Guest(dst))

    seen.gap_ms      the longest time between two iterations of the guest's loop, by its own clock
    seen.stopped_ms  how long that clock itself stood still: nothing where the guest reads the host's
                     TSC, about the blackout under TCG and on KVM that restores the TSC
    seen.doubt_ms    uncertainty of stopped_ms
    seen.quiet_ms    for comparison, the longest gap in the second before
    seen.ms          both together: an upper bound, as the longest gap need not be the one of the stop
    """

    BASELINE_S = 1.0

    def __init__(self, guest):
        first = guest.clock_offset()
        guest.reset_gaps()
        time.sleep(self.BASELINE_S)
        self.quiet_ms = guest.stats().gap_ns / 1e6
        self.clock = Clock(first, guest.clock_offset())
        guest.reset_gaps()

    def end(self, guest):
        self.stats = guest.stats()
        stopped, doubt = self.clock.stopped(guest.clock_offset())
        self.doubt_ms = doubt * 1e3
        self.stopped_ms = stopped * 1e3
        self.gap_ms = self.stats.gap_ns / 1e6
        self.ms = self.gap_ms + self.stopped_ms
        return self
