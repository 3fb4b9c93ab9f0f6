# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines that a QEMU says over a socket: its monitor's and its guest's console's.

A thread for each stream reads them. Every wait has a time limit and raises TimeoutError.
"""

import json
import socket
import threading
import time


class QMPError(Exception):
    """QEMU refused a command; `klass` is QMP's error class."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('desc', error)}")
        self.klass = error.get('class')


class VMDied(Exception):
    """QEMU is gone, or closed its monitor."""


class Stream:
    """One end of a socket pair; the other is given to QEMU. A thread reads what QEMU says.

    Or, where somebody else has QEMU listen, a socket `connected` to it.
    """

    def __init__(self, name, connected=None):
        self.sock, self.theirs = (connected, None) if connected else socket.socketpair()
        self.name = name
        self.cond = threading.Condition()
        self.closed = False
        self.thread = None

    def start(self):
        """To be called once QEMU has inherited its end."""
        if self.theirs:
            self.theirs.close()
        self.thread = threading.Thread(target=self._read, name=self.name, daemon=True)
        self.thread.start()

    def close(self):
        ends = [end for end in (self.sock, self.theirs) if end]
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if self.thread:
            self.thread.join(5)
        for end in ends:
            end.close()

    def _read(self):
        pending = b''
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b''
            stamp = time.monotonic()
            if not data:
                break
            *lines, pending = (pending + data).split(b'\n')
            if lines:
                with self.cond:
                    for line in lines:
                        self.got_line(line, stamp)
                    self.cond.notify_all()
        with self.cond:
            self.closed = True
            self.cond.notify_all()

    def got_line(self, line, stamp):
        raise NotImplementedError

    def wait(self, predicate, timeout, what):
        """Wait until predicate() is not None and return it; the lock is held while it is called."""
        deadline = time.monotonic() + timeout
        with self.cond:
            while True:
                value = predicate()
                if value is not None:
                    return value
                if self.closed:
                    raise VMDied(f'{self.name}: closed while waiting for {what}')
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f'{self.name}: no {what} within {timeout:g} s')
                self.cond.wait(left)


class Monitor(Stream):
    """QMP. Events are kept in `events`, oldest first; each also carries our 'monotonic' stamp."""

    def __init__(self, name):
        super().__init__(name)
        self.events = []
        self.answers = {}
        self.greeting = None
        self.next_id = 0
        self.send_lock = threading.Lock()

    def got_line(self, line, stamp):
        if not line.strip():
            return
        message = json.loads(line)
        if 'event' in message:
            message['monotonic'] = stamp
            self.events.append(message)
        elif 'QMP' in message:
            self.greeting = message['QMP']
        else:
            self.answers[message.get('id')] = message

    def handshake(self, timeout):
        self.wait(lambda: self.greeting, timeout, 'QMP greeting')
        offered = self.greeting.get('capabilities', [])
        self.command('qmp_capabilities', {'enable': [c for c in offered if c == 'oob']}, timeout)

    def command(self, name, arguments, timeout, oob=False, fds=()):
        """oob: out of band, for when QEMU's main thread may be waiting (for a page, say). fds: go with it."""
        with self.send_lock:
            self.next_id += 1
            ident = self.next_id
            text = json.dumps({'exec-oob' if oob else 'execute': name, 'arguments': arguments,
                               'id': ident})
            try:
                if fds:
                    socket.send_fds(self.sock, [text[:1].encode()], fds)
                    text = text[1:]
                self.sock.sendall(text.encode() + b'\n')
            except OSError as e:
                raise VMDied(f'{self.name}: {name}: {e}') from e
        answer = self.wait(lambda: self.answers.pop(ident, None), timeout, f'answer to {name}')
        if 'error' in answer:
            raise QMPError(name, answer['error'])
        return answer['return']


class Console(Stream):
    """The guest's serial line. `lines` holds (monotonic stamp, text), oldest first."""

    def __init__(self, name, connected=None):
        super().__init__(name, connected)
        self.lines = []

    def got_line(self, line, stamp):
        self.lines.append((stamp, line.decode('ascii', 'replace').strip('\r\0')))

    def send(self, text):
        self.sock.sendall(text.encode() + b'\n')

    def wait_line(self, prefix, timeout, since=0):
        """The first line from index `since` on that begins with `prefix`, as (stamp, text)."""
        seen = since

        def find():
            nonlocal seen
            while seen < len(self.lines):
                seen += 1
                if self.lines[seen - 1][1].startswith(prefix):
                    return self.lines[seen - 1]
            return None

        return self.wait(find, timeout, f'line "{prefix}..."')


def event_time(event):
    """When QEMU says that an event was, by time.monotonic(): later than that is when we read of it."""
    stamp = event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6
    return stamp - time.time() + time.monotonic()
