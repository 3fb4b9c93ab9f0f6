# SPDX-License-Identifier: GPL-2.0-or-later
"""Post-copy: going over to it while a migration runs, breaking it and resuming it."""

import socket

from streams import QMPError


def free_tcp_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def go_over(src, dst, breaks=0, after_s=0):
    """
    An on_poll for migrate() that starts post-copy, so long after the migration, and breaks it so
    often. Returns it and what it has done.

    While it is broken, the main thread of `dst` may be waiting for a page: it is told out of band.
    """
    done = []
    mark = dst.event_mark()

    def poll(info, _):
        nonlocal mark
        status = info.get('status')
        if (status == 'active' and 'start' not in done and
                info.get('total-time', 0) >= after_s * 1000):
            src.qmp('migrate-start-postcopy')
            done.append('start')
        elif (status == 'postcopy-active' and done.count('break') < breaks and
              done.count('break') == done.count('resume')):
            try:
                src.qmp('migrate-pause')
                done.append('break')
            except QMPError:
                if src.qmp('query-migrate')['status'] == 'postcopy-active':
                    raise  # else it has just come to its end
        elif status == 'postcopy-paused' and done.count('resume') < done.count('break'):
            dst.wait_event('MIGRATION', 30, mark, lambda d: d['status'] == 'postcopy-paused')
            mark = dst.event_mark()
            uri = f'tcp:127.0.0.1:{free_tcp_port()}'
            dst.qmp_oob('migrate-recover', uri=uri)
            src.qmp('migrate', {'uri': uri, 'resume': True})
            done.append('resume')

    return poll, done
