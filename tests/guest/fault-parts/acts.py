# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens when a QEMU comes to a fault point: a thread of ours looks at the boards of both, and does it."""

import threading
import time

import board
from guest import Guest
from points import SIDES, can_fail
from streams import QMPError, VMDied

DELAY_S = 0.15  # long enough for everybody else to get on meanwhile, shorter than any limit
STALL_S = 4      # longer than the limits that such a case has
LOOK_S = 0.0005
PATIENCE_S = 10
NR_MISSING = 1000
HEARD_S = 0.3    # a command has been obeyed by then, unless the thread that waits holds QEMU's lock


class Acts:
    """Of one attempt. vms, boards: by side.

    fault      (side, point, effect, nth), or None: only count passes
    goes_over  to post-copy, when rounds begin
    breaks     with pages missing; the fault is looked for from then on
    cancels    the migration is cancelled where the fault is, or else when memory is handed off
    link       what lies between the two; whoever makes another one tells
    """

    def __init__(self, vms, boards, fault, *, goes_over=False, breaks=False, cancels=False):
        self.vms, self.boards, self.fault, self.cancels = vms, boards, fault, cancels
        self.link = None
        self.runs_there = lambda: False  # tells whether the destination runs the guest
        self.fired = self.cancelled = False
        self.killed = []       # sides
        self.broken_at = None  # when the network became silent, or broke towards one side only
        self.new = 'pass'      # what becomes of a connection that is made after that
        self.error = None      # what went wrong here
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if fault:
            side, point, _, nth = fault
            boards[side].watch(board.FAULT, point, nth)
        if cancels:
            boards['source'].watch(board.CANCEL, 'say-handoff', 1)
        if breaks:
            boards['source'].watch(board.BREAK, 'hear-taken', 1)
        if goes_over:
            boards['source'].watch(board.GO_OVER, 'source-rounds', 1)
        self._thread.start()

    def arm(self, faults=True):
        """faults: not the events of the mode only."""
        for one in self.boards.values():
            one.arm(board.ALL if faults else board.EVENTS)

    def end(self):
        for one in self.boards.values():
            one.arm(board.NOTHING)
        self._over.set()
        self._thread.join()
        for one in self.boards.values():  # who came there just now goes on
            for slot in range(board.NR_SLOTS):
                if one.is_asked(slot):
                    one.answer(slot, board.GO_ON)
        if self.error:
            raise self.error

    def renew(self, link):
        """Another network takes the place of the first."""
        self.link, self.broken_at, self.new = link, None, 'pass'

    def _run(self):
        while not self._over.wait(LOOK_S):
            for side in SIDES:
                for slot in range(board.NR_SLOTS):
                    if not self.boards[side].is_asked(slot):
                        continue
                    fails = False
                    try:
                        fails = self._act(side, slot)
                    except Exception as e:  # whoever waits for the case is to know
                        self.error = e
                    self.boards[side].answer(slot, board.FAIL if fails else board.GO_ON)

    def _act(self, side, slot):
        if slot == board.GO_OVER:
            self._tell('source', PATIENCE_S, 'migrate-start-postcopy')
            self._let_write(NR_MISSING)
            return False
        if slot == board.BREAK:
            self._wait(self.runs_there)
            self.arm()
            self.link.cut()
            return False
        if self.cancels and not self.cancelled:
            self.cancelled = True
            self._tell('source', HEARD_S, 'migrate_cancel')
        if slot == board.CANCEL:
            return False
        self.fired = True
        _, point, effect, _ = self.fault
        if effect == 'error' and can_fail(point):
            return True
        kind, _, whose = effect.partition('-')
        {'error': self._fail, 'delay': self._delay, 'stall': self._stall, 'silence': self._silence,
         'crash': self._crash, 'cut': self._cut}[kind](whose or side)
        return False

    def _tell(self, side, patience_s, command, oob=False, **arguments):
        """Tell a side, and give it a moment to obey; its monitor may wait for the thread that waits for us."""
        def tell():
            vm = self.vms[side]
            try:
                (vm.qmp_oob if oob else vm.qmp)(command, **arguments)
            except (QMPError, VMDied, TimeoutError):
                pass  # it is too late, or nobody is there

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(patience_s)

    @staticmethod
    def _wait(holds):
        deadline = time.monotonic() + PATIENCE_S
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _let_write(self, nr_pages):
        """Have the guest write so much."""
        guest = Guest(self.vms['source'])
        goal = guest.stats().writes + nr_pages
        self._wait(lambda: guest.stats().writes > goal)

    def _fail(self, side):
        """At a phase, something else of that side fails: all of its connections."""
        self._tell(side, HEARD_S, 'yank', oob=True, instances=[{'type': 'migration'}])

    def _delay(self, _):
        time.sleep(DELAY_S)

    def _stall(self, _):
        time.sleep(STALL_S)

    def _silence(self, _):
        self.broken_at = time.monotonic()
        self.link.silence(True)

    def _crash(self, side):
        self.killed.append(side)
        self.vms[side].process.kill()
        self.vms[side].process.wait(30)

    def _cut(self, side):
        """Towards that side; at the other end nothing more comes, and nobody says so."""
        self.broken_at = time.monotonic()
        self.new = 'refuse' if side == 'source' else 'swallow'
        self.link.cut(towards=(side,))
