# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a case in a process of its own kind, and says how it went."""

import ctypes
import dataclasses
import os
import re
import shutil
import signal
import time
import traceback

from logs import keep_logs, logs_of
from oracle import Wrong
from streams import QMPError, VMDied
from suite import OutOfTime, time_limit
from vm import ROOT, kill_running
from walk import AT_MOST_S, Case, Run

PASSED, FAILED, MISSED = 'passed', 'failed', 'not reached'
TRIES = 3
PR_SET_PDEATHSIG = 1
PLAIN = (Wrong, OutOfTime, TimeoutError, QMPError, VMDied)


@dataclasses.dataclass
class Outcome:
    """words: what is wrong. where, status: the guest's, and the source's, after the fault."""
    case: Case
    verdict: str
    words: str = ''
    where: str = ''
    status: str = ''
    took_s: float = 0
    passes: dict = dataclasses.field(default_factory=dict)


def attend(parent):
    """In a process that runs cases: it ends with the one that started it, and its QEMUs with it."""
    signal.signal(signal.SIGTERM, leave)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        leave()


def leave(*_):
    """At once: what waits for more cases would wait for good."""
    kill_running()
    os._exit(1)


def run_case(case):
    """The Outcome. A fault that did not come about is tried again: on a busy machine, something else may come first."""
    begin = time.monotonic()
    directory = os.path.join(ROOT, 'build', 'check', 'faults', re.sub(r'\W+', '-', case.name))
    shutil.rmtree(directory, ignore_errors=True)
    try:
        for _ in range(TRIES):
            with time_limit(AT_MOST_S):
                result = Run(case).run()
            if result.fired or not case.fault:
                break
    except Exception as e:
        keep_logs(e, directory)
        words = str(e) if isinstance(e, PLAIN) else traceback.format_exc()
        if logs_of(e):
            words += f'\nthe logs: {os.path.relpath(directory, ROOT)}'
        return Outcome(case, FAILED, words, took_s=time.monotonic() - begin)
    verdict = PASSED if result.fired or not case.fault else MISSED
    return Outcome(case, verdict, '', result.where, result.status, time.monotonic() - begin, result.passes)
