# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and devices that come and go between the migrations of a guest.

What is plugged in has to be on the command line of each QEMU that the guest migrates to.  The native guest knows no
ACPI, so ejecting is done for it, by the registers that a system would use.
"""

import time

from oracle import Wrong

MORE_MIB = 64
PATIENCE_S = 20
EJECT = 1 << 3
CPU_PORTS = {'pc': 0xaf00, 'q35': 0xcd8}
MEMORY_PORT = 0xa00
PCI_PORT = 0xae00
PCI_EJECT, PCI_SELECT = 8, 0x10
FIRST_SLOT = 0x10  # of PCI, above those of the machine's own devices


class Plugged:
    """Something that was plugged in; `words` is how a command line has it."""

    def __init__(self, ident, words):
        self.ident = ident
        self.words = words

    def plug(self, vm):
        raise NotImplementedError

    def eject(self, vm):
        raise NotImplementedError

    def remove(self, vm):
        """As an operator and the guest do together."""
        mark = vm.event_mark()
        vm.qmp('device_del', id=self.ident)
        self.eject(vm)
        vm.leave_qtest()
        vm.wait_event('DEVICE_DELETED', 30, mark, lambda d: d.get('device') == self.ident)


class Memory(Plugged):
    """A module of memory, private or shared."""

    def __init__(self, number):
        super().__init__(f'dimm{number}', [])
        self.kind = ('ram', 'memfd')[number % 2]
        self.backend = f'more{number}'
        self.slot = None

    def plug(self, vm):
        vm.qmp('object-add', {'qom-type': f'memory-backend-{self.kind}', 'id': self.backend, 'size': MORE_MIB << 20})
        vm.qmp('device_add', {'driver': 'pc-dimm', 'id': self.ident, 'memdev': self.backend})
        data = next(d['data'] for d in vm.qmp('query-memory-devices') if d['data'].get('id') == self.ident)
        self.slot = data['slot']
        self.words = ['-object', f'memory-backend-{self.kind},id={self.backend},size={MORE_MIB}M', '-device',
                      f"pc-dimm,id={self.ident},memdev={self.backend},slot={self.slot},addr={data['addr']}"]

    def eject(self, vm):
        vm.port_write(4, MEMORY_PORT, self.slot)
        vm.port_write(1, MEMORY_PORT + 0x14, EJECT)

    def remove(self, vm):
        super().remove(vm)
        vm.qmp('object-del', id=self.backend)


class Cpu(Plugged):
    """A vCPU, which no guest of ours starts."""

    def __init__(self, number):
        super().__init__(f'cpu{number}', [])
        self.index = None

    @staticmethod
    def room(vm):
        return any('qom-path' not in slot for slot in vm.qmp('query-hotpluggable-cpus'))

    def plug(self, vm):
        slots = vm.qmp('query-hotpluggable-cpus')
        free = [i for i, slot in enumerate(reversed(slots)) if 'qom-path' not in slot]
        self.index = free[0]
        slot = slots[len(slots) - 1 - self.index]
        device = {'driver': slot['type'], 'id': self.ident, **slot['props']}
        vm.qmp('device_add', device)
        self.words = ['-device', ','.join(f'{key}={value}' for key, value in device.items())]

    def remove(self, vm):
        vm.port_write(1, CPU_PORTS[vm.machine], 0)  # to the newer interface, without which QEMU removes none
        super().remove(vm)

    def eject(self, vm):
        vm.port_write(4, CPU_PORTS[vm.machine], self.index)
        vm.port_write(1, CPU_PORTS[vm.machine] + 4, EJECT)


class Device(Plugged):
    """A PCI device on pc's bus: a network card, or one that has memory of its own."""

    def __init__(self, number):
        super().__init__(f'card{number}', [])
        self.slot = FIRST_SLOT + number % 8
        self.backend = f'shared{number}' if number % 2 else None

    def plug(self, vm):
        device = {'id': self.ident, 'bus': 'pci.0', 'addr': f'{self.slot:#x}'}
        if self.backend:
            vm.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': self.backend, 'size': 4 << 20, 'share': True})
            device = {'driver': 'ivshmem-plain', **device, 'memdev': self.backend, 'master': 'on'}
            self.words = ['-object', f'memory-backend-ram,id={self.backend},size=4M,share=on']
        else:
            device = {'driver': 'e1000', **device, 'romfile': ''}
        vm.qmp('device_add', device)
        self.words += ['-device', ','.join(f'{key}={value}' for key, value in device.items())]

    def eject(self, vm):
        vm.port_write(4, PCI_PORT + PCI_SELECT, 0)
        vm.port_write(4, PCI_PORT + PCI_EJECT, 1 << self.slot)

    def remove(self, vm):
        super().remove(vm)
        if self.backend:
            vm.qmp('object-del', id=self.backend)


def wait_reached(what, seen, wanted):
    """'', or in words how far the guest has come: it gives what it can."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := seen()) != wanted:
        if time.monotonic() > deadline:
            return f'{what} {now >> 20} MiB after {PATIENCE_S} s, not {wanted >> 20}'
        time.sleep(0.1)
    return ''


def inflate(vm, size):
    """Have the guest keep so many bytes of its memory."""
    vm.qmp('balloon', value=size)
    return wait_reached('a balloon leaves', lambda: vm.qmp('query-balloon')['actual'], size)


def resize(vm, size):
    """Have virtio-mem plug so many bytes in."""
    device = '/machine/peripheral/plugged0'
    vm.qmp('qom-set', path=device, property='requested-size', value=size)
    return wait_reached('virtio-mem has plugged', lambda: vm.qmp('qom-get', path=device, property='size'), size)


class Changes:
    """What is plugged into one guest now."""

    def __init__(self):
        self.plugged = []
        self.nr = 0

    def make(self, vm, what):
        """what: 'memory', 'device', 'cpu', 'removal', 'balloon MIB', 'virtio-mem MIB', or '' for none; settled then, or
        a word about why not."""
        if what.startswith(('balloon', 'virtio-mem')):
            kind, mib = what.split()
            return {'balloon': inflate, 'virtio-mem': resize}[kind](vm, int(mib) << 20)
        if what in ('memory', 'device') or (what == 'cpu' and Cpu.room(vm)):
            new = {'memory': Memory, 'device': Device, 'cpu': Cpu}[what](self.nr)
            self.nr += 1
            new.plug(vm)
            self.plugged.append(new)
        elif what == 'removal' and self.plugged:
            self.plugged.pop(0).remove(vm)
        return ''

    def forget(self):
        """The guest is lost; another one has nothing."""
        self.plugged = []

    def remove_all(self, vm):
        while self.plugged:
            self.plugged.pop().remove(vm)

    def words(self):
        return [word for plugged in self.plugged for word in plugged.words]

    def check(self, vm):
        """The QEMU has what was plugged in."""
        there = {entry['name'] for entry in vm.qmp('qom-list', path='/machine/peripheral')}
        missing = [plugged.ident for plugged in self.plugged if plugged.ident not in there]
        if missing:
            raise Wrong(f'{vm.name} lacks {missing}')
