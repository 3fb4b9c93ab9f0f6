# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases: a host's bandwidth is shared between the migrations that leave it, or come to it."""

import os
import tempfile
import time

from ends import globals_of
from migration import listen
from suite import require
from vm import VM

HOST_MB = 12
MB = 1000 * 1000
AT_MOST_S = 30
POLL_S = 0.05
# A guest that writes more than the host lets through, so that its migration does not end by itself.
BUSY = ['-device', 'ferry-storm,working-set=12M,start=16777216,rate=20000,pattern=random']


class Pair:
    """A migration under way, of a guest that does not stand still."""

    def __init__(self, name, source, destination):
        self.src = VM(f'{name}-source', memory_mib=64, args=[*BUSY, *globals_of(**source)])
        self.dst = VM(f'{name}-destination', memory_mib=64, args=[*BUSY, *globals_of(**destination)], incoming=True)

    def __enter__(self):
        self.src.start()
        self.dst.start()
        self.src.qmp('migrate-set-parameters', {'max-bandwidth': 0, 'downtime-limit': 1})
        self.src.qmp('migrate', uri=listen(self.dst, 'tcp'))
        return self

    def __exit__(self, *error):
        self.dst.__exit__(*error)
        self.src.__exit__(*error)


def wait_shares(vm, **wanted):
    """Until query-ferry has these numbers, give or take a tenth."""
    deadline = time.monotonic() + AT_MOST_S
    while True:
        shares = vm.qmp('query-ferry').get('shares', {})
        if all(abs(shares.get(name, 0) - value) <= value / 10 for name, value in wanted.items()):
            return shares
        require(time.monotonic() < deadline, f'{vm.name} does not get {wanted}', vm.qmp('query-ferry'))
        time.sleep(POLL_S)


def transferred(vm):
    return sum(channel['bytes'] for channel in vm.qmp('query-ferry')['channels'])


def check_shares(side, direction):
    """side: whose query-ferry tells."""
    with tempfile.TemporaryDirectory() as folder:
        common = {f'host_{direction}_bandwidth': HOST_MB, 'shares_file': os.path.join(folder, 'shares')}

        def parameters(shares):
            mine = {**common, 'shares': shares}
            return ({}, mine) if side == 'dst' else (mine, {})

        with Pair('one', *parameters(100)) as one:
            wait_shares(getattr(one, side), members=1, bandwidth=HOST_MB * MB)
            with Pair('two', *parameters(300)) as two:
                ours, theirs = getattr(one, side), getattr(two, side)
                shares = wait_shares(ours, members=2, bandwidth=HOST_MB * MB // 4)
                require(shares['total-weight'] == 400 and shares['weight'] == 100, 'the weights', shares)
                wait_shares(theirs, members=2, bandwidth=HOST_MB * MB * 3 // 4)
                began, before = time.monotonic(), transferred(ours) + transferred(theirs)
                time.sleep(2)
                sent = transferred(ours) + transferred(theirs) - before
                took_s = time.monotonic() - began
                # Buffers on the way, and whole frames.
                require(sent <= HOST_MB * MB * took_s * 1.1 + 4 * MB, 'more than the host allows', (sent, took_s))
                # It dies, and has said nothing.
                theirs.kill()
                wait_shares(ours, members=1, bandwidth=HOST_MB * MB)


def test_what_leaves_a_host_is_shared():
    check_shares('src', 'outgoing')


def test_what_comes_to_a_host_is_shared():
    check_shares('dst', 'incoming')


def test_without_a_file_the_limit_is_its_own():
    with Pair('one', {'host_outgoing_bandwidth': HOST_MB, 'shares_file': '/proc/none'}, {}) as one:
        deadline = time.monotonic() + AT_MOST_S
        while not one.src.qmp('query-ferry').get('phase') == 'rounds':
            require(time.monotonic() < deadline, 'it does not get on', one.src.qmp('query-ferry'))
            time.sleep(POLL_S)
        ferry = one.src.qmp('query-ferry')
        require('shares' not in ferry, 'it shares', ferry)
        require("the host's bandwidth is not shared: " in one.src.log(), 'it does not say why', one.src.log())
        mean = ferry['transferred'] / (ferry['elapsed-time'] / 1000)
        require(mean <= HOST_MB * MB * 1.1 + 4 * MB, 'it is faster than the host allows', ferry)


def test_a_destination_limits_what_comes():
    with Pair('one', {}, {'incoming_bandwidth': HOST_MB}) as one:
        time.sleep(2)
        ferry = one.src.qmp('query-ferry')
        require(ferry['phase'] in ('copy', 'rounds'), 'it is not under way', ferry)
        mean = ferry['transferred'] / (ferry['elapsed-time'] / 1000)
        # What its socket holds has been sent, and has not been taken.
        require(mean <= HOST_MB * MB * 1.1 + 8 * MB, 'it is faster than the destination allows', ferry)
        one.src.qmp('migrate_cancel')
