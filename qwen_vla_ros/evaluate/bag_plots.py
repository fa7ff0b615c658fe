"""The pictures of a bag's report: joints in time, error by step, and the timeline as SVG."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.bag_measures import Measures
from qwen_vla_ros.evaluate.plots import finish_panels, new_figure

COLOURS = ('#dd6b20', '#2f855a', '#805ad5', '#d53f8c', '#319795', '#b7791f')
MEASURED, GREY = '#2b6cb0', '#a0aec0'
MARKS = {'latched': '#be3636', 'refused': '#dd6b20', 'policy': '#805ad5'}
CHUNKS_DRAWN = 400


def plot_joints(
    runs: Sequence[tuple[str, Measures]], first_ns: int, path: Path, title: str
) -> None:
    """Draw the measured joints, each run's commands, and the chunks of the first run."""
    names, units = runs[0][1].names, runs[0][1].units
    rows = (len(names) + 1) // 2
    figure, axes = new_figure(rows, 2, (12, 1.8 * rows + 0.6))
    for column, (name, axis) in enumerate(zip(names, axes.flat, strict=False)):
        axis.set_title(f'{name} [{units[name]}]')
        _chunks(axis, runs[0][1], first_ns, column)
        for (label, measures), colour in zip(runs, COLOURS * len(runs), strict=False):
            times, values = _series(measures.commands, first_ns, column)
            axis.plot(times, values, color=colour, lw=1.6, alpha=0.85, label=f'{label}, executed')
        times, values = _series(runs[0][1].joints, first_ns, column)
        axis.plot(times, values, color=MEASURED, lw=1.1, label='measured in the bag')
    finish_panels(figure, axes, len(names), 'time in the bag [s]', title, path)


def plot_steps(
    results: Sequence[tuple[str, Mapping[str, Any]]], step_s: float, path: Path
) -> None:
    """Draw the error by step of the chunk, joint by joint, with that of standing still."""
    names = list(results[0][1]['units'])
    rows = (len(names) + 2) // 3
    figure, axes = new_figure(rows, 3, (12, 1.9 * rows + 0.4))
    for name, axis in zip(names, axes.flat, strict=False):
        axis.set_title(f'{name} [{results[0][1]["units"][name]}]')
        for (label, result), colour in zip(results, COLOURS * len(results), strict=False):
            values = result['error']['rms_by_step'].get(name, [])
            first = int(result['of'] == 'base')  # a base is at its first waypoint a step later
            times = step_s * (first + np.arange(len(values)))
            axis.plot(times, values, color=colour, marker='.', label=label)
        still = results[0][1]['error']['still_rms'].get(name)
        if still is not None:
            axis.axhline(still, color=GREY, ls='--', lw=1.2, label='standing still')
        axis.set_ylim(bottom=0)
    told = 'time into the chunk [s]'
    finish_panels(figure, axes, len(names), told, 'RMS error by step', path)


def timeline(
    results: Sequence[tuple[str, Mapping[str, Any]]], first_ns: int, seconds: float
) -> str:
    """Return an SVG: one lane a run, stages as bars, events as marks that tell their words."""
    width, lane, left = 1000, 34, 150
    scale = (width - left - 10) / max(seconds, 1e-3)
    parts = []
    for row, (label, result) in enumerate(results):
        y = 8 + row * lane
        parts.append(f'<text x="4" y="{y + 15}" font-size="12">{html.escape(label[:22])}</text>')
        stages = [e for e in result['events'] if e['kind'] == 'stage']
        for event, after in zip(stages, [*stages[1:], None], strict=True):
            begin = (event['time_ns'] - first_ns) * 1e-9
            end = seconds if after is None else (after['time_ns'] - first_ns) * 1e-9
            tint = '#9ad3b4' if event['text'].startswith('RUNNING') else '#e2e8f0'
            parts.append(
                _rect(left + begin * scale, y, (end - begin) * scale, 20, tint, event, begin)
            )
        for event in result['events']:
            if event['kind'] in MARKS:
                begin = (event['time_ns'] - first_ns) * 1e-9
                x = left + begin * scale
                parts.append(_rect(x - 1, y - 3, 3, 26, MARKS[event['kind']], event, begin))
    base = 8 + len(results) * lane
    for tick in np.linspace(0, seconds, 9):
        x = left + tick * scale
        parts.append(f'<text x="{x:.1f}" y="{base + 12}" font-size="11">{tick:.1f} s</text>')
    return (
        f'<svg id="timeline" viewBox="0 0 {width + 30} {base + 18}" width="100%" '
        f'data-left="{left}" data-scale="{scale:.6f}">' + ''.join(parts) + '</svg>'
    )


def _rect(
    x: float, y: float, w: float, h: float, colour: str, event: Mapping[str, Any], at_s: float
) -> str:
    told = html.escape(f'{at_s:.2f} s  {event["kind"]}: {event["text"]}')
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(w, 1):.1f}" height="{h}" fill="{colour}" '
        f'data-s="{at_s:.3f}"><title>{told}</title></rect>'
    )


def _series(series: Any, first_ns: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Return s and values; a gap is not bridged."""
    times = (np.array(series.times, float) - first_ns) * 1e-9
    values = np.array([row[column] for row in series.rows], float)
    if len(times) > 2:
        gaps = np.flatnonzero(np.diff(times) > max(0.25, 5 * np.median(np.diff(times))))
        times, values = np.insert(times, gaps + 1, np.nan), np.insert(values, gaps + 1, np.nan)
    return times, values


def _chunks(axis: Any, measures: Measures, first_ns: int, column: int) -> None:
    """Draw every n-th predicted chunk as a thin line."""
    every = max(1, len(measures.predicted) // CHUNKS_DRAWN)
    for start_ns, _, rows in measures.predicted[::every]:
        begin = (start_ns - first_ns) * 1e-9
        times = begin + measures.step_s * np.arange(len(rows))
        axis.plot(times, rows[:, column], color=COLOURS[0], lw=0.5, alpha=0.35)
