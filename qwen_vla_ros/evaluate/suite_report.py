"""A suite's summary and episodes -> report.html: rates by shift, comparison, failures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_vla_ros.evaluate.rooms_report import html_table, mean_cell, rate_cell, write_page


def write_suite_report(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path
) -> Path:
    """Write report.html beside failures/ of the folder; return its path."""
    path = folder / 'report.html'
    made = f'{summary["policy"]}, robot {summary["robot"]}, {summary["date"]}'
    partial = '' if summary['complete'] else '<p class="bad">Partial result: it was stopped.</p>'
    body = (
        f'<h1>Suite of shifts</h1><div class="dim">{html.escape(made)}</div>{partial}'
        '<p>95 % intervals: Wilson for rates, bootstrap over episodes for means.</p>'
        f'{_bars(summary)}<h2>By shift</h2>{_groups(summary)}{_comparison(summary)}'
        f'<h2>Failures</h2>{_failures(rows)}'
    )
    write_page(path, 'suite', body)
    return path


def _bars(summary: Mapping[str, Any]) -> str:
    """Return the rates as bars with their intervals, in one picture (SVG)."""
    height, lines = 26, []
    for index, (name, row) in enumerate(summary['groups'].items()):
        y, (low, high) = index * height, row['interval95']
        lines.append(
            f'<text x="232" y="{y + 17}" text-anchor="end" font-size="13">{html.escape(name)}'
            f'</text><rect x="240" y="{y + 5}" width="{600 * row["success_rate"]:.1f}" '
            f'height="16" fill="#4c8bc4"/><line x1="{240 + 600 * low:.1f}" '
            f'x2="{240 + 600 * high:.1f}" y1="{y + 13}" y2="{y + 13}" stroke="#1a202c" '
            'stroke-width="2"/>'
        )
    total = height * len(lines)
    return (
        f'<svg viewBox="0 0 860 {total}" width="100%" role="img" '
        f'aria-label="success by shift">{"".join(lines)}</svg>'
    )


def _groups(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, row in summary['groups'].items():
        further = [
            mean_cell(row[kind][metric]) if kind in row else '–'
            for kind, metric in (('manipulation', 'MS'), ('navigation', 'SPL'))
        ]
        rows.append([html.escape(name), rate_cell(row), *further, f'{row["elapsed_s"]:.1f}'])
    return html_table(('task, shift', 'success', 'MS', 'SPL', 'mean time [s]'), rows)


def _comparison(summary: Mapping[str, Any]) -> str:
    if 'comparison' not in summary:
        return ''
    rows = []
    for name, row in summary['comparison'].items():
        low, high = row['interval95']
        kind = ('good' if row['difference'] > 0 else 'bad') if row['p'] < 0.05 else 'dim'
        rows.append(
            [
                html.escape(name),
                str(row['worlds']),
                f'<span class="{kind}">{100 * row["difference"]:+.0f} points</span> '
                f'<span class="dim">[{100 * low:+.0f}, {100 * high:+.0f}]</span>',
                f'{row["only_first"]} / {row["only_second"]}',
                f'{row["p"]:.3g}',
            ]
        )
    head = ('task, shift', 'worlds', 'difference', 'only this / only the other', 'p (McNemar)')
    told = html.escape(str(summary['against']))
    return f'<h2>Against {told}</h2>{html_table(head, rows)}'


def _failures(rows: Sequence[Mapping[str, Any]]) -> str:
    failed = [row for row in rows if not row['success']]
    if not failed:
        return '<p>None.</p>'
    cells = []
    for row in failed:
        film = html.escape(str(row['film']))
        cells.append(
            [
                html.escape(f'{row["task"]}, {row["shift"]}'),
                str(row['seed']),
                html.escape(row['instruction']),
                f'{row["elapsed_s"]:.1f}',
                f'<a href="{film}">film</a>' if film else '–',
                html.escape(str(row.get('note', ''))),
            ]
        )
    return html_table(('task, shift', 'seed', 'instruction', 'time [s]', '', 'note'), cells)
