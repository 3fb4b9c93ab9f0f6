# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator sees, sets and breaks off while a domain migrates."""

import time

from case import BUSY, SLOW, Case, check, check_path, migrate
from host import VirshError
from suite import Failure, require
from virsh import DOMAIN, MIB, job_info


def check_job(info, memory_mib, page_size=4096):
    """What is true of a job at any time once memory is being moved."""
    total, left, done = info['Memory total'], info['Memory remaining'], info['Memory processed']
    require(memory_mib * MIB <= total <= (memory_mib + 16) * MIB, 'not the memory of the guest', info)
    require(0 <= left <= total, 'more remains than there is', info)
    require(done >= 0 and info['Data total'] == total, 'disks, where there are none', info)
    require(info['Page size'] == page_size and info['Iteration'] >= 1, 'page size or iteration', info)
    require(info['Constant pages'] + info['Normal pages'] <= total / page_size * 4, 'too many pages', info)
    require(abs(info['Normal data'] - info['Normal pages'] * page_size) <= MIB, 'pages and their bytes differ', info)


def test_job_info(bench):
    """virsh domjobinfo while it goes on, and after, at both ends."""
    bench.start()
    migration = bench.migration()
    seen = []
    while migration.running():
        try:
            info = job_info(bench.pair.a)
        except VirshError:
            break  # it is over
        if info.get('Memory total'):
            seen.append(info)
        migration.look()
        time.sleep(0.05)
    migration.finish()
    require(len(seen) > 4, 'the migration was too short to be watched', len(seen))
    for info in seen:
        require(info['Job type'] == 'Unbounded' and info['Operation'] == 'Outgoing migration', 'what it is', info)
        check_job(info, bench.case.memory_mib)
        require(info['Expected downtime'] <= 5000, 'expected downtime', info)
    for before, after in zip(seen, seen[1:]):
        for key in ('Time elapsed', 'Memory processed', 'Iteration', 'Normal pages', 'Constant pages'):
            require(after[key] >= before[key], f'{key} goes down from {before[key]}', after)
    rates = [info['Memory bandwidth'] / MIB for info in seen if 'Memory bandwidth' in info]
    require(rates and 0 < sorted(rates)[len(rates) // 2] < 1.2 * SLOW, 'bandwidth', rates)
    first = [info['Memory remaining'] for info in seen if info['Iteration'] == 1]
    require(len(first) > 3 and first == sorted(first, reverse=True) and first[0] > first[-1],
            'what remains does not go down in the first pass', first)
    for host, operation in ((bench.pair.a, 'Outgoing migration'), (bench.pair.b, 'Incoming migration')):
        info = job_info(host, '--completed')
        print(f"# {operation}: {info['Memory processed'] / MIB:.0f} MiB in {info['Time elapsed'] / 1000:.1f} s, "
              f"{info['Memory bandwidth'] / MIB:.0f} MiB/s, {info['Iteration']:.0f} iterations, "
              f"downtime {info['Total downtime']:.0f} ms")
        require(info['Job type'] == 'Completed' and info['Operation'] == operation, 'what it was', info)
        check_job(info, bench.case.memory_mib)
        require(info['Memory remaining'] == 0, 'something remains', info)
        require(info['Memory processed'] > bench.load.settings['fill'] * MIB / 2, 'too little was moved', info)
        mean = info['Memory processed'] / info['Time elapsed'] * 1000
        require(0.8 * mean < info['Memory bandwidth'] < 1.2 * SLOW * MIB, 'bandwidth', info)
        require(0 < info['Total downtime'] < 2000, 'downtime', info)
        require(info['Setup time'] < 5000 and info['Time elapsed'] >= info['Total downtime'], 'times', info)
    check(bench.at(bench.pair.b))
    check_path(bench, migration)


def test_bandwidth(bench):
    """--bandwidth holds, and so does what migrate-setspeed says on the way."""
    bench.start()
    migration = bench.migration()
    migration.wait_sent(2)
    slow = rate_of(migration, 1.5)
    bench.pair.a.virsh('migrate-setspeed', DOMAIN, '20')
    fast = rate_of(migration, 1)
    print(f'# {slow:.0f} MiB/s of 5, then {fast:.0f} of 20')
    require(slow < 1.2 * 5 and 1.3 * slow < fast < 1.2 * 20, 'bandwidth', (slow, fast))
    migration.finish()
    check(bench.at(migration.dst))
    check_path(bench, migration)


def rate_of(migration, seconds):
    """MiB/s, over a time that begins soon."""
    migration.wait(lambda info: info.get('status') == 'active', 'it is active')
    time.sleep(0.3)
    before, begin = migration.look()['ram']['transferred'], time.monotonic()
    time.sleep(seconds)
    after, end = migration.look()['ram']['transferred'], time.monotonic()
    return (after - before) / MIB / (end - begin)


def test_timeout(bench):
    """A guest that writes faster than the network is suspended when the time is over, and arrives running."""
    bench.start()
    migration = bench.migration()
    status = set()
    while migration.running():
        migration.look()
        status.add(bench.pair.a.virsh('domstate', DOMAIN, check=False).strip())
        time.sleep(0.05)
    migration.finish()
    took = time.monotonic() - migration.begin
    print(f'# took {took:.1f} s; states seen at the source: {sorted(status)}')
    require(took > 3 and 'paused' in status, 'it did not wait, or did not suspend', (took, status))
    check(bench.at(migration.dst))
    check_path(bench, migration)


def test_abort(bench):
    """An aborted migration leaves the guest where it was, and another one works."""
    guest = bench.start()
    migration = bench.migration()
    migration.wait_sent(4)
    bench.pair.a.virsh('domjobabort', DOMAIN)
    status, said = migration.end()
    print(f'# {said}')
    require(status and 'abort' in said or 'cancel' in said, 'an aborted migration did not say so', (status, said))
    check(guest)
    if DOMAIN in bench.pair.b.virsh('list', '--all'):
        raise Failure('something was left at the destination')
    migrate(bench, guest)


def test_client_killed(bench):
    """virsh, which steers a migration that is not p2p, dies: the guest stays where it was, and another one works."""
    guest = bench.start()
    migration = bench.migration()
    migration.wait_sent(4)
    a, b = bench.pair.a, bench.pair.b
    a.run('sh', '-c', 'kill -KILL $(pidof virsh)')
    migration.end()
    deadline = time.monotonic() + 30
    while job_info(a)['Job type'] != 'None' or DOMAIN in b.virsh('list', '--all'):
        if time.monotonic() > deadline:
            raise Failure(f"still going on: {job_info(a)}, {b.virsh('list', '--all')}")
        time.sleep(0.1)
    check(guest)
    migrate(bench, guest)


CASES = [
    Case('domjobinfo', load={'fill': 128}, test=test_job_info, fast=False),
    Case('bandwidth', '--live --bandwidth 5', test=test_bandwidth, load={'fill': 128, 'kind': 'random'}),
    Case('timeout', f'--live --timeout 4 --bandwidth {SLOW}', test=test_timeout, load=BUSY),
    Case('abort, then migrate', test=test_abort, load={'fill': 128}, fast=False, short=True),
    Case('the client killed, then migrate', test=test_client_killed, load={'fill': 128}, fast=False),
]
