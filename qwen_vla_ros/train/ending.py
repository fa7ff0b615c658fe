"""What is told at the end of a run: how far it came, where its pictures are, what comes next."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwen_vla_ros.train.curves import LOSSES

SIMULATED = ('widowx', 'aloha', 'mobile_base')


def way_of_losses(log: Path) -> str:
    """Return the mean of each loss over the first and over the last tenth of its steps."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = []
    for name in LOSSES:
        values = [line[name] for line in lines if name in line]
        if values:
            tenth = max(1, len(values) // 10)
            first, last = (sum(some) / tenth for some in (values[:tenth], values[-tenth:]))
            told.append(f'{name} {first:.3g} to {last:.3g}')
    return 'loss, first to last tenth of the steps: ' + ', '.join(told)


def held_out_line(source: str, figures: Mapping[str, float]) -> str:
    """Return a source's held-out errors by unit, beside those of one who stands still."""
    told = []
    for key, value in figures.items():
        if key.startswith('error_'):
            unit = key.removeprefix('error_')
            still = figures.get(f'still_{unit}')
            beside = '' if still is None else f' (standing still: {still:.4f})'
            told.append(f'{unit} {value:.4f}{beside}')
    return f'held out, {source}, {figures["samples"]:.0f} samples: ' + ', '.join(told)


def pictures_line(out: Path) -> str:
    """Return where a run's curves are, and its films where it has any."""
    films = f'; films: {out / "films"}' if (out / 'films').is_dir() else ''
    return f'curves: {out / "curves.png"}{films}'


def next_line(folder: Path, robots: Iterable[str], before: Path | None = None) -> str:
    """Return the command that evaluates a checkpoint, or adapters of the one before."""
    words = ['--checkpoint', str(before or folder)]
    words += ['--adapters', str(folder)] if before else []
    known = [name for name in SIMULATED if name in set(robots)]
    where = ['sim', '--robot', known[0]] if known else ['bag', 'BAG']
    return 'next: ' + shlex.join(['qwen-vla', 'eval', *where, *words])
