# SPDX-License-Identifier: GPL-2.0-or-later
"""The board that a QEMU with fault points shares with us: see injector.c, which has the same layout."""

import mmap
import os
import struct

from points import POINTS

WORD = struct.Struct('<I')
WORDS_OF_HEAD = 4
WORDS_OF_SLOT = 4
FAULT, CANCEL, GO_OVER, BREAK = range(4)  # slots: what is walked, and the events that a mode consists of
NR_SLOTS = 4
NOTHING, EVENTS, ALL = range(3)  # what is armed
IDLE, ASKED, GO_ON, FAIL = range(4)
NR_WORDS = WORDS_OF_HEAD + NR_SLOTS * WORDS_OF_SLOT + len(POINTS)


class Board:
    """Of one QEMU, in a file that its environment names."""

    def __init__(self, path):
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, NR_WORDS * WORD.size)
        self.memory = mmap.mmap(fd, NR_WORDS * WORD.size)
        os.close(fd)

    def _get(self, index):
        return WORD.unpack_from(self.memory, index * WORD.size)[0]

    def _set(self, index, value):
        WORD.pack_into(self.memory, index * WORD.size, value)

    @staticmethod
    def _slot(slot, field):
        return WORDS_OF_HEAD + slot * WORDS_OF_SLOT + field

    def watch(self, slot, point, nth):
        """Ask when the point is passed for the nth time, from 1 on, since arm()."""
        self._set(self._slot(slot, 1), nth)
        self._set(self._slot(slot, 0), POINTS.index(point) + 1)

    def arm(self, what):
        self._set(0, what)

    def is_asked(self, slot):
        return self._get(self._slot(slot, 2)) == ASKED

    def answer(self, slot, what):
        self._set(self._slot(slot, 2), what)

    def passes(self):
        """{point: how often it was passed while armed}, of those that were."""
        first = NR_WORDS - len(POINTS)
        counts = ((point, self._get(first + i)) for i, point in enumerate(POINTS))
        return {point: count for point, count in counts if count}
