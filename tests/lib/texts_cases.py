# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of `tests/lib/test`: which texts there are, and what programs have said."""

import os
import subprocess
import sys
import tempfile

from suite import same
from texts import Said, read_exceptions, read_record, read_sources, recorded, texts_of
from vm import ROOT


def found(source):
    return [text for _, text in texts_of(source)]


def test_neighbours_are_one_text():
    same(found('f("cannot do it: "\n  "no way");'), ['cannot do it: no way'])
    same(found('f("cannot do" /* "or so" */ " it");'), ['cannot do it'])


def test_texts_of_one_call_are_several():
    same(found('f(late ? "it came late" : "it never came", "x");'), ['it came late', 'it never came'])


def test_conversions_are_alike():
    same(found('f("RAM block \'%s\' of %" PRIu64 " bytes, %5.1f %%");'), ["RAM block '%' of % bytes, % %%"])
    same(found('f("%" G_GSIZE_FORMAT " bytes left of 0x%08" PRIx32);'), ['% bytes left of 0x%'])


def test_macros_are_what_they_stand_for():
    same(found('#define DEVICE "/dev/null"\nf("cannot open " DEVICE ", or so");'), ['cannot open /dev/null, or so'])


def test_what_is_no_text():
    same(found('#include "two words.h"\nf("word"); // "in a comment"\n/* "in another" */'), [])
    same(found('_Static_assert(sizeof(a) == 4, "the layout of it");\ntrace_ferry_it("it is wanted");'), [])
    same(found('monitor_printf(mon, "total ram: %d kbytes", f(x));'), [])
    same(found('f("%s: %s", a, b); f("channel \'%s\'", c);'), [])


def test_a_text_knows_its_line():
    same(list(texts_of('\n\nf("a b c",\n  "dd ee");')), [(4, 'dd ee')])


def test_a_format_must_have_been_one():
    said = Said()
    said.add('T', 'frame type 3 out of turn')
    same(said.has('frame type % out of turn'), False)
    said.add('F', 'frame type % out of turn')
    same(said.has('frame type % out of turn'), True)


def test_what_has_no_conversion_may_be_a_part():
    said = Said()
    said.add('T', 'cannot open it: no way there')
    same((said.has('no way there'), said.has('no way back')), (True, False))


def test_exceptions_have_reasons():
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
        file.write('# a comment\n\nOnly there:\n    one text\n    a % text\nNever here:\n    another\n')
        file.flush()
        same(read_exceptions(file.name),
             {'one text': 'Only there', 'a % text': 'Only there', 'another': 'Never here'})


def test_our_sources_have_texts():
    texts = read_sources(ROOT)
    same(len(texts) > 150, True)
    same(texts['the transport is not a socket'][0].startswith('qemu/glue/source/open.c:'), True)


# Has GLib make a text, as QEMU does, and ends in a bad way.
SPEAKER = '''
import ctypes, os, signal
ctypes.CDLL('libglib-2.0.so.0', ctypes.RTLD_GLOBAL)
glib = ctypes.CDLL(None)
glib.g_strdup_printf(b'number %d of %s', 7, b'nine')
if os.fork() == 0:
    glib.g_strdup(b'in a child')
    os._exit(0)
os.wait()
os.kill(os.getpid(), signal.SIGKILL)
'''


def speak(directory, program):
    """What a program of this name says in its record."""
    path = os.path.join(directory, program)
    os.symlink(sys.executable, path)
    record = os.path.join(directory, 'record')
    said = Said()
    with recorded(record) as environment:
        subprocess.run([path, '-c', SPEAKER], env={**os.environ, **environment}, check=False, timeout=60)
    read_record(record, said)
    return said


def test_what_is_said_is_kept_when_the_program_is_killed():
    with tempfile.TemporaryDirectory() as directory:
        said = speak(directory, 'test-speaker')
    same((said.formats, 'number 7 of nine' in said.texts, 'in a child' in said.texts),
         ({'number % of %'}, True, True))


def test_other_programs_are_not_listened_to():
    with tempfile.TemporaryDirectory() as directory:
        said = speak(directory, 'speaker')
    same((said.formats, said.texts), (set(), set()))
