# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots as SVG, from descriptions that can stand in JSON. No scripts, nothing to load, light and dark.

Every *plot* has "kind", "title", and may have "note", a sentence to be read below it.  The kinds:

lines   curves over a common x axis, in one panel or several below each other
            x        {"label": "seconds since the start", "unit": "s", "scale": SCALE}
            panels   [{"label": "pages written a second", "unit": "", "scale": SCALE,
                       "shape": "line" or "stems" (default line),
                       "series": [{"name": "Ferry", "ours": true, "points": [[x, y], ...],
                                   "faint": [further runs of the same, in the same form]}]}]
            marks    [{"x": 3.2, "text": "switch", "series": "Ferry"}], optional
        A y of null is a hole in the curve.
bars    bars from the left, with their spread
            unit     "ms"
            groups   [{"name": "total time",
                       "bars": [{"name": "Ferry", "ours": true, "value": SPREAD}]}]
        A bar with "bare": true is neither, but something to measure both against.
stack   what a time, say, consists of
            unit     "ms"
            parts    ["stop", "memory", ...]
            bars     [{"name": "Ferry", "ours": true, "values": [one for each part]}]

SCALE is "linear" (from 0), "log", or "percentile" (0 to 99.99, the last per cent spread out; x only).
SPREAD is as in figures.py.  `ours` tells Ferry from what it is compared with: by colour, and by
a thicker line or a frame for those who see no colours.  Units ns, us, ms, s, KiB, MiB, GiB, TiB are converted for
axes that need it; any other is printed as it is.
"""

import math
import textwrap
from xml.sax.saxutils import escape

from figures import number

WIDTH = 760
LEFT, RIGHT = 62, 18
TEXT = 12           # height of letters, px
LETTER, BOLD_LETTER = 6.6, 7.5  # their width, about
FEW_POINTS = 12     # of a curve: so few are marked
ROW = 17            # height of a line of text
PANEL, STEMS_PANEL = 190, 96
BAR = 18
MOST_TICKS = 6

# Colours that people who confuse some of them can still tell apart (Okabe and Ito).
LIGHT = {'text': '#222', 'faint': '#666', 'grid': '#ddd', 'paper': '#fff', 'ours': '#0072b2', 'ours2': '#56b4e9',
         'other': '#d55e00', 'other2': '#cc79a7', 'other3': '#009e73', 'other4': '#e69f00',
         'part0': '#56b4e9', 'part1': '#e69f00', 'part2': '#009e73', 'part3': '#cc79a7', 'part4': '#f0e442',
         'part5': '#d55e00', 'bare': '#999'}
DARK = {'text': '#e6e6e6', 'faint': '#aaa', 'grid': '#3a3a3a', 'paper': '#171717', 'ours': '#56b4e9',
        'ours2': '#0a8fd8', 'other': '#ff8a3d', 'other2': '#e6a3c8', 'other3': '#2cc39a', 'other4': '#f0c24b',
        'part0': '#56b4e9', 'part1': '#e69f00', 'part2': '#1fb58c', 'part3': '#dd8fbc', 'part4': '#f0e442',
        'part5': '#ef7a2c', 'bare': '#888'}
DASHES = {'other2': '6 3', 'other3': '2 3', 'other4': '8 3 2 3', 'ours2': '4 2'}


def variables(colours):
    return ''.join(f'--{name}:{colour};' for name, colour in colours.items())


def style():
    """For the <style> of a page (or of a single SVG) that holds plots."""
    lines = [f':root{{{variables(LIGHT)}}}',
             f'@media (prefers-color-scheme: dark){{:root{{{variables(DARK)}}}}}',
             f'.plot text{{font:{TEXT}px system-ui,"DejaVu Sans",sans-serif;fill:var(--text)}}',
             '.plot .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px}',
             '.plot .tick{fill:var(--faint)}', '.plot .head{font-weight:600}',
             '.plot .right{text-anchor:end}', '.plot .middle{text-anchor:middle}',
             '.plot .grid{stroke:var(--grid);stroke-width:1}', '.plot .axis{stroke:var(--faint);stroke-width:1}',
             '.plot .line{fill:none;stroke-width:1.6;stroke-linejoin:round}', '.plot .thick{stroke-width:2.4}',
             '.plot .pale{stroke-width:1;opacity:.3}', '.plot .stem{stroke-width:1.8}',
             '.plot .mark{stroke-width:1.2;stroke-dasharray:3 3}',
             '.plot .whisker{stroke:var(--text);stroke-width:1.2}', '.plot .frame{stroke:var(--text);stroke-width:1.2}']
    for name in LIGHT:
        if name.startswith(('ours', 'other', 'part', 'bare')):
            dash = f';stroke-dasharray:{DASHES[name]}' if name in DASHES else ''
            lines += [f'.plot .line.{name},.plot .stem.{name},.plot .mark.{name}{{stroke:var(--{name})}}',
                      f'.plot .fill.{name}{{fill:var(--{name})}}']
            if dash:
                lines.append(f'.plot .line.{name}{{{dash[1:]}}}')
    return '\n'.join(lines)


# Drawing

class Canvas:
    """Collects elements; y grows downwards."""

    def __init__(self):
        self.parts = []

    def element(self, name, classes, content=None, **attributes):
        attributes = {key.replace('_', '-'): f'{v:.1f}'.rstrip('0').rstrip('.') if isinstance(v, float) else v
                      for key, v in attributes.items()}
        words = [name, f'class="{classes}"', *(f'{k}="{escape(str(v))}"' for k, v in attributes.items())]
        end = '/>' if content is None else f'>{content}</{name}>'
        self.parts.append(f"<{' '.join(words)}{end}")

    def line(self, classes, x1, y1, x2, y2):
        self.element('line', classes, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))

    def text(self, x, y, text, classes=''):
        self.element('text', classes, escape(text), x=float(x), y=float(y))

    def box(self, classes, x, y, width, height, title=None):
        content = f'<title>{escape(title)}</title>' if title else None
        self.element('rect', classes, content, x=float(x), y=float(y), width=float(max(width, 0)),
                     height=float(height))

    def curve(self, classes, points):
        """points: (x, y) or None where there is a hole"""
        path, pen = [], 'M'
        for point in points:
            if point:
                path.append(f'{pen}{point[0]:.1f} {point[1]:.1f}')
            pen = 'L' if point else 'M'
        if path:
            self.element('path', classes, d=''.join(path))

    def svg(self, height, title):
        return (f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" '
                f'height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"><title>{escape(title)}</title>\n'
                + '\n'.join(self.parts) + '\n</svg>\n')


def width_of(text):
    return len(text) * LETTER


# Scales

UNITS = {'ns': (1e-9, 's'), 'us': (1e-6, 's'), 'ms': (1e-3, 's'), 's': (1, 's'),
         'KiB': (2**10, 'B'), 'MiB': (2**20, 'B'), 'GiB': (2**30, 'B'), 'TiB': (2**40, 'B')}
STEPS = {'s': ((1, 's'), (1e-3, 'ms'), (1e-6, 'µs'), (1e-9, 'ns')),
         'B': ((2**40, 'TiB'), (2**30, 'GiB'), (2**20, 'MiB'), (2**10, 'KiB'))}


def short(value):
    """1500000 as 1.5M"""
    for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= size:
            return f'{value / size:g}{letter}'
    return f'{value:g}'


def with_unit(value, unit):
    """A value and its unit, in the unit that suits its size: 1500 us are 1.5 ms."""
    if unit not in UNITS or not value:
        return f'{short(value)} {unit}'.rstrip()
    factor, kind = UNITS[unit]
    size, name = next((s for s in STEPS[kind] if abs(value) * factor >= s[0] * 0.9999), STEPS[kind][-1])
    return f'{value * factor / size:.4g} {name}'


class Scale:
    """Maps values to 0..1."""

    def __init__(self, kind, values, unit='', from_zero=True):
        values = [v for v in values if v is not None and math.isfinite(v)]
        self.kind = kind
        self.unit = unit
        if kind == 'log':
            values = [v for v in values if v > 0] or [1]
            # A little more than there is, so that nothing lies on the frame.
            self.low, self.high = min(values) / 1.15, max(values) * 1.15
        elif kind == 'percentile':
            self.low, self.high = 0, max([99, *values])
        else:
            self.low, self.high = min([0] * from_zero + values, default=0), max(values, default=1)
            if from_zero:
                self.high = self.high * 1.04
        if self.high <= self.low:
            self.high = self.low + 1

    def raw(self, value):
        if self.kind == 'log':
            return math.log10(max(value, self.low))
        if self.kind == 'percentile':
            return -math.log10(max(1 - value / 100, 1e-6))
        return value

    def at(self, value):
        low, high = self.raw(self.low), self.raw(self.high)
        return (self.raw(value) - low) / (high - low)

    def ticks(self):
        """(value, what it is called)"""
        if self.kind == 'percentile':
            return [(v, f'{v:g}') for v in (0, 50, 90, 99, 99.9, 99.99) if v <= self.high]
        if self.kind == 'log':
            return [(v, with_unit(v, self.unit)) for v in self.log_ticks()]
        step = nice_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, short(float(f'{i * step:.9g}'))) for i in range(first, last + 1)]

    def log_ticks(self):
        """Powers of ten, or of two for sizes, or (where there are hardly any) what lies between them."""
        base = 2 if UNITS.get(self.unit, (0, ''))[1] == 'B' else 10
        low = math.floor(math.log(self.low, base))
        high = math.ceil(math.log(self.high, base))
        for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
            found = [f * base ** i for i in range(low, high + 1) for f in factors if f < base or base == 2]
            found = sorted({v for v in found if self.low <= v <= self.high})
            if len(found) >= 3 or base == 2:
                break
        every = math.ceil(len(found) / MOST_TICKS)
        return found[::every]


def nice_step(span):
    """A round number that goes into `span` a handful of times."""
    rough = span / MOST_TICKS
    power = 10 ** math.floor(math.log10(rough))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.9999)


# Colours

def classes_of(entries):
    """{name: class} for things with "name" and "ours", in the order in which they come."""
    found, nr = {}, {True: 0, False: 0}
    for entry in entries:
        if entry['name'] not in found:
            ours = bool(entry.get('ours'))
            nr[ours] += 1
            kind, most = ('ours', 2) if ours else ('other', 4)
            i = min(nr[ours], most)
            found[entry['name']] = kind if i == 1 else f'{kind}{i}'
    return found


def legend(canvas, y, entries):
    """entries: (class, "line" or "fill", text). Returns the y below it."""
    x = LEFT
    for klass, shape, text in entries:
        width = 40 + width_of(text)
        if x > LEFT and x + width > WIDTH - RIGHT:
            x, y = LEFT, y + ROW
        if shape == 'line':
            thick = ' thick' if klass.startswith('ours') else ''
            canvas.line(f'line {klass}{thick}', x, y + 8, x + 22, y + 8)
        else:
            canvas.box(f'fill {klass}', x + 6, y + 2, 12, 12)
        canvas.text(x + 28, y + 12, text)
        x += width
    return y + ROW + 6


# Curves

def lines(plot):
    canvas = Canvas()
    everything = [series for panel in plot['panels'] for series in panel['series']]
    classes = classes_of(everything)
    y = legend(canvas, 2, [(klass, 'line', name) for name, klass in classes.items()])
    marks = plot.get('marks', [])
    x = Scale(plot['x'].get('scale', 'linear'),
              [p[0] for s in everything for curve in [s['points'], *s.get('faint', [])] for p in curve]
              + [mark['x'] for mark in marks], plot['x'].get('unit', ''), from_zero=False)
    top = y
    y += ROW * len(marks)
    spans = []
    for panel in plot['panels']:
        y += ROW + 4
        height = STEMS_PANEL if panel.get('shape') == 'stems' else PANEL
        draw_panel(canvas, panel, x, y, height, classes)
        spans.append((y, y + height))
        y += height + 6
    for i, mark in enumerate(marks):
        klass = classes.get(mark.get('series'), '')
        canvas.line(f'mark {klass}', x_of(x, mark['x']), top + i * ROW + 12, x_of(x, mark['x']), spans[-1][1])
    # Over the lines.
    for i, mark in enumerate(marks):
        draw_mark_text(canvas, mark, top + i * ROW, x_of(x, mark['x']), classes.get(mark.get('series'), ''))
    draw_x_axis(canvas, plot['x'], x, spans[-1][1])
    return canvas.svg(spans[-1][1] + 2 * ROW + 8, plot['title'])


def x_of(scale, value):
    return LEFT + scale.at(value) * (WIDTH - LEFT - RIGHT)


def draw_mark_text(canvas, mark, y, x, klass):
    if x + width_of(mark['text']) + 8 > WIDTH - RIGHT:
        canvas.text(x - 6, y + 12, mark['text'], 'halo right')
    else:
        canvas.text(x + 6, y + 12, mark['text'], 'halo')
    canvas.box(f'fill {klass}', x - 3, y + 5, 6, 6)


def draw_panel(canvas, panel, x, top, height, classes):
    series = panel['series']
    scale = Scale(panel.get('scale', 'linear'),
                  [p[1] for s in series for curve in [s['points'], *s.get('faint', [])] for p in curve],
                  panel.get('unit', ''))

    def place(point):
        if point[1] is None or (scale.kind == 'log' and point[1] <= 0):
            return None
        return x_of(x, point[0]), top + height * (1 - min(max(scale.at(point[1]), 0), 1))

    unit = panel.get('unit', '')
    canvas.text(LEFT, top - 8, panel['label'] + (f', {unit}' if unit and scale.kind != 'log' else ''), 'head')
    for value, name in scale.ticks():
        at = top + height * (1 - scale.at(value))
        canvas.line('grid', LEFT, at, WIDTH - RIGHT, at)
        canvas.text(LEFT - 6, at + 4, name, 'tick right')
    canvas.line('axis', LEFT, top + height, WIDTH - RIGHT, top + height)
    if panel.get('shape') == 'stems':
        for i, s in enumerate(series):
            draw_stems(canvas, [place(p) for p in s['points']], top + height, classes[s['name']],
                       2.2 * (i - (len(series) - 1) / 2))
        return
    for s in series:
        for curve in s.get('faint', []):
            canvas.curve(f"line pale {classes[s['name']]}", [place(p) for p in curve])
    # Ours last, so that it is on top.
    for s in sorted(series, key=lambda s: bool(s.get('ours'))):
        thick = ' thick' if s.get('ours') else ''
        points = [place(p) for p in s['points']]
        canvas.curve(f"line{thick} {classes[s['name']]}", points)
        for point in points if len(points) <= FEW_POINTS else ():
            if point:
                canvas.element('circle', f"fill {classes[s['name']]}", cx=point[0], cy=point[1], r=3.5)


def draw_stems(canvas, points, bottom, klass, aside):
    for point in points:
        if point:
            canvas.line(f'stem {klass}', point[0] + aside, bottom, point[0] + aside, point[1])


def draw_x_axis(canvas, axis, scale, y):
    end = -1000.0
    for value, name in scale.ticks():
        at = x_of(scale, value)
        canvas.line('axis', at, y, at, y + 4)
        if at - width_of(name) / 2 > end:
            canvas.text(at, y + 17, name, 'tick middle')
            end = at + width_of(name) / 2 + 6
    unit = axis.get('unit', '')
    label = axis['label'] + (f', {unit}' if unit and scale.kind == 'linear' else '')
    canvas.text((LEFT + WIDTH - RIGHT) / 2, y + 2 * ROW + 1, label, 'middle')


# Bars

def bars(plot):
    canvas = Canvas()
    entries = [bar for group in plot['groups'] for bar in group['bars']]
    left = max(width_of(bar['name']) for bar in entries) + 14
    texts = [bar_text(bar['value'], plot.get('unit', '')) for bar in entries]
    room = WIDTH - RIGHT - left - max(width_of(text) for text in texts) - 10
    y = 4
    for group in plot['groups']:
        scale = Scale('linear', [bar['value']['max'] for bar in group['bars']])
        for line in textwrap.wrap(group['name'], int((WIDTH - RIGHT - left) / BOLD_LETTER)):
            canvas.text(left, y + 12, line, 'head')
            y += ROW
        y += 4
        for bar in group['bars']:
            value = bar['value']
            length = scale.at(value['median']) * room
            canvas.text(left - 8, y + 13, bar['name'], 'right')
            klass = 'ours frame' if bar.get('ours') else 'bare' if bar.get('bare') else 'other'
            canvas.box(f'fill {klass}', left, y, max(length, 1), BAR)
            low, high = (left + scale.at(value[end]) * room for end in ('min', 'max'))
            if high > low:
                middle = y + BAR / 2
                canvas.line('whisker', low, middle, high, middle)
                for end in (low, high):
                    canvas.line('whisker', end, middle - 4, end, middle + 4)
            canvas.text(max(left + length, high) + 8, y + 13, bar_text(value, plot.get('unit', '')))
            y += BAR + 6
        y += 8
    return canvas.svg(y, plot['title'])


def bar_text(value, unit):
    text = f"{number(value['median'])} {unit}".rstrip()
    if value['min'] != value['max']:
        text += f" ({number(value['min'])} to {number(value['max'])})"
    return text


def stack(plot):
    canvas = Canvas()
    y = legend(canvas, 2, [(f'part{i}', 'fill', part) for i, part in enumerate(plot['parts'])])
    unit = plot.get('unit', '')
    totals = [sum(v or 0 for v in bar['values']) for bar in plot['bars']]
    left = max(width_of(bar['name']) for bar in plot['bars']) + 14
    room = WIDTH - RIGHT - left - max(width_of(f'{number(t)} {unit}') for t in totals) - 10
    scale = Scale('linear', totals, unit)
    y += 4
    top = y
    for bar, total in zip(plot['bars'], totals):
        canvas.text(left - 8, y + 13, bar['name'], 'right head' if bar.get('ours') else 'right')
        x = float(left)
        for i, (part, value) in enumerate(zip(plot['parts'], bar['values'])):
            width = (value or 0) / scale.high * room
            if width > 0:
                canvas.box(f'fill part{i}', x, y, width, BAR, f'{part}: {number(value)} {unit}')
                if width > width_of(number(value)) + 8:
                    canvas.element('text', 'middle', escape(number(value)), x=x + width / 2, y=float(y + 13),
                                   style='fill:#000')
            x += width
        canvas.text(x + 8, y + 13, f'{number(total)} {unit}'.rstrip())
        y += BAR + 8
    for value, name in scale.ticks():
        at = left + value / scale.high * room
        canvas.line('axis', at, y, at, y + 4)
        canvas.text(at, y + 17, name, 'tick middle')
    canvas.line('axis', left, y, left + room, y)
    canvas.line('axis', left, top - 4, left, y)
    canvas.text(left + room / 2, y + 2 * ROW + 1, unit, 'middle')
    return canvas.svg(y + 2 * ROW + 8, plot['title'])


KINDS = {'lines': lines, 'bars': bars, 'stack': stack}


def render(plot):
    """The plot as an <svg>, which needs style() around it."""
    return KINDS[plot['kind']](plot)


def standalone(plot):
    """The plot as a file of its own, with its title."""
    svg = render(plot)
    width, height = (float(v) for v in svg.split('viewBox="0 0 ')[1].split('"')[0].split())
    top = 2 * ROW
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height + top:.0f}" '
            f'viewBox="0 0 {width:.0f} {height + top:.0f}"><style>{escape(style())}\n'
            f'.paper{{fill:var(--paper)}}</style>\n<rect class="paper" width="100%" height="100%"/>\n'
            f'<g class="plot"><text class="head" x="8" y="{ROW}">{escape(plot["title"])}</text></g>\n'
            f'<g transform="translate(0 {top})">\n{svg}</g>\n</svg>\n')
