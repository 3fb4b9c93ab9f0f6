# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrate between two VMs (see vm.py), and account for what it cost.

    with VM('source', memory_mib=1024) as src, VM('target', memory_mib=1024, incoming=True) as dst:
        src.start(); dst.start()
        result = migrate(src, dst, 'tcp')
        print(result.downtime_ms, result.src_cpu_s, result.dst_memory['VmPTE'])

Nothing here needs Ferry: on a stock QEMU `result.ferry` is None.
"""

import os
import threading
import time

from streams import VMDied


class MigrationFailed(Exception):
    """The migration ended in another state than 'completed'; `info` is query-migrate's answer."""

    def __init__(self, status, info):
        super().__init__(f"migration {status}: {info.get('error-desc', 'no reason given')}")
        self.status = status
        self.info = info


class Result:
    """What a migration did.

    status        'completed'
    total_ms, downtime_ms, setup_ms, bytes   as the source's query-migrate says
    begin, end    time.monotonic() at the command, and when the destination ran
    wall_s        from the one to the other
    src_cpu_s, dst_cpu_s   CPU seconds of everything but vCPUs, over the migration
    src_memory, dst_memory   VM.memory() just after
    info          the source's whole query-migrate
    ferry         the source's query-ferry, None on a stock QEMU
    ferry_dst     the destination's
    ferry_used    whether the source said that Ferry was active, or ended a session of it
    """

    def __init__(self, **fields):
        self.__dict__.update(fields)


def is_active(ferry):
    """Whether an answer to query-ferry (None on a stock QEMU) says that Ferry is in use."""
    return bool(ferry and ferry['active'])


def finished_since(before, after):
    """Whether query-ferry's answer `after` tells of a finished session that `before` did not know."""
    return bool(after and after.get('phase') == 'done' and after != before)


def listen(dst, uri):
    """Have `dst` listen, and return the URI to connect to. 'tcp' and 'unix' pick an address."""
    if uri == 'unix':
        uri = 'unix:' + os.path.join(dst.dir, 'migrate')
    elif uri == 'tcp':
        uri = 'tcp:127.0.0.1:0'
    dst.qmp('migrate-incoming', uri=uri)
    if uri.startswith('tcp:') and uri.endswith(':0'):
        address = dst.qmp('query-migrate')['socket-address'][0]
        host = f"[{address['host']}]" if ':' in address['host'] else address['host']
        return f"tcp:{host}:{address['port']}"
    return uri


class StatusPoller:
    """Asks VMs for query-status all the while, and remembers the longest that one took to answer.

    A moment in which this process itself did not get a CPU counts for nothing.
    """

    INTERVAL_S = 0.05
    STALL_S = 0.2

    def __init__(self, *vms):
        self.vms = vms
        self.longest_s = 0
        self.where = None
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(vm,), daemon=True) for vm in vms]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, vm):
        begin = time.monotonic()
        while not self._over.wait(self.INTERVAL_S):
            stalled = time.monotonic() - begin > self.INTERVAL_S + self.STALL_S
            begin = time.monotonic()
            try:
                vm.qmp('query-status')
            except VMDied:
                return  # whoever uses the VM gets to know
            except TimeoutError:
                self.longest_s, self.where = time.monotonic() - begin, vm.name
                return
            took = time.monotonic() - begin
            if took > self.longest_s and not stalled:
                self.longest_s, self.where = took, vm.name
            begin = time.monotonic()


def migrate(src, dst, uri='tcp', *, caps=None, params=None, timeout=120, poll_s=0.1,
            on_poll=None, before=None):
    """Migrate from `src` to `dst` (started with incoming=True) and return a Result.

    caps, params  set on both sides first (capabilities; migrate-set-parameters).  With no params,
                  the bandwidth is unlimited, as QEMU's own default of 128 MiB/s measures nothing.
    on_poll       called as on_poll(info, ferry) every `poll_s` seconds while it runs
    before        called with the final URI just before `migrate` is sent
    Raises MigrationFailed or TimeoutError.
    """
    params = {'max-bandwidth': 0, **(params or {})}
    for vm in (src, dst):
        vm.set_capabilities({'events': True, **(caps or {})})
        vm.qmp('migrate-set-parameters', params)
        vm.vcpu_tids()
    uri = listen(dst, uri)
    if before:
        before(uri)

    ended = ('completed', 'failed', 'cancelled')
    mark, dst_mark = src.event_mark(), dst.event_mark()
    src_cpu, dst_cpu = src.cpu_seconds(), dst.cpu_seconds()
    ferry_before = src.qmp_try('query-ferry')
    begin = time.monotonic()
    deadline = begin + timeout
    src.qmp('migrate', uri=uri)

    status, ferry_used = None, False
    while status is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"migration still '{src.qmp('query-migrate').get('status')}' "
                               f'after {timeout:g} s')
        try:
            event = src.wait_event('MIGRATION', min(poll_s if on_poll else left, left), mark,
                                   lambda d: d['status'] in ended)
            status = event['data']['status']
        except TimeoutError:
            pass
        if on_poll:
            ferry = src.qmp_try('query-ferry')
            ferry_used = ferry_used or is_active(ferry)
            on_poll(src.qmp('query-migrate'), ferry)
    if status != 'completed':
        raise MigrationFailed(status, src.qmp('query-migrate'))
    resumed = dst.wait_event('RESUME', max(1.0, deadline - time.monotonic()), dst_mark)

    info = src.qmp('query-migrate')
    ferry = src.qmp_try('query-ferry')
    return Result(
        status=status, total_ms=info['total-time'], downtime_ms=info['downtime'],
        setup_ms=info['setup-time'], bytes=info['ram']['transferred'],
        begin=begin, end=resumed['monotonic'], wall_s=resumed['monotonic'] - begin,
        src_cpu_s=src.cpu_seconds() - src_cpu, dst_cpu_s=dst.cpu_seconds() - dst_cpu,
        src_memory=src.memory(), dst_memory=dst.memory(), info=info,
        ferry=ferry, ferry_dst=dst.qmp_try('query-ferry'),
        ferry_used=ferry_used or is_active(ferry) or finished_since(ferry_before, ferry))
