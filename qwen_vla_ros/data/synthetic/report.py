"""
A text-action set as one HTML page: where each arm's goals lie, how long it moves, what it refused.

Counts are of all episodes; the plots show up to SHOWN episodes of an arm. Nothing is loaded from
outside: the pictures are inside.
"""

import base64
import html
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.motions import RATE_HZ
from qwen_vla_ros.data.synthetic.set_files import beside_then_renamed, episode_table
from qwen_vla_ros.data.synthetic.text_action import ABS_JOINT, TextActionEpisodes
from qwen_vla_ros.errors import QwenVlaError

SHOWN = 200
_CSS = """
body { margin:0 auto; max-width:1060px; padding:24px 20px 60px; color:#1a202c; background:#f7fafc;
  font:15px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif }
h1 { font-size:24px } h2 { font-size:18px; margin-top:34px } .dim { color:#5f6b7a }
table { border-collapse:collapse; background:#fff } td,th { border:1px solid #e2e8f0;
  padding:5px 10px; text-align:right } td:first-child,th:first-child { text-align:left }
img { max-width:100%; background:#fff; border:1px solid #e2e8f0 }
"""


def write_report(folder: Path, rate_line: str = '') -> Path:
    """Write report.html of a set's folder, and return its path."""
    arms = [arm for arm in ARMS if (folder / arm / 'meta' / 'info.json').is_file()]
    if not arms:
        raise QwenVlaError(f'{folder}: no finished text-action set is in it')
    tables = {
        arm: episode_table(folder / arm, ('length', 'family', 'rejected', 'goals', 'tasks'))
        for arm in arms
    }
    body = [f'<h1>Text-action set {html.escape(folder.name)}</h1>']
    body.append(f'<p class="dim">{html.escape(rate_line)}</p>' if rate_line else '')
    body.append(_totals(tables))
    for arm, table in tables.items():
        body += [f'<h2>{html.escape(ARMS[arm].tag)}</h2>', _rejections(table)]
        body.append(_picture(folder / arm, table))
        body.append('<p class="dim">' + '<br>'.join(_examples(table)) + '</p>')
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Text-action set</title>'
        f'<style>{_CSS}</style></head><body>{"".join(body)}</body></html>\n'
    )
    path = folder / 'report.html'
    beside_then_renamed(path, lambda beside: beside.write_text(page, encoding='utf-8'))
    return path


def rejected_shares(table: Any) -> dict[str, dict[str, float]]:
    """Return family -> reason -> share of all drawn tasks that were refused for it."""
    found: dict[str, dict[str, float]] = {}
    families = np.array(table['family'].to_pylist())
    reasons = table['rejected'].to_pylist()
    for family in dict.fromkeys(families.tolist()):
        of_family = [reasons[row] for row in np.flatnonzero(families == family)]
        counts = Counter(reason for refused in of_family for reason in refused)
        drawn = counts.total() + len(of_family)
        found[family] = {reason: count / drawn for reason, count in counts.items()}
    return found


def _totals(tables: dict[str, Any]) -> str:
    rows = [['arm', 'trajectories', 'hours', 'median s', 'refused']]
    for arm, table in tables.items():
        lengths = table['length'].to_numpy() / RATE_HZ
        refused = sum(map(len, table['rejected'].to_pylist()))
        rows.append([
            ARMS[arm].tag,
            f'{len(lengths)}',
            f'{lengths.sum() / 3600:.2f}',
            f'{np.median(lengths):.1f}',
            f'{refused / (refused + len(lengths)):.1%}',
        ])  # fmt: skip
    return _table(rows)


def _rejections(table: Any) -> str:
    shares = rejected_shares(table)
    reasons = sorted({reason for found in shares.values() for reason in found})
    rows = [['family', *reasons, 'kept']]
    for family, found in shares.items():
        kept = 1 - sum(found.values())
        rows.append([family, *(f'{found.get(r, 0.0):.1%}' for r in reasons), f'{kept:.1%}'])
    return _table(rows)


def _examples(table: Any) -> list[str]:
    """Return the first sentence of each family."""
    first = {}
    for family, tasks in zip(table['family'].to_pylist(), table['tasks'].to_pylist(), strict=True):
        first.setdefault(family, tasks[0])
    return [html.escape(f'{family}: {text}') for family, text in first.items()]


def _picture(folder: Path, table: Any) -> str:
    """Return four plots of an arm: goals from above and aside, joints, durations."""
    from matplotlib.figure import Figure

    episodes = TextActionEpisodes(folder, layout=ABS_JOINT)
    picked = np.unique(np.linspace(0, len(episodes) - 1, SHOWN).astype(int))
    rows = [episodes.columns(int(number)) for number in picked]
    tips = np.concatenate([row['observation.tip'][::10, :3] for row in rows])
    joints = np.concatenate([row['action'][::10, :-1] for row in rows])
    goals = np.concatenate([np.reshape(goal, (-1, 3)) for goal in table['goals'].to_pylist()])
    figure = Figure((13, 3.3), dpi=90, layout='constrained')
    above, aside, posture, duration = figure.subplots(1, 4)
    for axis, (across, up), names in ((above, (1, 0), 'yx'), (aside, (0, 2), 'xz')):
        axis.plot(tips[:, across], tips[:, up], '.', ms=1, color='#a0aec0', label='tip')
        axis.plot(goals[:, across], goals[:, up], '.', ms=3, color='#2b6cb0', label='goals')
        axis.set(xlabel=f'{names[0]} [m]', ylabel=f'{names[1]} [m]', aspect='equal')
    above.invert_xaxis()
    above.set_title('goals and tip, from above')
    aside.set_title('from the side')
    posture.violinplot(joints, showextrema=True)
    posture.set(title='joints [rad]', xlabel='joint')
    duration.hist(table['length'].to_numpy() / RATE_HZ, bins=24, color='#2b6cb0')
    duration.set(title='duration [s]')
    file = io.BytesIO()
    figure.savefig(file, format='png')
    picture = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="coverage" src="data:image/png;base64,{picture}"></p>'


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head)]
    lines += [''.join(f'<td>{html.escape(cell)}</td>' for cell in row) for row in body]
    return '<table>' + ''.join(f'<tr>{line}</tr>' for line in lines) + '</table>'
