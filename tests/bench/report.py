# SPDX-License-Identifier: GPL-2.0-or-later
"""A report (see figures.py) as text, and as one HTML page that needs nothing but itself."""

from html import escape

import plot
from figures import count_goals, goal_text, number, reached_text, spread_text

TITLES = {
    'run': 'Pre-copy',
    'trace': 'Watching what the guest writes',
    'fetch': 'Post-copy as the guest sees it',
    'through': 'A guest through its migration',
    'compact': 'The compact bitmap',
    'big': 'Big guests',
    'storm': 'The storm device',
}
QUICK = 'This was a run with --quick: it shows what the report looks like, and its figures say nothing.'
HEADINGS = ('figure', 'against', 'goal', 'other', 'Ferry', 'ratio', '')


def title_of(document):
    return TITLES.get(document['name'], document['name'])


def cells(row):
    return [row['what'], row['against'] or '-', goal_text(row['goal'], row['unit']),
            spread_text(row['other'], row['unit']), spread_text(row['ferry'], row['unit']), number(row['ratio']),
            reached_text(row)]


def by_scenario(figures):
    """{scenario: its figures}, in their order"""
    found = {}
    for row in figures:
        found.setdefault(row['scenario'], []).append(row)
    return found


def summary(report):
    """'21 of 30 goals reached, 9 missed'"""
    reached, missed = count_goals([row for document in report['documents'] for row in document['figures']])
    return f'{reached} of {reached + missed} goals reached, {missed} missed'


def text_tables(report):
    """[(heading, rows)] for common.print_table, one for each scenario."""
    return [(f'{title_of(document)}: {scenario}', [cells(row) for row in rows])
            for document in report['documents'] for scenario, rows in by_scenario(document['figures']).items()]


# HTML

STYLE = '''
body{font:16px/1.5 system-ui,"DejaVu Sans",sans-serif;color:var(--text);background:var(--paper);
 max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:3rem;border-bottom:1px solid var(--grid)}h3{margin:2rem 0 .4rem;font-size:1rem}
p.lead{font-size:1.15rem;margin-top:0}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .5rem;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}
th{font-weight:600;color:var(--faint)}
td:nth-child(1),th:nth-child(1),td:nth-child(2),th:nth-child(2),td:nth-child(3),th:nth-child(3){text-align:left}
table{table-layout:fixed}th:nth-child(1){width:26%}th:nth-child(2){width:18%}th:nth-child(3){width:15%}
th:nth-child(6){width:8%}th:nth-child(7){width:10%}
.small{display:block;color:var(--faint);font-size:.8rem}
td:last-child{white-space:nowrap;font-weight:600}
.yes{color:var(--other3)}.no{color:var(--other)}
figure{margin:1.6rem 0 2.4rem}figcaption{font-weight:600;margin-bottom:.3rem}
figure p{color:var(--faint);font-size:.86rem;margin:.2rem 0 0}
svg.plot{width:100%;height:auto;display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:.9rem}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
code{font:.85em ui-monospace,"DejaVu Sans Mono",monospace}
nav a{margin-right:1rem}a{color:var(--ours)}
@media print{figure{break-inside:avoid}}
'''


def spread_html(value, unit):
    if not value:
        return '-'
    text = escape(f"{number(value['median'])} {unit}".rstrip())
    if value['min'] != value['max']:
        text += f"<span class=\"small\">{number(value['min'])} to {number(value['max'])}</span>"
    return text


def row_html(row):
    verdict = {True: '<span class="yes">&#10003; reached</span>', False: '<span class="no">&#10007; missed</span>',
               None: ''}[row['reached']]
    values = [escape(row['what']), escape(row['against'] or '-'), escape(goal_text(row['goal'], row['unit'])),
              spread_html(row['other'], row['unit']), spread_html(row['ferry'], row['unit']),
              number(row['ratio']), verdict]
    return '<tr>' + ''.join(f'<td>{value}</td>' for value in values) + '</tr>'


def table_html(rows):
    head = ''.join(f'<th>{name}</th>' for name in HEADINGS)
    return f'<table><thead><tr>{head}</tr></thead><tbody>\n' + '\n'.join(map(row_html, rows)) + '\n</tbody></table>'


def plot_html(description):
    note = f"<p>{escape(description['note'])}</p>" if description.get('note') else ''
    return (f"<figure><figcaption>{escape(description['title'])}</figcaption>\n"
            f'{plot.render(description)}{note}</figure>')


def list_html(pairs):
    return '<dl>' + ''.join(f'<dt>{escape(name)}</dt><dd>{value}</dd>' for name, value in pairs) + '</dl>'


def document_html(document):
    parts = [f"<h2 id=\"{escape(document['name'])}\">{escape(title_of(document))}</h2>"]
    parts += [plot_html(p) for p in document['plots']]
    for scenario, rows in by_scenario(document['figures']).items():
        parts += [f'<h3>{escape(scenario)}</h3>', table_html(rows)]
    command = escape(' '.join(document['command']))
    took = f", {document['took_s'] / 60:.0f} minutes" if document.get('took_s') else ''
    parts.append(f"<p class=\"small\"><code>{command}</code>, {escape(document.get('date', 'no date'))}{took}</p>")
    return '\n'.join(parts)


def missed_html(report):
    items = [missed_item(document, row) for document in report['documents'] for row in document['figures']
             if row['reached'] is False]
    return f"<h2>Goals that were missed</h2><ul>{''.join(items)}</ul>" if items else ''


def missed_item(document, row):
    what = ' against '.join(filter(None, (row['what'], row['against'])))
    measured = number(row['ratio']) if row['goal']['of'] == 'ratio' else spread_text(row['ferry'], row['unit'])
    text = f"{title_of(document)}: {what}: goal {goal_text(row['goal'], row['unit'])}, measured {measured}"
    return f"<li>{escape(text)}<span class=\"small\">{escape(row['scenario'])}</span></li>"


def html(report):
    machine = report.get('machine', {})
    gib = machine.get('memory_mib', 0) / 1024
    cpus = f"{machine.get('cpus', '?')} CPUs, {machine.get('model', '?')}, {gib:.0f} GiB of memory"
    pairs = [('date', escape(report.get('date', '-'))),
             ('command', f"<code>{escape(' '.join(report.get('command', [])))}</code>"),
             ('machine', escape(cpus)),
             ('kernel', escape(str(machine.get('kernel', '?')))),
             ('load at the end', escape(number(machine.get('load_average'))))]
    binaries = sorted({document['qemu'] for document in report['documents'] if document.get('qemu')})
    pairs += [('QEMU', f'<code>{escape(binary)}</code>') for binary in binaries]
    failed = ''.join(f"<li><span class=\"no\">{escape(f['name'])}</span>: {escape(f['why'])}</li>"
                     for f in report['failed'])
    links = ''.join(f"<a href=\"#{escape(d['name'])}\">{escape(title_of(d))}</a>" for d in report['documents'])
    return '\n'.join([
        '<!DOCTYPE html>', '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<title>Ferry: benchmarks</title><style>{plot.style()}{STYLE}</style></head><body>',
        '<h1>Ferry: benchmarks</h1>', f'<p class="lead">{escape(summary(report))}.</p>', list_html(pairs),
        '<p>Medians, with the least and the greatest. What is compared was measured in turn, in one run, by '
        'one command; stock QEMU is the same binary with Ferry turned off. Ratios are ours over the other one.</p>',
        f'<p class="no">{QUICK}</p>' if report.get('quick') else '',
        f'<h2>Not measured, or not all of it</h2><ul>{failed}</ul>' if failed else '',
        f'<nav>{links}</nav>',
        *map(document_html, report['documents']),
        missed_html(report),
        '</body></html>', ''])
