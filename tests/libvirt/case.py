# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cases are made of: a domain, its hosts, and how a migration of it is checked."""

import dataclasses
import os
import re
import subprocess
import time

from guest import Guest, Load, check_memory, native_guest
from host import Pair, Resident
from logs import attach_log
from suite import Failure, Skip
from virsh import DOMAIN, Migration, qmp
from vm import ROOT, default_binary, kvm_problem

FIRMWARE = '/usr/share/guest.bin'


@dataclasses.dataclass
class Case:
    """One domain and what is done to it."""
    name: str
    options: str = '--live'       # of `virsh migrate`
    test: callable = None         # None: test_migrate
    short: bool = False           # whether `make check` runs it
    path: str = 'ferry'           # or words of the reason that the source gives for QEMU's own path
    stock: str = ''               # which hosts have a stock QEMU: 'a', 'b'
    load: dict = dataclasses.field(default_factory=dict)    # Load's arguments, beyond SMALL
    memory_mib: int = 192
    devices: str = ''             # further XML
    fast: bool = True             # False: --bandwidth SLOW unless told otherwise, to have time for what is done
    since: tuple = (9, 0)         # the libvirt that has what is tested
    hosts: dict = dataclasses.field(default_factory=dict)   # Host.start()'s arguments
    prepare: callable = None      # called with the Bench before the domain is defined

    def run(self, libvirt):
        with Bench(self, libvirt) as bench:
            (self.test or test_migrate)(bench)


SMALL = {'fill': 64, 'write': 16, 'rate': 5000, 'kind': 'mixed'}
BUSY = {'fill': 128, 'write': 96, 'rate': 0}  # more than SLOW
SLOW = 40  # MiB/s
NOT_AT_ONCE = 150  # MiB/s

XML = '''\
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <loader type='rom'>{firmware}</loader>
  </os>
  <features><acpi/></features>
  {cpu}
  <sysinfo type='fwcfg'><entry name='opt/ferry/load'>{load}</entry></sysinfo>
  <on_reboot>destroy</on_reboot>
  <devices>
    <serial type='unix'><source mode='bind' path='/run/{name}.console'/></serial>
    {devices}
  </devices>
</domain>
'''

# Some nested hosts offer MSR_IA32_ARCH_CAPABILITIES and then refuse its value: see vm.KVM_CPU.
KVM_CPU = "<cpu mode='host-passthrough'><feature policy='disable' name='arch-capabilities'/></cpu>"


def log_of(error, name, text, matters):
    lines = [line for line in text.splitlines() if matters(line)]
    attach_log(error, name, text, '\n'.join(lines[-12:]))


class Bench:
    """The hosts and the domain of one case."""

    def __init__(self, case, libvirt):
        self.case = case
        self.libvirt = libvirt
        self.load = Load(**{**SMALL, **case.load})
        ours, stock = default_binary(), stock_qemu() if case.stock else None
        self.pair = Pair(libvirt, stock if 'a' in case.stock else ours,
                         os.path.join(ROOT, 'build', 'qemu-img'), stock if 'b' in case.stock else ours,
                         **case.hosts)
        self.residents = []

    def __enter__(self):
        self.pair.__enter__()
        return self

    def __exit__(self, _, error, *__):
        if error:
            for host in (self.pair.a, self.pair.b):
                log_of(error, f'{host.name}-libvirtd', host.log(), lambda line: 'is tainted' not in line)
                log_of(error, f'{host.name}-qemu', host.qemu_log(DOMAIN), lambda line: line[:2].isdigit())
        for resident in self.residents:
            resident.close()
        self.pair.kill()

    def at(self, host):
        """The guest, where it is now."""
        resident = Resident(host, DOMAIN)
        self.residents.append(resident)
        return Guest(resident)

    def version(self):
        """libvirt's: (9, 0), say."""
        found = re.search(r'library: libvirt (\d+)\.(\d+)', self.pair.a.virsh('version'))
        return int(found[1]), int(found[2])

    def start(self):
        """Define and start the domain on a; it has filled its memory, and has been writing for a moment."""
        if self.version() < self.case.since:
            raise Skip(f'only since libvirt {self.case.since}')
        if self.case.prepare:
            self.case.prepare(self)
        native = native_guest(self.load)['args']
        for host in (self.pair.a, self.pair.b):
            host.run('install', '-m', '644', native[native.index('-bios') + 1], FIRMWARE)
        kvm = kvm_problem() is None
        text = XML.format(kind='kvm' if kvm else 'qemu', name=DOMAIN, memory_mib=self.case.memory_mib,
                          firmware=FIRMWARE, cpu=KVM_CPU if kvm else '',
                          load=self.load, devices=self.case.devices)
        a = self.pair.a
        os.chmod(a.dir, 0o755)
        a.write('guest.xml', text)
        a.virsh('define', f'{a.dir}/guest.xml')
        a.virsh('start', DOMAIN, '--paused')
        guest = self.at(a)
        a.virsh('resume', DOMAIN)
        ready = guest.wait_ready()
        if ready.pages != self.load.fill * 256:
            raise Failure(f'the guest is not what was asked for: {ready}')
        time.sleep(0.2)
        return guest

    def migration(self, src=None, dst=None, options=None):
        src, dst = src or self.pair.a, dst or self.pair.b
        words = (self.case.options if options is None else options).split()
        if not self.case.fast and '--bandwidth' not in words:
            words += ['--bandwidth', str(SLOW)]
        if '--postcopy' in words and '--postcopy-bandwidth' not in words:
            # Else all pages may be there before the guest has asked for one.
            words += ['--postcopy-bandwidth', str(NOT_AT_ONCE)]
        words = [word.format(migrate=dst.migrate_uri, shared=dst.dir) for word in words]
        return Migration(src, dst, words)


def stock_qemu():
    got = subprocess.run([os.path.join(ROOT, 'scripts', 'fetch-stock')], check=False, timeout=600,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if got.returncode:
        raise Skip((got.stderr.strip().splitlines() or ['no stock QEMU'])[-1])
    return got.stdout.strip()


def check(guest):
    """Every page is right, memory never written is still zero, and the guest goes on writing."""
    verdict, wrong = check_memory(guest)
    if wrong:
        raise Failure(wrong)
    guest.wait_progress(verdict)


def check_path(bench, migration):
    """It went the way it should have, which the destination knows, and the source said."""
    wanted = bench.case.path
    arrived = qmp(migration.dst, 'query-ferry') or {}
    carried = arrived.get('phase') == 'done' and arrived['normal-pages'] > 0
    if wanted == 'ferry':
        if not carried:
            raise Failure(f'Ferry was not used: the source says {migration.ferry}, the destination {arrived}')
        blackout = arrived['blackout']
        print(f"# Ferry: {arrived['normal-pages']} pages over {len(arrived['channels'])} channels, blackout "
              f"{blackout.get('running', max(blackout.values())) / 1000:.1f} ms")
    else:
        if carried:
            raise Failure('Ferry was used')
        reason = (migration.ferry or {}).get('reason')
        if migration.ferry is not None and wanted not in (reason or ''):
            raise Failure(f'the source says {migration.ferry}, which does not have "{wanted}"')
        print(f"# QEMU's own path: {reason or 'the source has no Ferry'}")
    return arrived


def go(bench, guest, src, dst):
    """Migrate, and check all that a successful migration should have left. Returns the guest where it is now."""
    begin = guest.stats().writes
    migration = bench.migration(src, dst)
    migration.finish()
    there = bench.at(dst)
    check(there)
    if there.stats().writes < begin:
        raise Failure('the guest is older than it was')
    check_path(bench, migration)
    return there


def migrate(bench, guest):
    """Migrate from a to b, as go()."""
    return go(bench, guest, bench.pair.a, bench.pair.b)


def test_migrate(bench):
    migrate(bench, bench.start())
