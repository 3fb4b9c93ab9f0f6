# SPDX-License-Identifier: GPL-2.0-or-later
"""Swap space for a while, and having the kernel swap a process's memory out."""

import contextlib
import ctypes
import os
import subprocess
import tempfile

SYS_PIDFD_OPEN, SYS_PROCESS_MADVISE = 434, 440
MADV_PAGEOUT = 21


class NoSwap(Exception):
    """Why there is none."""


class IoVec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]


@contextlib.contextmanager
def swap_file(mib):
    """A swap file of our own, removed at the end. Needs root, and a file system that can."""
    with tempfile.NamedTemporaryFile(prefix='ferry-swap-', dir='/var/tmp') as file:
        os.posix_fallocate(file.fileno(), 0, mib << 20)
        os.chmod(file.name, 0o600)
        for command in 'mkswap', 'swapon':
            done = subprocess.run([f'/sbin/{command}', file.name], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                raise NoSwap(f'{command}: {done.stdout.strip()}')
        try:
            yield
        finally:
            subprocess.run(['/sbin/swapoff', file.name], check=True)


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
        raise NoSwap(f'pidfd_open: {os.strerror(ctypes.get_errno())}')
    try:
        first, length = largest_mapping(pid)
        step = 16 << 20
        for at in range(first, first + length, step):
            vector = IoVec(at, min(step, first + length - at))
            if libc.syscall(SYS_PROCESS_MADVISE, pidfd, ctypes.byref(vector), ctypes.c_size_t(1),
                            MADV_PAGEOUT, 0) < 0:
                raise NoSwap(f'process_madvise: {os.strerror(ctypes.get_errno())}')
    finally:
        os.close(pidfd)
    return swapped_mib(pid)
