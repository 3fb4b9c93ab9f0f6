# SPDX-License-Identifier: GPL-2.0-or-later
"""What a QEMU holds: memory, descriptors, threads, mappings, KVM's slots, yank instances, sizes of pages.

    before = holdings(vm)
    ... migrations that fail ...
    words = wait_settled(vm, before)     # [] if nothing has grown
"""

import collections
import os
import re
import time

UFFD_DEVICE = '/dev/userfaultfd'
# QEMU's name for its threads may come too late for this one, which then has the program's.
UNNAMED = 'call_rcu'
# Threads of pools that come and go with what there is to do; glibc's arenas and stacks of threads that ended.
POOLS = ('worker', 'pool-')
MAPPINGS_SLACK = 96
GUEST_MAPPINGS_SLACK = 16
RSS_SLACK_MIB = 64
HELD = ('descriptors', 'threads', 'yank instances', 'KVM slots')


def _kind_of_descriptor(target):
    """'socket:[4711]' is a socket, whichever it is."""
    target = re.sub(r'^anon_inode:\[?([^\]]*)\]?$', r'\1', target)
    target = re.sub(r':\[\d+\]$', '', target)
    target = re.sub(r'^/memfd:.*', 'memfd', target)
    target = re.sub(r'^.*/ferry-vm-[^/]*/', '', target)
    return re.sub(r'(^kvm-[a-z]+).*', r'\1', target)


def descriptors(pid):
    """How many there are of each kind."""
    found = collections.Counter()
    for name in os.listdir(f'/proc/{pid}/fd'):
        try:
            found[_kind_of_descriptor(os.readlink(f'/proc/{pid}/fd/{name}'))] += 1
        except FileNotFoundError:
            continue  # closed just now
    if found[UFFD_DEVICE]:
        found[UFFD_DEVICE] -= 1  # QEMU keeps the first for good
    del found['kvm-vcpu']  # QEMU keeps a vCPU that was ejected, for another to come
    return found


def threads(vm):
    """How many there are of each name, numbers aside."""
    program = os.path.basename(vm.binary)[:15]
    names = (re.sub(r'\d+', 'N', name.replace(UNNAMED, program)) for name, _ in vm.threads().values())
    return collections.Counter(name for name in names if not name.startswith(POOLS))


def guest_memory(vm):
    """(first address, end) of each RAM block of a mebibyte or more, ROMs aside."""
    found = []
    for line in vm.hmp('info ramblock').splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[-1] == 'rw' and int(words[-4], 16) >= 1 << 20:
            first = int(words[-2], 16)
            found.append((first, first + int(words[-4], 16)))
    return found


def _mappings(pid):
    """(first address, end, {field of smaps: KiB}) of each."""
    with open(f'/proc/{pid}/smaps', encoding='utf-8', errors='replace') as f:
        for line in f:
            head = re.match(r'([0-9a-f]+)-([0-9a-f]+) ', line)
            if head:
                fields = {}
                yield int(head[1], 16), int(head[2], 16), fields
            elif line.endswith(' kB\n'):
                key, value = line.split(':')
                fields[key] = int(value.split()[0])


def page_sizes(vm):
    """Of guest memory: mappings, MiB that are there, and MiB of those in huge pages (transparent, or a pool's)."""
    ranges = guest_memory(vm)
    nr = there = huge = 0
    for first, end, fields in list(_mappings(vm.pid)):
        if any(first < last and begin < end for begin, last in ranges):
            nr += 1
            pool = fields.get('Private_Hugetlb', 0) + fields.get('Shared_Hugetlb', 0)
            there += fields.get('Rss', 0) + pool
            huge += fields.get('AnonHugePages', 0) + fields.get('ShmemPmdMapped', 0) + pool
    return nr, there >> 10, huge >> 10


def kvm_slots(vm):
    """How many ranges of the guest's physical memory KVM has a slot for, as QEMU's own list says."""
    return sum(line.endswith(' KVM') for line in vm.hmp('info mtree -f').splitlines())


def holdings(vm):
    """{what: how much}; what is counted by kind is a dictionary itself."""
    memory = vm.memory()
    guest_mappings, there, huge = page_sizes(vm)
    guest_bytes = sum(end - first for first, end in guest_memory(vm))
    with open(f'/proc/{vm.pid}/maps', encoding='utf-8', errors='replace') as f:
        mappings = sum(1 for _ in f)
    return {
        'descriptors': descriptors(vm.pid),
        'threads': threads(vm),
        'yank instances': collections.Counter(i['type'] for i in vm.qmp('query-yank')),
        'KVM slots': {'all': kvm_slots(vm)},
        'mappings': mappings,
        'mappings of guest memory': guest_mappings,
        'RSS, MiB': memory['VmRSS'] >> 10,
        # What nobody has touched is read, as in stock QEMU, which takes a page.
        'pool of huge pages, MiB': max(0, (memory.get('HugetlbPages', 0) >> 10) - (guest_bytes >> 20)),
        'page tables, KiB': memory['VmPTE'],
        'guest memory, MiB': there,
        'guest memory in huge pages, MiB': huge,
    }


def growth(first, last, *, rss=True):
    """What has grown, in words; rss: memory too."""
    words = []
    for what in HELD:
        for kind in sorted(set(first[what]) | set(last[what])):
            before, after = first[what].get(kind, 0), last[what].get(kind, 0)
            if after > before:
                words.append(f'{what} ({kind}): {after}, not {before}')
    limits = {'mappings': MAPPINGS_SLACK, 'mappings of guest memory': GUEST_MAPPINGS_SLACK,
              **({'RSS, MiB': RSS_SLACK_MIB + first['RSS, MiB'] // 10, 'pool of huge pages, MiB': 0} if rss else {})}
    words += [f'{what}: {last[what]}, not {first[what]}' for what, slack in limits.items()
              if last[what] > first[what] + slack]
    return words


def shrunk_pages(first, last):
    """In words if much less of the guest's memory is in huge pages than was, or None."""
    def share(held):
        return held['guest memory in huge pages, MiB'] / max(1, held['guest memory, MiB'])

    if share(last) < share(first) - 0.5:
        return f'{share(last):.0%} of guest memory are in huge pages, where {share(first):.0%} were'
    return None


def wait_settled(vm, first, *, rss=True, patience_s=10):
    """What has grown still, after some patience: what a migration leaves is cleared away after its end."""
    deadline = time.monotonic() + patience_s
    while (words := growth(first, holdings(vm), rss=rss)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return words
