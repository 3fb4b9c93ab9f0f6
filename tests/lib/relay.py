# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay between two QEMUs that knows Ferry's frames on the control channel, and can break what passes.

    relay = Relay(listen(dst, 'tcp'), on_frame)
    src.qmp('migrate', uri=relay.uri)

on_frame(relay, name, to_source) is called with the name of each frame of NAMES, before it is passed on;
returns whether it is.  It runs on a thread of the relay's.
"""

import socket
import struct
import threading
import time

MAGIC = b'FRRY'
HEADER = struct.Struct('<4sBBHIIQII')
EXTENT_BYTES = 8
NAMES = {10: 'REACHED', 14: 'LOADED', 15: 'GO', 17: 'COMPLETE', 19: 'RESUME', 22: 'TAKEN'}
CONTROL = 1       # a hello's role ...
ROLE_OFFSET = 10  # ... and where it stands in the body


def read_all(sock, nr_bytes):
    data = b''
    while len(data) < nr_bytes:
        part = sock.recv(nr_bytes - len(data))
        if not part:
            raise OSError('end of stream')
        data += part
    return data


def read_frame(sock):
    """(type, all of it)"""
    head = read_all(sock, HEADER.size)
    magic, kind, _, _, nr_extents, nr_bytes, *_ = HEADER.unpack(head)
    if magic != MAGIC:
        raise OSError('no frame')
    return kind, head + read_all(sock, (nr_extents * EXTENT_BYTES + 4 if nr_extents else 0) + nr_bytes)


class Relay:
    def __init__(self, uri, on_frame):
        """uri: where the destination listens, tcp: or unix:."""
        self.target = uri
        self.on_frame = on_frame
        self.main_passes = threading.Event()
        self.main_passes.set()
        self.main = None      # (the source's end, the destination's)
        self.control = None   # the same
        self.kept = None      # an end of the main connection that is kept open, whatever becomes of the other
        self.pairs = []
        self.lock = threading.Lock()
        if uri.startswith('unix:'):
            self.uri = uri + '.relay'
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self._address(self.uri))
            self.listener.listen(64)
        else:
            self.listener = socket.create_server(('127.0.0.1', 0), backlog=64)
            self.uri = f'tcp:127.0.0.1:{self.listener.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _address(uri):
        return uri.split(':', 1)[1]

    def _dial(self):
        if self.target.startswith('unix:'):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._address(self.target))
            return sock
        host, port = self._address(self.target).rsplit(':', 1)
        return socket.create_connection((host, int(port)))

    def _accept(self):
        while True:
            try:
                source, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(source,), daemon=True).start()

    def _connect(self, source):
        try:
            destination = self._dial()
            pair = (source, destination)
            with self.lock:
                self.pairs.append(pair)
            is_ferry = source.recv(len(MAGIC), socket.MSG_PEEK) == MAGIC
            kind = self._copy
            if not is_ferry:
                self.main = pair
            else:
                _, hello = read_frame(source)
                destination.sendall(hello)
                if hello[HEADER.size + ROLE_OFFSET] == CONTROL:
                    self.control = pair
                    kind = self._copy_frames
        except OSError:
            source.close()
            return
        threading.Thread(target=kind, args=(destination, source, True), daemon=True).start()
        kind(source, destination, False)

    def _copy(self, a, b, to_source):
        try:
            while True:
                if a is self.main[0]:
                    self.main_passes.wait()
                data = a.recv(65536)
                if not data:
                    break
                b.sendall(data)
        except OSError:
            pass
        if b is not self.kept:
            self._end(b)

    def _copy_frames(self, a, b, to_source):
        try:
            while True:
                kind, frame = read_frame(a)
                if kind not in NAMES or self.on_frame(self, NAMES[kind], to_source):
                    b.sendall(frame)
        except OSError:
            pass
        self._end(b)

    @staticmethod
    def _end(sock):
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    @staticmethod
    def _reset(sock):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it is closed already, or has ended
        sock.close()

    def hold_main(self):
        """Read nothing more of what the source sends on the main connection."""
        self.main_passes.clear()

    def reset_main_towards_source(self):
        """As a network can: the destination sees that the stream ends, a moment later."""
        self._reset(self.main[0])
        time.sleep(0.1)

    def keep_main(self, at_source):
        """Reset the main connection towards one end; at the other it stays open, and nothing comes."""
        self.kept = self.main[0 if at_source else 1]
        self._reset(self.main[1 if at_source else 0])
        time.sleep(0.1)

    def cut(self):
        """Break all connections, towards both ends."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for sock in (sock for pair in pairs for sock in pair):
            self._reset(sock)

    def close(self):
        self.main_passes.set()
        self.listener.close()
        self.cut()
