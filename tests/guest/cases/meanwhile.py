# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a guest while it is migrated: paused, reset, memory and CPUs unplugged."""

import time

from case import HALF, Bench, Case, Once, check_not_older
from guest import Guest
from streams import QMPError
from suite import Failure
from vm import KVM_CPU


def wait_status(vm, status):
    deadline = time.monotonic() + 10
    while vm.qmp('query-status')['status'] != status:
        if time.monotonic() > deadline:
            raise Failure(f"{vm.name} is {vm.qmp('query-status')['status']}, not {status}")
        time.sleep(0.02)


def still_migrating(vm, otherwise):
    if vm.qmp('query-migrate')['status'] != 'active':
        raise Failure(f'the migration {otherwise}')


def pause_during(case, goes_on):
    """goes_on: it does so before the migration is over."""
    with Bench(case) as bench:
        src = bench.source()

        def pause():
            src.qmp('stop')
            if goes_on:
                time.sleep(0.5)
                still_migrating(src, 'did not go on while the guest was paused')
                src.qmp('cont')
                time.sleep(0.5)
            src.qmp('migrate-set-parameters', {'max-bandwidth': 0})

        paused = Once(32, pause)

        def poll(info, ferry):
            if info['status'] != 'completed':
                paused(info, ferry)
            elif not goes_on:
                wait_status(bench.vms[1], 'paused')
                bench.vms[1].qmp('cont')

        before = Guest(src).stats()
        dst, result = bench.migrate(src, on_poll=poll, poll_s=0.05)
        print(f"# {'for a moment' if goes_on else 'to the end'}: {result.total_ms} ms")
        if not paused.done:
            raise Failure('the migration was over before the guest could be paused')
        check_not_older(bench.check_goes_on(dst), before)


def test_pause(case):
    """Paused during the migration, once only for a moment, once until it is over."""
    for goes_on in (True, False):
        pause_during(case, goes_on)


def during_migration(case, act, prepare=None, target_args=()):
    """Migrate slowly, have act(source) called in the middle, then go on at full speed, and check."""
    with Bench(case) as bench:
        src = bench.source()
        if prepare:
            prepare(src)
        bench.arguments['args'] = [*bench.arguments['args'], *target_args]

        def act_and_hurry():
            act(src)
            still_migrating(src, 'was over too early')
            src.qmp('migrate-set-parameters', {'max-bandwidth': 0})

        acted = Once(48, act_and_hurry)
        dst, result = bench.migrate(src, on_poll=acted, poll_s=0.05)
        if not acted.done:
            raise Failure('the migration was over before anything could be done')
        print(f"# {result.total_ms} ms, {(result.ferry or {}).get('trace')}")
        bench.check_goes_on(dst)


def test_reset(case):
    """A guest that is reset during the migration, starts anew and fills memory again."""
    def reset(vm):
        if not Guest(vm).stats().writes:
            raise Failure('the guest wrote nothing before the reset')
        before = len(vm.console.lines)
        vm.qmp('system_reset')
        vm.console.wait_line('READY', 30, before)

    during_migration(case, reset)


def refused_while_migrating(vm, command, **arguments):
    try:
        vm.qmp(command, arguments)
    except QMPError as e:
        if 'not allowed while migrating' not in str(e):
            raise Failure(f'{command} was refused, but not because of the migration: {e}') from e
        return
    raise Failure(f'{command} was not refused during a migration')


# ACPI's registers for plugging on 'pc': where, and the bit that has a device removed.
MEMORY_PLUG = 0xa00
CPU_PLUG = 0xaf00
EJECT = 1 << 3


def test_memory_unplug(case):
    """Memory is plugged in, and the guest lets go of it while it is migrated."""
    def plug(vm):
        vm.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'more', 'size': 128 << 20})
        vm.qmp('device_add', {'driver': 'pc-dimm', 'id': 'dimm', 'memdev': 'more'})
        vm.qmp('device_del', {'id': 'dimm'})  # the guest has to agree, and does later

    def unplug(vm):
        refused_while_migrating(vm, 'device_del', id='dimm')
        refused_while_migrating(vm, 'device_add', driver='pc-dimm', id='again', memdev='more')
        vm.port_write(4, MEMORY_PLUG, 0)
        vm.port_write(1, MEMORY_PLUG + 0x14, EJECT)
        vm.wait_event('DEVICE_DELETED', 10)
        vm.qmp('object-del', {'id': 'more'})
        time.sleep(0.2)

    during_migration(case, unplug, plug, ['-object', 'memory-backend-ram,id=more,size=128M',
                                          '-device', 'pc-dimm,id=dimm,memdev=more'])


def test_cpu_unplug(case):
    """A CPU is plugged in, unplugged, plugged in again, and leaves while the guest is migrated."""
    cpu = {'driver': f'{KVM_CPU.partition(",")[0]}-x86_64-cpu', 'id': 'cpu', 'socket-id': 1,
           'core-id': 0, 'thread-id': 0}

    def plug(vm):
        vm.qmp('device_add', cpu)
        vm.qmp('device_del', {'id': 'cpu'})

    def let_go(vm):
        before = len(vm.monitor.events)
        vm.port_write(4, CPU_PLUG, 1)
        vm.port_write(1, CPU_PLUG + 4, EJECT)
        vm.wait_event('DEVICE_DELETED', 10, before)

    def prepare(vm):
        vm.port_write(4, CPU_PLUG, 0)  # from the old interface to the one with an eject bit
        plug(vm)
        let_go(vm)
        plug(vm)

    def act(vm):
        refused_while_migrating(vm, 'device_add', **cpu)
        let_go(vm)
        time.sleep(0.2)

    during_migration(case, act, prepare)


def test_slots(case):
    """Memory slots come and go while the guest is migrated: the chipset's windows below 1 MiB."""
    def shuffle(vm):
        for turn in range(25):
            for register in range(0x58, 0x60, 4):
                vm.port_write(4, 0xcf8, 0x80000000 | register)
                vm.port_write(4, 0xcfc, 0x33333333 if turn % 2 else 0x11111111)

    during_migration(case, shuffle)


CASES = [
    Case('native kvm: paused during the migration', HALF, vm={'cpus': 2},
         params={'max-bandwidth': 128 << 20}, test=test_pause),
    Case('native kvm: reset during the migration', {**HALF, 'fill': 256},
         vm={'cpus': 2, 'args': ['-action', 'reboot=reset']},
         params={'max-bandwidth': 64 << 20}, test=test_reset),
    Case('native kvm: memory unplugged during the migration', HALF,
         vm={'args': ['-m', 'slots=2,maxmem=4G']}, params={'max-bandwidth': 64 << 20},
         test=test_memory_unplug),
    Case('native kvm: a CPU unplugged during the migration', HALF,
         vm={'args': ['-smp', 'maxcpus=2,sockets=2']}, params={'max-bandwidth': 64 << 20},
         test=test_cpu_unplug),
    Case('native kvm: slots come and go during the migration', HALF, vm={'cpus': 2},
         params={'max-bandwidth': 64 << 20}, test=test_slots),
]
