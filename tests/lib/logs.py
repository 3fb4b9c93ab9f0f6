# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs of those who take part in a test: they hang at the exception that ends it until somebody keeps them."""

import os
import typing

LAST_LINES = 5


class Log(typing.NamedTuple):
    name: str
    text: str
    last_words: str


def attach_log(error, name, text, last_words=None):
    """Hang a log at an exception. last_words: what is to be seen of it at once, its last lines if not given."""
    if last_words is None:
        last_words = '\n'.join(text.splitlines()[-LAST_LINES:])
    error.logs = [*getattr(error, 'logs', ()), Log(name, text, last_words)]


def logs_of(error):
    return getattr(error, 'logs', [])


def keep_logs(error, directory):
    """Write each to a file of its own."""
    for log in logs_of(error):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f'{log.name}.log'), 'w', encoding='utf-8') as f:
            f.write(log.text)
