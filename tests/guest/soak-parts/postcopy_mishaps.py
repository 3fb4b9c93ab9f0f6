# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to a migration on purpose while pages are missing at the destination."""

import time

from mishaps import HERE, LOST, THERE, Mishap, cut, draw_cut
from streams import QMPError


class Late(Mishap):
    """Something that happens so long after the guest began to run at the destination, `times` times at most."""

    ways = ('post-copy',)
    slow = 0
    times = 1
    nr_done = 0
    seen_at = None

    @classmethod
    def draw(cls, choose):
        return {'after_s': choose.choice([0, 0, 0.1, 0.3, 0.6])}

    def act(self, attempt):
        raise NotImplementedError

    def poll(self, attempt, info):
        if info.get('status') != 'postcopy-active':
            self.seen_at = None
            return
        self.seen_at = self.seen_at or time.monotonic()
        if self.nr_done < self.times and time.monotonic() >= self.seen_at + self.after_s:
            self.nr_done += 1
            self.act(attempt)


class Break(Late):
    """The operator breaks it, and resumes it."""

    name = 'post-copy paused'
    weight = 4
    outcomes = (THERE,)

    @classmethod
    def draw(cls, choose):
        return {**Late.draw(choose), 'times': choose.choice([1, 1, 2, 3])}

    def act(self, attempt):
        try:
            attempt.src.qmp('migrate-pause')
        except QMPError as e:
            # It has just come to its end, or its connection has.
            attempt.note(f'migrate-pause: {e}')


class CutLate(Late):
    """The network breaks it, at both ends or at one."""

    name = 'post-copy cut'
    weight = 5
    outcomes = (THERE,)
    links = True

    @classmethod
    def draw(cls, choose):
        return {**Late.draw(choose), 'times': choose.choice([1, 1, 2]), **draw_cut(choose)}

    def settings(self):
        return {'network-timeout': 2000}

    def act(self, attempt):
        cut(attempt.link, self)


class SilenceLate(Late):
    """The network says nothing more, and nobody notices until network-timeout."""

    name = 'post-copy silence'
    weight = 2
    outcomes = (THERE,)
    links = True

    def settings(self):
        return {'network-timeout': 2000}

    def act(self, attempt):
        attempt.link.silence(True)


class YankLate(Late):
    name = 'post-copy yank'
    weight = 2
    outcomes = (THERE,)

    def act(self, attempt):
        try:
            attempt.src.qmp_oob('yank', instances=[{'type': 'migration'}])
        except QMPError as e:
            attempt.note(f'yank: {e}')


class LoseSource(Late):
    """The source dies with pages that nobody else has: the guest is lost, unless the last page had come."""

    name = 'post-copy, source killed'
    weight = 2
    outcomes = (LOST, THERE)
    recovers = False

    def act(self, attempt):
        attempt.src.process.kill()
        attempt.src.process.wait(30)
        self.lost = True


class LoseTarget(Late):
    """The destination dies with writes that nobody else has: lost, unless all was over before."""

    name = 'post-copy, target killed'
    weight = 2
    outcomes = (LOST, HERE, THERE)
    recovers = False

    def act(self, attempt):
        attempt.dst.process.kill()
        attempt.dst.process.wait(30)
        self.lost = True


ALL = [Break, CutLate, SilenceLate, YankLate, LoseSource, LoseTarget]
