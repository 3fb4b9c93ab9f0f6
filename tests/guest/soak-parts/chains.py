# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a chain (plan.py): its guests at the same time, each from QEMU to QEMU, each migration checked and noted."""

import contextlib
import threading
import time

import settings
from attempt import Attempt
from changes import Changes
from guest import Guest, Load, NoLinux, linux_guest, native_guest
from logs import attach_log
from mishaps import HERE, LOST
from oracle import Wrong, check
from holdings import growth, holdings, shrunk_pages
from plan import POOL_MEMORY
from resources import Unavailable, huge_pages
from suite import Skip
from vm import SMALL_PAGES, VM

READY_S = 240


def arguments(guest):
    """VM's arguments for a guest's plan."""
    vm = dict(guest.vm)
    if vm.pop('small_pages', False):
        vm['wrapper'] = SMALL_PAGES
    make = {'native': native_guest, 'linux': linux_guest}[guest.kind]
    try:
        return make(Load(**guest.load), guest.accel, **vm)
    except NoLinux as e:
        raise Skip(e) from e


class Missing:
    """What this machine has not, and what is taken instead."""

    INSTEAD = {'vsock': 'tcp', 'tcp6': 'tcp'}

    def __init__(self, account):
        self.account = account
        self.problems = {}
        self.lock = threading.Lock()

    def transport(self, wanted):
        if wanted not in self.INSTEAD:
            return wanted
        with self.lock:
            if wanted not in self.problems:
                self.problems[wanted] = settings.PROBLEMS[wanted]()
        if not self.problems[wanted]:
            return wanted
        self.account.note(f'{self.INSTEAD[wanted]} instead of {wanted}: {self.problems[wanted]}')
        return self.INSTEAD[wanted]


class Journey:
    """One guest of a chain."""

    def __init__(self, chain, index, account, missing):
        self.chain = chain
        self.index = index
        self.account = account
        self.missing = missing
        self.guest = chain.guests[index]
        self.plans = chain.plans[index]
        self.arguments = arguments(self.guest)
        self.changes = Changes()
        self.vms = []
        self.nr_vms = 0
        self.error = None

    def vm(self, incoming, **more):
        words = {**self.arguments, 'args': [*self.arguments['args'], *self.changes.words()], **more}
        vm = VM(f'guest{self.index + 1}-vm{self.nr_vms}', incoming=incoming, **words)
        self.nr_vms += 1
        self.vms.append(vm)
        return vm.start(60)

    def start_guest(self):
        self.account.guest()
        self.changes.forget()
        vm = self.vm(False)
        Guest(vm).wait_ready(READY_S)
        time.sleep(0.2)
        check(vm, self.guest)
        self.first = holdings(vm)
        return vm

    def run(self):
        """Keeps what goes wrong in `error`: it may be a thread of its own."""
        try:
            src = None
            for number, plan in enumerate(self.plans, 1):
                src = src or self.start_guest()
                src = self.migrate(src, number, plan)
            if src:
                self.check_last(src)
        except BaseException as e:  # whatever it is, who waits for the thread is to know
            for vm in self.vms:
                if vm.dir:
                    attach_log(e, vm.name, vm.log())
            self.error = e
        finally:
            self.kill()

    def kill(self):
        for vm in self.vms:
            vm.kill()

    def where(self, number):
        return (f'chain {self.chain.number}, ' + (f'guest {self.index + 1}, ' if len(self.chain.guests) > 1 else '') +
                f'migration {number}')

    def migrate(self, src, number, plan):
        """Returns the QEMU that has the guest then, None if it is lost."""
        plan.transport = self.missing.transport(plan.transport)
        if short := self.changes.make(src, plan.change):
            self.account.note(short)
        other = {'memory_mib': 2 * src.memory_mib} if plan.mishap.name == 'wrong target' else {}
        attempt = Attempt(self.guest, plan, src, self.vm(True, **other), holdings(src))
        where = f'{self.where(number)}: {plan}'
        kinds = {
            'mishap': plan.mishap.name, 'planned': plan.way, 'transport': plan.transport, 'tls': plan.tls or 'none',
            'channels': plan.multifd or plan.channels, 'compression': plan.compression, 'tracker': plan.tracker_used,
            'guest': f'{self.guest.kind} {self.guest.accel}', 'memory': self.guest.memory,
            'change': plan.change.partition(' ')[0] or 'none', 'together': len(self.chain.guests)}
        try:
            at = attempt.run()
        except Exception as e:
            self.account.migration({**kinds, 'outcome': 'failed'}, where)
            self.account.failure(where, ' '.join(str(e).split()) or type(e).__name__, self.again())
            raise type(e)(f'{where}: {e}') if isinstance(e, Wrong) else e
        finally:
            for text in attempt.notes:
                self.account.note(text)
        record = {**kinds, **attempt.record}
        if plan.mishap.name == 'none' and 'gap_ms' in record:
            record['plain_gap_ms'] = record['gap_ms']
        self.account.migration(record, where)
        print(f"# {where}: {at}, {record['went']}, {record['took_s']} s, {record['mib']} MiB, "
              f"downtime {record['downtime_ms']} ms; {record['reason']}", flush=True)
        for vm in (src, attempt.dst):
            if vm is not {HERE: src, LOST: None}.get(at, attempt.dst):
                vm.kill()
        self.vms = [vm for vm in self.vms if vm.alive()]
        if at != LOST:
            self.changes.check(self.vms[0])
        return {HERE: src, LOST: None}.get(at, attempt.dst)

    def again(self):
        migrations = sum(len(plans) for plans in self.chain.plans)
        return f'tests/guest/soak --seed {self.chain.seed} --from {self.chain.number} --migrations {migrations}'

    def check_last(self, vm):
        """The last QEMU holds no more for this guest than the first did."""
        self.changes.remove_all(vm)
        deadline = time.monotonic() + 10
        while words := growth(self.first, last := holdings(vm)):
            if time.monotonic() > deadline:
                words = f'the last QEMU holds more than the first: {"; ".join(words)}'
                self.account.failure(self.where(len(self.plans)), words, self.again())
                raise Wrong(words)
            time.sleep(0.2)
        for name in ('RSS, MiB', 'mappings', 'mappings of guest memory', 'page tables, KiB'):
            if last[name] > self.first[name]:
                self.account.resources(f'more {name}', f'{last[name]}, not {self.first[name]} '
                                       f'(chain {self.chain.number}, {self.guest.memory})')
        if words := shrunk_pages(self.first, last):
            self.account.resources('smaller pages', f'{words} (chain {self.chain.number}, {self.guest.memory})')


@contextlib.contextmanager
def pool_for(guests, account):
    """Huge pages for those guests that live in them, twice; where there are none they live in a memfd."""
    takers = [guest for guest in guests if guest.memory == POOL_MEMORY]
    mib = sum(2 * guest.vm['memory_mib'] for guest in takers)
    with contextlib.ExitStack() as stack:
        try:
            if takers:
                stack.enter_context(huge_pages(mib // 2))
        except Unavailable as e:
            account.note(f'a memfd instead of huge pages: {e}')
            for guest in takers:
                guest.vm['backend'] = 'memfd'
        yield


def run_chain(chain, account, missing):
    """Raises what went wrong first."""
    with pool_for(chain.guests, account):
        run_guests(chain, account, missing)


def run_guests(chain, account, missing):
    for guest in chain.guests:
        print(f'# chain {chain.number}: {guest}: {Load(**guest.load)}', flush=True)
    journeys = [Journey(chain, i, account, missing) for i in range(len(chain.guests))]
    if len(journeys) == 1:
        journeys[0].run()
    else:
        # A QEMU dies with the thread that started it, so each has one as long as its guest is migrated.
        threads = [threading.Thread(target=journey.run) for journey in journeys]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for journey in journeys:
                journey.kill()
    errors = [journey.error for journey in journeys if journey.error]
    if errors:
        for error in errors[1:]:
            errors[0].logs = [*getattr(errors[0], 'logs', ()), *getattr(error, 'logs', ())]
        raise errors[0]
