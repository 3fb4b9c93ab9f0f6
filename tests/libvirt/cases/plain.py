# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migrations in every way that virsh offers, between our QEMUs and with stock ones."""

import os
import subprocess
import sys

from case import BUSY, Case, check, check_path, go, migrate
from cases.postcopy import test_postcopy
from suite import Failure, require
from virsh import DOMAIN, MIB
from vm import ROOT


def test_suspend(bench):
    """The guest arrives stopped, and goes on when told to."""
    bench.start()
    migration = bench.migration()
    migration.finish()
    state = migration.dst.virsh('domstate', DOMAIN).strip()
    require(state == 'paused', 'the guest should not run', state)
    migration.dst.virsh('resume', DOMAIN)
    check(bench.at(migration.dst))
    check_path(bench, migration)


def test_there_and_back(bench):
    """And once more: the domain is defined at both ends by then."""
    guest = bench.start()
    a, b = bench.pair.a, bench.pair.b
    for src, dst in ((a, b), (b, a)) * 2:
        guest = go(bench, guest, src, dst)


def test_there_and_back_once(bench):
    guest = go(bench, bench.start(), bench.pair.a, bench.pair.b)
    go(bench, guest, bench.pair.b, bench.pair.a)


def test_own_network(bench):
    """What QEMUs say to each other goes over the network that the migration's URI names, and no other."""
    guest = bench.start()
    before = {network: sent(bench.pair.a, network) for network in bench.pair.NETWORKS}
    migrate(bench, guest)
    after = {network: sent(bench.pair.a, network) - before[network] for network in bench.pair.NETWORKS}
    print(f'# sent, in bytes: {after}')
    if after['manage'] > 2 * MIB or after['migrate'] < 16 * MIB:
        raise Failure(f'the memory went over the wrong network: {after}')


def sent(host, network):
    return int(host.run('cat', f'/sys/class/net/{network}/statistics/tx_bytes'))


def test_one_connection(bench):
    """Where only QEMU's own connection gets through, there are no channels for Ferry: QEMU's own path."""
    a, b = bench.pair.a, bench.pair.b
    guest = bench.start()
    b.run('ip', 'address', 'add', '10.77.1.3/24', 'dev', 'migrate')
    for host in (a, b):
        host.run('sh', '-c', 'echo 10.77.1.3 gate >>/etc/hosts')
    with subprocess.Popen(b.command(sys.executable, os.path.join(ROOT, 'tests', 'libvirt', 'relay'), '10.77.1.3',
                                    '49200', '10.77.1.2'), stdout=subprocess.PIPE) as relay:
        try:
            require(relay.stdout.readline() == b'listening\n', 'the relay does not listen', relay)
            migrate(bench, guest)
        finally:
            relay.kill()


def test_parallel(bench):
    bench.start()
    migration = bench.migration()
    migration.finish()
    check(bench.at(migration.dst))
    arrived = check_path(bench, migration)
    busy = [c for c in arrived['channels'] if c['name'].startswith('data') and c['bytes'] > MIB]
    if len(busy) != 3:
        raise Failure(f"three connections were asked for: {arrived['channels']}")


CASES = [
    Case('live'),
    Case('p2p', '--live --p2p --persistent --undefinesource', short=True),
    Case('a network of its own', '--live --migrateuri {migrate}', test=test_own_network),
    Case('only one connection gets through', '--live --migrateuri tcp://gate:49200 --listen-address 10.77.1.2',
         test=test_one_connection, path='channel', fast=False),
    Case('there and back, twice', '--live --persistent', test=test_there_and_back),
    Case('parallel', '--live --parallel --parallel-connections 3', test=test_parallel, short=True),
    Case('compressed', '--live --compressed', path='xbzrle', fast=False),
    Case('tunnelled', '--live --p2p --tunnelled', path='not a socket', fast=False),
    Case('auto-converge', '--live --auto-converge'),
    Case('suspended there', '--live --suspend', test=test_suspend),
    Case('parallel, compressed', '--live --parallel --compressed --comp-methods zstd', path='multifd-compression',
         fast=False, since=(9, 4)),
    Case('over a UNIX socket', '--live --p2p --migrateuri unix://{shared}/socket'),
    Case('to stock QEMU and back', '--live --persistent', stock='b', path='no Ferry', test=test_there_and_back_once,
         fast=False, short=True),
    Case('from stock QEMU, post-copy', '--live --postcopy', stock='a', path='no Ferry', test=test_postcopy,
         load=BUSY, fast=False),
    Case('to stock QEMU, post-copy', '--live --postcopy', stock='b', path='no Ferry', test=test_postcopy,
         load=BUSY, fast=False),
]
