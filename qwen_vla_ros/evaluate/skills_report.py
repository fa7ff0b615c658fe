"""A summary of skills -> report.html (one file), table.md and stages.png."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_vla_ros.evaluate.plots import new_figure, save_figure
from qwen_vla_ros.evaluate.rooms_report import html_table, write_page
from qwen_vla_ros.evaluate.skills_summary import table

COLUMNS = 4


def write_skills_report(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the three files into a folder."""
    head, rows = table(summary)
    lines = [head, ['---'] * len(head), *rows]
    text = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    (folder / 'table.md').write_text(text, encoding='utf-8')
    picture = ''
    if summary['lines']:
        plot_stages(summary, folder / 'stages.png')
        data = base64.b64encode((folder / 'stages.png').read_bytes()).decode()
        picture = f'<img alt="success by stage" src="data:image/png;base64,{data}">'
    stages = ''.join(
        f'<li>{html.escape(stage)}: {html.escape(path)}</li>'
        for stage, path in summary['checkpoints'].items()
    )
    partial = '' if summary['complete'] else '<p class="bad">Partial result: it was stopped.</p>'
    told = [[html.escape(cell) for cell in row] for row in rows]
    body = (
        f'<h1>Skills, stage by stage</h1><div class="dim">{summary["date"]}, '
        f'{html.escape(summary["machine"]["processor"])}</div>{partial}<ul>{stages}</ul>'
        '<p>95 % intervals: Wilson for rates, bootstrap over seeds for means. Stages are compared '
        'on the same worlds: McNemar’s exact test for rates, the sign test for distances.</p>'
        f'{html_table(tuple(map(html.escape, head)), told)}<h2>By stage</h2>{picture}'
    )
    write_page(folder / 'report.html', 'skills', body)


def plot_stages(summary: Mapping[str, Any], path: Path) -> None:
    """Draw a panel a skill: its figure by stage with the interval, dashed what it is beside."""
    lines, stages = summary['lines'], list(summary['checkpoints'])
    height = -(-len(lines) // COLUMNS)
    figure, axes = new_figure(height, COLUMNS, (12, 2.1 * height + 0.4))
    for axis, (name, line) in zip(axes.flat, lines.items(), strict=False):
        for place, stage in enumerate(stages):
            if stage not in line['stages']:
                continue
            row, (low, high) = line['stages'][stage], line['stages'][stage]['interval95']
            axis.plot([place, place], [low, high], color='#1a202c', lw=1.4, marker='_', ms=7)
            value = row['mean'] if line['unit'] else row['success_rate']
            axis.plot([place], [value], color='#2b6cb0', marker='o', ms=6, clip_on=False)
        for value in line['beside'].values():
            axis.axhline(value, color='#dd6b20', ls='--', lw=1.1)
        axis.set_title(name)
        axis.set_xticks(range(len(stages)), stages)
        axis.set_xlim(-0.5, len(stages) - 0.5)
        axis.set_ylim(0, None if line['unit'] else 1.03)
    for axis in axes.flat[len(lines) :]:
        axis.set_axis_off()
    save_figure(figure, path)
