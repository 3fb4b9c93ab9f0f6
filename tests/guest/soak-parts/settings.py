# SPDX-License-Identifier: GPL-2.0-or-later
"""What both QEMUs are told before a migration, and where it goes; all of it each time, as they remember the last."""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import tempfile

from cases.channels import free_vsock_port
from certificates import make_certificates
from migration import listen
from suite import Skip

MIB = 1 << 20
CAPABILITIES = ('postcopy-ram', 'postcopy-preempt', 'multifd', 'auto-converge', 'pause-before-switchover', 'xbzrle',
                'return-path', 'validate-uuid')


def set_capabilities(vm, names):
    vm.set_capabilities({'events': True, **{name: name in names for name in CAPABILITIES}})


@functools.cache
def host_certificates():
    """Where a host's certificates are that both sides use; as long as this program runs."""
    directory = tempfile.mkdtemp(prefix='ferry-soak-')
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    make_certificates(directory, ['ferry'])
    return directory


def make_credentials(vm, kind, ident, server):
    """An object of that kind for TLS: 'psk', 'anon' or 'x509'."""
    end = {'endpoint': 'server' if server else 'client'}
    if kind == 'psk':
        with open(os.path.join(vm.dir, 'keys.psk'), 'w', encoding='ascii') as f:
            f.write('ferry:' + '5a' * 32 + '\n')
        end |= {'dir': vm.dir} if server else {'dir': vm.dir, 'username': 'ferry'}
    elif kind == 'x509':
        end |= {'dir': host_certificates(), 'verify-peer': True}
    vm.qmp('object-add', {'qom-type': f'tls-creds-{kind}', 'id': ident, **end})


def drop_credentials(vm):
    """Those of the last migration, for others to come."""
    vm.qmp('migrate-set-parameters', {'tls-creds': '', 'tls-hostname': ''})
    for entry in vm.qmp('qom-list', path='/objects'):
        if entry['name'].startswith('tls-'):
            vm.qmp('object-del', id=entry['name'])


def tell(vm, plan, *, server, more):
    """more: parameters of Ferry's, besides the plan's."""
    off = plan.own_path == ('off there' if server else 'off here')
    vm.qmp('ferry-set-parameters', {'enabled': not off})  # first: without Ferry, fewer capabilities go together
    set_capabilities(vm, plan.capabilities)
    drop_credentials(vm)
    parameters = {'max-bandwidth': plan.bandwidth * MIB, 'max-postcopy-bandwidth': plan.postcopy_bandwidth * MIB,
                  'downtime-limit': plan.downtime_ms,
                  'multifd-channels': plan.multifd_there if server and plan.multifd_there else plan.multifd or 2}
    if plan.tls:
        ident = f"tls-{'in' if server else 'out'}"
        make_credentials(vm, plan.tls, ident, server)
        parameters['tls-creds'] = ident
        if plan.tls == 'x509' and not server:
            parameters['tls-hostname'] = 'ferry'
    vm.qmp('migrate-set-parameters', parameters)
    vm.qmp('ferry-set-parameters', {
        'channels': plan.channels, 'checksum': plan.checksum, 'compression': plan.compression,
        'tracker': plan.tracker, 'switchover': plan.switchover, 'open-timeout': 10000, 'network-timeout': 10000,
        'switchover-timeout': 60000, **more})


def vsock_problem():
    """None if a migration can go over vsock here, or why not."""
    if shutil.which('modprobe'):
        subprocess.run(['modprobe', '-q', 'vsock_loopback'], check=False, timeout=30)
    try:
        free_vsock_port()
    except Skip as e:
        return str(e)
    return None


def tcp6_problem():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(('::1', 0))
    except OSError as e:
        return f'no IPv6: {e}'
    return None


PROBLEMS = {'vsock': vsock_problem, 'tcp6': tcp6_problem}


def connect(uri):
    """A socket that is connected to where a destination listens."""
    kind, address = uri.split(':', 1)
    if kind == 'unix':
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    host, port = address.rsplit(':', 1)
    return socket.create_connection((host, int(port)))


def open_way(src, dst, transport, *, through=None):
    """Have `dst` listen, or be handed its end; the URI for the source. through: makes a Link's URI of it."""
    if transport == 'fd-pair':
        for vm, end in zip((src, dst), socket.socketpair()):
            vm.pass_fd(end.fileno(), 'migration')
            end.close()
        dst.qmp('migrate-incoming', uri='fd:migration')
        return 'fd:migration'
    if transport == 'vsock':
        return listen(dst, f'vsock:1:{free_vsock_port()}')
    if transport == 'tcp6':
        dst.qmp('migrate-incoming', uri='tcp:[::1]:0')
        return f"tcp:[::1]:{dst.qmp('query-migrate')['socket-address'][0]['port']}"
    uri = listen(dst, 'tcp' if transport == 'fd' else transport)
    if through:
        uri = through(uri)
    if transport == 'fd':
        with connect(uri) as sock:
            src.pass_fd(sock.fileno(), 'migration')
        return 'fd:migration'
    return uri
