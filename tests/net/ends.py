# SPDX-License-Identifier: GPL-2.0-or-later
"""Two QEMUs, one in each of two networks (see wires.py), and connections between these."""

import socket

from migration import migrate
from suite import require
from vm import VM

MEMORY_MIB = 64


def pair(wires, source=(), destination=(), source_net=None):
    """Two QEMUs, one at each end; with further arguments. source_net: where the source is, if not at a."""
    return (VM('source', memory_mib=MEMORY_MIB, wrapper=(source_net or wires.a).wrapper, args=source),
            VM('destination', memory_mib=MEMORY_MIB, wrapper=wires.b.wrapper, args=destination, incoming=True))


def globals_of(**values):
    return [word for name, value in values.items() for word in ('-global', f"ferry.{name.replace('_', '-')}={value}")]


def go(src, dst, address, **more):
    """Migrate by Ferry; returns query-ferry of the source."""
    done = migrate(src, dst, f'tcp:{address}:0', **more)
    require(done.ferry['phase'] == 'done', 'the memory did not go through Ferry', done.ferry)
    return done.ferry


def connect_from(wires, prepare, *, mapped=False):
    """A connection from a to b's 10.78.0.2 whose socket is prepared first: (a's end, b's end).

    mapped: b listens for both protocols, so that its end is IPv4 in IPv6.
    """
    def listen():
        if mapped:
            return socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(('10.78.0.2', 0))

    def dial():
        opened = socket.socket()
        prepare(opened)
        opened.connect(('10.78.0.2', listener.getsockname()[1]))
        return opened

    with wires.b.call(listen) as listener:
        return wires.a.call(dial), listener.accept()[0]


def listeners(vm):
    """The addresses on which anybody in that VM's network listens for TCP."""
    found = []
    for family, path in ((socket.AF_INET, 'tcp'), (socket.AF_INET6, 'tcp6')):
        with open(f'/proc/{vm.pid}/net/{path}', encoding='ascii') as f:
            for words in map(str.split, f):
                if words[3] == '0A':  # TCP_LISTEN
                    digits = words[1].split(':')[0]
                    data = b''.join(bytes.fromhex(digits[i:i + 8])[::-1] for i in range(0, len(digits), 8))
                    found.append(socket.inet_ntop(family, data))
    return found
