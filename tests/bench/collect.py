# SPDX-License-Identifier: GPL-2.0-or-later
"""What collecting written pages costs a source, in tests/bench/trace: samples of its CPU time, by perf."""

import collections
import glob
import os
import re
import shutil
import subprocess
import tempfile

from common import Wrong, print_table
from meters import Meter
from vm import ROOT

PERF_HZ = 9999

# The kernel's part: all that is called through kvm_vm_ioctl() but these.
VM_IOCTL = 'kvm_vm_ioctl'
INSTALL = re.compile(r'set_memory_region$')
NOT_COLLECTING = re.compile(r'^(kvm_arch_vm_ioctl|kvm_vm_ioctl_irq_line|kvm_irqfd|kvm_ioeventfd'
                            r'|kvm_send_userspace_msi)$')
# QEMU's part, by the function that was running.
QEMU_COLLECTING = re.compile(
    r'^(kvm_dirty_ring_\w+|dirty_gfn_\w+|kvm_log_(sync|clear)\w*|kvm_slot_\w*dirty\w*'
    r'|kvm_physical_(sync_dirty_bitmap|log_clear)|kvm_cpu_synchronize_kick_all'
    r'|do_kvm_cpu_synchronize_kick|cpu_physical_memory_(set_dirty_lebitmap|sync_dirty_bitmap)'
    r'|ramblock_sync_dirty_bitmap|migration_bitmap_sync\w*|memory_region_sync_dirty_bitmap'
    r'|memory_global_(after_)?dirty_log_sync|memory_region_clear_dirty_bitmap'
    r'|migration_clear_memory_region_dirty_bitmap\w*)$')
# Ferry's: every function of these files, and what takes their reports.
# Looking for hot chunks counts too; without checksums nobody else computes many CRCs.
FERRY_FILES = ('accel/*.c', 'migration/**/heat.c', 'migration/**/crc32c.c', 'qemu/glue/**/bitmap.c',
               'qemu/glue/**/kvm*.*')
FERRY_COLLECTING = {'report', 'early', 'found', 'noticed', 'note_written', 'add_written', 'defer',
                    'ferry_pageset_add', 'ferry_pageset_add_mask'}
# Threads that do nothing else.
COLLECTING_THREADS = ('kvm-reaper', 'ferry-collect')


def ferry_functions():
    names = set(FERRY_COLLECTING)
    for pattern in FERRY_FILES:
        paths = glob.glob(os.path.join(ROOT, pattern), recursive=True)
        if not paths:
            raise Wrong(f'no file is called {pattern}: what collects written pages must be known to be counted')
        for path in paths:
            with open(path, encoding='utf-8') as f:
                names.update(re.findall(r'^[A-Za-z][\w \t*]*?\b(\w+)\([^;{}]*\)\n\{', f.read(), re.M))
    return names


def perf_problem():
    """None if `collect` can be measured, or one line saying why not."""
    if not shutil.which('perf'):
        return 'there is no perf'
    with open('/proc/kallsyms', encoding='ascii') as f:
        if not any(line.split()[2] == VM_IOCTL and int(line.split()[0], 16) for line in f):
            return "the kernel's symbols cannot be read (kernel.kptr_restrict)"
    tried = subprocess.run(['perf', 'record', '-q', '-e', 'cpu-clock', '-g', '-o', '/dev/null', 'true'],
                           check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return None if tried.returncode == 0 else f'perf record: {tried.stderr.strip()}'


class CollectMeter(Meter):
    """CPU time that the source spends on finding written pages."""

    def __init__(self, options):
        self.options = options
        self.own = ferry_functions()
        self.perf = None

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='ferry-trace-')
        return self

    def __exit__(self, *_):
        if self.perf and self.perf.poll() is None:
            self.perf.kill()
            self.perf.wait(30)
        shutil.rmtree(self.dir, ignore_errors=True)

    def prepare(self, source):
        self.source = source
        self.path = os.path.join(self.dir, 'data')
        their_control, self.control = os.pipe()
        self.answers, their_answers = os.pipe()
        self.perf = subprocess.Popen(
            ['perf', 'record', '-q', '-e', 'cpu-clock', '-F', str(PERF_HZ), '--call-graph', 'fp',
             '-p', str(source.pid), '-o', self.path, '--delay=-1',
             f'--control=fd:{their_control},{their_answers}'],
            pass_fds=(their_control, their_answers), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        os.close(their_control)
        os.close(their_answers)
        self.command('ping')

    def command(self, word):
        os.write(self.control, word.encode() + b'\n')
        if not os.read(self.answers, 64):
            raise Wrong(f'perf: {self.perf.communicate(timeout=30)[1].strip()}')

    def begin(self):
        self.before = self.source.kvm_statistics()['pf_taken']
        self.command('enable')

    def end(self, target, result):
        self.command('disable')
        pages = self.source.kvm_statistics()['pf_taken'] - self.before
        self.command('stop')
        self.perf.communicate(timeout=60)
        os.close(self.control)
        os.close(self.answers)
        where = collections.Counter()
        sampled = 0
        for thread, chain in self.samples():
            vcpu = thread.startswith('CPU ')
            sampled += not vcpu
            kind = self.kind_of(thread, chain)
            if kind:
                where[(kind, thread.split('/')[0] if vcpu else thread, self.name_of(chain))] += 1
        seconds = {kind: sum(n for (k, _, _), n in where.items() if k == kind) / PERF_HZ
                   for kind in ('collect', 'install')}
        return {'collect_s': seconds['collect'], 'install_s': seconds['install'], 'pages': pages,
                's_per_million': seconds['collect'] / pages * 1e6, 'src_cpu_s': result.src_cpu_s,
                # About 1.0 if no sample was lost.
                'sampled_of_cpu': sampled / PERF_HZ / result.src_cpu_s,
                'where': [[*key, n] for key, n in where.most_common()]}

    def samples(self):
        """(thread, [function, its caller, ...]) of every sample; QEMU's own callers are guesses."""
        with subprocess.Popen(['perf', 'script', '-i', self.path, '-F', 'comm,tid,ip,sym,dso',
                               '--no-inline'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, errors='replace') as script:
            thread, chain = None, []
            for line in script.stdout:
                frame = re.match(r'\s+[0-9a-f]+ (\S+)', line)
                head = None if frame else re.match(r'(.*\S)\s+\d+\s*$', line)
                if frame:
                    chain.append(re.sub(r'[.+].*', '', frame.group(1)))
                elif head:
                    if thread is not None:
                        yield thread, chain
                    thread, chain = head.group(1).strip(), []
            if thread is not None:
                yield thread, chain

    def kind_of(self, thread, chain):
        """'collect', 'install', or None for everything else."""
        if VM_IOCTL in chain:
            callees = chain[:chain.index(VM_IOCTL)]
            if any(INSTALL.search(name) for name in callees):
                return 'install'
            if not any(NOT_COLLECTING.match(name) for name in callees):
                return 'collect'
        if thread in COLLECTING_THREADS:
            return 'collect'
        if chain and (QEMU_COLLECTING.match(chain[0]) or chain[0] in self.own):
            return 'collect'
        return None

    def name_of(self, chain):
        """What to call a sample: the ioctl's main function, or the one that was running."""
        if VM_IOCTL in chain:
            i = chain.index(VM_IOCTL)
            return chain[i - 1] if i else VM_IOCTL
        return chain[0] if chain else '?'


def print_where(samples_by_title):
    """The functions that were running in each sample, and which of them count as collecting."""
    for title, samples in samples_by_title.items():
        where = collections.Counter()
        for sample in samples:
            where.update({tuple(key): n for *key, n in sample['where']})
        print(f'\n{title}: where the samples were')
        print_table(['', 'thread', 'function', 'ms'],
                    [[*key, f'{n / PERF_HZ / len(samples) * 1e3:.2f}'] for key, n in where.most_common()])
    print('\nCounted as collecting: what is called from kvm_vm_ioctl in the kernel, unless that matches\n'
          f'{NOT_COLLECTING.pattern}\nor {INSTALL.pattern} (which starts the watching); the threads '
          f"{', '.join(COLLECTING_THREADS)};\nand the functions\n{QEMU_COLLECTING.pattern}\n"
          f"{' '.join(sorted(ferry_functions()))}")
