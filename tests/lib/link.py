# SPDX-License-Identifier: GPL-2.0-or-later
"""A link between two QEMUs that carries any bytes: slow, silent for a while, or broken, towards one end or both.

    link = Link(listen(dst, 'tcp'), rate=20 << 20)
    src.qmp('migrate', uri=link.uri)
    link.silence(True)
    link.cut()

relay.py is for who must know the frames that pass; this one knows none, so TLS passes as well.
"""

import os
import queue
import socket
import struct
import threading
import time

PART_BYTES = 256 << 10
DIAL_S = 10
FAR_PARTS = 256  # that may be under way on a connection which is far
PAUSE_S = 0.05  # at a rate, nothing is sent at once that takes longer


def reset(sock):
    """Close a socket so that its other end is told of an error, where the transport has such."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        sock.shutdown(socket.SHUT_RD)  # who reads from it wakes up
    except OSError:
        pass
    sock.close()


def end(sock):
    """Close a socket so that its other end sees the end of the stream."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Budget:
    """At most so many bytes a second, for all who ask; 0: as many as they like."""

    def __init__(self, rate):
        self.rate = rate
        self.lock = threading.Lock()
        self.free_at = 0

    def spend(self, nr_bytes):
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            self.free_at = max(now, self.free_at) + nr_bytes / self.rate
            wait = self.free_at - now
        time.sleep(max(0, wait))

    def part(self):
        return min(PART_BYTES, max(4096, int(self.rate * PAUSE_S))) if self.rate else PART_BYTES


class Link:
    """uri: where the destination listens, tcp: or unix:.

    rate      bytes a second that pass from the source, on all connections together; 0: no limit
    delay_s   how long a byte is under way, in either direction
    admit     called with the number of each connection, from 0 on: 'pass', 'refuse', which resets it, or
              'swallow', which takes it and forwards nothing
    """

    def __init__(self, uri, *, rate=0, delay_s=0, admit=lambda _: 'pass'):
        self.target = uri
        self.delay_s = delay_s
        self.admit = admit
        self.budget = Budget(rate)
        self.passes = threading.Event()
        self.passes.set()
        self.lock = threading.Lock()
        self.pairs = []  # (the source's end, the destination's or None), in the order in which they came
        self.kept = set()  # ends of which only cut() says how they end
        self.nr_bytes = 0
        if uri.startswith('unix:'):
            self.path = uri.split(':', 1)[1] + '.link'
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.path)
            self.listener.listen(128)
            self.uri = f'unix:{self.path}'
        else:
            self.path = None
            self.listener = socket.create_server(('127.0.0.1', 0), backlog=128)
            self.uri = f'tcp:127.0.0.1:{self.listener.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    def _dial(self):
        if self.target.startswith('unix:'):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.target.split(':', 1)[1])
            return sock
        host, port = self.target.split(':', 1)[1].rsplit(':', 1)
        sock = socket.create_connection((host, int(port)), timeout=DIAL_S)
        sock.settimeout(None)
        return sock

    def _accept(self):
        while True:
            try:
                source, _ = self.listener.accept()
            except OSError:
                return
            what = self.admit(len(self.pairs))
            destination = None
            with self.lock:  # a connection that the destination has taken can be cut
                try:
                    if what == 'pass':
                        destination = self._dial()
                except OSError:
                    what = 'refuse'
                self.pairs.append((source, destination))
            if what == 'refuse':
                reset(source)
            elif destination:
                threading.Thread(target=self._copy, args=(source, destination, self.budget), daemon=True).start()
                threading.Thread(target=self._copy, args=(destination, source, None), daemon=True).start()

    def _copy(self, a, b, budget):
        pipe = queue.Queue(FAR_PARTS)
        if self.delay_s:
            threading.Thread(target=self._deliver, args=(pipe, a, b), daemon=True).start()
        try:
            while data := a.recv(budget.part() if budget else PART_BYTES):
                self.passes.wait()
                if budget:
                    budget.spend(len(data))
                    self.nr_bytes += len(data)
                if self.delay_s:
                    pipe.put((time.monotonic() + self.delay_s, data))
                elif not self._send(b, data):
                    self._end_of_broken(a)
                    break
        except OSError:
            pass
        if self.delay_s:
            pipe.put((time.monotonic() + self.delay_s, None))
        else:
            self._end_of(b)

    def _deliver(self, pipe, a, b):
        """What comes from `a` arrives at `b` when it is time."""
        broken = False
        while True:
            due, data = pipe.get()
            time.sleep(max(0, due - time.monotonic()))
            if data is None:
                break
            if not broken and not self._send(b, data):
                broken = True
                self._end_of_broken(a)
        self._end_of(b)

    @staticmethod
    def _send(sock, data):
        try:
            sock.sendall(data)
        except OSError:
            return False
        return True

    def _end_of_broken(self, a):
        """Nobody reads what it says: it hears of that, as it would without a link."""
        if a not in self.kept:
            reset(a)

    def _end_of(self, b):
        if b not in self.kept:
            try:
                b.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def silence(self, on):
        """Whether everything is held back."""
        if on:
            self.passes.clear()
        else:
            self.passes.set()

    def set_rate(self, rate):
        self.budget.rate = rate

    def cut(self, *, which=None, towards=('source', 'destination'), hang_up=False):
        """Break connections that there are now; new ones pass.

        which     numbers of connections; None: all
        towards   whose end breaks; at the other end nothing more comes, and nobody says so
        hang_up   they see the end of the stream, not an error
        """
        with self.lock:
            chosen = [pair for i, pair in enumerate(self.pairs) if which is None or i in which]
        for source, destination in chosen:
            ends = {'source': source, 'destination': destination}
            self.kept.update(ends.values())
            for side in towards:
                if ends[side]:
                    (end if hang_up else reset)(ends[side])

    def close(self):
        self.passes.set()
        self.budget.rate = 0
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # who accepts wakes up
        except OSError:
            pass
        self.listener.close()
        self.cut()
        if self.path and os.path.exists(self.path):
            os.unlink(self.path)
