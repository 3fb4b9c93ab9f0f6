# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates, and QEMUs that may not do everything."""

import os
import subprocess

from case import BUSY, Case, check, check_path
from cases.postcopy import test_postcopy
from suite import Failure, Skip, require


def make_certificates(bench):
    """An authority, and certificates with which either host is server and client."""
    a, b = bench.pair.a, bench.pair.b
    made = f'{a.dir}/pki'
    os.makedirs(made)

    def certtool(*words):
        done = subprocess.run(['certtool', *words], check=False, timeout=60, cwd=made, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise Failure(f'certtool: {done.stdout}')

    def template(name, *lines):
        with open(f'{made}/{name}', 'w', encoding='ascii') as f:
            f.write('\n'.join(('expiration_days = 30', *lines)) + '\n')

    template('ca', 'cn = "authority"', 'ca', 'cert_signing_key')
    template('host', 'cn = "host"', 'tls_www_server', 'tls_www_client', 'signing_key', 'encryption_key',
             *(f'dns_name = "{name}"' for host in (a, b) for name in (host.name, f'{host.name}-migrate')))
    for name in ('ca', 'host'):
        certtool('--generate-privkey', '--ecc', '--outfile', f'{name}-key.pem')
    certtool('--generate-self-signed', '--template', 'ca', '--load-privkey', 'ca-key.pem',
             '--outfile', 'ca-cert.pem')
    certtool('--generate-certificate', '--template', 'host', '--load-privkey', 'host-key.pem',
             '--load-ca-certificate', 'ca-cert.pem', '--load-ca-privkey', 'ca-key.pem', '--outfile', 'host-cert.pem')
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
    Case('TLS', '--live --tls', prepare=make_certificates),
    Case('TLS, post-copy', '--live --tls --postcopy',
         prepare=make_certificates, test=test_postcopy, load=BUSY, fast=False),
    Case("as libvirt's user", hosts={'user': 'libvirt-qemu', 'devices': ['kvm']}, short=True),
    Case("as libvirt's user, post-copy", '--live --postcopy', test=test_postcopy, load=BUSY, fast=False,
         hosts={'user': 'libvirt-qemu', 'devices': ['kvm', 'userfaultfd']}),
    Case("as libvirt's user, post-copy not permitted", '--live --postcopy', test=test_not_permitted,
         hosts={'user': 'libvirt-qemu', 'devices': ['kvm']}),
]
