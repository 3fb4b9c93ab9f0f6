# SPDX-License-Identifier: GPL-2.0-or-later
"""Single C files that tests and benchmarks bring along: programs, and what is preloaded into a QEMU."""

import os
import subprocess

from vm import ROOT


def compiled(source, output, *options):
    """Compile `source` if it is newer than `output`, both below ROOT; returns the output's path."""
    source, output = os.path.join(ROOT, source), os.path.join(ROOT, output)
    if not os.path.exists(output) or os.path.getmtime(output) < os.path.getmtime(source):
        os.makedirs(os.path.dirname(output), exist_ok=True)
        subprocess.run([os.environ.get('CC', 'cc'), '-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall',
                        '-Werror', *options, '-o', f'{output}.new', source], check=True, timeout=120)
        os.replace(f'{output}.new', output)
    return output


def preload(source, output, **environment):
    """A wrapper for a VM: `source` is preloaded into its QEMU, which has that environment besides."""
    library = compiled(source, output, '-shared', '-fPIC')
    return ['env', f'LD_PRELOAD={library}', *(f'{name}={value}' for name, value in environment.items())]
