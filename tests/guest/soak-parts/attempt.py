# SPDX-License-Identifier: GPL-2.0-or-later
"""One migration of a soak: begun, followed, disturbed by its mishap, resumed, and settled."""

import os
import time

import settings
from guest import Guest
from link import Link
from migration import StatusPoller, finished_since, is_active
from mishaps import HERE, MIB, THERE
from oracle import Before, Wrong, check
from postcopy import free_tcp_port
from relay import Relay
from holdings import wait_settled
from settling import settle, wait_for
from streams import QMPError

LIMIT_S = 180
POLL_S = 0.02
MONITOR_LIMIT_S = 1
ENDED = ('completed', 'failed', 'cancelled')
RECOVERIES = 8


def waited_for_cpu(pid):
    """How many seconds a process' threads have waited for a CPU, so far, all added up."""
    total = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        try:
            with open(f'/proc/{pid}/task/{tid}/schedstat', encoding='ascii') as f:
                total += int(f.read().split()[1])
        except OSError:
            continue
    return total / 1e9


class Attempt:
    """From `src`, where the guest is, to `dst`, a fresh QEMU.

    plan, mishap   what is to be (plan.py), and what is done to it
    guest          the guest's plan
    status         how it ended, as the source says
    stopped        somebody has paused the guest
    is_reset       somebody has reset it
    """

    def __init__(self, guest, plan, src, dst, held):
        self.guest, self.plan, self.src, self.dst = guest, plan, src, dst
        self.held = held  # what src held before its first migration
        self.mishap = plan.mishap
        self.status = None
        self.began = None
        self.link = None
        self.stopped = self.is_reset = self.in_doubt = False
        self.gone_over = False
        self.recoveries = 0
        self.ferry_seen = False
        self.notes = []
        self.dst_mark = self.first_mark = 0
        self.ready_mark = len(src.console.lines)  # after what the source's guest has said so far
        self.ferry_before = None
        self.info = {}  # the source's query-migrate, once it has ended
        self.record = {}

    def note(self, text):
        self.notes.append(text)

    # What the mishaps and the settling ask

    def dst_ran(self):
        """Whether the destination has run the guest, or runs it."""
        return any(event['event'] == 'RESUME' for event in self.dst.monitor.events[self.first_mark:])

    def by_ferry(self):
        """Whether a session of Ferry's carries it now."""
        return is_active(self.src.qmp_try('query-ferry'))

    # The migration

    def through(self, uri):
        """A URI that leads through a link, if the mishap needs one."""
        if self.mishap.links:
            self.link = Link(uri, rate=getattr(self.mishap, 'mib_s', 0) * MIB,
                             delay_s=getattr(self.mishap, 'delay_s', 0), admit=self.mishap.admit)
        elif self.mishap.frames:
            self.link = Relay(uri, self.mishap.on_frame)
        return self.link.uri if self.link else uri

    def run(self):
        """Returns where the guest is: THERE, HERE or LOST. self.record says the rest."""
        try:
            return self._run()
        finally:
            if self.link:
                self.link.close()

    def _run(self):
        src, dst, plan = self.src, self.dst, self.plan
        more = self.mishap.settings()
        settings.tell(src, plan, server=False, more=more)
        settings.tell(dst, plan, server=True, more=more)
        uri = settings.open_way(src, dst, plan.transport, through=self.through)
        before = Before(src, self.guest)
        self.ferry_before = src.qmp_try('query-ferry')
        self.first_mark = self.dst_mark = dst.event_mark()
        polled = [src] if plan.way == 'post-copy' or self.mishap.name == 'target frozen' else [src, dst]
        waited = {vm: waited_for_cpu(vm.pid) + waited_for_cpu(os.getpid()) for vm in polled}
        with StatusPoller(*polled) as poller:
            self.began = time.monotonic()
            self.mishap.begin(self)
            src.qmp('migrate', uri=uri)
            self.follow()
            self.mishap.ended(self)
            where = settle(self)
        took_s = time.monotonic() - self.began
        self.check_monitors(poller, waited)
        self.check_outcome(where)
        self.fill_record(where, took_s, poller.longest_s)
        if where in (THERE, HERE):
            at = dst if where == THERE else src
            if self.is_reset:
                self.wait_ready_again(at, before)
            seen = check(at, self.guest, None if self.is_reset else before,
                         took_s if self.mishap.name != 'none' else self.record['downtime_ms'] / 1e3)
            self.record['gap_ms'] = round(seen.gap_ms, 1)
            self.check_still(where)
        if where == HERE:
            dst.kill()
            self.check_held()
        return where

    def follow(self):
        """Until it has ended, or is paused for good."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            if not self.src.alive():
                return
            info = self.src.qmp('query-migrate')
            self.status = info.get('status', 'none')
            self.ferry_seen = self.ferry_seen or is_active(self.src.qmp_try('query-ferry'))
            if self.status in ENDED:
                self.info = info
                return
            if self.status == 'postcopy-paused':
                if not self.mishap.recovers:
                    return
                self.recover()
            elif self.status == 'pre-switchover':
                self.src.qmp('migrate-continue', state='pre-switchover')
            self.go_over(info)
            self.mishap.poll(self, info)
            if time.monotonic() > deadline:
                ferry = self.src.qmp_try('query-ferry') or {}
                raise Wrong(f"still '{self.status}' after {LIMIT_S} s; phase {ferry.get('phase')}, active "
                            f"{ferry.get('active')}: {ferry.get('reason')}")
            due = self.mishap.due_s(self)
            time.sleep(POLL_S if due is None else min(due, POLL_S))

    def go_over(self, info):
        """Start post-copy when it is time, if that is what is planned."""
        if (self.plan.way == 'post-copy' and self.plan.switchover == 'precopy' and not self.gone_over and
                info.get('status') == 'active' and time.monotonic() >= self.began + self.plan.after_s):
            try:
                self.src.qmp('migrate-start-postcopy')
            except QMPError:
                if self.src.qmp('query-migrate')['status'] == 'active':
                    raise  # else it has just come to its end
            self.gone_over = True

    def recover(self):
        """As an operator does: a new address at the destination, then at the source."""
        if self.recoveries == RECOVERIES:
            raise Wrong(f'paused again after {RECOVERIES} recoveries')
        self.recoveries += 1
        self.dst_mark = self.dst.event_mark()
        if self.link:
            self.link.close()
        uri = (f'tcp:127.0.0.1:{free_tcp_port()}' if self.plan.transport != 'unix' else
               f'unix:{os.path.join(self.dst.dir, f"again{self.recoveries}")}')
        wait_for(f'{self.dst.name} is paused, and can be recovered', lambda: self.recovers_at(uri))
        if self.mishap.links:
            self.link = Link(uri)
            uri = self.link.uri
        self.src.qmp('migrate', {'uri': uri, 'resume': True})

    def recovers_at(self, uri):
        """True, or None if it is too early.

        It says no word of another pause where no recovery had begun there.  Its main thread may wait for a page: only
        what goes out of band is answered.
        """
        try:
            self.dst.qmp_oob('migrate-recover', uri=uri)
        except QMPError as e:
            if 'paused' in str(e):
                return None  # what was left of the last recovery has just come
            raise
        return True

    # What must hold

    def check_monitors(self, poller, waited):
        """They were answered in time, but for what that QEMU, and we ourselves, waited for a CPU."""
        if poller.longest_s <= MONITOR_LIMIT_S:
            return
        vm = next(vm for vm in waited if vm.name == poller.where)
        if not vm.alive():
            return
        lost = waited_for_cpu(vm.pid) + waited_for_cpu(os.getpid()) - waited[vm]
        if poller.longest_s - lost > MONITOR_LIMIT_S:
            raise Wrong(f'{poller.where}: query-status was answered after {poller.longest_s:.1f} s '
                        f'(it and we waited {lost:.1f} s for a CPU)')
        self.note(f'query-status was answered after {poller.longest_s:.1f} s on a busy machine')

    def check_outcome(self, where):
        if where not in self.mishap.outcomes:
            raise Wrong(f"the guest is '{where}', after '{self.status}': "
                        f"{self.info.get('error-desc', 'no reason given')}")
        if where != HERE:
            return
        error = self.info.get('error-desc')
        if self.status == 'failed' and not error:
            raise Wrong('it failed, and nobody says why')
        if self.status == 'cancelled' and error:
            raise Wrong(f'cancelled, with an error: {error}')

    def check_still(self, where):
        """The other side has not begun to run it meanwhile."""
        if where == THERE and self.src.alive() and self.src.qmp('query-status')['running']:
            raise Wrong('both sides run the guest: the source goes on')
        if where == HERE and self.dst_ran():
            raise Wrong('both sides run the guest: the destination has begun to')

    def check_held(self):
        """A source whose migration failed holds what it held before, and no more."""
        words = wait_settled(self.src, self.held, rss=not self.is_reset)
        if words:
            raise Wrong(f'after it {self.status}, the source holds more: {"; ".join(words)}')

    def wait_ready_again(self, vm, before):
        """After a reset it says READY, on either side; a reset that came too late has reset nobody."""
        try:
            said = any(text.startswith('READY') for _, text in self.src.console.lines[self.ready_mark:])
            if vm is self.src or not said:
                vm.console.wait_line('READY', 20, self.ready_mark if vm is self.src else 0)
        except TimeoutError:
            if Guest(vm).stats().writes < before.writes:
                raise
            self.is_reset = False

    # The report

    def went(self):
        """How it went, as the source tells."""
        if not self.src.alive():
            return 'unknown'
        ferry = self.src.qmp_try('query-ferry')
        if not (self.ferry_seen or is_active(ferry) or finished_since(self.ferry_before, ferry)):
            return "QEMU's own path"
        return 'post-copy' if 'fetch' in (ferry or {}) else 'pre-copy'

    def fill_record(self, where, took_s, monitor_s):
        info = self.info
        blackout = None
        if where == THERE:
            blackout = (self.dst.qmp_try('query-ferry') or {}).get('blackout', {}).get('running')
        self.record.update(
            outcome=where, went=self.went(), took_s=round(took_s, 2), monitor_s=round(monitor_s, 3),
            downtime_ms=info.get('downtime', 0) if where == THERE else 0,
            blackout_ms=None if blackout is None else blackout / 1e3,
            recoveries=self.recoveries, in_doubt=self.in_doubt,
            reason=info.get('error-desc', ''), mib=info.get('ram', {}).get('transferred', 0) >> 20)
        self.check_path(where)

    def check_path(self, where):
        """It went through Ferry, tracked as it was to be, or not through Ferry, as was planned."""
        if where != THERE or not self.src.alive():
            return
        ferry = self.src.qmp_try('query-ferry') or {}
        by_ferry = self.record['went'] != "QEMU's own path"
        if not by_ferry and self.mishap.falls_back and self.mishap.acted:
            self.note(f"{self.mishap.name}: QEMU's own path carried it")
        elif by_ferry == (self.plan.way == "QEMU's own path"):
            raise Wrong(f"it went by {self.record['went']}, where {self.plan.way} was planned: "
                        f"{ferry.get('reason', 'no reason given')}")
        if by_ferry and self.plan.tracker_used and ferry['tracker']['mode'] != self.plan.tracker_used:
            raise Wrong(f"tracked through {ferry['tracker']['mode']}, not {self.plan.tracker_used}: "
                        f"{ferry['tracker']['reason']}")
