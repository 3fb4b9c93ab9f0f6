# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to a migration on purpose, before the guest is handed to the other side or whenever it falls.

A Mishap's class says where it makes sense and how its particulars are drawn; an instance does it to one Attempt
(attempt.py). Those that need pages to be missing are in postcopy_mishaps.py.
"""

import os
import signal
import time

from streams import QMPError, VMDied

MIB = 1 << 20

# Where the guest may be afterwards: on the other side, where it was, or lost by definition.
THERE, HERE, LOST = 'there', 'here', 'lost'


class Mishap:
    """Nothing happens: the guest arrives.

    weight      how often it is drawn, among all
    ways        in which a migration may go for it to make sense
    outcomes    where the guest may be afterwards
    links       whether there has to be a Link between the two ends
    frames      whether that has to be a Relay, which knows Ferry's frames: no TLS then
    slow        the bandwidth that makes time for it, in MiB/s; 0: it needs none
    recovers    whether a paused post-copy is resumed
    falls_back  whether it may keep Ferry's session from opening, so that QEMU's own path carries the guest
    """

    name = 'none'
    weight = 40
    ways = ('pre-copy', 'post-copy', "QEMU's own path")
    outcomes = (THERE,)
    links = False
    frames = False
    slow = 0
    recovers = True
    falls_back = False

    def __init__(self, **how):
        self.__dict__.update(how)
        self.how = how
        self.acted = False
        self.lost = False  # whether it has done what loses a guest by definition

    @classmethod
    def draw(cls, choose):
        """The particulars, from a random.Random."""
        return {}

    @classmethod
    def fits(cls, guest):
        """Whether it can be done to such a guest."""
        return True

    def __str__(self):
        return ' '.join([self.name, *(f'{key}={value}' for key, value in self.how.items())])

    def settings(self):
        """Parameters of Ferry's that it needs on both sides."""
        return {}

    def admit(self, index):
        """What the link does with a connection."""
        return 'pass'

    def on_frame(self, relay, name, to_source):
        """What a Relay asks."""
        return True

    def begin(self, attempt):
        """Called just before `migrate`."""

    def poll(self, attempt, info):
        """Called again and again, with the source's query-migrate, until the migration has ended."""

    def due_s(self, attempt):
        """In how many seconds poll() has something to do that is not to be late; None: it can wait."""
        return None

    def ended(self, attempt):
        """Called when the migration has ended, one way or the other."""


def draw_moment(choose):
    """When in pre-copy: so long after `migrate`, or when so many MiB have been sent."""
    kind = choose.random()
    if kind < 0.3:
        return {'after_s': round(choose.uniform(0, 0.1), 3)}
    if kind < 0.6:
        return {'after_s': round(choose.uniform(0.1, 1.5), 2)}
    return {'sent_mib': choose.randint(1, 40)}


class Sudden(Mishap):
    """Something that happens once, at a moment that is drawn."""

    slow = 64
    after_s = sent_mib = None

    @classmethod
    def draw(cls, choose):
        return draw_moment(choose)

    def act(self, attempt):
        raise NotImplementedError

    def due_s(self, attempt):
        if self.acted or self.after_s is None:
            return None
        return max(0, attempt.began + self.after_s - time.monotonic())

    def is_due(self, attempt, info):
        if self.after_s is not None:
            return self.due_s(attempt) == 0
        return info.get('ram', {}).get('transferred', 0) >= self.sent_mib * MIB

    def poll(self, attempt, info):
        if not self.acted and self.is_due(attempt, info):
            self.acted = True
            self.act(attempt)


class Cancel(Sudden):
    name = 'cancel'
    weight = 8
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (HERE, THERE)

    def act(self, attempt):
        try:
            attempt.src.qmp('migrate_cancel')
        except QMPError as e:
            # Once the destination was told to run the guest, it is too late.
            attempt.note(f'migrate_cancel was refused: {e}')


class CancelPostcopy(Cancel):
    """Too late, most of the time: refused."""

    name = 'cancel post-copy'
    weight = 2
    ways = ('post-copy',)


class KillTarget(Sudden):
    name = 'target killed'
    weight = 3
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (HERE, THERE, LOST)

    def act(self, attempt):
        self.lost = attempt.dst_ran()
        attempt.dst.process.kill()
        attempt.dst.process.wait(30)
        self.lost = self.lost or attempt.dst_ran()  # its last words are read by now


class KillSource(Sudden):
    """The guest dies with it, unless it has just been handed to the other side."""

    name = 'source killed'
    weight = 2
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (THERE, LOST)

    def act(self, attempt):
        attempt.src.process.kill()
        attempt.src.process.wait(30)
        self.lost = True


def draw_cut(choose):
    return {'hang_up': choose.random() < 0.3, 'towards': choose.choice(['both', 'both', 'source', 'destination']),
            'which': choose.choice(['all', 'all', 'main', 'one'])}


def cut(link, how):
    """how: what draw_cut() said."""
    towards = ('source', 'destination') if how.towards == 'both' else (how.towards,)
    link.cut(which={'all': None, 'main': [0], 'one': [1]}[how.which], towards=towards, hang_up=how.hang_up)


class Cut(Sudden):
    """All connections break, at both ends or at one."""

    name = 'cut'
    falls_back = True
    weight = 6
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (HERE, THERE)
    links = True

    @classmethod
    def draw(cls, choose):
        return {**draw_moment(choose), **draw_cut(choose)}

    def settings(self):
        return {'network-timeout': 2000, 'switchover-timeout': 10000}

    def act(self, attempt):
        cut(attempt.link, self)


class Unending(Sudden):
    """Something that a session of Ferry's notices.  QEMU's own path waits for ever: there the operator cancels."""

    PATIENCE_S = 25
    acted_at = None
    given_up = False

    def poll(self, attempt, info):
        super().poll(attempt, info)
        if not self.acted or self.given_up:
            return
        self.acted_at = self.acted_at or time.monotonic()
        if (info.get('status') == 'active' and time.monotonic() > self.acted_at + self.PATIENCE_S and
                not attempt.by_ferry()):
            self.given_up = True
            attempt.note(f"{self.name}: QEMU's own path waited until it was cancelled")
            attempt.src.qmp('migrate_cancel')


class Silence(Unending):
    """Nothing comes any more, and nobody says so: noticed after network-timeout."""

    name = 'silence'
    falls_back = True
    weight = 2
    ways = ('pre-copy',)
    outcomes = (HERE, THERE)
    links = True

    def settings(self):
        return {'network-timeout': 2000, 'switchover-timeout': 10000}

    def act(self, attempt):
        attempt.link.silence(True)


class ShortSilence(Sudden):
    """Nothing comes for a moment, which nobody has to notice."""

    name = 'short silence'
    falls_back = True
    weight = 3
    links = True

    @classmethod
    def draw(cls, choose):
        return {**draw_moment(choose), 'for_s': round(choose.uniform(0.05, 1), 2)}

    def act(self, attempt):
        attempt.link.silence(True)
        time.sleep(self.for_s)
        attempt.link.silence(False)


class Frozen(Unending):
    """The destination's process stands still: for a moment, or until the source has given it up."""

    name = 'target frozen'
    falls_back = True
    weight = 2
    ways = ('pre-copy',)
    outcomes = (HERE, THERE)

    @classmethod
    def draw(cls, choose):
        return {**draw_moment(choose), 'for_s': choose.choice([0.3, 0.8, 0])}

    def settings(self):
        return {} if self.for_s else {'network-timeout': 2000, 'switchover-timeout': 10000}

    def act(self, attempt):
        if attempt.dst.alive():
            os.kill(attempt.dst.pid, signal.SIGSTOP)
        if self.for_s:
            time.sleep(self.for_s)
            self.ended(attempt)

    def ended(self, attempt):
        if attempt.dst.alive():
            os.kill(attempt.dst.pid, signal.SIGCONT)


class SlowLink(Mishap):
    """The network is slower than max-bandwidth allows."""

    name = 'slow link'
    weight = 2
    links = True

    @classmethod
    def draw(cls, choose):
        return {'mib_s': choose.choice([15, 30, 60])}


class FarAway(Mishap):
    """Each byte takes its time, in either direction."""

    name = 'far away'
    weight = 3
    links = True

    @classmethod
    def draw(cls, choose):
        return {'delay_s': choose.choice([0.002, 0.02, 0.075])}


class Yank(Sudden):
    """The operator's last resort at the source: all sockets of the migration are shut."""

    name = 'yank'
    falls_back = True
    weight = 2
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (HERE, THERE)

    def settings(self):
        return {'switchover-timeout': 10000}

    def act(self, attempt):
        try:
            attempt.src.qmp_oob('yank', instances=[{'type': 'migration'}])
        except QMPError as e:
            attempt.note(f'yank: {e}')  # the migration has just ended


class WrongTarget(Mishap):
    """The destination was started with another size of memory: refused, and the guest stays."""

    name = 'wrong target'
    weight = 2
    ways = ('pre-copy', "QEMU's own path")
    outcomes = (HERE,)

    @classmethod
    def fits(cls, guest):
        backend = guest.vm.get('backend', 'ram')
        return isinstance(backend, str) and 'size=' not in backend


class OneConnection(Mishap):
    """What is between the two lets one connection through: QEMU's own path."""

    name = 'one connection only'
    weight = 3
    ways = ("QEMU's own path",)
    links = True

    @classmethod
    def draw(cls, choose):
        return {'others': choose.choice(['refuse', 'swallow'])}

    def settings(self):
        return {'open-timeout': 1000}

    def admit(self, index):
        return self.others if index else 'pass'


class Paused(Sudden):
    """The guest is paused while it is migrated: for a moment, or until it has arrived."""

    name = 'guest paused'
    weight = 3
    slow = 64

    @classmethod
    def draw(cls, choose):
        return {**draw_moment(choose), 'for_s': choose.choice([0.2, 0])}

    def act(self, attempt):
        attempt.stopped = True
        attempt.src.qmp('stop')
        if self.for_s:
            time.sleep(self.for_s)
            self.go_on(attempt)

    def go_on(self, attempt):
        """Where it is paused now; not where it has left."""
        try:
            if attempt.src.qmp('query-status')['status'] == 'paused':
                attempt.src.qmp('cont')
                attempt.stopped = False
        except QMPError:
            pass  # it has just left

    def ended(self, attempt):
        if not attempt.stopped:
            return
        deadline = time.monotonic() + 30
        while attempt.dst.alive() and time.monotonic() < deadline:
            try:
                if attempt.dst.qmp('query-status')['status'] == 'paused':
                    attempt.dst.qmp('cont')
                    return
            except (QMPError, VMDied):
                return
            if attempt.dst_ran():
                return
            time.sleep(0.05)


class Reset(Sudden):
    """The guest is reset while it is migrated: it starts anew and fills its memory again."""

    name = 'guest reset'
    weight = 2
    ways = ('pre-copy', 'post-copy')

    @classmethod
    def fits(cls, guest):
        return guest.kind == 'native' and guest.accel.startswith('kvm')

    def act(self, attempt):
        attempt.is_reset = True
        attempt.ready_mark = len(attempt.src.console.lines)
        attempt.src.qmp('system_reset')


class OtherBandwidth(Sudden):
    """max-bandwidth is changed again and again."""

    name = 'max-bandwidth changed'
    weight = 3

    @classmethod
    def draw(cls, choose):
        return {'steps': tuple(choose.choice([16, 64, 200, 0]) for _ in range(3))}

    def poll(self, attempt, info):
        if info.get('status') != 'active':
            return
        step = min(int((time.monotonic() - attempt.began) / 0.3), len(self.steps))
        if step < len(self.steps):
            attempt.src.qmp('migrate-set-parameters', {'max-bandwidth': self.steps[step] * MIB})
        elif not self.acted:
            self.acted = True
            attempt.src.qmp('migrate-set-parameters', {'max-bandwidth': 0})


ALL = [Mishap, Cancel, CancelPostcopy, KillTarget, KillSource, Cut, Silence, ShortSilence, Frozen, SlowLink, FarAway,
       Yank, WrongTarget, OneConnection, Paused, Reset, OtherBandwidth]
