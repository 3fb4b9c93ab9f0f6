# SPDX-License-Identifier: GPL-2.0-or-later
"""What a seed says: guests, and what each of their migrations is to be.

Nothing here depends on how anything went, on this machine or on the time: the same seed and number of a chain give
the same chain.  A chain is one guest, or some that share the two hosts, and its migrations one after the other.
"""

import dataclasses
import random

import handoff_mishaps
import mishaps
import postcopy_mishaps

KINDS = [*mishaps.ALL, *handoff_mishaps.ALL, *postcopy_mishaps.ALL]
PRE, POST, OWN = 'pre-copy', 'post-copy', "QEMU's own path"
FREED_MIB = 192   # a Linux guest with a balloon touches so much, and gives hints of it
BALLOON = ['-object', 'iothread,id=io0', '-device', 'virtio-balloon-pci,id=balloon,free-page-hint=on,iothread=io0']
BOOT_MIB, PLUGGED_MIB, PLUGGED_MOST_MIB = 256, 128, 256
VIRTIO_MEM = ['-m', f'maxmem={BOOT_MIB + 4 * PLUGGED_MOST_MIB}M',
              '-object', f'memory-backend-ram,id=plugged,size={PLUGGED_MOST_MIB}M,reserve=off',
              '-device', f'virtio-mem-pci,id=plugged0,memdev=plugged,requested-size={PLUGGED_MIB}M']
CHAIN = (4, 8)  # migrations of a guest


@dataclasses.dataclass
class GuestPlan:
    """A guest: which, and on what."""
    kind: str       # 'native' or 'linux'
    accel: str
    memory: str     # of MEMORY
    load: dict      # Load's arguments
    vm: dict        # VM's other arguments
    extra: str = ''  # a device that changes its memory: 'balloon' or 'virtio-mem'

    @property
    def can_plug(self):
        return self.kind == 'native' and isinstance(self.vm.get('backend', 'ram'), str)

    @property
    def is_linux(self):
        return self.kind == 'linux'

    def __str__(self):
        return (f"{self.kind}, {self.accel}, {self.vm['cpus']} CPUs, {self.vm['machine']}, {self.memory}"
                f"{', ' if self.extra else ''}{self.extra}")


@dataclasses.dataclass
class Plan:
    """A migration."""
    way: str
    mishap: object
    transport: str
    tls: str = ''
    channels: int = 0
    multifd: int = 0           # channels, if the capability is set
    multifd_there: int = 0     # as many at the destination, if that differs
    checksum: bool = False
    compression: str = 'none'
    tracker: str = 'auto'
    tracker_used: str = ''
    switchover: str = 'precopy'
    own_path: str = ''         # why it is QEMU's own
    after_s: float = 0         # when post-copy begins
    bandwidth: int = 0         # MiB/s
    postcopy_bandwidth: int = 0
    downtime_ms: int = 300
    capabilities: tuple = ()
    change: str = ''           # what is plugged in or removed before it (changes.py)

    def __str__(self):
        words = [self.way if self.way != OWN else f'{OWN} ({self.own_path or "one connection"})', self.transport]
        words += [text for text, given in [
            (f'TLS {self.tls}', self.tls), (f'{self.channels} channels', self.channels),
            (f'multifd {self.multifd}', self.multifd), (f'{self.multifd_there} there', self.multifd_there),
            ('checksums', self.checksum), (self.compression, self.compression != 'none'),
            (f'tracker {self.tracker}', self.tracker != 'auto'), (f'switchover {self.switchover}', self.way == POST),
            (f'{self.bandwidth} MiB/s', self.bandwidth), (f'after {self.after_s} s', self.after_s),
            (' '.join(self.capabilities), self.capabilities), (f'change: {self.change}', self.change)] if given]
        return f"{', '.join(words)}: {self.mishap}"


MEMORY = {
    '4 KiB pages': {'small_pages': True},
    'huge pages': {},
    'memfd': {'backend': 'memfd'},
    'two nodes': {'backend': ['ram', 'memfd']},
}
# Of a native guest only.
POOL = {'backend': 'memory-backend-memfd,id=ram,size=512M,hugetlb=on,hugetlbsize=2M'}
POOL_MEMORY = "the pool's huge pages"
SPARE_CPUS = 2

KVM = ['kvm', 'kvm', 'kvm', 'kvm,dirty-ring-size=1024', 'kvm,dirty-ring-size=4096', 'kvm,dirty-ring-size=0']


def draw_native(choose):
    accel = choose.choice(KVM) if choose.random() < 0.93 else 'tcg'
    cpus = choose.randint(1, 4) if accel != 'tcg' else choose.randint(1, 2)
    memory = choose.choice([*MEMORY, POOL_MEMORY] if accel != 'tcg' else list(MEMORY))
    rate = choose.choice([0, 2000, 2000, 20000])
    write = choose.choice([4, 8]) if rate == 0 else choose.choice([16, 64, 100])
    load = {'fill': choose.choice([64, 128, 128, 200]) if accel != 'tcg' else 32, 'write': write,
            'rate': rate // cpus, 'kind': choose.choice(['random', 'mixed', 'compressible']),
            'pattern': choose.choice(['random', 'sequential']), 'layout': choose.choice(['packed', 'spread']),
            'seed': choose.randint(1, 1000)}
    load['write'] = min(load['write'], load['fill'])
    vm = {'cpus': cpus, 'memory_mib': 512, 'machine': choose.choice(['pc', 'pc', 'q35']),
          'args': ['-action', 'reboot=reset', '-m', 'slots=16,maxmem=4G', '-smp', f'maxcpus={cpus + SPARE_CPUS}'],
          **(POOL if memory == POOL_MEMORY else MEMORY[memory])}
    return GuestPlan('native', accel, memory, load, vm)


def draw_linux(choose):
    memory = choose.choice(list(MEMORY))
    load = {'fill': choose.choice([64, 96]), 'write': choose.choice([8, 32]), 'rate': choose.choice([1000, 5000]),
            'kind': choose.choice(['random', 'mixed']), 'seed': choose.randint(1, 1000)}
    vm = {'cpus': choose.randint(1, 2), 'memory_mib': 512, 'machine': choose.choice(['pc', 'q35']), **MEMORY[memory]}
    extra = choose.choice(['', 'balloon', 'virtio-mem'])
    if extra == 'balloon':
        vm |= {'freed': FREED_MIB, 'args': BALLOON}
    elif extra == 'virtio-mem':
        # Of what there is in all, the kernel takes some for itself before it counts.
        vm |= {'memory_mib': BOOT_MIB, 'plugged': BOOT_MIB + PLUGGED_MIB - 96, 'args': VIRTIO_MEM}
    return GuestPlan('linux', 'tcg', memory, load, vm, extra)


def draw_guest(choose):
    return draw_linux(choose) if choose.random() < 0.12 else draw_native(choose)


def draw_mishap(choose, guest):
    fitting = [kind for kind in KINDS if kind.fits(guest)]
    kind = choose.choices(fitting, [k.weight for k in fitting])[0]
    return kind(**kind.draw(choose))


def draw_way(choose, mishap):
    weights = {PRE: 5, POST: 4, OWN: 1}
    return choose.choices(mishap.ways, [weights[way] for way in mishap.ways])[0]


def draw_tracker(choose, guest):
    """(what is asked for, what must be in use then)"""
    if guest.accel == 'tcg':
        return choose.choice([('auto', 'bitmap'), ('bitmap', 'bitmap')])
    if guest.accel.endswith('=0'):
        return choose.choice([('auto', 'bitmap'), ('pagemap', 'pagemap'), ('bitmap', 'bitmap')])
    return choose.choice([('auto', 'kvm-ring'), ('auto', 'kvm-ring'), ('kvm-ring', 'kvm-ring'),
                          ('pagemap', 'pagemap'), ('bitmap', 'bitmap')])


def draw_transport(choose, mishap, way):
    if mishap.links or mishap.frames:
        return choose.choice(['tcp', 'unix'])
    if way == OWN:
        return choose.choice(['tcp', 'unix', 'fd', 'fd-pair'])
    return choose.choices(['tcp', 'unix', 'fd', 'tcp6', 'vsock'], [8, 6, 2, 1, 1])[0]


def draw_capabilities(choose, plan):
    found = {'postcopy-ram'} if plan.way == POST else set()
    if plan.way == POST and choose.random() < 0.15:
        found.add('postcopy-preempt')
    if plan.multifd:
        found.add('multifd')
    if plan.own_path == 'xbzrle':
        found.add('xbzrle')
    for name, chance in (('auto-converge', 0.1), ('return-path', 0.2), ('pause-before-switchover', 0.1),
                         ('validate-uuid', 0.1)):
        if choose.random() < chance and not (name == 'pause-before-switchover' and plan.way == OWN):
            found.add(name)
    return tuple(sorted(found))


def draw_change(choose, guest):
    if guest.extra == 'balloon':
        return f'balloon {choose.choice([400, 440, 480, 512])}'
    if guest.extra == 'virtio-mem':
        return f'virtio-mem {choose.choice([0, 64, 128, 192, 256])}'
    if guest.can_plug:
        return choose.choice(['memory', 'cpu', 'removal', 'removal', 'removal'] +
                             ['device'] * (guest.vm['machine'] == 'pc'))
    return ''


def draw_plan(choose, guest):
    mishap = draw_mishap(choose, guest)
    way = draw_way(choose, mishap)
    plan = Plan(way, mishap, draw_transport(choose, mishap, way))
    plan.tracker, plan.tracker_used = draw_tracker(choose, guest)
    if way == OWN:
        plan.tracker, plan.tracker_used = 'auto', ''
        if mishap.name != 'one connection only':
            plan.own_path = choose.choice(['off here', 'off there', 'xbzrle'])
    tls = choose.choices(['', 'psk', 'anon', 'x509'], [6, 2, 1, 1])[0]
    plan.tls = '' if plan.transport == 'fd-pair' or mishap.frames else tls
    channels = choose.choices([0, 1, 2, 3, 4, 8], [8, 2, 2, 1, 1, 1])[0]
    if channels and choose.random() < 0.5 and way != OWN and plan.transport != 'fd':  # QEMU refuses multifd there
        plan.multifd = channels
        plan.multifd_there = choose.choice([0, 0, 0, channels + 1])
    else:
        plan.channels = channels
    plan.checksum = choose.random() < 0.2
    plan.compression = choose.choices(['none', 'zstd'], [3, 1])[0]
    plan.bandwidth = choose.choice([0, 0, 0, 100]) if not mishap.slow else choose.choice([mishap.slow, mishap.slow, 0])
    if way == POST:
        plan.after_s = choose.choice([0, 0, 0.2, 0.5])
        plan.switchover = choose.choices(['precopy', 'postcopy', 'auto'], [6, 1, 1])[0]
        plan.postcopy_bandwidth = 20 if isinstance(mishap, postcopy_mishaps.Late) else choose.choice([0, 0, 50])
    plan.capabilities = draw_capabilities(choose, plan)
    if choose.random() < 0.3:
        plan.change = draw_change(choose, guest)
    # What is rewritten as fast as it goes has to fit into a blackout at last.
    slowest = getattr(mishap, 'mib_s', 0) or plan.bandwidth
    if slowest:
        plan.downtime_ms = max(300, guest.load['write'] * 1500 // slowest)
    return plan


@dataclasses.dataclass
class Chain:
    """guests, and for each its migrations; `number` is what --from takes."""
    seed: int
    number: int
    guests: list
    plans: list

    def __len__(self):
        return sum(len(plans) for plans in self.plans)

    def __str__(self):
        return ' + '.join(str(guest) for guest in self.guests)


def chain(seed, number):
    choose = random.Random(f'{seed}/{number}')
    together = choose.choices([1, 2, 3], [12, 2, 1])[0]
    guests = [draw_guest(choose) for _ in range(together)]
    plans = []
    for guest in guests:
        plans.append([draw_plan(choose, guest) for _ in range(choose.randint(*CHAIN))])
    return Chain(seed, number, guests, plans)


def chains(seed, first, migrations):
    """From chain `first` on, until there are so many migrations; the last chain is cut short."""
    found = []
    while migrations > 0:
        one = chain(seed, first + len(found))
        for i, plans in enumerate(one.plans):
            one.plans[i] = plans[:max(0, migrations - sum(len(p) for p in one.plans[:i]))]
        one.guests = [guest for guest, plans in zip(one.guests, one.plans) if plans]
        one.plans = [plans for plans in one.plans if plans]
        migrations -= len(one)
        found.append(one)
    return found
