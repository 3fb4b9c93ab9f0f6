# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of `tests/lib/test`: borrowing huge pages from a pool that is a few files, and giving them back."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile

from resources import Pool, Unavailable, is_alive, sweep, sweep_swap
from suite import Failure, same
from vm import ROOT


class Machine:
    """A pool of huge pages that is not the kernel's."""

    def __init__(self, directory, count):
        self.sysfs = os.path.join(directory, 'sysfs')
        self.state = os.path.join(directory, 'state')
        self.folder = os.path.join(self.sysfs, 'hugepages-2048kB')
        os.makedirs(self.folder)
        self.set('surplus_hugepages', 0)
        self.set('nr_hugepages', count)

    def set(self, name, count):
        with open(os.path.join(self.folder, name), 'w', encoding='ascii') as file:
            file.write(f'{count}\n')

    @property
    def count(self):
        with open(os.path.join(self.folder, 'nr_hugepages'), encoding='ascii') as file:
            return int(file.read())

    def lend(self, count, boot=None):
        return Pool(2048, self.state, self.sysfs, boot).lend(count)

    def sweep(self):
        """Returns what it says."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            sweep(self.state, self.sysfs)
        return out.getvalue()

    def borrow_and_die(self, count):
        """In another process, which is killed while it has them."""
        program = ('import sys, time\n'
                   'sys.path.insert(0, sys.argv[1])\n'
                   'from resources import Pool\n'
                   'with Pool(2048, sys.argv[2], sys.argv[3]).lend(int(sys.argv[4])):\n'
                   '    print("borrowed", flush=True)\n'
                   '    time.sleep(60)\n')
        with subprocess.Popen([sys.executable, '-c', program, os.path.join(ROOT, 'tests', 'lib'), self.state,
                               self.sysfs, str(count)], stdout=subprocess.PIPE, text=True) as process:
            same(process.stdout.readline(), 'borrowed\n')
            process.kill()
            same(process.wait(), -signal.SIGKILL)


@contextlib.contextmanager
def machine(count):
    with tempfile.TemporaryDirectory() as directory:
        yield Machine(directory, count)


def test_pages_are_borrowed_and_given_back():
    with machine(10) as m:
        with m.lend(48):
            same(m.count, 58)
            with m.lend(2):
                same(m.count, 60)
            same(m.count, 58)
        same(m.count, 10)
        same(os.listdir(m.state), ['lock'])


def test_pages_are_given_back_after_an_error():
    with machine(0) as m:
        with contextlib.suppress(KeyError), m.lend(48):
            raise KeyError
        same(m.count, 0)


def test_the_next_one_gives_back_what_the_dead_has():
    with machine(10) as m:
        m.borrow_and_die(48)
        same(m.count, 58)
        with m.lend(3):
            same(m.count, 13)
        same(m.count, 10)


def test_sweeping_gives_back_what_the_dead_has():
    if os.geteuid() != 0:
        return
    with machine(10) as m:
        m.borrow_and_die(48)
        same(m.sweep(), '# gave back 48 huge pages of 2048 KiB that an earlier run had left\n')
        same(m.count, 10)
        same(m.sweep(), '')
        same(os.listdir(m.state), ['lock'])


def test_the_living_keep_what_they_have():
    with machine(10) as m:
        with m.lend(5):
            m.borrow_and_die(48)
            m.sweep()
            same(m.count, 15 if os.geteuid() == 0 else 63)
        with m.lend(1):
            pass
        same(m.count, 10)


def test_a_pool_that_others_have_made_larger_is_theirs():
    with machine(10) as m:
        with m.lend(48):
            m.set('nr_hugepages', 100)
        same(m.count, 100)


def test_a_pool_that_others_have_made_smaller_is_theirs():
    with machine(10) as m:
        with m.lend(48), m.lend(4):
            m.set('nr_hugepages', 20)
        same(m.count, 20)


def test_a_pool_that_others_have_changed_after_a_death_is_theirs():
    with machine(10) as m:
        m.borrow_and_die(48)
        m.set('nr_hugepages', 64)
        with m.lend(2):
            same(m.count, 66)
        same(m.count, 64)


def test_after_a_loss_of_power_nothing_is_given_back():
    with machine(0) as m:
        with m.lend(48, boot='before'):
            # The kernel that counted them is gone, and this one has as many by its own settings.
            with m.lend(0, boot='after'):
                pass
            same(m.count, 48)


def test_who_dies_before_it_has_them_has_none():
    with machine(10) as m:
        pool = Pool(2048, m.state, m.sysfs)
        os.makedirs(m.state, 0o700)
        pool.save({'boot': pool.boot, 'size': 58, 'holds': {'hold-x': 48}})
        with m.lend(2):
            same(m.count, 12)
        same(m.count, 10)


def test_a_kernel_with_too_few_gives_none():
    class Small(Pool):
        def resize(self, count):
            super().resize(min(count, 30))

    with machine(10) as m:
        try:
            with Small(2048, m.state, m.sysfs).lend(48):
                raise Failure('it has lent what it does not have')
        except Unavailable as e:
            same(str(e), 'the kernel has no 48 huge pages of 2048 KiB to give')
        same(m.count, 10)
        same(os.listdir(m.state), ['lock'])


def test_pages_in_use_beyond_the_pool_are_not_counted():
    with machine(10) as m:
        with m.lend(48):
            # Somebody uses all: when the pool shrinks, the kernel keeps them until they are free.
            m.set('nr_hugepages', 61)
            m.set('surplus_hugepages', 3)
        same(m.count, 10)


def link_elsewhere(path):
    os.symlink('/tmp', path)


def give_away(path):
    os.makedirs(path, 0o700)
    os.chown(path, 1, 1)


def test_somebody_elses_directory_is_not_used():
    for make in (link_elsewhere, give_away) if os.geteuid() == 0 else (link_elsewhere,):
        with machine(10) as m:
            make(m.state)
            try:
                with m.lend(1):
                    raise Failure('it was used')
            except Unavailable as e:
                same('not a directory of our own' in str(e), True)
            same(m.count, 10)


def test_a_kernel_without_huge_pages_says_so():
    with machine(0) as m:
        same(Pool(1 << 20, m.state, m.sysfs).problem(), 'this kernel has no huge pages of 1048576 KiB')


def test_a_swap_file_that_was_left_is_removed():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'swap-x')
        with open(path, 'wb') as file:
            file.write(bytes(4096))
        same(is_alive(path), False)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            sweep_swap(directory)
        same((os.listdir(directory), out.getvalue()), ([], f'# gave back {path}, which an earlier run had left\n'))


def test_a_command_has_them_while_it_runs():
    program = os.path.join(ROOT, 'tests', 'lib', 'resources.py')
    same(subprocess.run([program, 'sh', '-c', 'exit 3'], check=False).returncode, 3)
    same(subprocess.run([program, 'sh', '-c', 'kill -KILL $$'], check=False).returncode, 128 + 9)
