"""summary.json of the rooms -> report.html: one file; the maps are inside, the film beside."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CSS = """
body{margin:0;background:#f7fafc;color:#1a202c;font:15px/1.5 system-ui,'DejaVu Sans',sans-serif}
main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 10px}.dim{color:#5f6b7a}
.scroll{overflow-x:auto;background:#fff;border:1px solid #e2e8f0;border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:#5f6b7a}
th,td{padding:7px 12px;border-bottom:1px solid #e2e8f0;white-space:nowrap}
.good{color:#26915a;font-weight:600}.bad{color:#be3636;font-weight:600}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(460px,1fr));gap:14px}
img,video{max-width:100%;display:block;border-radius:8px}
"""
_COLUMNS = ('SPL', 'NE_m', 'nDTW', 'length_m')


def write_rooms_report(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write report.html beside maps/ and video.mp4 of the folder; return its path."""
    path = folder / 'report.html'
    made = f'{summary["policy"]}, robot {summary["robot"]}, {summary["date"]}'
    partial = '' if summary['complete'] else '<p class="bad">Partial result: it was stopped.</p>'
    body = (
        f'<h1>{html.escape(summary["task"])}</h1><div class="dim">{html.escape(made)}</div>'
        f'{partial}<p>Goal: {html.escape(summary["goal"])}. 95 % intervals: Wilson for rates, '
        'bootstrap over episodes for means. SR, SPL: Anderson et al. 2018 (arXiv:1807.06757); '
        'nDTW: Ilharco et al. 2019 (arXiv:1907.05446).</p>'
        f'{_film(folder)}<h2>Metrics</h2>{_metrics(summary)}'
        f'<h2>Maps</h2>{_maps(folder)}<h2>Episodes</h2>{_episodes(summary)}'
    )
    write_page(path, 'rooms', body)
    return path


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page of its own: no other file is needed to read it."""
    beside = path.with_name(f'.{path.name}')
    beside.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<style>{CSS}</style></head><body><main>{body}</main></body></html>\n',
        encoding='utf-8',
    )
    beside.replace(path)


def _film(folder: Path) -> str:
    if not (folder / 'video.mp4').exists():
        return ''
    return '<h2>Film</h2><video controls preload="metadata" src="video.mp4"></video>'


def _metrics(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, row in summary['variants'].items():
        cells = [html.escape(name), rate_cell(row['SR']), rate_cell(row['OSR'])]
        rows.append([*cells, *(mean_cell(row[key]) for key in _COLUMNS)])
    return html_table(('run', 'SR', 'OSR', 'SPL', 'NE [m]', 'nDTW', 'way [m]'), rows)


def _maps(folder: Path) -> str:
    pictures = ''.join(
        f'<img alt="{path.stem}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        for path in sorted((folder / 'maps').glob('*.png'))
    )
    return f'<div class="maps">{pictures}</div>'


def _episodes(summary: Mapping[str, Any]) -> str:
    rows = []
    for row in summary['episode_list']:
        score = row['score']
        kind, word = ('good', 'arrived') if score['success'] else ('bad', 'failed')
        error = '–' if score['error_m'] is None else f'{score["error_m"]:.2f}'
        rows.append(
            [
                str(row['seed']),
                html.escape(row['instruction']),
                f'<span class="{kind}">{word}</span>',
                error,
                f'{score["spl"]:.2f}',
                f'{score["ndtw"]:.2f}',
                f'{row["elapsed_s"]:.1f}',
                html.escape(', '.join(row['bumped'])) or '–',
                str(row['recoveries'] or '–'),
            ]
        )
    scores = ('outcome', 'NE [m]', 'SPL', 'nDTW', 'time [s]')
    return html_table(('seed', 'instruction', *scores, 'bumped', 'recoveries'), rows)


def rate_cell(row: Mapping[str, Any]) -> str:
    """Return a rate with its counts and interval."""
    low, high = row['interval95']
    told = f'{row["success"]} of {row["episodes"]} [{100 * low:.0f}, {100 * high:.0f}] %'
    return f'<b>{100 * row["success_rate"]:.0f} %</b> <span class="dim">{told}</span>'


def mean_cell(row: Mapping[str, Any]) -> str:
    """Return a mean with its interval."""
    if row['mean'] is None:
        return '–'
    low, high = row['interval95']
    return f'<b>{row["mean"]:.2f}</b> <span class="dim">[{low:.2f}, {high:.2f}]</span>'


def html_table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table of cells that are HTML already."""
    top = ''.join(f'<th>{name}</th>' for name in head)
    body = ''.join('<tr>' + ''.join(f'<td>{c}</td>' for c in row) + '</tr>' for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
