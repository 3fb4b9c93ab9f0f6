# SPDX-License-Identifier: GPL-2.0-or-later
"""The texts of Ferry's that a user can meet, and which of them a run of the tests has produced.

    with recorded('build/check/texts/qtest') as environment:
        subprocess.run(suite, env={**os.environ, **environment})
    texts = read_sources(ROOT)
    said = read_records('build/check/texts')
    missing = [text for text in texts if not said.has(text)]

A text is a string in the sources that has at least two words, but for what nobody meets: trace events, assertions, the
help of parameters, and what `info ferry` prints. Its conversions are written as '%': RAM block '%' of % bytes.
"""

import collections
import contextlib
import os
import re
import shutil

from cc import compiled

# The suites of `make check` whose programs are recorded.
RECORDED = ('unit-gcc', 'qtest', 'guest', 'storm')

FOLDERS = ('migration', 'accel', 'qemu/glue')
SUFFIXES = ('.c', '.h', '.inc')
RECORDER = ('tests/lib/recorder.c', 'build/check/recorder.so')

TOKEN = re.compile(r'''(?P<nothing> /\*.*?\*/ | //[^\n]* | \s+)
                     | (?P<string> "(?:[^"\\\n]|\\.)*")
                     | (?P<char> '(?:[^'\\\n]|\\.)+')
                     | (?P<directive> ^[#][ ]*include[^\n]*)
                     | (?P<word> [A-Za-z_]\w*)
                     | (?P<other> .)''', re.DOTALL | re.VERBOSE | re.MULTILINE)
# What names a conversion, and stands between two strings: PRIu64, G_GSIZE_FORMAT.
CONVERSION_NAME = re.compile(r'PRI[a-zA-Z]+\d*|G_\w+_FORMAT')
CONVERSION = re.compile(r'%[-+ #0]*[\d.*]*(?:hh|ll|[hlzjt])?[a-zA-Z]')
MACRO = re.compile(r'^#define (\w+) "((?:[^"\\\n]|\\.)*)"$', re.MULTILINE)
WORD = re.compile(r'[A-Za-z]{2,}')
# Nobody meets what these are told, or it is no complaint.
UNMET = re.compile(r'_Static_assert|QEMU_BUILD_BUG_\w+|g_assert\w*|trace_\w+|monitor_printf')


def normal(text):
    """As formats and sources agree on it: conversions alike, escapes resolved."""
    text = text.replace('\\n', '\n').replace('\\"', '"').replace('\\\\', '\\')
    return ' '.join(CONVERSION.sub('%', text.replace('%%', '\0')).replace('\0', '%%').split())


def is_text(string):
    return ' ' in string and len(WORD.findall(string.replace('%', ' '))) >= 2


def strings_of(source):
    """(line, string, names of the calls around it) of each string; neighbours are one, as for a compiler."""
    line, run, calls, word = 1, None, [], ''
    macros = dict(MACRO.findall(source))
    for token in TOKEN.finditer(source):
        kind, value = token.lastgroup, token.group()
        if kind == 'string':
            run = run or [line, '']
            run[1] += value[1:-1]
        elif kind == 'word' and run and CONVERSION_NAME.fullmatch(value):
            run[1] += 'd'
        elif kind == 'word' and run and value in macros:
            run[1] += macros[value]
        elif kind != 'nothing':
            if run:
                yield run[0], run[1], [call for call in calls if call]
                run = None
            if value == '(':
                calls.append(word)
            elif value == ')' and calls:
                calls.pop()
            word = value if kind == 'word' else ''
        line += value.count('\n')


def texts_of(source):
    """(line, text) of each text in a C file."""
    for line, string, calls in strings_of(source):
        text = normal(string)
        if is_text(text) and not any(UNMET.fullmatch(call) for call in calls):
            yield line, text


def read_sources(root, folders=FOLDERS):
    """{text: where it stands, 'FILE:LINE' each}"""
    found = collections.defaultdict(list)
    for folder in folders:
        for path, _, names in sorted(os.walk(os.path.join(root, folder))):
            for name in sorted(names):
                if not name.endswith(SUFFIXES):
                    continue
                file = os.path.join(path, name)
                with open(file, encoding='utf-8') as lines:
                    for line, text in texts_of(lines.read()):
                        found[text].append(f'{os.path.relpath(file, root)}:{line}')
    return dict(found)


class Said:
    """What programs have said."""

    def __init__(self):
        self.formats = set()
        self.texts = set()
        self._all = None

    def add(self, kind, text):
        (self.formats if kind == 'F' else self.texts).add(text)
        self._all = None

    def has(self, text):
        """With conversions it must have been a format. Without, it may be a part of what was said."""
        if text in self.formats or '%' in text:
            return text in self.formats
        if self._all is None:
            self._all = '\n'.join(self.texts)
        return text in self._all


def read_recorder(path, said):
    """What recorder.c has kept in a file."""
    with open(path, 'rb') as file:
        record = file.read()
    used = int.from_bytes(record[:8], 'little')
    for entry in record[8:8 + used].split(b'\0'):
        text = entry.decode('utf-8', 'replace')
        if text[:1] == 'F':
            said.add('F', normal(text[1:]))
        elif text:
            said.add('T', ' '.join(text[1:].split()))


@contextlib.contextmanager
def recorded(path):
    """The environment in which programs have kept in this file what they say; what it had before is gone."""
    directory = f'{path}.d'
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    yield {'LD_PRELOAD': compiled(*RECORDER, '-shared', '-fPIC', '-Wno-builtin-declaration-mismatch'),
           'FERRY_TEXTS': os.path.abspath(directory)}
    said = Said()
    for name in os.listdir(directory):
        read_recorder(os.path.join(directory, name), said)
    with open(path, 'w', encoding='utf-8') as file:
        for kind, texts in (('F', said.formats), ('T', said.texts)):
            file.writelines(f'{kind} {text}\n' for text in sorted(texts))
    shutil.rmtree(directory)


def read_record(path, said):
    """What recorded() has written."""
    with open(path, encoding='utf-8') as file:
        for line in file:
            said.add(line[0], line[2:].rstrip('\n'))


def read_exceptions(path):
    """{text: why no test produces it}: a reason is a line that ends with a colon, and its texts are indented below."""
    reason, exceptions = None, {}
    with open(path, encoding='utf-8') as file:
        for line in file:
            if line.startswith('#') or not line.strip():
                continue
            if line[0] != ' ':
                reason = line.strip().removesuffix(':')
            else:
                exceptions[line.strip()] = reason
    return exceptions
