# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks share: warm memory, checks, tables, options, and the frame of a program."""

import argparse
import bisect
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from cc import compiled
from figures import goal_text, reached_text, spread_text
from guest import GuestError, check_memory
from migration import MigrationFailed
from streams import QMPError, VMDied
from vm import ROOT, default_binary, exit_on_signals, kvm_problem

FLOOR = os.path.join(ROOT, 'build', 'bench', 'floor')
MIB = 1 << 20
HUGE_MIB = 2
# What a QEMU needs of memory besides its guest's, and a bit more.
SPARE_MIB = 512


class Wrong(Exception):
    """The run cannot go on, or its figures would mean nothing."""


class Missed(Wrong):
    """What was to be measured did not come about in this migration; it may in the next."""


def again(measure, *arguments, times=3):
    """Returns what measure(*arguments) does, if it is missed no more than times - 1 times."""
    for _ in range(times - 1):
        try:
            return measure(*arguments)
        except Missed as e:
            note(f'{e}; once more')
    return measure(*arguments)


# Before and after a migration

def free_mib():
    with open('/proc/meminfo', encoding='ascii') as f:
        return next(int(line.split()[1]) for line in f if line.startswith('MemFree:')) // 1024


def start_helper(mib):
    """Have a helper touch memory, and hold it until its input ends: (the helper, seconds each GiB took)"""
    helper = subprocess.Popen([FLOOR, '--warm', str(mib * MIB)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    line = helper.stdout.readline()
    if not line:
        raise Wrong(f'cannot warm up {mib} MiB of memory')
    return helper, json.loads(line)['touch_s_per_gib']


class Warm:
    """Memory that a helper has touched and holds, until release() hands it to whoever needs it next.

    What lies free for seconds is cold (a hypervisor took it back), and nobody can say which free memory
    the kernel hands out.  So all of it is touched; of a large machine's only KEPT_MIB, the rest is taken
    away once for all.  With `careful` False (--quick), or when the migration is slow anyway, only as much
    as is needed is touched, and some of what a migration gets may be cold.

    mb_per_s    how fast whoever needs it may use it; 0: at once
    """

    STEP_S = 0.2
    AHEAD_S = 1.0  # less than the 2 s after which Linux hands free memory back (page_reporting)
    KEPT_MIB = 12 * 1024
    LEFT_MIB = 1024  # for whoever needs memory before it is released
    careful = True
    ballast = None

    def __init__(self, mib, mb_per_s=0):
        if self.careful and not mb_per_s:
            if not Warm.ballast and free_mib() > self.KEPT_MIB + self.LEFT_MIB:
                note('taking away memory that no guest needs')
                Warm.ballast, _ = start_helper(free_mib() - self.KEPT_MIB)
            mib = max(mib, free_mib() - self.LEFT_MIB)
        self.mib = mib
        self.mb_per_s = mb_per_s
        self.giver = None
        self.stopped = threading.Event()
        self.helper, self.touch_s_per_gib = start_helper(mib)

    def release(self):
        """Free it, all at once or as fast as who needs it may use it: what lies free for seconds gets cold."""
        if not self.mb_per_s:
            self.free()
            return
        self.giver = threading.Thread(target=self._give, args=(self.mb_per_s * 1.1 * 1e6 / MIB,), name='warm',
                                      daemon=True)
        self.giver.start()

    def _give(self, mib_per_s):
        begin, given = time.monotonic(), 0
        while given < self.mib and not self.stopped.is_set():
            due = min(int((time.monotonic() - begin + self.AHEAD_S) * mib_per_s), self.mib)
            self.helper.stdin.write(f'{(due - given) * MIB}\n')
            self.helper.stdin.flush()
            # What is less than a huge page is not freed, and is due with the next step.
            given += (due - given) // HUGE_MIB * HUGE_MIB if due < self.mib else due - given
            self.stopped.wait(self.STEP_S)

    def free(self):
        """Free what is left."""
        if self.giver:
            self.stopped.set()
            self.giver.join(60)
            self.giver = None
        if self.helper:
            self.helper.communicate(timeout=60)
            self.helper = None


def build_floor():
    compiled('tests/bench/floor.c', FLOOR)


def run_floor(nr_bytes, transport, form):
    """Have the bare program send that many bytes to itself; what it says of it (see floor.c)."""
    done = subprocess.run([FLOOR, '--bytes', str(nr_bytes), '--transport', transport, '--receive', form],
                          check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    return json.loads(done.stdout)


def build_engine(*programs):
    """Build benchmarks of the engine alone; returns where they are."""
    tools = os.path.join(ROOT, 'scripts', 'with-tools')
    build = os.path.join(ROOT, 'build', 'bench', 'engine')
    commands = [[tools, 'ninja', '-C', build, *programs]]
    if not os.path.exists(os.path.join(build, 'build.ninja')):
        commands.insert(0, [tools, 'meson', 'setup', build, '--buildtype=release'])
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, check=False, timeout=900, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Wrong(f"{' '.join(command)} failed: {done.stdout.strip()[-2000:]}")
    return build


def check(guest):
    """Every page that was filled is right, and every other one is zero."""
    _, wrong = check_memory(guest, 600)
    if wrong:
        raise Wrong(f'the guest is damaged: {wrong}')


def check_ferry(result, wanted, title):
    """The migration was made by Ferry, or not by it, as wanted."""
    used = bool(result.ferry_used)
    if used != wanted:
        raise Wrong(f'{title}: Ferry was {"" if used else "not "}used: {result.ferry}')


# All of a benchmark's migrations

def need_kvm():
    why = kvm_problem()
    if why:
        raise Wrong(f'the native guest needs KVM: {why}')


def take_samples(modes, options, what, measure):
    """Have each mode of {its name: mode} measured in turn, --repeat times; {its name: [sample, ...]}.

    measure(mode, verify): memory is to be verified the last time, or always with --verify-all
    """
    samples = {name: [] for name in modes}
    for turn in range(options.repeat):
        verify = options.verify_all or turn == options.repeat - 1
        for name, mode in modes.items():
            note(f'{what} {turn + 1}/{options.repeat}: {mode.title}')
            samples[name].append(measure(mode, verify))
    return samples


@contextlib.contextmanager
def kept_outcomes(options, figures, plots):
    """A list for outcomes, each with its 'samples'. What is in it at the end, good or bad, is written if --json is
    given. figures(outcome), plots(outcomes): see figures.py."""
    outcomes = []
    try:
        yield outcomes
    finally:
        if options.json and outcomes:
            write_json(options.json, options, outcomes=[
                {**outcome, 'medians': {mode: medians(samples) for mode, samples in outcome['samples'].items()}}
                for outcome in outcomes], figures=[row for outcome in outcomes for row in figures(outcome)],
                plots=plots(outcomes))


# What the guest says of itself

class Written:
    """How many pages the guest had written, by our clock, from its own history.

    at, writes, gaps_us    when each slot began, and what the history says of it
    """

    def __init__(self, history, before, after, stopped):
        """before, after: our clock less the guest's, at the source and at the target."""
        starts = [(history.first_ns + i * history.slot_ns) / 1e9
                  for i in range(len(history.writes) + 1)]
        self.at = [t + (before if t + before < stopped else after) for t in starts]
        self.total = [0, *itertools.accumulate(history.writes)]
        self.writes = history.writes
        self.gaps_us = history.gaps_us

    def until(self, t):
        i = bisect.bisect_right(self.at, t) - 1
        if i < 0 or i >= len(self.writes):
            raise Wrong("the guest's history of its writes does not reach that far: the migration took "
                        'too long (fill or write less)')
        part = (t - self.at[i]) / (self.at[i + 1] - self.at[i])
        return self.total[i] + min(part, 1.0) * self.writes[i]

    def between(self, begin, end):
        return self.until(end) - self.until(begin)

    def longest_gap_ms(self, begin, end):
        """Of the slots that are at least in part between the two."""
        return max((gap / 1e3 for gap, t, t_end in zip(self.gaps_us, self.at, self.at[1:])
                    if t < end and t_end > begin), default=0.0)

    def gap_around_ms(self, moment, close):
        """The longest that may have reached to `close` seconds from `moment`: of when it began, the history
        knows only the slot."""
        return max((gap / 1e3 for gap, t, t_end in zip(self.gaps_us, self.at, self.at[1:])
                    if t < moment + close and t_end + gap / 1e6 > moment - close), default=0.0)

    def plot(self, origin):
        """[seconds after origin, pages] of each slot"""
        return [[round(t - origin, 3), n] for t, n in zip(self.at, self.writes)]


# What comes out

def note(text):
    print(f'# {text}', file=sys.stderr, flush=True)


def cell(samples, key, form):
    values = [s[key] for s in samples if key in s]
    if not values:
        return '-'
    low, mid, high = min(values), statistics.median(values), max(values)
    text = format(mid, form)
    return text if low == high else f'{text} ({format(low, form)}-{format(high, form)})'


def print_table(head, rows, left=1):
    """left: how many columns, from the first, are words, and not figures."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print('  '.join(text.ljust(width) if i < left else text.rjust(width)
                        for i, (text, width) in enumerate(zip(row, widths))).rstrip())


def print_goals(title, figures):
    """Those of the figures (see figures.py) that have a goal, and whether it is reached."""
    rows = [[' / '.join(filter(None, (row['what'], row['against']))),
             f"{row['ratio']:.3f}" if row['goal']['of'] == 'ratio' and row['ratio'] is not None
             else spread_text(row['ferry'], row['unit']),
             goal_text(row['goal'], row['unit']),
             reached_text(row)] for row in figures if row['goal']]
    if rows:
        print()
        print_table([title, '', 'goal', ''], rows)


def medians(samples):
    """Of each figure that all samples have."""
    return {key: statistics.median(s[key] for s in samples) for key in samples[0]
            if all(isinstance(s.get(key), (int, float)) for s in samples)}


def machine():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        models = {line.split(':', 1)[1].strip() for line in f if line.startswith('model name')}
    return {'cpus': os.cpu_count(), 'model': ', '.join(sorted(models)), 'kernel': platform.release(),
            'memory_mib': os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // MIB,
            'load_average': os.getloadavg()[0]}


def now_text():
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())


def dump(path, document):
    """Write JSON to a file, all of it or nothing."""
    with open(f'{path}.new', 'w', encoding='utf-8') as f:
        json.dump(document, f, indent=1)
        f.write('\n')
    os.replace(f'{path}.new', path)


def write_json(path, options, *, outcomes, figures=(), plots=()):
    """The document of one benchmark, see figures.py."""
    dump(path, {'name': os.path.basename(sys.argv[0]), 'command': sys.argv, 'machine': machine(),
                'qemu': default_binary(), 'date': now_text(), 'options': vars(options),
                'outcomes': outcomes, 'figures': list(figures), 'plots': list(plots)})


# The program

def words(allowed):
    def parse(text):
        chosen = text.split(',')
        for word in chosen:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"'{word}': choose from {', '.join(allowed)}")
        return chosen
    return parse


def numbers(least):
    def parse(text):
        try:
            values = [int(word) for word in text.split(',')]
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}': numbers with commas between them") from None
        if min(values) < least:
            raise argparse.ArgumentTypeError(f"'{text}': at least {least}")
        return values
    return parse


def parse_options(parser, quick, migrates=True, repeat=5):
    """Add the options that every benchmark has, and parse the command line.

    quick      defaults that --quick sets: enough to try everything, too little to say anything
    migrates   whether guests are migrated
    repeat     how often each is measured if nobody says
    """
    add = parser.add_argument
    add('--repeat', type=int, default=repeat, help=f'repetitions ({repeat})')
    short = ', '.join(f'{name}={value}' for name, value in quick.items())
    add('--quick', action='store_true', help=f'try everything in short: {short}'.replace('%', '%%'))
    add('--json', metavar='FILE', help='write everything that was measured there')
    if migrates:
        add('--verify-all', action='store_true', help='check memory after every migration')
        add('--qemu', help="the QEMU to run, instead of this tree's")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
        Warm.careful = False
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error('--repeat: at least 1')
    if migrates and options.qemu:
        os.environ['FERRY_QEMU'] = options.qemu
    return options


def run_program(bench, options):
    """bench(options) as a whole program, which ends with a status and no traceback."""
    exit_on_signals()
    try:
        bench(options)
    except KeyboardInterrupt:
        print('\nInterrupted.', file=sys.stderr)
        return 130
    except (Wrong, GuestError, MigrationFailed, QMPError, VMDied, TimeoutError, OSError,
            subprocess.SubprocessError) as e:
        print(f'{os.path.relpath(sys.argv[0], ROOT)}: {e}', file=sys.stderr)
        return 1
    return 0
