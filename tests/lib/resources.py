#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages and swap space that tests borrow from the machine, as root, and give back.

    with huge_pages(48), swap_file(32):
        ...

    resources.py [--huge-pages N] [--swap MIB] COMMAND...   runs it while they are there
    resources.py --sweep                                    gives back what the dead have left

Who is killed gives nothing back: whoever comes next does it. What is borrowed is written down in a directory that
outlives its borrower, who holds a lock on a file there that only its death or its end releases. The kernel's pool
of huge pages is the whole machine's: it grows by what is needed, and shrinks by that only if nobody else
has changed it meanwhile.
"""

import argparse
import contextlib
import fcntl
import glob
import json
import os
import stat
import subprocess
import sys
import tempfile

from vm import exit_on_signals

# On a disk, for swap files; scripts/check-debian shows it to what it runs.
DIRECTORY = '/var/tmp/ferry-tests'
SYSFS = '/sys/kernel/mm/hugepages'
HUGE_KIB = 2048


class Unavailable(Exception):
    """Why the machine does not lend it."""


def boot_id():
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
        return file.read().strip()


@contextlib.contextmanager
def locked(directory):
    """Nobody else borrows or gives back in here."""
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise Unavailable(f'{directory} is not a directory of our own')
        lock = open(os.path.join(directory, 'lock'), 'w', encoding='ascii')
    except OSError as e:
        raise Unavailable(f'{directory}: {e.strerror}') from e
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def new_hold(directory, prefix):
    """A file that is locked as long as this process lives; it goes when it is closed."""
    file = tempfile.NamedTemporaryFile(prefix=prefix, dir=directory)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_alive(path):
    """Whether whoever holds this lives."""
    try:
        with open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class Pool:
    """The kernel's huge pages of one size, and who has borrowed how many."""

    def __init__(self, kib=HUGE_KIB, directory=DIRECTORY, sysfs=SYSFS, boot=None):
        self.kib = kib
        self.directory = directory
        self.sysfs = os.path.join(sysfs, f'hugepages-{kib}kB')
        self.record = os.path.join(directory, f'pool-{kib}kB')
        self.boot = boot or boot_id()

    def problem(self):
        """Why none can be borrowed, or None."""
        path = os.path.join(self.sysfs, 'nr_hugepages')
        if not os.path.exists(path):
            return f'this kernel has no huge pages of {self.kib} KiB'
        return None if os.access(path, os.W_OK) else f'huge pages may not be reserved here: {path} is read-only'

    def number(self, name):
        with open(os.path.join(self.sysfs, name), encoding='ascii') as file:
            return int(file.read())

    def size(self):
        """How many the kernel keeps, whether used or not."""
        return self.number('nr_hugepages') - self.number('surplus_hugepages')

    def resize(self, count):
        try:
            with open(os.path.join(self.sysfs, 'nr_hugepages'), 'w', encoding='ascii') as file:
                file.write(str(count))
        except OSError as e:
            raise Unavailable(f'huge pages may not be reserved here: {e.filename or self.sysfs}: {e.strerror}') from e

    def load(self):
        """{'boot':, 'size': what we left it at, 'holds': {file: pages}}"""
        try:
            with open(self.record, encoding='ascii') as file:
                state = json.load(file)
        except (OSError, ValueError):
            state = {}
        if state.get('boot') != self.boot:
            # A pool ends with its kernel.
            state = {'boot': self.boot, 'size': self.size(), 'holds': {}}
        return state

    def save(self, state):
        if not state['holds']:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.record)
            return
        with open(f'{self.record}.new', 'w', encoding='ascii') as file:
            json.dump(state, file)
        os.replace(f'{self.record}.new', self.record)

    def take_back(self, state, name):
        """From one who borrowed; returns how many. What others have made of the pool meanwhile is theirs."""
        count = state['holds'].pop(name)
        if self.size() != state['size']:
            if count:
                print(f'# somebody has changed the pool of huge pages of {self.kib} KiB: it stays at {self.size()}',
                      flush=True)
            state['holds'] = dict.fromkeys(state['holds'], 0)
            count = 0
        if count:
            # First the pool, then the record: if this is the end, the record is not true, and counts for nothing.
            self.resize(self.size() - count)
        state['size'] = self.size()
        self.save(state)
        return count

    def sweep(self, state):
        for name in list(state['holds']):
            if not is_alive(os.path.join(self.directory, name)):
                count = self.take_back(state, name)
                if count:
                    print(f'# gave back {count} huge pages of {self.kib} KiB that an earlier run had left', flush=True)

    @contextlib.contextmanager
    def lend(self, count):
        """So many more, for a while. Raises Unavailable."""
        if self.problem():
            raise Unavailable(self.problem())
        with locked(self.directory):
            state = self.load()
            self.sweep(state)
            hold = new_hold(self.directory, 'hold-')
            name = os.path.basename(hold.name)
            before = self.size()
            # First the record, then the pool: see take_back().
            state['size'] = before + count
            state['holds'][name] = count
            self.save(state)
            try:
                self.resize(before + count)
                missing = before + count - self.size()
                if missing > 0:
                    self.resize(before)
                    raise Unavailable(f'the kernel has no {count} huge pages of {self.kib} KiB to give')
            except Unavailable:
                del state['holds'][name]
                state['size'] = self.size()
                self.save(state)
                hold.close()
                raise
        try:
            yield
        finally:
            with locked(self.directory):
                state = self.load()
                if name in state['holds']:
                    self.take_back(state, name)
                hold.close()


def huge_pages(count, kib=HUGE_KIB):
    """A context with so many more huge pages. Raises Unavailable."""
    return Pool(kib).lend(count)


def huge_pages_problem(kib=HUGE_KIB):
    """Why none can be borrowed, or None."""
    return Pool(kib).problem()


# Swap space

def swap_command(command, path):
    done = subprocess.run([f'/sbin/{command}', path], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise Unavailable(f'no swap space: {command}: {done.stdout.strip()}')


def is_swap(path):
    with open('/proc/swaps', encoding='utf-8') as swaps:
        return any(os.path.basename(line.split()[0]) == os.path.basename(path) for line in swaps)


def sweep_swap(directory=DIRECTORY):
    """Also after a loss of power: then it is just a file."""
    for path in glob.glob(os.path.join(directory, 'swap-*')):
        if not is_alive(path):
            if is_swap(path):
                swap_command('swapoff', path)
            os.unlink(path)
            print(f'# gave back {path}, which an earlier run had left', flush=True)


@contextlib.contextmanager
def swap_file(mib, directory=DIRECTORY):
    """A context with a swap file of our own. Raises Unavailable where that takes root, or a file system that can."""
    if os.geteuid() != 0:
        raise Unavailable('no swap space: swapon takes root')
    with locked(directory):
        sweep_swap(directory)
        file = new_hold(directory, 'swap-')
    with file:
        try:
            os.posix_fallocate(file.fileno(), 0, mib << 20)
        except OSError as e:
            raise Unavailable(f'no swap space: {file.name}: {e.strerror}') from e
        os.chmod(file.name, 0o600)
        swap_command('mkswap', file.name)
        swap_command('swapon', file.name)
        try:
            yield
        finally:
            swap_command('swapoff', file.name)


def swap_problem():
    """Why there can be no swap file, or None."""
    try:
        with swap_file(1):
            return None
    except Unavailable as e:
        return str(e)


# All of it

def sweep(directory=DIRECTORY, sysfs=SYSFS):
    """Give back what runs that are dead have left, if there is any."""
    if not os.path.isdir(directory) or os.geteuid() != 0:
        return
    with locked(directory):
        for path in glob.glob(os.path.join(directory, 'pool-*kB')):
            kib = int(os.path.basename(path)[len('pool-'):-len('kB')])
            pool = Pool(kib, directory, sysfs)
            state = pool.load()
            pool.sweep(state)
            pool.save(state)
        for path in glob.glob(os.path.join(directory, 'hold-*')):
            if not is_alive(path):
                os.unlink(path)
        sweep_swap(directory)


@contextlib.contextmanager
def borrowed(pages=0, swap_mib=0):
    """What can be had of it; a comment says what cannot, and the cases that want it are skipped."""
    with contextlib.ExitStack() as stack:
        for wanted, context in ((pages, huge_pages), (swap_mib, swap_file)):
            try:
                if wanted:
                    stack.enter_context(context(wanted))
            except Unavailable as e:
                print(f'# {e}', flush=True)
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--huge-pages', type=int, default=0, metavar='N', help='of 2 MiB')
    parser.add_argument('--swap', type=int, default=0, metavar='MIB', help='in a file')
    parser.add_argument('--sweep', action='store_true', help='only give back what the dead have left')
    parser.add_argument('command', nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.sweep:
        sweep()
        return 0
    if not options.command:
        parser.error('no command')
    exit_on_signals()
    with borrowed(options.huge_pages, options.swap):
        with subprocess.Popen(options.command) as process:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                raise
    return status if status >= 0 else 128 - status


if __name__ == '__main__':
    sys.exit(main())
