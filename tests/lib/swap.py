# SPDX-License-Identifier: GPL-2.0-or-later
"""Having the kernel swap a process's memory out."""

import ctypes
import os

from resources import Unavailable

SYS_PIDFD_OPEN, SYS_PROCESS_MADVISE = 434, 440
MADV_PAGEOUT = 21


class IoVec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]


def swapped_mib(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as status:
        for line in status:
            if line.startswith('VmSwap:'):
                return int(line.split()[1]) >> 10
    return 0


def largest_mapping(pid):
    """(its first address, its length)"""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as maps:
        ranges = [line.split()[0].split('-') for line in maps if ' rw' in line]
    spans = [(int(first, 16), int(end, 16) - int(first, 16)) for first, end in ranges]
    return max(spans, key=lambda span: span[1])


def swap_out(pid):
    """Have the kernel swap out a process's largest mapping; returns how many MiB are, after that."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        raise Unavailable(f'pidfd_open: {os.strerror(ctypes.get_errno())}')
    try:
        first, length = largest_mapping(pid)
        step = 16 << 20
        for at in range(first, first + length, step):
            vector = IoVec(at, min(step, first + length - at))
            if libc.syscall(SYS_PROCESS_MADVISE, pidfd, ctypes.byref(vector), ctypes.c_size_t(1),
                            MADV_PAGEOUT, 0) < 0:
                raise Unavailable(f'process_madvise: {os.strerror(ctypes.get_errno())}')
    finally:
        os.close(pidfd)
    return swapped_mib(pid)
