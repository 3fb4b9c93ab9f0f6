# SPDX-License-Identifier: GPL-2.0-or-later
"""Pre-copy of guests of many kinds: writing at random or in order, on private and shared memory, under KVM and TCG."""

from case import HALF, Case

CASES = [
    Case('native kvm: random writes, tcp', HALF),
    Case('native kvm: sequential writes, unix', {**HALF, 'pattern': 'sequential'}, uri='unix'),
    Case('native kvm: 2 CPUs, random writes, tcp', HALF, vm={'cpus': 2}),
    Case('native kvm: 2 CPUs, sequential writes, mixed pages, unix, q35',
         {**HALF, 'pattern': 'sequential', 'kind': 'mixed'}, vm={'cpus': 2, 'machine': 'q35'},
         uri='unix'),
    Case('native kvm: shared memory, random writes, tcp', {**HALF, 'kind': 'mixed'},
         vm={'backend': 'memfd'}),
    Case('native kvm: shared memory, 2 CPUs, sequential writes, unix',
         {**HALF, 'pattern': 'sequential'}, vm={'backend': 'memfd', 'cpus': 2}, uri='unix'),
    Case('native kvm: 2 CPUs writing all they can to 16 MiB', {'fill': 256, 'write': 16},
         vm={'cpus': 2}),
    Case('native kvm: dirty ring, 2 CPUs', HALF, accel='kvm,dirty-ring-size=4096',
         vm={'cpus': 2}),
    Case('native kvm: multifd, 2 CPUs, mixed pages', {**HALF, 'kind': 'mixed'}, vm={'cpus': 2},
         caps={'multifd': True}, params={'multifd-channels': 4}),
    Case('native kvm: idle guest, compressible pages', {'fill': 700, 'kind': 'compressible'}),
    Case('native kvm: six migrations in a row', {'fill': 128, 'write': 32, 'rate': 10000,
                                                 'kind': 'mixed'}, vm={'cpus': 2}, hops=6),
    Case('native tcg: 2 CPUs, random writes, mixed pages, tcp',
         {**HALF, 'rate': 5000, 'kind': 'mixed'}, accel='tcg', vm={'cpus': 2}),
    Case('linux tcg: random writes, tcp', {**HALF, 'rate': 10000}, 'linux', 'tcg'),
    Case('linux tcg: 2 CPUs, shared memory, mixed pages, unix',
         {**HALF, 'rate': 5000, 'kind': 'mixed'}, 'linux', 'tcg', uri='unix',
         vm={'cpus': 2, 'backend': 'memfd', 'machine': 'q35'}),
    Case('linux tcg: three migrations in a row', {'fill': 128, 'write': 32, 'rate': 5000},
         'linux', 'tcg', hops=3),
]
