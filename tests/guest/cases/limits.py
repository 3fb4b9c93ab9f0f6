# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that an operator sets: bandwidth, downtime, how far the guest may be slowed down."""

import os
import time

from case import Bench, Case, check, sent_bytes
from guest import Guest
from suite import Failure


def test_auto_converge(case):
    """A guest that writes faster than the network is slowed down until its memory can follow."""
    for _ in range(3):  # on a busy host the guest may write so little that its memory follows
        if was_throttled(case):
            return
    raise Failure('the guest was not throttled')


def was_throttled(case):
    with Bench(case) as bench:
        src = bench.source()
        begin = time.monotonic()

        def give_up(*_):
            if time.monotonic() - begin > 5:
                src.qmp('migrate_cancel')

        bench.expect_cancelled(src, 'the guest writes too little: memory followed it without help',
                               caps={'auto-converge': False}, on_poll=give_up)
        seen = []
        dst, result = bench.migrate(src, caps={'auto-converge': True}, timeout=120, on_poll=lambda
                                    info, _: seen.append(info.get('cpu-throttle-percentage', 0)))
        print(f'# {result.total_ms} ms, downtime {result.downtime_ms} ms, throttled by up to '
              f'{max(seen)} %')
        bench.check_goes_on(dst)
        return max(seen) > 0


def waited_s(*vms):
    """For how long threads of these have waited for a CPU so far, the vCPUs' left out: those do not send."""
    total_ns = 0
    for vm in vms:
        for task in os.listdir(f'/proc/{vm.pid}/task'):
            try:
                with open(f'/proc/{vm.pid}/task/{task}/schedstat', encoding='ascii') as file:
                    total_ns += int(file.read().split()[1]) * (int(task) not in vm.vcpu_tids())
            except OSError:
                continue  # it has ended
    return total_ns / 1e9


def measure_steps(case, steps):
    """Migrate with each max-bandwidth of `steps` until so much is sent. Returns, for each of them, the rate seen, and
    what part of the time threads waited for a CPU."""
    samples = [[] for _ in steps]
    now = 0  # which of them
    with Bench(case) as bench:
        src = bench.source()

        def poll(info, _):
            nonlocal now
            sent = sent_bytes(info)
            if info['status'] != 'active' or not sent:
                return
            samples[now].append((time.monotonic(), sent, waited_s(*bench.vms)))
            if sent > steps[now][1]:
                now += 1
                src.qmp('migrate-set-parameters', {'max-bandwidth': steps[now][0]})

        dst, _ = bench.migrate(src, params={**case.params, 'max-bandwidth': steps[0][0]},
                               on_poll=poll, poll_s=0.05)
        check(Guest(dst))
    rates = []
    for (limit, _), measured in zip(steps, samples):
        # What was allowed by the last limit may still be used for a moment.
        measured = [s for s in measured if s[0] > measured[0][0] + 0.3]
        if not measured or measured[-1][0] - measured[0][0] < 0.8:
            raise Failure(f'too short a time to measure {limit >> 20} MiB/s')
        seconds, sent, waited = (end - begin for begin, end in zip(measured[0], measured[-1]))
        rates.append((sent / seconds, waited / seconds))
    return rates


def test_bandwidth(case):
    """max-bandwidth is kept and used, and so is each new one set on the way."""
    steps = [(50 << 20, 110 << 20), (120 << 20, 270 << 20), (40 << 20, 1 << 40)]
    parts = [(rate / limit, waited) for (rate, waited), (limit, _) in zip(measure_steps(case, steps), steps)]
    seen = ', '.join(f'{part:.0%} of {limit >> 20} MiB/s (waiting for a CPU: {waited:.0%})'
                     for (part, waited), (limit, _) in zip(parts, steps))
    print(f'# {seen}')
    if max(part for part, _ in parts) > 1.15:
        raise Failure(f'max-bandwidth is exceeded: {seen}')
    # On a busy host senders may wait for a CPU rather than for their turn.
    if min(part + waited for part, waited in parts) < 0.85:
        raise Failure(f'max-bandwidth is not used: {seen}')


CASES = [
    Case('native kvm: auto-converge', {'fill': 256, 'write': 256}, test=test_auto_converge,
         params={'max-bandwidth': 50 << 20, 'cpu-throttle-initial': 70,
                 'cpu-throttle-increment': 25}),
    # Memory is touched before: what the host has taken back comes more slowly than these rates.
    Case('native kvm: max-bandwidth', {'fill': 350}, params={'downtime-limit': 20},
         vm={'memory_mib': 512,
             'backend': 'memory-backend-ram,id=ram,size=512M,prealloc=on'},
         test=test_bandwidth),
    Case('native kvm: downtime-limit 1 ms', {'fill': 256}, params={'downtime-limit': 1}),
    Case('native kvm: downtime-limit 2000 s', {'fill': 256}, params={'downtime-limit': 2000000}),
]
