"""
log.jsonl -> curves.png: losses and held-out figures over the steps of a run.

draw_curves() is of the phases of the bundled checkpoint's run, draw_log() of the stages.
"""

import json
from collections.abc import Sequence
from pathlib import Path

LOSSES = ('action', 'text', 'pointing', 'shown', 'named', 'draft')
RECENT = 10  # iterations of reinforcement learning: each has few episodes
RESOLVED = 60  # means over a whole run
COLUMNS = 3  # panels


def draw_curves(log: Path, picture: Path) -> None:
    """Draw one panel a kind of figure; phases follow each other on the step axis."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    panels = {
        'loss': ('grounding', 'action'),
        'held-out distance (cm)': ('localisation_median_cm', 'chunk_median_cm'),
        'held-out share': ('found', 'ends_on', 'other_object'),
    }
    series: dict[str, list[tuple[int, float]]] = {}
    begin, last, phase = 0, 0, None
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry['phase'] != phase:
            phase, begin = entry['phase'], last
        last = begin + entry['step']
        for key, value in {**entry, **entry.get('held_out', {})}.items():
            if any(key in keys for keys in panels.values()):
                series.setdefault(key, []).append((last, value))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 4), layout='constrained')
    for axis, (title, keys) in zip(axes, panels.items(), strict=True):
        for key in keys:
            if key in series:
                axis.plot(*zip(*series[key], strict=True), label=key)
        axis.set(title=title, xlabel='step')
        if title != 'held-out share':
            axis.set_yscale('log')
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def draw_log(log: Path, picture: Path) -> None:
    """Draw a stage's losses or successes, and a panel of held-out errors for each source."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    errors: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        for source, figures in line.get('held_out', {}).items():
            for key, value in figures.items():
                if key.startswith('error_'):
                    own = errors.setdefault(source, {}).setdefault(key[6:], [])
                    own.append((line['step'], value))
    columns = min(1 + len(errors), COLUMNS)
    rows = -(-(1 + len(errors)) // columns)
    size = 6 * columns, 4 * rows
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, layout='constrained', squeeze=False
    )
    training, *others = axes.flat
    for key in (*LOSSES, 'success', 'kl'):
        points = [(line['step'], line[key]) for line in lines if key in line]
        if points:
            count = RECENT if key == 'success' else max(1, len(points) // RESOLVED)
            drawn = training.plot(*zip(*points, strict=True), alpha=0.3, linewidth=0.7)
            colour, told = drawn[0].get_color(), f'{key}, mean of {count}' if count > 1 else key
            training.plot(*_means(points, count), color=colour, label=told)
    training.set(title='training', xlabel='step')
    for axis, (source, figures) in zip(others, errors.items(), strict=False):
        axis.set_prop_cycle(color=pyplot.get_cmap('tab20').colors)
        for key, points in figures.items():
            axis.plot(*zip(*points, strict=True), 'o-', markersize=3, linewidth=1, label=key)
        axis.set(title=f'{source}: held-out error', xlabel='step', yscale='log')
    for axis in axes.flat[1 + len(errors) :]:
        axis.set_axis_off()
    for axis in axes.flat[: 1 + len(errors)]:
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=6, loc='center left', bbox_to_anchor=(1.0, 0.5))
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)


def _means(points: Sequence[tuple[int, float]], count: int) -> tuple[list[int], list[float]]:
    """Return steps and the means of the `count` last values at each; of fewer at the beginning."""
    steps, values = zip(*points, strict=True)
    return list(steps), [
        sum(values[max(0, end - count) : end]) / min(count, end)
        for end in range(1, len(values) + 1)
    ]
