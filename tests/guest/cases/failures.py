# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that fail, and leave the guest where it was."""

from case import HALF, Bench, Case, Once, check, check_progress
from guest import Guest
from migration import MigrationFailed
from suite import Failure


def test_cancel(case):
    """A cancelled migration leaves the source as it was, and another one works."""
    with Bench(case) as bench:
        src = bench.source()
        bench.expect_cancelled(src, 'a cancelled migration completed', params={'max-bandwidth': 64 << 20},
                               on_poll=Once(8, lambda: src.qmp('migrate_cancel')), poll_s=0.05)
        check_progress(Guest(src), bench.load, check(Guest(src)))
        dst, _ = bench.migrate(src)
        check(Guest(dst))


def test_killed_target(case):
    """A target that dies leaves the source running, with a reason, and another migration works."""
    with Bench(case) as bench:
        src = bench.source()
        try:
            bench.migrate(src, params={'max-bandwidth': 64 << 20}, poll_s=0.05,
                          on_poll=Once(8, lambda: bench.vms[1].process.kill()))
            raise Failure('a migration to a dead QEMU completed')
        except MigrationFailed as e:
            print(f'# {e}')
            if e.status != 'failed' or not e.info.get('error-desc'):
                raise Failure(f'status {e.status}, and no reason') from e
        check_progress(Guest(src), bench.load, check(Guest(src)))
        dst, _ = bench.migrate(src)
        check(Guest(dst))


CASES = [
    Case('native kvm: cancel, then migrate', HALF, vm={'cpus': 2}, test=test_cancel),
    Case('native kvm: target killed, then migrate', HALF, vm={'cpus': 2}, test=test_killed_target),
]
