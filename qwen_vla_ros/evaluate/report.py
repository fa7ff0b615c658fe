"""
summary.json -> report.html: one file that needs nothing else (plots inside, film beside).

Missing numbers are shown as a dash, never as zero.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PLOTS = (
    ('success.png', 'Success, policy beside baselines'),
    ('tracking.png', 'Joint tracking'),
    ('latency.png', 'Latency'),
)
FILM = 'video.mp4'

STYLE = """
:root { --ink:#1a202c; --dim:#5f6b7a; --line:#e2e8f0; --paper:#fff; --soft:#f7fafc;
  --good:#26915a; --bad:#be3636; }
* { box-sizing:border-box }
body { margin:0; background:var(--soft); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif }
main { max-width:1060px; margin:0 auto; padding:28px 20px 60px }
h1 { font-size:26px; margin:0 0 4px } h2 { font-size:18px; margin:34px 0 10px }
.dim { color:var(--dim) }
.cards { display:flex; flex-wrap:wrap; gap:12px; margin-top:18px }
.card { flex:1 1 200px; background:var(--paper); border:1px solid var(--line); border-radius:10px;
  padding:14px 16px }
.card b { display:block; font-size:25px; line-height:1.2 } .card span { color:var(--dim);
  font-size:13px }
.scroll { overflow-x:auto; background:var(--paper); border:1px solid var(--line);
  border-radius:10px }
table { border-collapse:collapse; width:100%; font-size:14px }
th { text-align:left; color:var(--dim); font-weight:600; background:var(--soft) }
th,td { padding:7px 12px; border-bottom:1px solid var(--line); white-space:nowrap }
tr:last-child td { border-bottom:0 } td.n,th.n { text-align:right;
  font-variant-numeric:tabular-nums }
.bar { position:relative; width:190px; height:14px; background:#edf2f7; border-radius:7px }
.bar i { position:absolute; left:0; top:0; bottom:0; background:#9ad3b4; border-radius:7px }
.bar u { position:absolute; top:6px; height:2px; background:var(--ink) }
.good { color:var(--good); font-weight:600 } .bad { color:var(--bad); font-weight:600 }
.notice { background:#fffaf0; border:1px solid #f6ad55; border-radius:10px; padding:10px 16px;
  margin-top:16px }
figure { margin:0 0 14px; background:var(--paper); border:1px solid var(--line);
  border-radius:10px; padding:10px } img,video { max-width:100%; display:block; margin:0 auto }
"""


def write_report(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write report.html beside the plots and the film of the folder; return its path."""
    path = folder / 'report.html'
    beside = path.with_name('.report.html')
    beside.write_text(render_report(summary, folder), encoding='utf-8')
    beside.replace(path)
    return path


def render_report(summary: Mapping[str, Any], folder: Path) -> str:
    """Return the page; plots that are in the folder are put into it."""
    sections = [
        _head(summary),
        _film(folder),
        _success(summary),
        _plots(folder),
        _timing(summary),
        _safety(summary),
        _episodes(summary.get('episode_list', ())),
        _machine(summary),
    ]
    title = html.escape(str(summary.get('task', 'report')))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{title}</title><style>{STYLE}</style></head><body><main>'
        + ''.join(sections)
        + '</main></body></html>\n'
    )


def _head(summary: Mapping[str, Any]) -> str:
    """Return the title, the notice of a partial run, and the few numbers that matter."""
    latency, overhead = summary.get('latency_ms', {}), summary.get('node_overhead_ms', {})
    swap = summary.get('instruction_swap', {})
    counted = summary.get('counted', 'named object touched first')
    cards = [
        (_percent(summary.get('success_rate')), f'success, 95 %: {_interval(summary)}'),
        (f'{summary.get("success")} / {summary.get("episodes")}', str(counted)),
        (f'{swap.get("success", 0)} / {swap.get("episodes", 0)}', 'instruction swaps followed'),
        (_number(latency.get('p50'), ' ms'), 'model, one chunk (p50)'),
        (_number(overhead.get('p50'), ' ms', 2), 'node beside the model (p50)'),
        (_number(summary.get('rate_hz'), ' Hz'), 'commands to the arm'),
        (_number(summary.get('peak_memory_mb'), ' MB', 0), 'peak memory, all processes'),
    ]
    notice = ''
    if not summary.get('complete', True):
        run = summary.get('run', {})
        done = run.get('ended', len(summary.get('episode_list', ())))
        planned = run.get('planned', summary.get('planned_episodes', '?'))
        notice = (
            f'<div class="notice">Partial result: {done} of {planned} episodes ended before '
            'the run was stopped.</div>'
        )
    boxes = ''.join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for value, name in cards
    )
    made = ', '.join(
        str(summary[key])
        for key in ('policy', 'checkpoint', 'through', 'date')
        if summary.get(key)
    )
    return (
        f'<h1>{html.escape(str(summary.get("task", "")))}</h1>'
        f'<div class="dim">{html.escape(made)}</div>{notice}<div class="cards">{boxes}</div>'
    )


def _film(folder: Path) -> str:
    """Return the player when there is a film."""
    if not (folder / FILM).exists():
        return ''
    return (
        f'<h2>Film</h2><figure><video controls preload="metadata" src="{FILM}"></video></figure>'
    )


def _success(summary: Mapping[str, Any]) -> str:
    """Return the tables of success: routes and baselines, instructions, objects."""
    routes = [(f'policy, through {summary.get("through", "?")}', summary)]
    swap = summary.get('instruction_swap', {})
    if swap.get('episodes'):
        routes.append(('instruction swapped in mid-episode', swap))
    names = {
        'policy': 'policy, through gymnasium',
        'no_language': 'baseline: sentence of a random object, through gymnasium',
        'no_image': 'baseline: images of another scene, through gymnasium',
    }
    details = summary.get('baseline_details', {})
    routes += [(names.get(name, name), row) for name, row in details.items()]
    text = '<h2>Success</h2>' + _rate_table('run', routes)
    for title, key in (('Per instruction', 'per_instruction'), ('Per object', 'per_object')):
        if summary.get(key):
            text += f'<h2>{title}</h2>' + _rate_table(title.split()[1], list(summary[key].items()))
    return text


def _rate_table(head: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return a table of success rates with their intervals, drawn and written."""
    cells = []
    for name, row in rows:
        low, high = row['interval95']
        rate = row['success_rate']
        bar = f'<div class="bar"><i style="width:{100 * (rate or 0):.1f}%"></i>' + (
            f'<u style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></u></div>'
        )
        cells.append(
            (
                html.escape(name),
                str(row['episodes']),
                str(row['success']),
                _percent(rate),
                _interval(row),
                bar,
            )
        )
    return _table((head, '#episodes', '#success', '#rate', '#95 % interval', ''), cells)


def _plots(folder: Path) -> str:
    """Return the plots as images inside the page."""
    text = ''
    for name, title in PLOTS:
        path = folder / name
        if path.exists():
            data = base64.b64encode(path.read_bytes()).decode()
            text += (
                f'<h2>{title}</h2><figure><img alt="{title}" '
                f'src="data:image/png;base64,{data}"></figure>'
            )
    return text


def _timing(summary: Mapping[str, Any]) -> str:
    """Return the table of latencies."""
    names = {
        'latency_ms': 'model, one chunk (through its socket)',
        'node_overhead_ms': 'policy node beside the model, one cycle',
        'chunk_age_ms': 'age of the chunk in use',
    }
    cells = [
        (text, *(_number(summary.get(key, {}).get(p), ' ms', 2) for p in ('p50', 'p95', 'p99')))
        for key, text in names.items()
    ]
    return '<h2>Time</h2>' + _table(('', '#p50', '#p95', '#p99'), cells)


def _safety(summary: Mapping[str, Any]) -> str:
    """Return what the safety gate did."""
    safety = summary.get('safety', {})
    cells = [
        ('commands or chunks refused', str(safety.get('refusals', '–'))),
        ('times the arm held', str(safety.get('holds', '–'))),
        *(
            (f'held: {html.escape(reason)}', str(count))
            for reason, count in safety.get('hold_reasons', {}).items()
        ),
    ]
    return '<h2>Safety</h2>' + _table(('event', '#count'), cells)


def _episodes(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one line an episode."""
    cells = []
    for row in rows:
        mark = '<span class="good">yes</span>' if row['success'] else '<span class="bad">no</span>'
        cells.append(
            (
                str(row['seed']),
                html.escape(row['instruction']) + (' <i>(swapped)</i>' if row['swapped'] else ''),
                mark,
                html.escape(row['first_touched'] or '–'),
                _number(row['elapsed_s'], ' s'),
                str(len(row['inference_s'])),
                str(row['refusals']),
                str(len(row['holds'])),
                html.escape(row['note']),
            )
        )
    head = ('#seed', 'instruction', 'success', 'touched first', '#time', '#chunks', '#refused',
            '#holds', 'note')  # fmt: skip
    return '<h2>Episodes</h2>' + _table(head, cells)


def _machine(summary: Mapping[str, Any]) -> str:
    """Return the machine and how long it took."""
    facts = {**summary.get('machine', {}), **summary.get('durations_s', {})}
    cells = [(html.escape(str(key)), html.escape(str(value))) for key, value in facts.items()]
    return '<h2>Machine and durations (s)</h2>' + _table(('', ''), cells)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ready HTML cells; a heading that starts with # is a column of numbers."""
    kinds = [' class="n"' if name.startswith('#') else '' for name in head]
    top = ''.join(
        f'<th{kind}>{html.escape(name.lstrip("#"))}</th>'
        for name, kind in zip(head, kinds, strict=True)
    )
    body = ''.join(
        '<tr>'
        + ''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))
        + '</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _number(value: float | None, unit: str, digits: int = 1) -> str:
    """Return the number with its unit; a dash for what was not measured."""
    return '–' if value is None else f'{value:.{digits}f}{unit}'


def _percent(rate: float | None) -> str:
    """Return a rate in per cent."""
    return '–' if rate is None else f'{100 * rate:.0f} %'


def _interval(row: Mapping[str, Any]) -> str:
    """Return the 95 % interval in per cent."""
    if not row.get('interval95'):
        return '–'
    low, high = row['interval95']
    return f'{100 * low:.0f}–{100 * high:.0f} %'
