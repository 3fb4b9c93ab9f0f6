# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts with a libvirtd of their own, on one machine and without touching its libvirt.

    with Pair(libvirt, qemu, qemu) as pair:
        pair.a.virsh('define', path)
        pair.a.virsh('migrate', '--live', 'guest', pair.b.uri)

A host is a set of namespaces: mounts, host name, network, processes. tests/libvirt/init says what its
file system looks like. Two cables connect a pair of hosts: one for libvirt (`manage`), one for what
QEMUs say to each other (`migrate`), which can be unplugged. Needs root.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid

from streams import Console
from vm import ROOT

LIBVIRTD_CONF = '''\
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "3:file:{directory}/libvirtd.log"
'''

# What a machine that only has libvirtd itself does without: confinement, logs through another daemon.
QEMU_CONF = '''\
user = "{user}"
group = "{user}"
security_driver = "none"
remember_owner = 0
namespaces = []
stdio_handler = "file"
'''


FETCH = os.path.join(ROOT, 'scripts', 'fetch-libvirt')


class VirshError(Exception):
    """virsh ended with an error; the message is what it printed."""


def libvirt_problem():
    """None if hosts can be made here, or one line saying why not."""
    if os.geteuid() != 0:
        return 'hosts are network and mount namespaces, which only root can make'
    for program in ('unshare', 'nsenter', 'ip', 'mount'):
        if not shutil.which(program):
            return f'{program} is not installed'
    with open('/proc/filesystems', encoding='ascii') as f:
        if '\toverlay\n' not in f.read():
            subprocess.run(['modprobe', '-q', 'overlay'], check=False, timeout=30)
    made = subprocess.run(['unshare', '--mount', '--net', '--pid', '--fork', 'sh', '-c',
                           'mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir a b c && '
                           'mount -t overlay overlay -o lowerdir=a,upperdir=b,workdir=c a && '
                           'ip link add one type veth peer name two'],
                          check=False, timeout=30, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if made.returncode:
        return f'this kernel makes no hosts: {made.stdout.strip()}'
    return None


def libvirt_releases():
    """Whose libvirt can be had; this system's first."""
    return subprocess.run([FETCH, '--list'], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout.split()


def fetch_libvirt(release):
    """Where that release's libvirt is: (path, None), or (None, why it cannot be had)."""
    got = subprocess.run([FETCH, release], check=False, timeout=600, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    if got.returncode:
        return None, (got.stderr.strip().splitlines() or ['no reason given'])[-1]
    return got.stdout.strip(), None


def read_log(path, start=0):
    """A log, or why it cannot be read."""
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            f.seek(start)
            return f.read()
    except OSError as e:
        return str(e)


class Host:
    """One host.

    name       its host name
    number     1, 2, ...: the last byte of its addresses
    libvirt    a directory with libvirt's usr/ (fetch_libvirt())
    qemu       what is installed as /usr/bin/qemu-system-x86_64
    qemu_img   and as /usr/bin/qemu-img
    """

    def __init__(self, name, number, libvirt, qemu, qemu_img):
        self.name = name
        self.number = number
        self.libvirt = libvirt
        self.qemu = qemu
        self.qemu_img = qemu_img
        self.uri = f'qemu+tcp://{name}/system'
        self.migrate_uri = f'tcp://{name}-migrate'
        self.dir = None
        self.process = None
        self.init = None
        self.log_start = 0

    def start(self, hosts, user='root', devices=()):
        """hosts: the lines of /etc/hosts. user: who QEMUs run as. devices: to which of /dev everybody has access."""
        self.dir = tempfile.mkdtemp(prefix=f'ferry-{self.name}-', dir='/tmp')  # nothing is laid over that
        os.makedirs(f'{self.dir}/etc/libvirt')
        self.write('etc/hosts', hosts)
        self.write('etc/hostname', f'{self.name}\n')
        self.write('etc/libvirt/libvirtd.conf',
                   LIBVIRTD_CONF.format(uuid=uuid.uuid4(), directory=self.dir))
        self.write('etc/libvirt/qemu.conf', QEMU_CONF.format(user=user))
        self.process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', '--', 'unshare', '--mount', '--uts', '--ipc', '--net',
             '--pid', '--mount-proc', '--fork', '--kill-child=KILL', '--',
             sys.executable, os.path.join(ROOT, 'tests', 'libvirt', 'init'),
             self.name, self.dir, self.libvirt, self.qemu, self.qemu_img, *devices],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        if self.process.stdout.readline() != b'going\n':
            raise VirshError(f'{self.name}: the host did not start: {self.log()}')
        pid = self.process.pid
        with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
            self.init = int(f.read())

    def write(self, path, text):
        with open(f'{self.dir}/{path}', 'w', encoding='utf-8') as f:
            f.write(text)

    def command(self, *words):
        """The words that run a command on this host."""
        return ['nsenter', f'--target={self.init}', '--mount', '--uts', '--ipc', '--net', '--pid', '--', *words]

    def run(self, *words, timeout=60, check=True):
        """Run a command and return what it printed. Raises VirshError."""
        done = subprocess.run(self.command(*words), check=False, timeout=timeout, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode and check:
            raise VirshError(f'{self.name}: {" ".join(words)}: {(done.stderr or done.stdout).strip()}')
        return done.stdout

    def virsh(self, *words, timeout=60, check=True):
        return self.run('virsh', *words, timeout=timeout, check=check)

    def path(self, path):
        """Where a file of this host is for us."""
        return f'/proc/{self.init}/root{path}'

    def wait_going(self, timeout=30):
        """Wait until libvirtd answers."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.virsh('version')
                break
            except VirshError as e:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise VirshError(f'{e}: {self.log()}') from e
                time.sleep(0.1)
        self.log_start = os.path.getsize(f'{self.dir}/libvirtd.log')

    def crashed(self):
        """Whether libvirtd ended by itself, and the host with it."""
        try:
            return self.process.wait(5) != 0
        except subprocess.TimeoutExpired:
            return False

    def log(self):
        """What libvirtd has said; not that about what this host lacks, with which it starts."""
        return read_log(f'{self.dir}/libvirtd.log', self.log_start)

    def qemu_log(self, domain):
        """What a domain's QEMU has said, and how it was started."""
        return read_log(self.path(f'/var/log/libvirt/qemu/{domain}.log'))

    def kill(self):
        """End every process of this host, and remove what it leaves."""
        if self.process and self.process.poll() is None:
            self.process.kill()  # its child, process 1, dies with it, and everything else with that
            self.process.wait(30)
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)


class Pair:
    """Two hosts, `a` and `b`, and the cables between them.

    b has the same QEMU as a unless told otherwise. More arguments: Host.start()'s.
    """

    NETWORKS = ('manage', 'migrate')

    def __init__(self, libvirt, qemu, qemu_img, qemu_b=None, **more):
        self.more = more
        self.a = Host('alpha', 1, libvirt, qemu, qemu_img)
        self.b = Host('beta', 2, libvirt, qemu_b or qemu, qemu_img)

    def __enter__(self):
        lines = ['127.0.0.1 localhost']
        for host in (self.a, self.b):
            lines += [f'10.77.0.{host.number} {host.name}', f'10.77.1.{host.number} {host.name}-migrate']
        try:
            for host in (self.a, self.b):
                host.start('\n'.join(lines) + '\n', **self.more)
            for network in self.NETWORKS:
                subprocess.run(['ip', 'link', 'add', network, 'netns', str(self.a.init), 'type', 'veth',
                                'peer', 'name', network, 'netns', str(self.b.init)], check=True, timeout=30)
            for host in (self.a, self.b):
                host.run('ip', 'link', 'set', 'lo', 'up')
                for i, network in enumerate(self.NETWORKS):
                    host.run('ip', 'address', 'add', f'10.77.{i}.{host.number}/24', 'dev', network)
                    host.run('ip', 'link', 'set', network, 'up')
            for host in (self.a, self.b):
                host.wait_going()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        for host in (self.a, self.b):
            host.kill()

    def plug(self, network, state):
        """state: 'up', or 'down': whatever is sent is lost."""
        self.a.run('ip', 'link', 'set', network, state)


class Resident:
    """A domain while it is on a host, as Guest wants it: `name` and `console`.

    The domain's first serial port is to be a socket that QEMU listens on, /run/NAME.console.
    """

    def __init__(self, host, domain):
        self.host = host
        self.name = f'{domain} on {host.name}'
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(host.path(f'/run/{domain}.console'))
        self.console = Console(self.name, connection)
        self.console.start()

    def close(self):
        self.console.close()
