# SPDX-License-Identifier: GPL-2.0-or-later
"""Run QEMUs, talk to them, and account for what they cost.

    with VM('source', memory_mib=1024) as vm:
        vm.start()
        print(vm.qmp('query-status'), vm.cpu_seconds(), vm.memory()['VmPTE'])

migration.py migrates between two. Nothing here knows which guest runs (see guest.py) and nothing needs
Ferry: `qmp_try('query-ferry')` is None on a stock QEMU.  A QEMU dies with the Python that started it
(start VMs from the main thread: the kernel watches the starting thread).
"""

import atexit
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref

from logs import attach_log
from streams import Console, Monitor, QMPError, VMDied

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KVM_GET_API_VERSION = 0xAE00
# Some nested hosts offer MSR_IA32_ARCH_CAPABILITIES and then refuse its value; no test guest needs it.
KVM_CPU = 'host,-arch-capabilities'
# A wrapper for a VM whose memory is to be in small pages, whatever QEMU asks for: PR_SET_THP_DISABLE
# outlives exec.
SMALL_PAGES = [sys.executable, '-c', 'import ctypes, os, sys\n'
               'if ctypes.CDLL(None).prctl(41, 1, 0, 0, 0):\n'
               '    sys.exit("PR_SET_THP_DISABLE failed")\n'
               'os.execvp(sys.argv[1], sys.argv[1:])']
FIRMWARE = ('/usr/share/qemu', '/usr/share/seabios')

_running = weakref.WeakSet()


def default_binary():
    """The QEMU under test: $FERRY_QEMU, or the one this tree builds."""
    return os.environ.get('FERRY_QEMU') or os.path.join(ROOT, 'build', 'qemu-system-x86_64')


def kvm_problem():
    """None if KVM can be used, or one line saying why not."""
    try:
        fd = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        return f'/dev/kvm: {e.strerror}'
    try:
        return None if fcntl.ioctl(fd, KVM_GET_API_VERSION) == 12 else '/dev/kvm: unknown version'
    except OSError as e:
        return f'/dev/kvm: {e.strerror}'
    finally:
        os.close(fd)


def warm_memory(mib, huge=True):
    """Have a helper process touch `mib` MiB and free it again.

    Where free memory has been handed back to a hypervisor, the first touch of a page costs far more
    than migrating it.  Call this just before a timed run, with what the target will need: huge pages
    for private memory, small ones for shared, as the kernel keeps the two apart when they are freed.
    """
    touch = ('import mmap, sys\n'
             'm = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n'
             'm.madvise(mmap.MADV_HUGEPAGE if int(sys.argv[2]) else mmap.MADV_NOHUGEPAGE)\n'
             'm.madvise(23)  # MADV_POPULATE_WRITE')
    subprocess.run([sys.executable, '-c', touch, str(mib), str(int(huge))], check=True,
                   timeout=60 + mib / 20)


class VM:
    """One QEMU process.

    name        for messages and -name
    binary      the QEMU to run; None: default_binary()
    accel       'kvm' or 'tcg', or a full -accel value such as 'kvm,dirty-ring-size=4096'
    machine     -machine type (without accelerator or memory backend)
    memory_mib  guest memory; it is not reserved, so it may exceed the machine's
    backend     'ram' (private), 'memfd' (shared), or a full -object value with id=ram;
                or a list: as many NUMA nodes, each with its share of the memory
    cpus, cpu   number of vCPUs; -cpu model (None: KVM_CPU under KVM, QEMU's default under TCG)
    incoming    True: start with `-incoming defer`
    args        further arguments
    wrapper     words before the command line, such as a debugger's; what they name must become the
                QEMU by exec; a function is called with the VM's directory and returns them
    A binary that is not this tree's (which must find its firmware by itself) is told where Debian
    keeps firmware.
    """

    def __init__(self, name, *, binary=None, accel='tcg', machine='pc', memory_mib=1024,
                 backend='ram', cpus=1, cpu=None, incoming=False, args=(), wrapper=()):
        self.name = name
        self.binary = binary or default_binary()
        self.accel = accel
        self.machine = machine
        self.memory_mib = memory_mib
        self.backend = backend
        self.cpus = cpus
        self.cpu = cpu or (KVM_CPU if accel.startswith('kvm') else None)
        self.incoming = incoming
        self.args = list(args)
        self.wrapper = wrapper
        self.dir = None
        self.process = None
        self.monitor = None
        self.console = None
        self._log = None
        self._vcpu_tids = None
        self._qtest = None

    # Life

    def __enter__(self):
        return self

    def __exit__(self, _, error, *__):
        if error and self.process:
            code = self.process.poll()
            attach_log(error, self.name, self.log() + (f'ended with {code}\n' if code is not None else ''))
        self.kill()

    @property
    def pid(self):
        return self.process.pid

    def memory_arguments(self):
        def describe(kind, mib, ident):
            if kind in ('ram', 'memfd'):
                return f'memory-backend-{kind},size={mib}M,reserve=off,id={ident}'
            return kind

        if not isinstance(self.backend, list):
            return ['-machine', f'{self.machine},memory-backend=ram',
                    '-object', describe(self.backend, self.memory_mib, 'ram')]
        line = ['-machine', self.machine]
        for node, kind in enumerate(self.backend):
            line += ['-object', describe(kind, self.memory_mib // len(self.backend), f'ram{node}'),
                     '-numa', f'node,memdev=ram{node}']
        return line

    def command_line(self):
        line = [self.binary, '-name', f'{self.name},debug-threads=on', '-nodefaults',
                '-display', 'none', '-no-reboot',
                '-accel', self.accel, *self.memory_arguments(), '-m', f'{self.memory_mib}M', '-smp', str(self.cpus),
                '-chardev', f'socket,id=qmp,fd={self.monitor.theirs.fileno()}',
                '-mon', 'chardev=qmp,mode=control',
                '-chardev', f'socket,id=com1,fd={self.console.theirs.fileno()}',
                '-serial', 'chardev:com1',
                '-qtest', f'unix:{os.path.join(self.dir, "qtest")},server=on,wait=off',
                '-qtest-log', 'none']
        if self.cpu:
            line += ['-cpu', self.cpu]
        if not os.path.realpath(self.binary).startswith(os.path.join(ROOT, '')):
            line += [word for path in FIRMWARE if os.path.isdir(path) for word in ('-L', path)]
        if self.incoming:
            line += ['-incoming', 'defer']
        return line + self.args

    def start(self, timeout=30):
        """Start QEMU and finish the QMP handshake. Raises VMDied with QEMU's own words."""
        if not os.access(self.binary, os.X_OK):
            raise VMDied(f'{self.binary}: no such program (build it, or set FERRY_QEMU)')
        self.dir = tempfile.mkdtemp(prefix='ferry-vm-')
        self.monitor = Monitor(f'{self.name} monitor')
        self.console = Console(f'{self.name} console')
        _running.add(self)
        wrapper = self.wrapper(self.dir) if callable(self.wrapper) else self.wrapper
        with open(os.path.join(self.dir, 'log'), 'wb') as log:
            self.process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', '--', *wrapper, *self.command_line()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                pass_fds=[self.monitor.theirs.fileno(), self.console.theirs.fileno()],
                start_new_session=True)
        self.monitor.start()
        self.console.start()
        try:
            self.monitor.handshake(timeout)
        except VMDied:
            self.process.wait(timeout)
            raise VMDied(f'{self.name}: QEMU did not start: {self.log().strip()}') from None
        return self

    def log(self):
        """What QEMU printed so far; also when it has been killed."""
        if self._log is not None:
            return self._log
        try:
            with open(os.path.join(self.dir, 'log'), encoding='utf-8', errors='replace') as f:
                return f.read()
        except FileNotFoundError:
            return ''  # it was never started

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """End QEMU at once and remove its directory. Safe to call at any time, more than once."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        for stream in (self.monitor, self.console):
            if stream:
                stream.close()
        if self.dir and self._log is None:
            self._log = self.log()
            shutil.rmtree(self.dir, ignore_errors=True)
        _running.discard(self)

    def quit(self, timeout=20):
        """End QEMU the polite way and return its exit code."""
        try:
            self.qmp('quit')
        except VMDied:
            pass
        return self.process.wait(timeout)

    # Monitor

    def qmp(self, command, arguments=None, timeout=30, **more):
        """Run a QMP command; keywords become arguments, '_' standing for '-'."""
        arguments = dict(arguments or {}, **{k.replace('_', '-'): v for k, v in more.items()})
        return self.monitor.command(command, arguments, timeout)

    def qmp_oob(self, command, timeout=30, **arguments):
        """The same out of band, which few commands allow."""
        return self.monitor.command(command, arguments, timeout, oob=True)

    def pass_fd(self, fd, name):
        """Give QEMU a copy of a file descriptor, which its commands know by `name` then."""
        self.monitor.command('getfd', {'fdname': name}, 30, fds=[fd])

    def qmp_try(self, command, arguments=None, **more):
        """As qmp(), but None when QEMU does not know the command."""
        try:
            return self.qmp(command, arguments, **more)
        except QMPError as e:
            if e.klass == 'CommandNotFound':
                return None
            raise

    def hmp(self, line, timeout=30):
        return self.qmp('human-monitor-command', {'command-line': line}, timeout)

    def event_mark(self):
        """To be given as `since` to wait_event(): only events after this moment count."""
        return len(self.monitor.events)

    def wait_event(self, name, timeout=60, since=0, match=None):
        """Wait for an event called `name` whose data satisfies match(data)."""
        def find():
            for event in self.monitor.events[since:]:
                if event['event'] == name and (not match or match(event.get('data', {}))):
                    return event
            return None

        return self.monitor.wait(find, timeout, f'event {name}')

    def trace(self, *events, on=True):
        """Have QEMU log its trace events of these names, or no longer; see log()."""
        for event in events:
            self.qmp('trace-event-set-state', name=event, enable=on)

    def kvm_statistics(self):
        """KVM's own counters, the vCPUs' added up: {'pf_taken': 133, ...}. Disturbs no vCPU."""
        total = {}
        for vcpu in self.qmp('query-stats', target='vcpu'):
            for entry in vcpu['stats']:
                if isinstance(entry['value'], int):
                    total[entry['name']] = total.get(entry['name'], 0) + entry['value']
        return total

    def port_write(self, size, port, value):
        """Have QEMU write to an I/O port, as the guest would: size is 1, 2 or 4 bytes."""
        if not self._qtest:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(30)
            connection.connect(os.path.join(self.dir, 'qtest'))
            self._qtest = connection.makefile('rw', newline='\n')
            connection.close()
        command = {1: 'outb', 2: 'outw', 4: 'outl'}[size]
        self._qtest.write(f'{command} {port:#x} {value:#x}\n')
        self._qtest.flush()
        answer = self._qtest.readline().strip()
        if answer != 'OK':
            raise QMPError('qtest', {'desc': answer})

    def leave_qtest(self):
        """Hang up what port_write() has opened."""
        if self._qtest:
            self._qtest.close()
            self._qtest = None

    def set_capabilities(self, caps):
        """caps: {'multifd': True, ...}"""
        if caps:
            self.qmp('migrate-set-capabilities', {'capabilities': [
                {'capability': k, 'state': v} for k, v in caps.items()]})

    # Cost

    def vcpu_tids(self):
        if self._vcpu_tids is None:
            self._vcpu_tids = {c['thread-id'] for c in self.qmp('query-cpus-fast')}
        return self._vcpu_tids

    def cpu_seconds(self):
        """CPU seconds used so far by everything but the vCPUs, threads that have ended included (a
        vCPU that was unplugged counts among those)."""
        used = process_cpu(self.pid)
        for tid in self.vcpu_tids():
            try:
                used -= thread_cpu(self.pid, tid)
            except FileNotFoundError:
                pass
        return used

    def threads(self):
        """{tid: (name, CPU seconds)} of the threads alive now, vCPUs included."""
        found = {}
        for tid in os.listdir(f'/proc/{self.pid}/task'):
            try:
                with open(f'/proc/{self.pid}/task/{tid}/comm', encoding='utf-8') as f:
                    found[int(tid)] = (f.read().strip(), thread_cpu(self.pid, tid))
            except OSError:
                continue
        return found

    def memory(self):
        """KiB by name: VmRSS, RssAnon, RssShmem, VmPTE, VmHWM, ... from /proc/PID/status."""
        fields = {}
        with open(f'/proc/{self.pid}/status', encoding='utf-8') as f:
            for line in f:
                key, value = line.split(':', 1)
                if value.endswith(' kB\n'):
                    fields[key] = int(value.split()[0])
        return fields


def process_cpu(pid):
    """CPU seconds of a process, ended threads included, to the ns (see clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def thread_cpu(pid, tid):
    """CPU seconds of one thread; up to a clock tick behind while it runs."""
    with open(f'/proc/{pid}/task/{tid}/schedstat', encoding='ascii') as f:
        return int(f.read().split()[0]) / 1e9


def kill_running():
    """End all QEMUs of this process."""
    for vm in list(_running):
        vm.kill()


atexit.register(kill_running)


def exit_on_signals():
    """Make SIGTERM and SIGHUP unwind like ^C does, so that no QEMU and no directory stays behind."""
    def leave(number, _):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
