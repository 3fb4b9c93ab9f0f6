# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain and its migrations, as virsh steers and tells of them."""

import json
import re
import subprocess
import time

from host import VirshError
from suite import Failure

DOMAIN = 'guest'
MIB = 1 << 20


def qmp(host, command, **arguments):
    """Through libvirt. None if this QEMU does not know the command."""
    text = json.dumps({'execute': command, 'arguments': arguments})
    answer = json.loads(host.virsh('qemu-monitor-command', DOMAIN, text))
    if 'error' in answer:
        if answer['error']['class'] == 'CommandNotFound':
            return None
        raise Failure(f"{host.name}: {command}: {answer['error']['desc']}")
    return answer['return']


class Migration:
    """A `virsh migrate` that runs."""

    def __init__(self, src, dst, options):
        self.src = src
        self.dst = dst
        self.options = options
        self.ferry = None          # the source's last query-ferry
        self.ferry_was_active = False
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            src.command('virsh', 'migrate', *options, DOMAIN, dst.uri), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def running(self):
        return self.process.poll() is None

    def look(self):
        """Note what the source says of Ferry, while it is there. Returns query-migrate's answer, or {}."""
        try:
            ferry = qmp(self.src, 'query-ferry')
            info = qmp(self.src, 'query-migrate')
        except VirshError:
            return {}
        if ferry is not None:
            self.ferry = ferry
            self.ferry_was_active = self.ferry_was_active or ferry['active']
        return info

    def wait(self, condition, what, timeout=60):
        """Look until condition(query-migrate's answer); the migration must still run."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.look()
            if condition(info):
                return info
            if not self.running():
                raise Failure(f'the migration was over before {what}: {self.process.stdout.read().strip()}')
            if time.monotonic() > deadline:
                raise Failure(f'no {what} within {timeout} s: {info}')
            time.sleep(0.02)

    def wait_sent(self, mib):
        return self.wait(lambda info: info.get('ram', {}).get('transferred', 0) > mib * MIB, f'{mib} MiB were sent')

    def wait_status(self, status, timeout=60):
        return self.wait(lambda info: info.get('status') == status, f"status '{status}'", timeout)

    def end(self, timeout=120):
        """Wait until it ends, in whatever way; returns (status, what virsh said)."""
        deadline = time.monotonic() + timeout
        while self.running():
            self.look()
            if time.monotonic() > deadline:
                self.process.kill()
                raise Failure(f'the migration did not end within {timeout} s')
            time.sleep(0.02)
        return self.process.returncode, self.process.stdout.read().strip()

    def finish(self, timeout=120):
        """Wait until it has succeeded."""
        status, said = self.end(timeout)
        if status:
            raise Failure(f"virsh migrate {' '.join(self.options)}: {said}")


def job_info(host, *options):
    """virsh domjobinfo as {'Memory total': 268435456, ...}: bytes, milliseconds, plain numbers and words."""
    units = {'B': 1, 'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30, 'ms': 1, 'bytes': 1, 'pages/s': 1,
             'B/s': 1, 'KiB/s': 1 << 10, 'MiB/s': 1 << 20, 'GiB/s': 1 << 30, '': 1}
    found = {}
    for line in host.virsh('domjobinfo', DOMAIN, *options).splitlines():
        key, colon, value = line.partition(':')
        number = re.fullmatch(r'([\d.]+)\s*(\S*)', value.strip())
        if colon:
            found[key] = float(number[1]) * units[number[2]] if number else value.strip()
    return found
