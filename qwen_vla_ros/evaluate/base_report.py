"""The parts of a bag's report that are a base's: runs side by side, and error by step."""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.base_measures import BaseMeasures
from qwen_vla_ros.evaluate.plots import new_figure, save_figure

Number = Callable[[float | None], str]
Table = tuple[str, tuple[str, ...], str]  # title, head, rows of HTML
DRIVEN, STOPS = '#2b6cb0', '#be3636'
CHUNKS_DRAWN = 120


def stop_words(run: Mapping[str, Any]) -> str:
    """Return how often STOP was said where the base stood, as the end of a sentence."""
    stop = run['stop']
    if stop['agreement'] is None:
        return ''
    return (
        f'; STOP is as driven in {stop["both"]} of {stop["both"] + stop["only_stood"]} stands, '
        f'said {stop["only_said"]} times on the way'
    )


def compared_lines(number: Number) -> tuple[tuple[str, Any], ...]:
    """Return (what, run -> text) of the table of runs; number: how a value is told."""
    return (
        ('waypoints from the driven way, mean', lambda r: f'{number(r["path"]["mean_m"])} m'),
        ('most', lambda r: f'{number(r["path"]["max_m"])} m'),
        ('way of a chunk / driven meanwhile', lambda r: _both(r['path'], 'predicted_m', number)),
        ('STOP and standing agree', _agreement),
        ('STOP said, but driven on', lambda r: str(r['stop']['only_said'])),
        ('stood, but no STOP', lambda r: str(r['stop']['only_stood'])),
        ('velocities against recorded, RMS', lambda r: _each(r['commands'], 'rms', number)),
        ('seam, p95', lambda r: _each(r['seams'], 'p95', number)),
        ('seam, most', lambda r: _each(r['seams'], 'max', number)),
        ('way sent / measured', lambda r: _sums(r, 'path_m', 'm', number)),
        ('turns sent / measured', lambda r: _sums(r, 'turn_rad', 'rad', number)),
    )


def waypoint_tables(
    name: str, run: Mapping[str, Any], step_s: float, number: Number
) -> tuple[Table, Table]:
    """Return what is told of each waypoint of the horizon, and of all together."""
    error, units = run['error'], run['units']
    steps = [error['distance_by_step'], *(error['rms_by_step'].get(n, []) for n in units)]
    rows = ''.join(
        _row((str(step + 1), f'{(step + 1) * step_s:g} s', *map(number, values)))
        for step, values in enumerate(zip(*steps, strict=False))
    )
    head = ('waypoint', 'after', 'distance [m]', *(f'{n} [{u}]' for n, u in units.items()))
    tables = [*(error[key] for key in ('rms', 'mean', 'max', 'still_rms')), run['agreement']]
    whole = ''.join(
        _row((html.escape(n), unit, *(number(table.get(n)) for table in tables)))
        for n, unit in units.items()
    )
    told = ('', 'unit', 'RMS', 'mean', 'most', 'standing still', 'direction')
    return (
        (f'{name}: error by waypoint, RMS', head, rows),
        (f'{name}: waypoints', told, whole),
    )


def plot_ways(runs: Sequence[tuple[str, BaseMeasures]], path: Path, title: str) -> None:
    """Draw the driven way from above, and of each run the waypoints, in odometry's frame."""
    figure, axes = new_figure(1, len(runs), (12, 6.5))
    for axis, (label, measures) in zip(axes.flat, runs, strict=True):
        for _, stops, poses in measures.predicted[:: _stride(measures.predicted)]:
            if stops:
                axis.plot(*poses[0, :2], color=STOPS, marker='x', ms=6, ls='')
            else:
                axis.plot(poses[:, 0], poses[:, 1], color='#dd6b20', lw=0.9, marker='.', ms=3)
        way = np.array(measures.way.rows).reshape(-1, 3)
        axis.plot(way[:, 0], way[:, 1], color=DRIVEN, lw=1.8)
        axis.set_aspect('equal', 'datalim')
        axis.set_title(label)
        axis.set_xlabel('x [m]')
    axes.flat[0].set_ylabel('y [m]')
    handles = [
        axes.flat[0].plot([], [], color=colour, marker=mark, ls=line, label=text)[0]
        for colour, mark, line, text in (
            (DRIVEN, '', '-', 'driven in the bag'),
            ('#dd6b20', '.', '-', 'waypoints'),
            (STOPS, 'x', '', 'STOP'),
        )
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=3)
    figure.suptitle(title, x=0.01, ha='left', fontsize=12)
    save_figure(figure, path)


def _stride(items: Sequence[Any]) -> int:
    return max(len(items) // CHUNKS_DRAWN, 1)


def _agreement(run: Mapping[str, Any]) -> str:
    stop = run['stop']
    if stop['agreement'] is None:
        return '–'
    return f'{100 * stop["agreement"]:.0f} % of {stop["compared"]} chunks'


def _both(path: Mapping[str, Any], key: str, number: Number) -> str:
    return f'{number(path[key])} / {number(path["driven_m"])} m'


def _each(table: Mapping[str, Any], key: str, number: Number) -> str:
    units = table['units']
    return ', '.join(f'{number(v)} {units[n]} ({n})' for n, v in table[key].items()) or '–'


def _sums(run: Mapping[str, Any], key: str, unit: str, number: Number) -> str:
    return ' / '.join(f'{number(run[part][key])} {unit}' for part in ('commanded', 'measured'))


def _row(cells: Sequence[str]) -> str:
    return '<tr>' + ''.join(f'<td class="n">{cell}</td>' for cell in cells) + '</tr>'
