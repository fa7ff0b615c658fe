"""
log.jsonl -> curves.png: losses and held-out figures over the steps of a run.

draw_curves() is of the phases of the bundled checkpoint's run, draw_log() of the stages.
"""

import json
from pathlib import Path

LOSSES = ('action', 'text', 'pointing', 'shown', 'named', 'draft')
RECENT = 10  # iterations of reinforcement learning: each has few episodes


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
    """Draw a stage's losses or successes, and its held-out errors by source where it has any."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    errors: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for source, figures in line.get('held_out', {}).items():
            for key, value in figures.items():
                if key.startswith('error_'):
                    errors.setdefault(f'{source} ({key[6:]})', []).append((line['step'], value))
    panels = 2 if errors else 1
    figure, axes = pyplot.subplots(
        1, panels, figsize=(6 * panels, 4), layout='constrained', squeeze=False
    )
    axes = axes[0]
    for key in (*LOSSES, 'success', 'kl'):
        points = [(line['step'], line[key]) for line in lines if key in line]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=key)
    successes = [(line['step'], line['success']) for line in lines if 'success' in line]
    means = [
        (successes[end - 1][0], sum(share for _, share in successes[end - RECENT : end]) / RECENT)
        for end in range(RECENT, len(successes) + 1)
    ]
    if means:
        axes[0].plot(*zip(*means, strict=True), label=f'success, mean of {RECENT}', linewidth=2)
    for label, points in errors.items():
        axes[-1].plot(*zip(*points, strict=True), 'o-', label=label)
    axes[0].set(title='training', xlabel='step')
    if errors:
        axes[-1].set(title='held-out error', xlabel='step', yscale='log')
    for axis in axes:
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
