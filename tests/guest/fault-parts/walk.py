# SPDX-License-Identifier: GPL-2.0-or-later
"""One case of the walk: a migration between two QEMUs, a fault at one point of it, what a person would do then, and
another migration, without a fault."""

import dataclasses
import os
import signal
import time

import settings
from acts import Acts
from attempt import ENDED, POLL_S, Attempt, waited_for_cpu
from board import Board
from guest import Guest, Load, native_guest
from holdings import holdings
from link import Link
from logs import attach_log
from migration import StatusPoller, is_active, migrate
from mishaps import HERE, LOST, THERE, Mishap
from oracle import Before, Wrong, check
from plan import OWN, POST, PRE, GuestPlan, Plan
from points import SIDES, can_fail, is_frame
from postcopy import free_tcp_port
from settling import abandon, settle, state
from streams import QMPError, VMDied
from vm import ROOT, VM, kvm_problem

BINARY = os.environ.get('FERRY_QEMU') or os.path.join(ROOT, 'build', 'qemu-system-x86_64-faults')
MIB = 1 << 20

# Small, so that a case is short.  In post-copy it writes as fast as it can, so that pages are missing.
LOAD = {'fill': 24, 'write': 8, 'pattern': 'random'}
RATE = {PRE: 6000, POST: 0}
DOWNTIME_MS = {PRE: 300, POST: 1}
MEMORY_MIB = 64
BACKENDS = ['ram', 'memfd']  # a node each
BANDWIDTH_MIB = 100
POSTCOPY_MIB = {'post-copy': 20, 'resume': 1}

# Network time-outs: where nothing but silence tells that something is wrong, and where something else does.
SHORT_MS, LONG_MS = 2000, 60000
# QEMU's own path knows no time-out: the kernel of a source whose peer is silent breaks the connection at last.
KERNEL_S = 6
FIRES_S = 2  # how long after the source's end the fault may come about at the other side
AT_MOST_S = 120
RECOVERIES = 4
STOPPED_S = 5
FOLLOW_S = 60  # an attempt that takes longer waits for something that does not come
FIRST_DATA_CHANNEL = 2  # QEMU's own connection and the control channel come first


@dataclasses.dataclass(frozen=True)
class Case:
    """side, point: '' to only see what is passed. nth: which pass, from 1 on. lie: what is to be found (LIES)."""
    mode: str
    side: str = ''
    point: str = ''
    effect: str = ''
    nth: int = 1
    lie: str = ''

    @property
    def name(self):
        if self.lie:
            return f'a lie is found: {self.lie}'
        return f'{self.mode}/{self.side}/{self.point}/{self.effect}/{self.nth}' if self.point else f'{self.mode}/usual'

    @property
    def fault(self):
        return (self.side, self.point, self.effect, self.nth) if self.point else None


@dataclasses.dataclass
class Result:
    """fired: whether the fault came about. where: the guest, after it. passes: by side."""
    fired: bool = False
    where: str = ''
    status: str = ''
    passes: dict = dataclasses.field(default_factory=dict)


class NoMishap(Mishap):
    """What attempt.py and settling.py ask of a mishap."""

    links = True
    recovers = True
    ways = (PRE, POST, OWN)

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.outcomes = outcomes(case)

    def settings(self):
        short = self.case.effect in ('stall', 'silence') or self.case.effect.startswith('cut')
        return {'network-timeout': SHORT_MS if short else LONG_MS, 'open-timeout': 3000 if short else 10000,
                'switchover-timeout': SHORT_MS if self.case.effect == 'stall' else LONG_MS}


def outcomes(case):
    """Where the guest may be after it."""
    if not case.effect or case.effect == 'delay':
        return (HERE,) if case.mode == 'cancel' else (THERE,)
    return (HERE, THERE, LOST) if case.effect.startswith('crash') else (HERE, THERE)


def way_of(case):
    return PRE if case.mode in ('pre-copy', 'fallback') else POST


def plan_of(case):
    way = way_of(case)
    return Plan(way, NoMishap(case), 'tcp', channels=2, bandwidth=BANDWIDTH_MIB, downtime_ms=DOWNTIME_MS[way],
                postcopy_bandwidth=POSTCOPY_MIB.get(case.mode, 0),
                capabilities=('postcopy-ram',) if way == POST else ())


class Walk(Attempt):
    """The migration with the fault."""

    def __init__(self, case, guest, src, dst, boards, held):
        plan = plan_of(case)
        super().__init__(guest, plan, src, dst, held)
        self.case = case
        self.acts = Acts({'source': src, 'destination': dst}, boards, case.fault,
                         goes_over=plan.way == POST, breaks=case.mode == 'resume', cancels=case.mode == 'cancel')
        self.result = Result()

    # The network

    def admit(self, number):
        if self.case.mode == 'fallback' and number == FIRST_DATA_CHANNEL and self.acts.new == 'pass':
            return 'refuse'
        return self.acts.new

    def new_link(self, uri, admit):
        self.link = Link(uri, admit=admit)
        self.acts.renew(self.link)
        return self.link.uri

    def through(self, uri):
        return self.new_link(uri, self.admit)

    def keep_alive(self):
        """Break what a kernel would: no session watches over QEMU's own path."""
        broken_at = self.acts.broken_at
        if broken_at and time.monotonic() > broken_at + KERNEL_S and not self.by_ferry():
            self.acts.broken_at = None
            self.link.cut()

    # The migration

    def _run(self):
        src, dst = self.src, self.dst
        more = self.mishap.settings()
        settings.tell(src, self.plan, server=False, more=more)
        settings.tell(dst, self.plan, server=True, more=more)
        uri = settings.open_way(src, dst, 'tcp', through=self.through)
        before = Before(src, self.guest)
        self.acts.runs_there = self.dst_ran
        self.ferry_before = src.qmp_try('query-ferry')
        self.first_mark = self.dst_mark = dst.event_mark()
        self.src_mark = src.event_mark()
        # A thread that stalls may have QEMU's lock; and in post-copy, the destination's may wait for a page.
        polled = [vm for vm in (src, dst) if not (self.case.effect == 'stall' and vm.name == self.case.side) and
                  not (self.plan.way == POST and vm is dst)]
        waited = {vm: waited_for_cpu(vm.pid) + waited_for_cpu(os.getpid()) for vm in polled}
        try:
            with StatusPoller(*polled) as poller:
                self.began = time.monotonic()
                self.acts.arm(self.case.mode != 'resume')
                src.qmp('migrate', uri=uri)
                if self.case.lie == 'the monitor is silent':
                    stop_monitor(self)
                self.follow()
                self.wait_fired()
                where = self.settle()
        finally:
            self.acts.end()
        self.check_monitors(poller, waited)
        self.result.where, self.result.fired = where, self.acts.fired
        self.result.passes = {side: one.passes() for side, one in self.acts.boards.items()}
        self.check_never_both()
        if self.case.fault and not self.acts.fired:
            return where
        LIES.get(self.case.lie, lambda _: None)(self)
        self.check_outcome(where)
        self.check_usual(where)
        self.check_reasons(where)
        if where != LOST:
            check(dst if where == THERE else src, self.guest, before)
            self.check_still(where)
        if where == HERE:
            dst.kill()
            self.check_held()
        return where

    def follow(self):
        try:
            self._follow()
        except VMDied:
            # The source has been killed meanwhile, or the destination.
            if not self.acts.killed:
                raise
            self.wait_dead()
            if self.src.alive():
                self.status = self.src.qmp('query-migrate').get('status', 'none')
        self.mishap.lost = bool(self.acts.killed)
        self.result.status = self.status

    def _follow(self):
        deadline = time.monotonic() + FOLLOW_S
        while self.src.alive():
            self.info = self.src.qmp('query-migrate')
            self.status = self.info.get('status', 'none')
            self.ferry_seen = self.ferry_seen or is_active(self.src.qmp_try('query-ferry'))
            if self.status in ENDED:
                return
            if self.status == 'postcopy-paused':
                if not self.dst.alive() or self.dst_status() == 'completed':
                    return
                self.recover()
            self.keep_alive()
            if time.monotonic() > deadline:
                ferry = self.src.qmp_try('query-ferry') or {}
                raise Wrong(f"still '{self.status}' after {FOLLOW_S} s; {ferry.get('phase')}: {ferry.get('reason')}")
            time.sleep(POLL_S)

    def dst_status(self):
        """What the destination's last event of the migration says: its main thread may wait for a page."""
        said = [e['data']['status'] for e in self.dst.monitor.events[self.first_mark:] if e['event'] == 'MIGRATION']
        return said[-1] if said else 'none'

    def recover(self):
        """As an operator does: a new address at the destination, then at the source; again where that comes to
        nothing."""
        if self.recoveries == RECOVERIES:
            raise Wrong(f'paused again after {RECOVERIES} recoveries')
        self.recoveries += 1
        deadline = time.monotonic() + AT_MOST_S / 2
        uri = f'tcp:127.0.0.1:{free_tcp_port()}'
        while True:
            if self.dst_status() == 'postcopy-paused':
                try:
                    self.dst.qmp_oob('migrate-recover', uri=uri)
                    break
                except QMPError as e:
                    refusal = e
            else:
                refusal = f"it is '{self.dst_status()}'"
            if self.dst_status() == 'completed':
                return
            if time.monotonic() > deadline:
                raise Wrong(f'the destination of a paused migration cannot be recovered: {refusal}')
            if not self.dst.alive():
                raise VMDied('the destination died while the migration was paused')
            time.sleep(POLL_S)
        self.link.close()
        self.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': 0})
        self.src.qmp('migrate', {'uri': self.new_link(uri, lambda _: self.acts.new), 'resume': True})

    def settle(self):
        """Where a source is paused, and the destination had all it needs, a person who looks there quits the source."""
        if self.status == 'postcopy-paused' and self.src.alive() and self.dst_status() == 'completed':
            if not self.dst.alive():
                return LOST
            self.status = 'completed'
        self.abandon_never_ran()
        return settle(self)

    def abandon_never_ran(self):
        """A destination of which the source has taken the guest back cannot know, where only the connection broke: it
        waits, paused, for a person's word."""
        if self.status not in ('failed', 'cancelled') or not self.src.alive():
            return
        deadline = time.monotonic() + FIRES_S
        while self.dst_status() not in ('postcopy-paused', 'failed') and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if (self.dst.alive() and self.dst_status() == 'postcopy-paused' and not self.dst_ran() and
                state(self.src) == 'running'):
            abandon(self.dst)

    def wait_fired(self):
        deadline = time.monotonic() + FIRES_S
        while self.case.fault and not self.acts.fired and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.wait_dead()
        self.mishap.lost = bool(self.acts.killed)

    def wait_dead(self):
        """Until who has been killed is known to be dead: for as long as somebody waits for it, it is not."""
        deadline = time.monotonic() + FIRES_S
        while (any(self.acts.vms[side].alive() for side in self.acts.killed) and time.monotonic() < deadline):
            time.sleep(POLL_S)

    # What must hold

    def check_never_both(self):
        """By the times at which either began to run it, and had stopped."""
        stopped_at = 0
        src_runs = [(self.began, True)]
        for event in self.src.monitor.events[self.src_mark:]:
            if event['event'] in ('STOP', 'RESUME'):
                src_runs.append((stamp(event), event['event'] == 'RESUME'))
        resumed = [stamp(e) for e in self.dst.monitor.events[self.first_mark:] if e['event'] == 'RESUME']
        if not resumed or 'source' in self.acts.killed:
            return
        runs = src_runs[-1][1]
        stopped_at = src_runs[-1][0]
        if runs or any(at < stopped_at for at in resumed):
            raise Wrong(f'both sides ran the guest: the destination since {resumed[0]:.6f}, the source '
                        f'{"runs" if runs else "ran"}, {stopped_at:.6f}')

    def check_outcome(self, where):
        """What broke while somebody cancelled may have come first: then QEMU has a reason, too."""
        if self.case.effect not in ('', 'delay') and self.status == 'cancelled':
            self.info.pop('error-desc', None)
        super().check_outcome(where)

    def check_usual(self, where):
        """Where nothing fails, it goes as the mode has it."""
        if self.case.effect not in ('', 'delay'):
            return
        went = self.went()
        wanted = {'fallback': "QEMU's own path", 'pre-copy': PRE, 'cancel': went}.get(self.case.mode, POST)
        if went != wanted:
            raise Wrong(f'it went by {went}, not by {wanted}: {self.reasons()}')
        if self.case.mode == 'cancel' and self.status != 'cancelled':
            raise Wrong(f'{self.status}, not cancelled')
        if self.case.mode == 'resume' and not self.recoveries:
            raise Wrong('nothing was resumed')

    def reasons(self):
        """What both sides say of it, in every place where they can."""
        words = [self.info.get('error-desc', '')]
        for vm in (self.src, self.dst):
            words += [ask(vm, 'query-migrate').get('error-desc', ''), ask(vm, 'query-ferry').get('reason', '')]
            words.append(vm.log())
        return ' / '.join(' '.join(text.split()) for text in words if text)

    def check_reasons(self, where):
        """(The source's, check_outcome() looks for.)  A destination that has not got the guest says why; and what the
        system did not give is in somebody's words."""
        if where != HERE:
            return
        said = ask(self.dst, 'query-migrate').get('error-desc', '') + self.dst.log()
        if 'destination' not in self.acts.killed and self.status != 'cancelled' and not said.strip():
            raise Wrong('the destination does not say why it failed')
        if (self.case.effect == 'error' and can_fail(self.case.point) and not is_frame(self.case.point) and
                self.case.mode != 'cancel' and f'fault point {self.case.point}' not in self.told()):
            raise Wrong(f'nobody tells of the error: {self.reasons()}')

    def told(self):
        return self.reasons().lower().replace('_', '-')


def ask(vm, command):
    """Its answer; nothing from one that has ended, as a destination does that has failed."""
    try:
        return vm.qmp(command) if vm.alive() else {}
    except VMDied:
        return {}


# What is wrong on purpose: who finds nothing wrong with it finds nothing.

def run_both(walk):
    walk.src.qmp('cont')


def damage_page(walk):
    Guest(walk.dst).damage('byte', 100)


def leave_descriptor(walk):
    with open(os.devnull, encoding='ascii') as f:
        walk.src.pass_fd(f.fileno(), 'left')


def say_nothing(walk):
    walk.info.pop('error-desc')


def stop_monitor(walk):
    """Called while the migration goes on."""
    os.kill(walk.src.pid, signal.SIGSTOP)
    time.sleep(STOPPED_S)
    os.kill(walk.src.pid, signal.SIGCONT)


LIES = {'both run': run_both, 'a page': damage_page, 'a descriptor is left': leave_descriptor,
        'no reason': say_nothing}


def stamp(event):
    """QEMU's own time of an event, the same clock on both sides."""
    return event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6


class Run:
    """Makes the QEMUs of one case, and ends them with it."""

    def __init__(self, case, accel=None):
        self.case = case
        self.accel = accel or ('tcg' if kvm_problem() else 'kvm')
        load = {**LOAD, 'rate': RATE[way_of(case)]}
        self.guest = GuestPlan('native', self.accel, 'two nodes', load, {})
        self.arguments = native_guest(Load(**load), self.accel, memory_mib=MEMORY_MIB, backend=BACKENDS)
        self.vms = []
        self.boards = {}

    def start(self, name, incoming):
        def wrapper(directory):
            self.boards[name] = Board(os.path.join(directory, 'board'))
            return ['env', f'FERRY_FAULT_BOARD={directory}/board']

        vm = VM(name, binary=BINARY, incoming=incoming, wrapper=wrapper, **self.arguments)
        self.vms.append(vm)
        return vm.start(60)

    def run(self):
        """The Result; raises what is wrong."""
        try:
            return self._run()
        except Exception as e:
            for vm in self.vms:
                if vm.dir:
                    attach_log(e, vm.name, vm.log())
            raise
        finally:
            for vm in self.vms:
                vm.kill()

    def _run(self):
        src, dst = self.start('source', False), self.start('destination', True)
        Guest(src).wait_ready(60)
        walk = Walk(self.case, self.guest, src, dst, {side: self.boards[side] for side in SIDES}, holdings(src))
        where = walk.run()
        if where != LOST and (walk.result.fired or not self.case.fault):
            self.try_again(src if where == HERE else dst, src if where == THERE else None)
        return walk.result

    def try_again(self, src, other):
        """The next attempt, from where the guest is, to a new QEMU: it works, and by Ferry."""
        if other:
            other.kill()
        settings.set_capabilities(src, ())
        src.qmp('ferry-set-parameters', {'network-timeout': LONG_MS, 'switchover': 'precopy'})
        dst = self.start('next', True)
        try:
            result = migrate(src, dst, 'tcp', timeout=60)
        except Exception as e:
            raise Wrong(f'the next attempt: {e}') from e
        if not result.ferry_used:
            raise Wrong(f"the next attempt did not go by Ferry: {(result.ferry or {}).get('reason')}")
        check(dst, self.guest)
