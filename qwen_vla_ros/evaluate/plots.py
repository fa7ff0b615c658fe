"""The report's pictures: joint tracking, latency histogram, success with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_BLUE, _ORANGE, _GREEN, _GREY = '#2b6cb0', '#dd6b20', '#2f855a', '#a0aec0'
LEAST = 0.002  # rad or m, the height of a panel
_STYLE = {
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': '#e2e8f0',
    'axes.edgecolor': '#718096',
    'font.size': 10,
    'axes.titlesize': 11,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'figure.dpi': 110,
    'legend.frameon': False,
}


def plot_tracking(trace: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """
    Draw commanded against measured joints, one panel each.

    trace: names str [J]; measured_s [T], measured [T, J]; commanded_s [M], commanded [M, J]
    (rad or m, seconds from the start of the episode, NaN where nothing was commanded).
    """
    names = [str(name) for name in trace['names']]
    rows = (len(names) + 1) // 2
    figure, axes = new_figure(rows, 2, (10, 1.75 * rows + 0.6))
    for index, (name, axis) in enumerate(zip(names, axes.flat, strict=False)):
        axis.plot(
            trace['commanded_s'], trace['commanded'][:, index], color=_ORANGE, lw=2.2, alpha=0.8,
            label='commanded',
        )  # fmt: skip
        axis.plot(
            trace['measured_s'], trace['measured'][:, index], color=_BLUE, lw=1.2,
            label='measured',
        )  # fmt: skip
        unit = 'm' if 'finger' in name else 'rad'
        axis.set_title(f'{name} [{unit}]')
    finish_panels(figure, axes, len(names), 'time [s]', title, path)


def plot_latency(
    inference_s: Sequence[float], overhead_s: Sequence[float], path: Path, title: str
) -> None:
    """Draw histograms of the model's time and of the node's own time, with p50 and p95."""
    figure, axes = new_figure(1, 2, (10, 3.0))
    pairs = (
        (inference_s, 'model, one chunk', _BLUE),
        (overhead_s, 'policy node beside it', _GREEN),
    )
    for axis, (values, label, colour) in zip(axes.flat, pairs, strict=True):
        axis.set_title(label)
        axis.set_xlabel('ms')
        values = 1e3 * np.asarray(values)
        if not values.size:
            axis.text(0.5, 0.5, 'not measured', transform=axis.transAxes, ha='center', color=_GREY)
            continue
        axis.hist(values, bins=min(40, max(10, values.size // 3)), color=colour, alpha=0.85)
        for percent, style in ((50, '-'), (95, '--')):
            place = float(np.percentile(values, percent))
            axis.axvline(
                place, color='#1a202c', ls=style, lw=1.2, label=f'p{percent} {place:.1f} ms'
            )
        axis.legend()
    axes.flat[0].set_ylabel('chunks')
    figure.suptitle(title, x=0.01, ha='left', fontsize=12)
    save_figure(figure, path)


def plot_success(rows: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> None:
    """Draw success rates with their 95 % intervals: rows of (label, success_rate() result)."""
    rows = [(label, row) for label, row in rows if row.get('success_rate') is not None]
    figure, axes = new_figure(1, 1, (10, 0.55 * len(rows) + 1.1))
    axis = axes.flat[0]
    for index, (_, row) in enumerate(rows):
        low, high = row['interval95']
        rate = row['success_rate']
        axis.barh(index, rate, height=0.6, color=_GREEN if index == 0 else _GREY, alpha=0.85)
        axis.plot([low, high], [index, index], color='#1a202c', lw=1.6, marker='|', ms=9)
        text = f'{100 * rate:.0f} %  ({row["success"]} of {row["episodes"]})'
        axis.text(1.02, index, text, va='center', transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(rows)), [label for label, _ in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xticks(np.linspace(0, 1, 6), [f'{percent} %' for percent in range(0, 101, 20)])
    axis.grid(axis='y', visible=False)
    axis.set_title('The named object touched first (bar: rate, line: 95 % interval)')
    save_figure(figure, path)


def finish_panels(
    figure: Any, axes: np.ndarray, count: int, told: str, title: str, path: Path
) -> None:
    """Blank the axes beyond count, tell the lowest ones' x, add a legend below and title; save."""
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis in axes.flat[:count]:
        _widen(axis)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 4))
    for axis in axes.flat[max(count - axes.shape[1], 0) : count]:
        axis.set_xlabel(told)
    figure.suptitle(title, x=0.01, ha='left', fontsize=12)
    save_figure(figure, path)


def _widen(axis: Any) -> None:
    """Let a curve that stands still look so: LEAST high at least, numbers without an offset."""
    axis.ticklabel_format(axis='y', useOffset=False)
    low, high = axis.get_ylim()
    lack = LEAST - (high - low)
    if lack > 0:
        axis.set_ylim(low - (lack / 2 if low else 0.0), high + (lack / 2 if low else lack))


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, np.ndarray]:
    """Return a figure that no window system needs, and its axes [rows, columns]."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write the PNG beside and rename it."""
    from matplotlib import rc_context

    beside = path.with_name(f'.{path.name}')
    with rc_context(_STYLE):
        figure.savefig(beside, format='png', dpi=110)
    beside.replace(path)
