# SPDX-License-Identifier: GPL-2.0-or-later
"""The hand-off, when the network or the destination fails just then: one side runs the guest, and soon."""

import os
import signal
import time

from case import Bench, Case, check
from guest import Guest
from migration import listen
from postcopy import free_tcp_port
from relay import Relay
from streams import VMDied
from suite import Failure

TIMEOUTS = ['-global', 'ferry.network-timeout=2000', '-global', 'ferry.switchover-timeout=4000']
# Says what devices hear of a migration.
LISTENER = ['-device', 'ferry-storm,id=storm,running=off,start=67108864,size=4M']
# Their state is longer than what a UNIX socket holds.
MANY_DEVICES = ['-device', 'e1000,romfile='] * 24
ENDED = ('completed', 'failed', 'cancelled')

# Longer than anything may take that a time-out of TIMEOUTS ends, on a busy machine.
PATIENCE_S = 20


def status(vm):
    begin = time.monotonic()
    answer = vm.qmp('query-status')
    took = time.monotonic() - begin
    if took > 1:
        raise Failure(f"{vm.name}: query-status was answered after {took:.1f} s, '{answer['status']}'")
    return answer


class HandOff:
    """A source that migrates to a destination, through a relay that asks on_frame()."""

    def __init__(self, bench, on_frame=lambda *_: True, caps=None):
        self.src, self.dst = bench.source(), bench.start(True)
        for vm in (self.src, self.dst):
            vm.set_capabilities({'events': True, **(caps or {})})
        self.src.qmp('migrate-set-parameters', {'max-bandwidth': bench.case.params['max-bandwidth']})
        self.dst.qmp('migrate-set-parameters', {})
        self.relay = Relay(listen(self.dst, bench.case.uri), on_frame)

    def begin(self):
        self.src.qmp('migrate', uri=self.relay.uri)

    def wait(self, states=ENDED):
        """The source's query-migrate, once it is in one of `states`; its monitor answers all the while."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            status(self.src)
            info = self.src.qmp('query-migrate')
            if info.get('status') in states:
                return info
            time.sleep(0.05)
        raise Failure(f"the migration is '{info.get('status')}' after {PATIENCE_S} s")

    def expect_failed(self, *words):
        info = self.wait()
        print(f"# {info['status']}: {info.get('error-desc')}")
        if info['status'] != 'failed' or not all(word in info.get('error-desc', '') for word in words):
            raise Failure(f"{info['status']}: {info.get('error-desc')}, not failed with {words}")

    def expect_at_source(self, bench):
        """The guest goes on where it was, and its memory is right."""
        deadline = time.monotonic() + PATIENCE_S
        while not status(self.src)['running']:
            if time.monotonic() > deadline:
                raise Failure('the source does not run the guest')
            time.sleep(0.05)
        bench.check_goes_on(self.src)

    def expect_heard(self, wanted):
        """What the devices at the source are told of it."""
        heard = self.src.qmp('qom-get', path='/machine/peripheral/storm', property='x-heard')
        if heard != wanted:
            raise Failure(f"devices heard '{heard}' of the migration, not '{wanted}'")

    def expect_in_doubt(self):
        """Nobody runs the guest here without a person's word, and no device takes it back either."""
        self.expect_heard('done')
        if status(self.src) != {'status': 'postmigrate', 'running': False}:
            raise Failure(f'the source is not in doubt: {status(self.src)}')
        phase = self.src.qmp('query-ferry').get('phase')
        if phase != 'in-doubt':
            raise Failure(f"query-ferry does not say that it is in doubt, but '{phase}'")

    def expect_status(self, wanted):
        info = self.wait((*ENDED, 'postcopy-paused'))
        if info['status'] != wanted:
            raise Failure(f"{info['status']}: {info.get('error-desc')}, not {wanted}")

    def runs_at_destination(self):
        try:
            return self.dst.alive() and status(self.dst)['running']
        except VMDied:
            return False  # it gives up just now

    def expect_not_at_destination(self):
        if self.runs_at_destination():
            raise Failure('both sides run the guest, or the wrong one')


def test_silent(case):
    """The destination says nothing more while memory is copied."""
    with Bench(case) as bench:
        hand_off = HandOff(bench)
        hand_off.begin()
        hand_off.wait(('active',))
        time.sleep(0.5)
        os.kill(hand_off.dst.pid, signal.SIGSTOP)
        hand_off.expect_failed('2000 ms')
        hand_off.expect_at_source(bench)
        hand_off.expect_heard('failed')


def test_silent_blackout(case):
    """The same with the guest stopped."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, caps={'pause-before-switchover': True})
        hand_off.begin()
        hand_off.wait(('pre-switchover',))
        os.kill(hand_off.dst.pid, signal.SIGSTOP)
        hand_off.src.qmp('migrate-continue', state='pre-switchover')
        hand_off.expect_failed('2000 ms')
        hand_off.expect_at_source(bench)


def cut_at(wanted):
    """An on_frame: what it names does not arrive, and all connections break."""
    def on_frame(relay, name, _):
        if name != wanted:
            return True
        relay.cut()
        return False
    return on_frame


def reset_at(wanted):
    """An on_frame: the main connection is reset towards the source, and then what it names arrives."""
    def on_frame(relay, name, _):
        if name == wanted:
            relay.reset_main_towards_source()
        return True
    return on_frame


def keep_at(wanted, at_source):
    """An on_frame: the main connection breaks at one end only, and a relay keeps it at the other."""
    def on_frame(relay, name, _):
        if name == wanted:
            relay.keep_main(at_source)
        return True
    return on_frame


def go_over(hand_off):
    hand_off.wait(('active',))
    hand_off.src.qmp('migrate-start-postcopy')


def test_loaded_withheld(case):
    """The destination beats, but never says LOADED: the source takes the guest back at the limit."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, lambda _, name, __: name != 'LOADED', case.caps)
        hand_off.begin()
        if case.caps:
            go_over(hand_off)
        hand_off.expect_failed('switchover-timeout', 'to load the state of its devices')
        hand_off.expect_at_source(bench)
        hand_off.expect_not_at_destination()


def test_reset_at_loaded(case):
    """The main connection is reset towards the source while it waits for LOADED: exactly one side runs."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, reset_at('LOADED'), case.caps)
        hand_off.begin()
        if case.caps:
            go_over(hand_off)
        info = hand_off.wait((*ENDED, 'postcopy-paused'))
        time.sleep(1)
        at_source, at_destination = status(hand_off.src)['running'], hand_off.runs_at_destination()
        print(f"# {info['status']}, at the source {at_source}, at the destination {at_destination}")
        if at_source == at_destination:
            raise Failure(f'both sides run the guest: {at_source}')
        if at_source:
            hand_off.expect_at_source(bench)
        elif not case.caps:
            check(Guest(hand_off.dst))


def test_devices_unread(case):
    """Nobody reads the device state, which is more than fits a socket: the monitor answers all the same."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, caps={'pause-before-switchover': True})
        hand_off.begin()
        hand_off.wait(('pre-switchover',))
        hand_off.relay.hold_main()
        hand_off.src.qmp('migrate-continue', state='pre-switchover')
        hand_off.expect_failed('switchover-timeout')
        hand_off.expect_at_source(bench)
        hand_off.expect_not_at_destination()


def test_go_withheld(case):
    """GO does not arrive, and the connection breaks: in doubt, until a person says so."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, cut_at('GO'))
        hand_off.begin()
        hand_off.expect_failed('was told to run the guest', 'has failed there')
        hand_off.expect_not_at_destination()
        deadline = time.monotonic() + PATIENCE_S
        while hand_off.dst.alive():
            if time.monotonic() > deadline:
                raise Failure('the destination does not give up')
            time.sleep(0.05)
        hand_off.expect_in_doubt()
        hand_off.src.qmp('cont')
        hand_off.expect_at_source(bench)


def test_taken_withheld(case):
    """GO arrives, its answer does not: the destination runs the guest, and the source does not."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, cut_at('TAKEN'))
        hand_off.begin()
        hand_off.expect_failed('was told to run the guest')
        hand_off.expect_in_doubt()
        hand_off.dst.wait_event('RESUME', PATIENCE_S)
        bench.check_goes_on(hand_off.dst)


def test_reset_after_go(case):
    """The main connection is reset towards the source with pages missing: it is paused, and resumed."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, reset_at('TAKEN'), case.caps)
        hand_off.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': 20 << 20})
        mark = hand_off.dst.event_mark()
        hand_off.begin()
        go_over(hand_off)
        hand_off.expect_status('postcopy-paused')
        hand_off.dst.wait_event('MIGRATION', PATIENCE_S, mark, lambda d: d['status'] == 'postcopy-paused')
        uri = f'tcp:127.0.0.1:{free_tcp_port()}'
        hand_off.dst.qmp_oob('migrate-recover', uri=uri)
        hand_off.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': 0})
        hand_off.src.qmp('migrate', {'uri': uri, 'resume': True})
        hand_off.expect_status('completed')
        bench.check_goes_on(hand_off.dst)


def test_complete_withheld(case):
    """All pages have come, and nobody hears that: the source says where to look."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, cut_at('COMPLETE'), case.caps)
        hand_off.begin()
        go_over(hand_off)
        hand_off.expect_status('postcopy-paused')
        words = hand_off.src.qmp('query-migrate').get('error-desc', '')
        print(f'# {words}')
        if 'quit this QEMU if the migration is completed at the destination' not in words:
            raise Failure(f"it does not say what to look at, but '{words}'")
        hand_off.dst.wait_event('RESUME', PATIENCE_S)
        bench.check_goes_on(hand_off.dst)


def test_all_said(case, on_frame):
    """The main connection breaks when all is said but on it: both ends complete, and nobody waits for anybody."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, on_frame, case.caps)
        mark = hand_off.dst.event_mark()
        hand_off.begin()
        if case.caps:
            go_over(hand_off)
        hand_off.expect_status('completed')
        hand_off.dst.wait_event('MIGRATION', PATIENCE_S, mark, lambda d: d['status'] == 'completed')
        bench.check_goes_on(hand_off.dst)


def all_said(on_frame):
    return lambda case: test_all_said(case, on_frame)


def test_bitmaps_lost(case):
    """The stream breaks at the source with dirty bitmaps left: the guest is completed, and it says what is lost."""
    with Bench(case) as bench:
        hand_off = HandOff(bench, keep_at('TAKEN', False), case.caps)
        hand_off.src.qmp('block-dirty-bitmap-add', node='disk', name='changes')
        hand_off.begin()
        go_over(hand_off)
        hand_off.expect_status('completed')
        words = hand_off.src.qmp('query-migrate').get('error-desc', '')
        if 'dirty bitmaps may be missing' not in words:
            raise Failure(f"it does not say that bitmaps are lost, but '{words}'")
        hand_off.dst.wait_event('RESUME', PATIENCE_S)
        bench.check_goes_on(hand_off.dst)


def cases():
    load = {'fill': 128, 'write': 16, 'rate': 2000}
    tests = [
        ('silence', test_silent, None, 20 << 20),
        ('silence while it is stopped', test_silent_blackout, None, 0),
        ('LOADED withheld', test_loaded_withheld, None, 0),
        ('LOADED withheld, post-copy', test_loaded_withheld, {'postcopy-ram': True}, 40 << 20),
        ('reset at LOADED', test_reset_at_loaded, None, 0),
        ('reset at LOADED, post-copy', test_reset_at_loaded, {'postcopy-ram': True}, 40 << 20),
        ('GO withheld', test_go_withheld, None, 0),
        ('reset after GO, post-copy', test_reset_after_go, {'postcopy-ram': True}, 40 << 20),
        ('COMPLETE withheld, post-copy', test_complete_withheld, {'postcopy-ram': True}, 40 << 20),
        ('reset after COMPLETE, post-copy', all_said(reset_at('COMPLETE')), {'postcopy-ram': True}, 40 << 20),
        ('kept at the source at GO', all_said(keep_at('GO', True)), None, 0),
        ('kept at the source after COMPLETE', all_said(keep_at('COMPLETE', True)), {'postcopy-ram': True}, 40 << 20),
        ('kept at the destination after COMPLETE', all_said(keep_at('COMPLETE', False)), {'postcopy-ram': True},
         40 << 20),
        ('TAKEN withheld', test_taken_withheld, None, 0),
    ]
    yield Case('native kvm: hand-off, devices unread', load, vm={'args': [*TIMEOUTS, *MANY_DEVICES]}, uri='unix',
               params={'max-bandwidth': 0}, test=test_devices_unread)
    yield Case('native kvm: hand-off, dirty bitmaps lost', load, test=test_bitmaps_lost,
               vm={'args': [*TIMEOUTS, *LISTENER, '-blockdev', 'null-co,node-name=disk,size=4398046511104']},
               caps={'postcopy-ram': True, 'dirty-bitmaps': True}, params={'max-bandwidth': 40 << 20})
    for name, test, caps, bandwidth in tests:
        yield Case(f'native kvm: hand-off, {name}', load, vm={'args': [*TIMEOUTS, *LISTENER]}, caps=caps,
                   params={'max-bandwidth': bandwidth}, test=test)


CASES = list(cases())
