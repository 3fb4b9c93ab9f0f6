# SPDX-License-Identifier: GPL-2.0-or-later
"""How the pages travel: several channels, TLS, checksums, compressed, over vsock."""

import dataclasses
import os
import shutil
import socket
import subprocess

from case import HALF, Bench, Case, test_migrate
from cases.postcopy import test_postcopy
from link import Link
from migration import listen
from suite import Failure, Skip, require


def make_psk(vm):
    """Give a QEMU its end of TLS with a shared key, as 'tls'."""
    with open(os.path.join(vm.dir, 'keys.psk'), 'w', encoding='ascii') as f:
        f.write('ferry:' + '5a' * 32 + '\n')
    vm.qmp('object-add', {'qom-type': 'tls-creds-psk', 'id': 'tls', 'dir': vm.dir,
                          **({'endpoint': 'server'} if vm.incoming else
                             {'endpoint': 'client', 'username': 'ferry'})})


def checksum_on(vm):
    vm.qmp_try('ferry-set-parameters', {'checksum': True})


def compression_on(vm):
    vm.qmp_try('ferry-set-parameters', {'compression': 'zstd'})


def weighing_on(vm):
    vm.qmp_try('ferry-set-parameters', {'compression': 'auto'})


def test_weighed(case):
    """On a slow wire, what can be compressed is; and arrives right."""
    with Bench(case) as bench:
        dst, result = bench.migrate(bench.source())
        filled = case.load['fill'] << 20
        print(f'# {result.bytes / filled:.2f} of the guest\'s pages went over the wire')
        if result.ferry and result.bytes > filled * 0.7:
            raise Failure(f'{result.bytes} bytes of {filled}: nothing was compressed')
        bench.check_goes_on(dst)


def test_channels(case):
    """test_migrate(), with as many channels as were asked for."""
    with Bench(case) as bench:
        dst, result = bench.migrate(bench.source())
        if result.ferry:
            busy = [c for c in result.ferry['channels'] if c['bytes'] > 1 << 20]
            if len(busy) != case.params['multifd-channels']:
                raise Failure(f"not all channels carried pages: {result.ferry['channels']}")
        bench.check_goes_on(dst)


def free_vsock_port():
    """A port to migrate to on this machine itself; raises Skip where the kernel has no such way."""
    loopback = 1
    try:
        with socket.socket(socket.AF_VSOCK) as listener, socket.socket(socket.AF_VSOCK) as caller:
            listener.bind((socket.VMADDR_CID_ANY, -1 & 0xffffffff))
            listener.listen(1)
            port = listener.getsockname()[1]
            caller.settimeout(2)
            caller.connect((loopback, port))
            return port
    except OSError as e:
        raise Skip(f'vsock does not reach this machine itself (no vsock_loopback?): {e}') from e


def test_vsock(case):
    if shutil.which('modprobe'):
        subprocess.run(['modprobe', '-q', 'vsock_loopback'], check=False, timeout=30)
    test_migrate(dataclasses.replace(case, uri=f'vsock:1:{free_vsock_port()}'))


def test_far_away(case):
    """It ends by itself: what is left takes a part of its bytes on the wire, and that part fits into the blackout."""
    with Bench(case) as bench:
        src, dst = bench.source(), bench.start(True)
        src.qmp('migrate-set-parameters', {'max-bandwidth': 100 << 20})
        link = Link(listen(dst, 'unix'), delay_s=0.02)
        try:
            mark = src.event_mark()
            src.set_capabilities({'events': True})
            src.qmp('migrate', uri=link.uri)
            src.wait_event('MIGRATION', 60, mark, lambda data: data['status'] in ('completed', 'failed'))
            ferry, ended = src.qmp('query-ferry'), src.qmp('query-migrate')['status']
            require(ended == 'completed' and 'phase' in ferry, f'{ended}, or not by Ferry', ferry)
            dst.wait_event('RESUME', 30)
        finally:
            link.close()
        bench.check_goes_on(dst)


CASES = [
    Case('native kvm: TLS, 4 channels', {**HALF, 'rate': 5000}, caps={'multifd': True},
         params={'multifd-channels': 4, 'tls-creds': 'tls'}, prepare=make_psk,
         test=test_channels),
    Case('native kvm: checksums', {**HALF, 'kind': 'mixed'}, prepare=checksum_on),
    Case('native kvm: compressed', {**HALF, 'kind': 'mixed'}, vm={'cpus': 2}, prepare=compression_on),
    Case('native kvm: compressed, far away', {'fill': 200, 'write': 16, 'rate': 6666, 'kind': 'compressible'},
         vm={'cpus': 3}, prepare=compression_on, test=test_far_away),
    Case('native kvm: compressed where that pays', {'fill': 256, 'write': 4, 'kind': 'compressible'},
         params={'max-bandwidth': 50 << 20, 'multifd-channels': 2}, caps={'multifd': True},
         prepare=weighing_on, test=test_weighed),
    Case('native kvm: post-copy, compressed', {**HALF, 'kind': 'mixed'}, vm={'cpus': 2},
         prepare=compression_on, test=test_postcopy),
    Case('native kvm: vsock', HALF, test=test_vsock),
]
