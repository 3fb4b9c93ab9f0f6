# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of many kinds: sparse, huge pages, swapped out, a file's, on several nodes."""

import os
import tempfile

from case import HALF, Bench, Case, test_migrate
from cases.postcopy import handed_over, test_postcopy
from guest import Guest, problem
from migration import migrate
from postcopy import go_over
from resources import Unavailable, huge_pages, swap_file
from suite import Failure, Skip
from swap import swap_out, swapped_mib


def test_sparse(case):
    """A big guest that touched little must not take more memory where it arrives."""
    with Bench(case) as bench:
        dst, result = bench.migrate(bench.source())
        wrong = problem(Guest(dst).verify())
        if wrong:
            raise Failure(wrong)
        used = (result.dst_memory['RssAnon'] + result.dst_memory['RssShmem']) >> 10
        print(f"# {result.total_ms} ms, target uses {used} MiB, "
              f"page tables {result.dst_memory['VmPTE']} KiB")
        if used > bench.load.fill + 256:
            raise Failure(f'{bench.load.fill} MiB were filled, but the target uses {used} MiB')


def with_huge_pages(test, case, *wanted):
    """wanted: huge_pages()'s arguments"""
    try:
        with huge_pages(*wanted):
            test(case)
    except Unavailable as e:
        raise Skip(e) from e


def test_huge_pages(case):
    with_huge_pages(test_migrate, case, 2 * case.vm['memory_mib'] // 2)


def test_giant_pages(case):
    """Huge pages of 1 GiB, each of which is many parts of the stream's."""
    with_huge_pages(test_postcopy if case.caps else test_migrate, case, 2, 1 << 20)


def test_swapped(case):
    """What is swapped out at the source comes last, or when it is asked for; and comes."""
    try:
        with swap_file(2 * case.vm['memory_mib']), Bench(case) as bench:
            src, dst = bench.source(), bench.start(True)
            swapped = swap_out(src.pid)
            print(f'# {swapped} MiB are swapped out')
            if swapped < bench.load.fill // 2:
                raise Skip(f'the kernel swaps out {swapped} of {bench.load.fill} MiB')
            poll, _ = go_over(src, dst)
            result = migrate(src, dst, case.uri, caps=case.caps, params=case.params, poll_s=0.02,
                             on_poll=poll if case.caps else None)
            if case.caps:
                handed_over(result)
            print(f'# {swapped_mib(src.pid)} MiB are, after the migration')
            bench.check_goes_on(dst)
    except Unavailable as e:
        raise Skip(e) from e


def test_private_file(case):
    """Where memory is a private mapping of a file, what the guest never touched is the file's."""
    mib, place, size = case.vm['memory_mib'], {'source': 400, 'target': 450}, 16
    with Bench(case) as bench, tempfile.TemporaryDirectory(dir='/dev/shm') as directory:
        content = {}
        for name, at in place.items():
            path = os.path.join(directory, name)
            content[name] = os.urandom(size << 20)
            with open(path, 'wb') as f:
                f.truncate(mib << 20)
                f.seek(at << 20)
                f.write(content[name])

        def use(name):
            bench.arguments['backend'] = (f'memory-backend-file,id=ram,share=off,size={mib}M,'
                                          f'mem-path={os.path.join(directory, name)}')

        use('source')
        src = bench.source()
        use('target')
        dst, _ = bench.migrate(src)
        wrong = problem(Guest(dst).verify())
        if wrong:
            raise Failure(wrong)
        for name, expected in (('source', content['source']), ('target', bytes(size << 20))):
            path = os.path.join(directory, 'saved')
            dst.qmp('pmemsave', {'val': place[name] << 20, 'size': size << 20, 'filename': path})
            with open(path, 'rb') as f:
                if f.read() != expected:
                    raise Failure(f"memory that the guest never touched differs: {name}'s file")
        for name, at in place.items():
            with open(os.path.join(directory, name), 'rb') as f:
                f.seek(at << 20)
                if f.read(size << 20) != content[name]:
                    raise Failure(f"a private mapping changed the {name}'s file")


CASES = [
    Case('native kvm: 16 GiB, 512 MiB of it spread over all', {
        'fill': 512, 'write': 32, 'rate': 5000, 'layout': 'spread'}, vm={'memory_mib': 16384}, test=test_sparse),
    Case('native kvm: shared huge pages', {**HALF, 'fill': 192, 'kind': 'mixed'},
         vm={'memory_mib': 256, 'backend': 'memory-backend-memfd,id=ram,size=256M,hugetlb=on,'
                                           'hugetlbsize=2M'}, test=test_huge_pages),
    Case('native kvm: private huge pages', {**HALF, 'fill': 192, 'kind': 'mixed'},
         vm={'memory_mib': 256, 'backend': 'memory-backend-memfd,id=ram,size=256M,hugetlb=on,'
                                           'hugetlbsize=2M,share=off'}, test=test_huge_pages),
    Case('native kvm: swapped out at the source', {'fill': 256, 'write': 8},
         vm={'memory_mib': 512}, test=test_swapped),
    Case('native kvm: post-copy, swapped out at the source', {'fill': 256, 'write': 8},
         caps={'postcopy-ram': True}, vm={'memory_mib': 512}, test=test_swapped),
    Case('native kvm: huge pages of 1 GiB', {**HALF, 'kind': 'mixed'},
         vm={'memory_mib': 1024, 'backend': 'memory-backend-memfd,id=ram,size=1G,hugetlb=on,'
                                            'hugetlbsize=1G'}, test=test_giant_pages),
    Case('native kvm: post-copy, huge pages of 1 GiB', {**HALF, 'fill': 192, 'write': 64},
         caps={'postcopy-ram': True},
         vm={'memory_mib': 1024, 'backend': 'memory-backend-memfd,id=ram,size=1G,hugetlb=on,'
                                            'hugetlbsize=1G'}, test=test_giant_pages),
    Case('native kvm: a file, mapped privately', {**HALF, 'fill': 256}, vm={'memory_mib': 512},
         test=test_private_file),
    Case('native kvm: 2 NUMA nodes, private and shared', {**HALF, 'layout': 'spread'},
         vm={'backend': ['ram', 'memfd'], 'cpus': 2}),
]
