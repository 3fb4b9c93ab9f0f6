# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to connections just when the guest is handed from one side to the other."""

from mishaps import HERE, THERE, Mishap

CONNECTION_ACTS = ('cut', 'reset main', 'keep main here', 'keep main there')
ACTS = (*CONNECTION_ACTS, 'withhold')


class HandOff(Mishap):
    """A frame of the hand-off meets with something: see ACTS. Only the first of its name does.

    A network that drops one frame and passes the next does not exist: LOADED alone is withheld, as a destination can.
    """

    name = 'hand-off disturbed'
    weight = 5
    ways = ('pre-copy', 'post-copy')
    outcomes = (HERE, THERE)
    frames = True

    @classmethod
    def draw(cls, choose):
        frame = choose.choice(['LOADED', 'LOADED', 'GO', 'GO', 'TAKEN', 'TAKEN', 'REACHED', 'COMPLETE'])
        return {'frame': frame, 'act': choose.choice(ACTS if frame == 'LOADED' else CONNECTION_ACTS)}

    def settings(self):
        return {'network-timeout': 2000, 'switchover-timeout': 4000}

    def on_frame(self, relay, name, to_source):
        if name != self.frame or self.acted:
            return True
        self.acted = True
        if self.act == 'cut':
            relay.cut()
        elif self.act == 'reset main':
            relay.reset_main_towards_source()
        elif self.act.startswith('keep main'):
            relay.keep_main(self.act.endswith('here'))
        return self.act not in ('cut', 'withhold')


ALL = [HandOff]
