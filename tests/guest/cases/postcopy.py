# SPDX-License-Identifier: GPL-2.0-or-later
"""Post-copy: broken and resumed, with the source lost for good, and when it is time for it."""

import os
import tempfile
import time

from case import HALF, Bench, Case
from migration import StatusPoller, migrate
from postcopy import free_tcp_port, go_over
from streams import QMPError
from suite import Failure, Skip


def handed_over(result):
    """Pages were missing when the guest began to run, if this is a QEMU that tells."""
    if result.ferry is None:
        return
    fetch = result.ferry_dst.get('fetch')
    if not fetch:
        raise Failure('no page was left missing')
    print(f"# {fetch['handed-pages']} pages handed over missing, {fetch['faults']} faults, p50 "
          f"{fetch.get('p50')} us, p99 {fetch.get('p99')} us, {fetch['recoveries']} recoveries")


def test_postcopy(case, breaks=0):
    """The guest runs on where it goes while pages are missing there."""
    with Bench(case) as bench:
        src = bench.source()
        for _ in range(case.hops):
            dst = bench.start(True)
            poll, done = go_over(src, dst, breaks)
            result = migrate(src, dst, case.uri, caps={'postcopy-ram': True, **(case.caps or {})},
                             params=case.params, poll_s=0.02, on_poll=poll)
            handed_over(result)
            if done.count('resume') != breaks:
                raise Failure(f'it was over too soon: {done}')
            bench.check_goes_on(dst)
            src.kill()
            src = dst


def test_recovery(case):
    test_postcopy(case, 2)


GOES_ON = 'the guest goes on until it needs a page that is missing'


def lose_source(bench, case):
    """Migrate to a destination that is left alone, with pages missing; returns that."""
    src, dst = bench.source(), bench.start(True)
    if src.qmp_try('query-ferry') is None:
        raise Skip("this is what only Ferry's own commands can do")
    for vm in src, dst:
        vm.qmp('migrate-set-capabilities',
               capabilities=[{'capability': name, 'state': True}
                             for name in ('postcopy-ram', 'events')])
    dst.qmp('ferry-set-parameters', {'recovery-timeout': 1})
    src.qmp('migrate-set-parameters', case.params)
    uri = f'tcp:127.0.0.1:{free_tcp_port()}'
    dst.qmp('migrate-incoming', uri=uri)
    mark = dst.event_mark()
    src.qmp('migrate', uri=uri)
    src.qmp('migrate-start-postcopy')
    dst.wait_event('RESUME', 30, mark)
    src.kill()
    dst.wait_event('MIGRATION', 30, mark, lambda d: d['status'] == 'postcopy-paused')
    return dst


def wait_run_state(vm, state, limit_s, ended=lambda: False):
    """The run state: `state`, unless it has `ended` otherwise."""
    end = time.monotonic() + limit_s
    while (status := vm.qmp('query-status')['status']) != state and not ended():
        if time.monotonic() > end:
            raise Failure(f'the guest is {status}, not {state}')
        time.sleep(0.02)
    return status


def check_abandoned(vm):
    """It stands still, and all of its memory can be read."""
    wait_run_state(vm, 'internal-error', 10)
    with tempfile.NamedTemporaryFile() as out:
        size = vm.memory_mib << 20
        vm.qmp('pmemsave', {'val': 0, 'size': size, 'filename': out.name})
        if os.path.getsize(out.name) != size:
            raise Failure('not all of memory can be read')
    fetch = vm.qmp('query-ferry')['fetch']
    print(f"# {fetch['missing-pages']} of {fetch['handed-pages']} pages never came")
    if not fetch['missing-pages']:
        raise Failure('it was over too soon')


def test_lost_source(case):
    """The source is killed: the guest, whose CPUs wait for pages, is stopped, given up, looked at."""
    with Bench(case) as bench:
        dst = lose_source(bench, case)
        with StatusPoller(dst) as poller:
            # A vCPU for which KVM waits for a page of the guest's page tables cannot be stopped.
            status = wait_run_state(dst, 'io-error', 5, lambda: GOES_ON in dst.log())
            print(f'# the source was gone: {status}')
            dst.qmp('ferry-abandon', force=False)
            wait_run_state(dst, 'internal-error', 10)
        if poller.longest_s > 1:
            raise Failure(f'{poller.where}: query-status was answered after {poller.longest_s:.1f} s')
        check_abandoned(dst)


def test_lost_source_of_tcg(case):
    """Its CPUs run devices as well, so they count as such; what a guest that reads zeros asks for is ignored."""
    with Bench(case) as bench:
        dst = lose_source(bench, case)
        # By then they wait, and the main thread may wait for one of them.
        time.sleep(2)
        try:
            dst.qmp_oob('ferry-abandon', force=False)
        except QMPError as e:
            if 'A device waits for a missing page' not in str(e):
                raise
        else:
            raise Failure('it was abandoned while a thread of TCG waited for a page')
        dst.qmp_oob('ferry-abandon', force=True)
        check_abandoned(dst)


def test_auto_switchover(case):
    """A guest that writes faster than the network goes over by itself, instead of never."""
    with Bench(case) as bench:
        src = bench.source()
        if src.qmp_try('query-ferry') is None:
            raise Skip('this QEMU has no Ferry to decide')
        src.qmp('ferry-set-parameters', switchover='auto')
        dst, result = bench.migrate(src, caps={'postcopy-ram': True}, timeout=60)
        handed_over(result)
        bench.check_goes_on(dst)


CASES = [
    Case('native kvm: post-copy, random writes, tcp', HALF, test=test_postcopy),
    Case('native kvm: post-copy, 2 CPUs writing all they can, unix', {'fill': 256, 'write': 256},
         vm={'cpus': 2}, uri='unix', test=test_postcopy),
    Case('native kvm: post-copy, 4 CPUs, shared memory, mixed pages', {'fill': 256, 'write': 128, 'kind': 'mixed'},
         vm={'cpus': 4, 'backend': 'memfd'}, test=test_postcopy),
    Case('native kvm: post-copy, four in a row', {'fill': 128, 'write': 64, 'pattern': 'sequential'},
         hops=4, test=test_postcopy),
    Case('native kvm: post-copy, broken and resumed twice', {'fill': 256, 'write': 128},
         vm={'cpus': 2}, params={'max-postcopy-bandwidth': 50 << 20}, test=test_recovery),
    Case('native kvm: post-copy, the source is lost', {'fill': 256, 'write': 128},
         vm={'cpus': 2}, params={'max-postcopy-bandwidth': 20 << 20}, test=test_lost_source),
    Case('native kvm: post-copy when it is time', {'fill': 256, 'write': 256},
         params={'max-bandwidth': 100 << 20}, test=test_auto_switchover),
    Case('linux tcg: post-copy', {**HALF, 'rate': 10000}, 'linux', 'tcg', test=test_postcopy),
    Case('linux tcg: post-copy, the source is lost', {'fill': 128, 'write': 64, 'rate': 10000}, 'linux', 'tcg',
         params={'max-postcopy-bandwidth': 20 << 20}, test=test_lost_source_of_tcg),
    Case('linux tcg: post-copy, broken and resumed twice', {'fill': 128, 'write': 32, 'rate': 5000},
         'linux', 'tcg', vm={'cpus': 2}, params={'max-postcopy-bandwidth': 20 << 20},
         test=test_recovery),
]
