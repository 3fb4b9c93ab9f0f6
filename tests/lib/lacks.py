# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine may lack, and the reasons with which cases are skipped for that.

A case that is skipped with such a reason counts as if it had run, where the machine does lack it. Elsewhere it is
missing: see tally.py.
"""

import functools
import os
import re
import typing

from resources import HUGE_KIB, huge_pages_problem, swap_problem
from vm import kvm_problem

HUGE_PAGES = '/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages'
GIANT_KIB = 1 << 20


class Lack(typing.NamedTuple):
    reasons: str                # a regular expression
    is_here: typing.Callable    # whether this machine lacks it


def number_in(path):
    """The number in a file of the kernel's; 0 if there is none."""
    try:
        with open(path, encoding='ascii') as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def has_network():
    """Whether there is a way out of this machine at all."""
    for path, default in (('/proc/net/route', '00000000'), ('/proc/net/ipv6_route', '0' * 32)):
        try:
            with open(path, encoding='ascii') as file:
                for words in map(str.split, file):
                    device, to = (words[0], words[1]) if path.endswith('/route') else (words[-1], words[0] + words[1])
                    if to in (default, default + '00') and device != 'lo':
                        return True
        except OSError:
            continue
    return False


def is_set_to_never(path):
    try:
        with open(path, encoding='ascii') as file:
            return '[never]' in file.read()
    except OSError:
        return True


def always():
    return True


LACKS = [
    Lack(r'/dev/kvm', lambda: kvm_problem() is not None),
    # What KVM does on this processor nobody can ask it.
    Lack(r'this KVM |dirty ring', always),
    Lack(r'root\b|may not|may be mounted', lambda: os.geteuid() != 0),
    # There may be none in one piece, and whether there is shows when it is tried.
    Lack(r'1048576 KiB', always),
    Lack(r'no huge pages of 1 GiB', lambda: not os.path.exists(HUGE_PAGES.format(kib=GIANT_KIB))),
    Lack(r'there are huge pages of 1 GiB', lambda: number_in(HUGE_PAGES.format(kib=GIANT_KIB)) > 0),
    Lack(r'huge pages|2 MiB|hugetlb|2048 KiB', lambda: huge_pages_problem(HUGE_KIB) is not None),
    Lack(r'swap', lambda: swap_problem() is not None),
    Lack(r'transparent huge|got small ones', lambda: is_set_to_never('/sys/kernel/mm/transparent_hugepage/enabled')),
    Lack(r'vsock', lambda: not os.path.exists('/sys/module/vsock_loopback')),
    Lack(r'userfaultfd', lambda: not os.access('/dev/userfaultfd', os.R_OK | os.W_OK)),
    Lack(r'network|fetch|download|mirror|resolve', lambda: not has_network()),
]


@functools.cache
def lacks(index):
    return LACKS[index].is_here()


def excuses(reason):
    """Whether a case that is skipped with this reason could not have run here."""
    return any(re.search(lack.reasons, reason) and lacks(index) for index, lack in enumerate(LACKS))
