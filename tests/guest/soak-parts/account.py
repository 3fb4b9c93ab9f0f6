# SPDX-License-Identifier: GPL-2.0-or-later
"""What a soak has done: how many of each kind, how they ended, the worst that was seen; as JSON, and in lines."""

import collections
import json
import re
import threading

OUTCOMES = ('there', 'here', 'lost', 'failed')
# What of a migration is counted by its kind.
AXES = ('planned', 'went', 'transport', 'tls', 'channels', 'compression', 'tracker', 'guest', 'memory', 'change',
        'together')
# {name: (field of a record, what it is in words)}
WORST = {
    'blackout_ms': 'blackout, by the destination',
    'downtime_ms': "downtime, by the source's query-migrate",
    'gap_ms': 'gap that a guest saw, pauses and broken post-copy included',
    'plain_gap_ms': 'gap that a guest saw where nothing was done to its migration',
    'monitor_s': 'wait for query-status',
}


class Account:
    """Any thread may note."""

    def __init__(self, seed, first, binary):
        self.lock = threading.Lock()
        self.data = {
            'seeds': [f'{seed} from {first}'], 'binary': binary, 'migrations': 0, 'guests': 0, 'seconds': 0,
            'mishaps': {}, 'counts': {axis: {} for axis in AXES}, 'recoveries': 0, 'in_doubt': 0, 'mib': 0,
            'worst': {}, 'failures': [], 'notes': {}, 'resources': {}}

    def guest(self):
        with self.lock:
            self.data['guests'] += 1

    def note(self, text):
        """Something that is no failure, counted by its words, whatever numbers are in them."""
        text = re.sub(r'\d+(\.\d+)?', 'N', text)
        with self.lock:
            notes = self.data['notes']
            notes[text] = notes.get(text, 0) + 1

    def migration(self, record, where):
        """One that has ended; record: its kinds by AXES, mishap, outcome and what WORST names; where: in words."""
        with self.lock:
            data = self.data
            data['migrations'] += 1
            ended = data['mishaps'].setdefault(record['mishap'], dict.fromkeys(OUTCOMES, 0))
            ended[record['outcome']] += 1
            for axis in AXES:
                if axis in record:
                    counts = data['counts'][axis]
                    counts[str(record[axis])] = counts.get(str(record[axis]), 0) + 1
            for field in ('recoveries', 'in_doubt', 'mib'):
                data[field] += int(record.get(field) or 0)
            self._worst(record, where)

    def _worst(self, record, where):
        for name in WORST:
            value = record.get(name)
            if value is not None and value > self.data['worst'].get(name, [0])[0]:
                self.data['worst'][name] = [value, where]

    def failure(self, where, words, again):
        """again: the command that does the same again."""
        with self.lock:
            self.data['failures'].append({'where': where, 'words': words, 'again': again})

    def resources(self, name, words):
        """What a chain's first and last QEMU held, where that has grown: counted by its words."""
        with self.lock:
            grown = self.data['resources']
            grown.setdefault(name, []).append(words)

    def write(self, path):
        with open(path, 'w', encoding='utf-8') as f:
            json.dump(self.data, f, indent=1, sort_keys=True)
            f.write('\n')


def merged(reports):
    """One report of several: counts added, the worst of all."""
    first, *others = reports
    for other in others:
        for field in ('migrations', 'guests', 'seconds', 'recoveries', 'in_doubt', 'mib'):
            first[field] += other[field]
        for field in ('seeds', 'failures'):
            first[field] += other[field]
        for mishap, ended in other['mishaps'].items():
            first['mishaps'][mishap] = _added(first['mishaps'].get(mishap, {}), ended)
        for axis, counts in other['counts'].items():
            first['counts'][axis] = _added(first['counts'].get(axis, {}), counts)
        first['notes'] = _added(first['notes'], other['notes'])
        for name, words in other['resources'].items():
            first['resources'][name] = first['resources'].get(name, []) + words
        for name, worst in other['worst'].items():
            first['worst'][name] = max(first['worst'].get(name, [0]), worst)
    return first


def _added(counts, more):
    total = collections.Counter(counts)
    total.update(more)
    return dict(total)


def lines(data):
    """A report in lines, as results have them."""
    yield (f"{data['migrations']} migrations of {data['guests']} guests in {data['seconds']:.0f} s, "
           f"seed {', '.join(data['seeds'])}: {len(data['failures'])} failed")
    yield f"{data['mib']} MiB, {data['recoveries']} recoveries, {data['in_doubt']} sources in doubt"
    yield f"{'':28} {'ran':>6} {'arrived':>8} {'stayed':>7} {'lost':>6} {'failed':>7}"
    for mishap, ended in sorted(data['mishaps'].items(), key=lambda item: -sum(item[1].values())):
        counts = [ended.get(outcome, 0) for outcome in OUTCOMES]
        yield f'{mishap:28} {sum(counts):6} {counts[0]:8} {counts[1]:7} {counts[2]:6} {counts[3]:7}'
    for axis, counts in data['counts'].items():
        if counts:
            yield f"{axis}: {', '.join(f'{kind or None} {nr}' for kind, nr in sorted(counts.items()))}"
    for name, words in WORST.items():
        if name in data['worst']:
            value, where = data['worst'][name]
            yield f"longest {words}: {value:g} {name.rsplit('_', 1)[1]} ({where})"
    for name, words in data['resources'].items():
        yield f'{name}: {len(words)} times, the first: {words[0]}'
    for text, nr in sorted(data['notes'].items()):
        yield f'noted {nr} times: {text}'
    for failure in data['failures']:
        yield f"failed: {failure['where']}: {failure['words']}"
        yield f"    again: {failure['again']}"
