# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks at a migration in tests/bench/trace: at the guest, and at the system calls that protect memory."""

import collections
import os
import re
import time

from cc import preload
from common import Written, Wrong
from guest import Guest
from vm import SMALL_PAGES

SETTLE_S = 0.2         # the guest answers slowly after a question, see ATTENTIVE_MS in load.c
AFTERWARDS_S = 1.0     # how much of the history after the migration is kept, for plots
KVM_EXIT_IO = 2
KVM_EXIT_DIRTY_RING_FULL = 31


class Meter:
    """What looks at a migration.  In order: prepare(), begin() just before `migrate`, end()."""
    wrapper = ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def prepare(self, source):
        raise NotImplementedError

    def begin(self):
        raise NotImplementedError

    def end(self, target, result):
        """What was measured, by name."""
        raise NotImplementedError


# What the guest feels: its writes, its page faults, its exits

class Moment:
    """KVM's counters, and where QEMU's log was."""

    def __init__(self, source):
        self.at = time.monotonic()
        self.counters = source.kvm_statistics()
        self.log = len(source.log())


def exits(text):
    """(reason: how often) of exits to user space; None stands for a signal, that is, a kick."""
    found = collections.Counter(int(reason) for reason in
                                re.findall(r'kvm_run_exit cpu_index \d+, reason (\d+)', text))
    found[None] = len(re.findall(r'kvm_io_window_exit', text))
    return found


class GuestMeter(Meter):
    """The guest's throughput, write faults and exits, in a quiet time and during the migration."""

    def __init__(self, options):
        self.options = options

    def prepare(self, source):
        self.source = source
        source.trace('kvm_run_exit', 'kvm_io_window_exit')
        time.sleep(SETTLE_S)
        self.quiet = [Moment(source)]
        time.sleep(self.options.quiet)
        self.quiet.append(Moment(source))
        self.clock = Guest(source).clock_offset()
        time.sleep(SETTLE_S)

    def begin(self):
        self.first = Moment(self.source)

    def end(self, target, result):
        last = Moment(self.source)
        time.sleep(AFTERWARDS_S)
        guest = Guest(target)
        clock = guest.clock_offset()
        slots = int((time.monotonic() - self.quiet[0].at) * 20) + 20
        stop = [e['monotonic'] for e in self.source.monitor.events if e['event'] == 'STOP']
        stopped = stop[-1] if stop else result.end
        written = Written(guest.history(slots), self.clock.offset, clock.offset, stopped)

        quiet_s = self.quiet[1].at - self.quiet[0].at
        before = written.between(self.quiet[0].at, self.quiet[1].at) / quiet_s
        writes = written.between(result.begin, result.end)
        during = writes / (result.end - result.begin)

        def grown(name, moments):
            return moments[1].counters[name] - moments[0].counters[name]

        background = grown('pf_taken', self.quiet) / quiet_s
        faults = grown('pf_taken', (self.first, last)) - background * (stopped - result.begin)
        log = self.source.log()
        seen = exits(log[self.first.log:last.log])
        noise = exits(log[self.quiet[0].log:self.quiet[1].log])
        # Every vCPU is kicked once to stop it, and now and then for the background's reasons.
        kicks = seen[None] - self.source.cpus - noise[None] / quiet_s * (stopped - result.begin)
        other = sum(n for reason, n in seen.items()
                    if reason not in (None, KVM_EXIT_IO, KVM_EXIT_DIRTY_RING_FULL))
        return {'before_per_s': before, 'during_per_s': during,
                'loss_percent': 100 * (1 - during / before), 'writes': writes, 'faults': faults,
                'faults_per_write': faults / writes, 'background_faults_per_s': background,
                'ring_full': seen[KVM_EXIT_DIRTY_RING_FULL], 'kicks': max(kicks, 0),
                'other_exits': other, 'io_exits_per_s': seen[KVM_EXIT_IO] / (stopped - result.begin),
                'quiet_io_exits_per_s': noise[KVM_EXIT_IO] / quiet_s,
                'quiet_kicks': noise[None], 'resumed_s': result.end - result.begin,
                'stopped_s': stopped - result.begin,
                'history': written.plot(result.begin)}


# How long the system calls take that protect memory

class InstallMeter(Meter):
    """How long each system call takes that write-protects memory of small pages."""

    def __init__(self, options):
        self.options = options

    def wrapper(self, directory):
        self.output = os.path.join(directory, 'ioctls')
        return [*SMALL_PAGES, *preload('tests/bench/ioctl-times.c', 'build/bench/ioctl-times.so',
                                       IOCTL_TIMES=self.output)]

    def prepare(self, source):
        with open(f'/proc/{source.pid}/smaps_rollup', encoding='ascii') as f:
            huge = [int(line.split()[1]) for line in f if line.startswith('AnonHugePages')]
        if huge != [0]:
            raise Wrong(f"the source's memory is in huge pages: {huge} KiB")

    def begin(self):
        self.since = time.time()

    def end(self, target, result):
        with open(self.output, encoding='ascii') as f:
            lines = [line.split() for line in f]
        calls = [(float(took) / 1e3, float(cpu) / 1e3, name) for began, name, took, cpu in lines
                 if float(began) >= self.since]
        if not calls:
            raise Wrong('there was no system call that protects memory')
        sample = {'longest_ms': max(calls)[0], 'calls': len(calls), 'cpu_ms': sum(cpu for _, cpu, _ in calls),
                  'most_cpu_ms': max(cpu for _, cpu, _ in calls)}
        for name in ('set', 'clear', 'reset'):
            took = [ms for ms, _, n in calls if n == name]
            if took:
                sample[f'{name}_ms'] = max(took)
        return sample
