# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guest is after a migration, however that ended: on exactly one side, or lost by definition.

What an operator does where the documents ask for one (docs/user-guide.md) is done here: `cont` at a source that is
in doubt, ferry-abandon at a destination whose source has died.
"""

import time

from mishaps import HERE, LOST, THERE
from oracle import Wrong
from streams import QMPError, VMDied

PATIENCE_S = 45


def state(vm):
    """query-status' answer in a word; 'gone' if there is no QEMU any more."""
    if not vm.alive():
        return 'gone'
    try:
        return vm.qmp('query-status')['status']
    except VMDied:
        return 'gone'


def migration(vm):
    """query-migrate's status; 'gone' if there is no QEMU any more."""
    try:
        return vm.qmp('query-migrate').get('status', 'none') if vm.alive() else 'gone'
    except VMDied:
        return 'gone'


def waits_for_stream(vm):
    """Whether there is a QEMU that no session of Ferry's had opened to."""
    try:
        return vm.alive() and 'phase' not in vm.qmp('query-ferry')
    except VMDied:
        return False


def wait_for(what, holds, patience_s=PATIENCE_S):
    """The first that holds() returns which is not None."""
    deadline = time.monotonic() + patience_s
    while True:
        found = holds()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise Wrong(f'{what}: not within {patience_s} s')
        time.sleep(0.05)


def expect_never_ran(attempt):
    """The destination gives up, and has not run the guest.

    Where no session of Ferry's had opened there, it waits for its stream as any QEMU does: until that ends.
    """
    if attempt.link and waits_for_stream(attempt.dst):
        attempt.link.close()

    def given_up():
        if attempt.dst_ran():
            raise Wrong('both sides run the guest: the destination runs one that is at the source')
        # 'setup': no main channel has got as far as to be one; it waits for its source, as at the start.
        return True if state(attempt.dst) == 'gone' or migration(attempt.dst) in ('failed', 'setup') else None

    wait_for(f'{attempt.dst.name} gives up', given_up)


def expect_not_running(vm):
    if state(vm) == 'running':
        raise Wrong(f'both sides run the guest, or the wrong one: {vm.name}')


def settle_completed(attempt):
    """The source says that it is there."""
    def arrived():
        at = state(attempt.dst)
        if at == 'gone':
            if attempt.mishap.lost or LOST in attempt.mishap.outcomes:
                return LOST  # handed to it, and then it was killed
            raise Wrong(f'completed, and the destination is gone: {attempt.dst.log()[-300:]}')
        return THERE if at == 'running' else None

    where = wait_for('the destination runs the guest', arrived)
    if attempt.src.alive():
        expect_not_running(attempt.src)
    return where


def settle_doubt(attempt):
    """The source does not know, and asks for a person: who looks at the destination."""
    attempt.note('in doubt')
    attempt.in_doubt = True

    def look():
        if attempt.dst_ran():
            return THERE if attempt.dst.alive() else LOST
        return HERE if state(attempt.dst) == 'gone' or migration(attempt.dst) == 'failed' else None

    where = wait_for('the destination runs the guest, or has given up', look)
    if where == HERE:
        attempt.src.qmp('cont')
        wait_for('the source goes on', lambda: True if state(attempt.src) == 'running' else None)
    return where


def settle_failed(attempt):
    """Failed or cancelled: the guest goes on at the source, or it is in doubt."""
    at = wait_for(f'{attempt.src.name} goes on, or says that it does not know',
                  lambda: at if (at := state(attempt.src)) in ('running', 'paused', 'postmigrate') else None)
    if at == 'postmigrate':
        return settle_doubt(attempt)
    if at == 'paused':
        if not attempt.stopped:
            raise Wrong('the guest is paused at the source, and nobody had asked for it')
        attempt.src.qmp('cont')
    expect_never_ran(attempt)
    return HERE


def settle_without_source(attempt):
    """The source was killed: the destination has all of the guest and runs it, or gives it up."""
    dst = attempt.dst

    def look():
        if not dst.alive():
            return LOST
        events = dst.monitor.events[attempt.dst_mark:]
        said = [e['data']['status'] for e in events if e['event'] == 'MIGRATION']
        if 'completed' in said:
            return THERE
        if 'failed' in said:
            return LOST
        return 'paused' if said[-1:] == ['postcopy-paused'] else None  # and is not being recovered

    where = wait_for('the destination runs the guest, or gives it up', look)
    if where == THERE:
        return settle_completed(attempt)
    if where == 'paused':
        if nothing_is_missing(dst):
            dst.qmp_oob('ferry-abandon')
            wait_for('a guest that lacks nothing goes on', lambda: True if migration(dst) == 'completed' else None)
            return settle_completed(attempt)
        abandon(dst)
        where = LOST
    elif attempt.dst_ran():
        raise Wrong('the destination ran a guest that it had not got')
    return where


def nothing_is_missing(vm):
    """Whether the guest is the destination's with all its pages, and only the source's last words are waited for."""
    fetch = vm.qmp('query-ferry').get('fetch', {})
    return fetch.get('handed-pages', 0) > 0 and fetch['missing-pages'] == 0 and state(vm) == 'running'


def abandon(vm):
    """Its pages will never come: the guest is stopped for good, and the QEMU is free for other things."""
    vm.qmp_oob('ferry-abandon', force=True)
    wait_for('an abandoned guest is stopped',
             lambda: True if state(vm) in ('internal-error', 'inmigrate') else None)  # the latter if it never ran
    wait_for('an abandoned migration is over', lambda: True if migration(vm) == 'failed' else None)
    if {'type': 'migration'} in vm.qmp('query-yank'):
        raise Wrong('a yank instance of the migration is left after ferry-abandon')
    if vm.quit() not in (0, 1):
        raise Wrong(f'an abandoned QEMU did not quit: {vm.log()[-300:]}')


def settle_without_destination(attempt):
    """It was killed while pages were missing there: the source must not go on, and can be quit."""
    at = wait_for('the source notices that the destination died',
                  lambda: at if (at := migration(attempt.src)) in ('postcopy-paused', 'completed', 'failed') else None)
    if at == 'failed':
        return settle_failed(attempt)
    expect_not_running(attempt.src)
    try:
        attempt.src.quit()
    except QMPError as e:
        raise Wrong(f'a source whose destination died cannot be quit: {e}') from e
    return LOST


def settle(attempt):
    """Returns THERE, HERE or LOST; raises Wrong where the guest is on both sides, or on none without a reason."""
    if not attempt.src.alive():
        if not attempt.mishap.lost:
            raise Wrong(f'the source died: {attempt.src.log()[-300:]}')
        return settle_without_source(attempt)
    if attempt.status == 'completed':
        return settle_completed(attempt)
    if attempt.status in ('failed', 'cancelled'):
        return settle_failed(attempt)
    if not attempt.dst.alive() and attempt.mishap.lost:
        return settle_without_destination(attempt)
    raise Wrong(f"the migration is '{attempt.status}'")
