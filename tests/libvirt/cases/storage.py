# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that move with the memory, and memory that is saved: by QEMU's own path."""

import os

from case import BUSY, Case, check, migrate
from cases.postcopy import check_postcopy, go_over
from suite import Failure, require
from virsh import DOMAIN, MIB, qmp

DISK = '/var/lib/libvirt/images/disk.qcow2'
DISK_XML = f"""<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{DISK}'/><target dev='vda' bus='virtio'/>
    </disk>"""


def make_disks(bench):
    """The same disk on either host; only a's has content."""
    a, b = bench.pair.a, bench.pair.b
    content = f'{a.dir}/content'
    with open(content, 'wb') as f:
        f.truncate(32 * MIB)
        f.seek(MIB)
        f.write(os.urandom(8 * MIB))
    for host in (a, b):
        host.run('mkdir', '-p', os.path.dirname(DISK))
    a.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', content, DISK)
    b.run('qemu-img', 'create', '-f', 'qcow2', DISK, '32M')


def check_disk(bench):
    b = bench.pair.b
    b.virsh('destroy', DOMAIN)
    b.run('qemu-img', 'compare', f'{bench.pair.a.dir}/content', DISK)


def test_storage(bench):
    """The disk moves with the memory."""
    migrate(bench, bench.start())
    check_disk(bench)


def test_storage_postcopy(bench):
    bench.start()
    migration = bench.migration()
    migration.wait_status('active')  # the disk comes first
    go_over(bench, migration)
    migration.finish()
    check_postcopy(bench, migration)
    check_disk(bench)


def test_snapshots(bench):
    """An internal snapshot, and the memory of an external one: back to either. Then the domain migrates."""
    guest = bench.start()
    a = bench.pair.a
    writes = []
    outside = ('--memspec', '/var/tmp/memory,snapshot=external', '--diskspec', 'vda,snapshot=no')
    for name, options in (('inside', ()), ('outside', outside)):
        writes.append(guest.stats().writes)
        a.virsh('snapshot-create-as', DOMAIN, name, *options)
        writes.append(guest.stats().writes)
        check(guest)
    a.virsh('destroy', DOMAIN)
    a.virsh('restore', '/var/tmp/memory')
    guest = bench.at(a)
    require(guest.stats().writes >= writes[2], 'older than the snapshot', writes)
    check(guest)
    a.virsh('snapshot-revert', DOMAIN, 'inside')
    guest = bench.at(a)
    back = guest.stats().writes
    require(writes[0] <= back, 'older than the snapshot', (back, writes))
    check(guest)
    a.virsh('snapshot-delete', DOMAIN, 'inside')
    a.virsh('snapshot-delete', DOMAIN, 'outside', '--metadata')
    migrate(bench, guest)


def test_managed_save(bench):
    """Saved to a file and started again, by QEMU's own path; then migrated."""
    guest = bench.start()
    writes = guest.stats().writes
    a = bench.pair.a
    for _ in range(2):
        a.virsh('managedsave', DOMAIN)
        a.virsh('start', DOMAIN)
        guest = bench.at(a)
        check(guest)
    if guest.stats().writes < writes:
        raise Failure('the guest is older than it was')
    migrate(bench, guest)


def test_dump(bench):
    """A core dump of a running domain is a migration to a file."""
    guest = bench.start()
    a = bench.pair.a
    a.virsh('dump', DOMAIN, '/var/tmp/core', '--live')
    size = os.path.getsize(a.path('/var/tmp/core'))
    require(size > bench.load.settings['fill'] * MIB / 2, 'too small a dump', size)
    ferry = qmp(a, 'query-ferry')
    print(f"# {size >> 20} MiB; {ferry['reason']}")
    check(guest)
    migrate(bench, guest)


CASES = [
    Case('with its disk', '--live --copy-storage-all', devices=DISK_XML, prepare=make_disks, test=test_storage),
    Case('with its disk, post-copy', '--live --copy-storage-all --postcopy', devices=DISK_XML, prepare=make_disks,
         test=test_storage_postcopy, load=BUSY, fast=False),
    Case('snapshots', '--live --unsafe', devices=DISK_XML, prepare=make_disks, test=test_snapshots),
    Case('a dump', test=test_dump),
    Case('managed save', test=test_managed_save, short=True),
]
