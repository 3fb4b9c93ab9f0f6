# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates, and QEMUs that may not do everything."""

from case import BUSY, Case, check, check_path
from cases.postcopy import test_postcopy
from certificates import CannotMake, make_certificates
from suite import Failure, Skip, require


def install_certificates(bench):
    """An authority, and certificates with which either host is server and client."""
    a, b = bench.pair.a, bench.pair.b
    made = f'{a.dir}/pki'
    try:
        make_certificates(made, [name for host in (a, b) for name in (host.name, f'{host.name}-migrate')])
    except CannotMake as e:
        raise Failure(e) from e
    for host in (a, b):
        host.run('mkdir', '-p', '/etc/pki/qemu')
        host.run('cp', f'{made}/ca-cert.pem', '/etc/pki/qemu/')
        for role in ('server', 'client'):
            host.run('cp', f'{made}/host-cert.pem', f'/etc/pki/qemu/{role}-cert.pem')
            host.run('cp', f'{made}/host-key.pem', f'/etc/pki/qemu/{role}-key.pem')


def test_not_permitted(bench):
    """Where QEMU may not use userfaultfd, post-copy is refused before anything is moved; pre-copy is not."""
    with open('/proc/sys/vm/unprivileged_userfaultfd', encoding='ascii') as f:
        if f.read().strip() != '0':
            raise Skip('vm.unprivileged_userfaultfd is set on this machine: everybody may')
    guest = bench.start()
    migration = bench.migration()
    status, said = migration.end()
    print(f'# {said}')
    require(status and 'userfault' in said.lower(), 'it should have been refused', said)
    check(guest)
    migration = bench.migration(options='--live')
    migration.finish()
    check(bench.at(migration.dst))
    check_path(bench, migration)


CASES = [
    Case('TLS', '--live --tls', prepare=install_certificates),
    Case('TLS, post-copy', '--live --tls --postcopy',
         prepare=install_certificates, test=test_postcopy, load=BUSY, fast=False),
    Case("as libvirt's user", hosts={'user': 'libvirt-qemu', 'devices': ['kvm']}, short=True),
    Case("as libvirt's user, post-copy", '--live --postcopy', test=test_postcopy, load=BUSY, fast=False,
         hosts={'user': 'libvirt-qemu', 'devices': ['kvm', 'userfaultfd']}),
    Case("as libvirt's user, post-copy not permitted", '--live --postcopy', test=test_not_permitted,
         hosts={'user': 'libvirt-qemu', 'devices': ['kvm']}),
]
