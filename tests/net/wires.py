# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts' networks on one machine, the cables between them, and what travels on these.

    with Wires([Cable(mtu=9000)]) as wires:
        VM('source', wrapper=wires.a.wrapper) ...
        with Watch(wires.b, 'cable0') as watch:
            ...
        print(watch.seen)

Nothing outside the two network namespaces is touched, and they end with the program. Needs root.
"""

import collections
import concurrent.futures
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
import typing

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
TCP_RST = 4


def wires_problem():
    """None if there can be such networks here, or one line saying why not."""
    if os.geteuid() != 0:
        return 'network namespaces can only be made by root'
    for program in ('unshare', 'nsenter', 'ip', 'setpriv'):
        if not shutil.which(program):
            return f'{program} is not installed'
    made = subprocess.run(['unshare', '--net', '--', 'ip', 'link', 'add', 'one', 'type', 'veth', 'peer', 'name', 'two'],
                          check=False, timeout=30, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return f'this kernel makes no cables: {made.stdout.strip()}' if made.returncode else None


class Cable(typing.NamedTuple):
    """mtu, mtu_b: of its ends at a and at b."""
    mtu: int = 1500
    mtu_b: int = 0


class Net:
    """The network of one host: `a`, `b`, or `router`."""

    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen(['setpriv', '--pdeathsig', 'KILL', '--', 'unshare', '--net', '--',
                                         'sleep', 'infinity'], stdin=subprocess.DEVNULL)
        self.path = f'/proc/{self.process.pid}/ns/net'
        deadline = time.monotonic() + 10
        while os.readlink(self.path) == os.readlink('/proc/self/ns/net') or self._name() != 'sleep':
            if time.monotonic() > deadline:
                raise TimeoutError(f'no network namespace for {name}')
            time.sleep(0.01)
        self.wrapper = ['nsenter', f'--net={self.path}', '--']
        self.run('ip', 'link', 'set', 'lo', 'up')

    def _name(self):
        with open(f'/proc/{self.process.pid}/comm', encoding='ascii') as f:
            return f.read().strip()

    def run(self, *words):
        subprocess.run([*self.wrapper, *words], check=True, timeout=30, stdin=subprocess.DEVNULL)

    def sysctl(self, name, value):
        self.call(lambda: self._write('/proc/sys/' + name.replace('.', '/'), value))

    @staticmethod
    def _write(path, value):
        with open(path, 'w', encoding='ascii') as f:
            f.write(value)

    def call(self, function):
        """What the function returns, called by a thread in this network; sockets that it makes stay there."""
        def enter():
            with open(self.path, 'rb') as f:
                if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f'setns to {self.name}')
            return function()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(enter).result(60)

    def kill(self):
        self.process.kill()
        self.process.wait(30)


class Wires:
    """Hosts a and b, with a cable `cable0`, `cable1`, ... for each of `cables`, or one host between them.

    cables   what joins a and b; on cable N a is 10.78.N.1 and fd78:N::1, b 10.78.N.2 and fd78:N::2
    router   True: there is a host between, to which cable0 goes from a, and `far` from b, whose router's end has
             an MTU of 1500. Then b is 10.79.0.2.
    """

    def __init__(self, cables, router=False):
        self.cables = cables
        self.nets = []
        self.router = router
        self.a = self.b = None

    def __enter__(self):
        try:
            self.a, self.b = self.add_net('a'), self.add_net('b')
            if self.router:
                self._route(self.add_net('router'))
                return self
            for i, cable in enumerate(self.cables):
                self._join(self.a, f'cable{i}', self.b, f'cable{i}', f'10.78.{i}', f'fd78:{i}:',
                           (cable.mtu, cable.mtu_b or cable.mtu))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for net in self.nets:
            net.kill()

    def add_net(self, name):
        """One more host, without a cable; it ends with the others."""
        self.nets.append(Net(name))
        return self.nets[-1]

    def _join(self, one, name, two, name_two, ipv4, ipv6, mtus):
        subprocess.run(['ip', 'link', 'add', name, 'netns', str(one.process.pid), 'type', 'veth', 'peer', 'name',
                        name_two, 'netns', str(two.process.pid)], check=True, timeout=30)
        for last, net, device, mtu in ((1, one, name, mtus[0]), (2, two, name_two, mtus[1])):
            net.run('ip', 'link', 'set', device, 'mtu', str(mtu), 'up')
            net.run('ip', 'address', 'add', f'{ipv4}.{last}/24', 'dev', device)
            net.run('ip', 'address', 'add', f'{ipv6}:{last}/64', 'dev', device, 'nodad')

    def _route(self, router):
        self._join(self.a, 'cable0', router, 'near', '10.78.0', 'fd78:0:', (self.cables[0].mtu,) * 2)
        self._join(router, 'far', self.b, 'cable0', '10.79.0', 'fd79:0:', (1500, self.cables[0].mtu))
        router.sysctl('net.ipv4.ip_forward', '1')
        self.a.run('ip', 'route', 'add', 'default', 'via', '10.78.0.2')
        self.b.run('ip', 'route', 'add', 'default', 'via', '10.79.0.1')


class Packet(typing.NamedTuple):
    """What a TCP packet was."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    dscp: int


def tcp_start(data):
    """Where the TCP header begins in what an interface passed; None if there is none."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 40 and data[9] == socket.IPPROTO_TCP:
        return (data[0] & 15) * 4
    if version == 6 and len(data) >= 60 and data[6] == socket.IPPROTO_TCP:
        return 40
    return None


def is_reset(data):
    """Whether what an interface passed is a TCP reset."""
    start = tcp_start(data)
    return start is not None and bool(data[start + 13] & TCP_RST)


def parse(data):
    """The Packet in what an interface passed, or None; None as well of resets, which no socket marks."""
    start = tcp_start(data)
    if start is None or is_reset(data):
        return None
    if data[0] >> 4 == 4:
        tos = data[1]
        addresses = [socket.inet_ntop(socket.AF_INET, data[i:i + 4]) for i in (12, 16)]
    else:
        tos = (data[0] & 15) << 4 | data[1] >> 4
        addresses = [socket.inet_ntop(socket.AF_INET6, data[i:i + 16]) for i in (8, 24)]
    ports = [int.from_bytes(data[i:i + 2], 'big') for i in (start, start + 2)]
    return Packet(addresses[0], ports[0], addresses[1], ports[1], tos >> 2)


def sizes(data):
    """Bytes of the IP packet in what an interface passed, and of what TCP carries in it.

    Nothing of an IPv6 packet that a host sends by itself: looking for neighbours, joining groups.
    """
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 40:
        total, start, protocol = int.from_bytes(data[2:4], 'big'), (data[0] & 15) * 4, data[9]
    elif version == 6 and len(data) >= 60:
        total, start, protocol = 40 + int.from_bytes(data[4:6], 'big'), 40, data[6]
    else:
        return 0, 0
    if version == 6 and protocol in (0, socket.IPPROTO_ICMPV6):
        return 0, 0
    return total, total - start - (data[start + 12] >> 4) * 4 if protocol == socket.IPPROTO_TCP else 0


class Watch:
    """Counts TCP packets on one interface, in both directions.

    seen          {Packet: how many}
    ip_bytes      of all IP packets, resets too
    data_bytes    of what TCP carried
    reset_bytes   of TCP resets that carry nothing
    """

    HEAD_BYTES = 128

    def __init__(self, net, device):
        self.seen = collections.Counter()
        self.ip_bytes = self.data_bytes = self.reset_bytes = 0
        self.socket = net.call(lambda: self._open(device))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)

    @staticmethod
    def _open(device):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        opened.bind((device, ETH_P_ALL))
        opened.settimeout(0.2)
        return opened

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.socket.close()

    def _read(self):
        while True:
            try:
                data = self.socket.recv(self.HEAD_BYTES)
            except TimeoutError:
                if self.over.is_set():
                    return
                continue
            packet, (ip_bytes, data_bytes) = parse(data), sizes(data)
            self.ip_bytes += ip_bytes
            self.data_bytes += data_bytes
            if packet:
                self.seen[packet] += 1
            elif not data_bytes and is_reset(data):
                self.reset_bytes += ip_bytes
