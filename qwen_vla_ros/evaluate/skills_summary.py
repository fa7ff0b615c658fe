"""
Episodes of skills -> one figure a skill and stage, with its interval, and what a stage changed.

A skill that succeeds or fails has a rate (Wilson interval; between stages McNemar's exact test on
the same worlds). A trace has a distance: its mean over seeds (bootstrap interval), between stages
the mean change and the exact sign test of seeds that came closer or fell back. Questions count one
by one, several a picture, which the intervals do not know.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.navigation_metrics import mean_with_interval
from qwen_vla_ros.evaluate.paired import compare_paired, mcnemar_exact
from qwen_vla_ros.evaluate.statistics import success_rate

Found = dict[Any, Any]  # world -> success, or distance
IN_SIGHT = 'navigation, goal in sight'
TOLD_FROM = 0.05  # of the chunks: a policy that is refused says nothing of where it would go


def summarise_skills(rows: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> dict[str, Any]:
    """
    Return 'lines': what is measured -> its figures.

    Each has stages (stage -> rate or mean, and the share of chunks that the robot refused), beside
    (a figure to compare with -> its value), steps (each stage against the one before it) and unit
    ('' of a rate).
    """
    lines: dict[str, dict[str, Found]] = {}
    for row in rows:
        for line, world, value in _outcomes(row):
            lines.setdefault(line, {}).setdefault(row['stage'], {})[world] = value
    beside = {**_same_answer(rows), **_baselines(rows)}
    found = {}
    for line, by_stage in lines.items():
        by_stage = {stage: by_stage[stage] for stage in stages if stage in by_stage}
        found[line] = _line(line, by_stage, beside.get(line, {}))
        for stage, share in _refused(rows, line).items():
            found[line]['stages'][stage]['refused'] = share
    return {'lines': found}


def _refused(rows: Sequence[Mapping[str, Any]], skill: str) -> dict[str, float]:
    """Return by stage which share of a skill's chunks the robot refused to carry out."""
    asked: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in rows:
        if row['skill'] == skill and 'refused' in row:
            asked[row['stage']] += row['inferences']
            refused[row['stage']] += row['refused']
    return {stage: refused[stage] / count for stage, count in asked.items()}


def _outcomes(row: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool | float]]:
    """Yield (line, world, success or distance) of an episode."""
    skill, seed = row['skill'], row['seed']
    if 'success' in row:
        yield skill, seed, bool(row['success'])
    if row.get('in_sight'):
        yield IN_SIGHT, seed, bool(row['success'])
    for number, asked in enumerate(row.get('asked', ())):
        yield skill, (seed, number), bool(asked['right'])
        yield f'{skill}, {asked["kind"]}', (seed, number), bool(asked['right'])
    for kind, traces in row.get('traces', {}).items():
        yield f'{skill}, {kind}', seed, traces['distance']


def _same_answer(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by line how often the most frequent answer of each kind of question is right."""
    answers: dict[str, dict[Any, str]] = {}
    for row in rows:
        for number, asked in enumerate(row.get('asked', ())):
            kind = f'{row["skill"]}, {asked["kind"]}'
            answers.setdefault(kind, {})[row['seed'], number] = asked['answer']
    most = {kind: max(Counter(said.values()).values()) for kind, said in answers.items()}
    if not most:
        return {}
    counts = {kind: len(said) for kind, said in answers.items()}
    total = {'questions': sum(most.values()) / sum(counts.values())}
    shares = {kind: most[kind] / counts[kind] for kind in most} | total
    return {line: {'same answer': share} for line, share in shares.items()}


def _baselines(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by line the mean distance of what traces are compared with."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for kind, traces in row.get('traces', {}).items():
            for name, distance in traces['beside'].items():
                line = found.setdefault(f'{row["skill"]}, {kind}', {})
                line.setdefault(name, []).append(distance)
    return {
        line: {name: float(np.mean(values)) for name, values in named.items()}
        for line, named in found.items()
    }


def _line(line: str, by_stage: Mapping[str, Found], beside: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of one line."""
    rate = all(isinstance(value, bool) for found in by_stage.values() for value in found.values())
    names = list(by_stage)
    steps = [
        {
            'before': before,
            'after': after,
            **(compare_paired if rate else _closer)(by_stage[after], by_stage[before]),
        }
        for before, after in pairwise(names)
        if by_stage[before].keys() & by_stage[after].keys()
    ]
    measure = success_rate if rate else _mean
    return {
        'unit': '' if rate else line.rpartition('[')[2].rstrip(']'),
        'stages': {stage: measure(found.values()) for stage, found in by_stage.items()},
        'beside': dict(beside),
        'steps': steps,
    }


def _mean(values: Any) -> dict[str, Any]:
    """Return the mean over seeds with its interval."""
    values = list(values)
    return {'seeds': len(values), **mean_with_interval(values)}


def _closer(first: Found, second: Found) -> dict[str, Any]:
    """Return the change of distances from second to first, on the seeds that both have."""
    changes = [first[key] - second[key] for key in first if key in second]
    spread = mean_with_interval(changes)
    nearer, farther = sum(c < 0 for c in changes), sum(c > 0 for c in changes)
    return {
        'worlds': len(changes),
        'nearer': nearer,
        'farther': farther,
        'difference': spread['mean'],
        'interval95': spread['interval95'],
        'p': mcnemar_exact(nearer, farther),
    }


def table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of text: skills down, stages across, then what a stage changed."""
    stages = list(summary['checkpoints'])
    pairs = list(pairwise(stages))
    head = ['skill', *stages, 'beside', *(f'{a} → {b}' for a, b in pairs)]
    rows = []
    for name, line in summary['lines'].items():
        cells = [_cell(line['stages'].get(stage), line['unit']) for stage in stages]
        others = ', '.join(
            f'{other} {_number(value, line["unit"])}' for other, value in line['beside'].items()
        )
        steps = {(step['before'], step['after']): step for step in line['steps']}
        told = [_step(steps.get(pair), line['unit']) for pair in pairs]
        rows.append([name, *cells, others or '–', *told])
    return head, rows


def _cell(row: Mapping[str, Any] | None, unit: str) -> str:
    """Return a rate or a mean with its interval; a dash where nothing was measured."""
    if row is None:
        return '–'
    low, high = row['interval95']
    if unit:
        return f'{row["mean"]:.3g} [{low:.3g}, {high:.3g}]'
    refused = row.get('refused', 0.0)
    more = f', {100 * refused:.0f} % of chunks refused' if refused >= TOLD_FROM else ''
    return f'{row["success"]} of {row["episodes"]} [{100 * low:.0f}, {100 * high:.0f}] %{more}'


def _number(value: float, unit: str) -> str:
    return f'{value:.3g}' if unit else f'{100 * value:.0f} %'


def _step(step: Mapping[str, Any] | None, unit: str) -> str:
    if step is None:
        return '–'
    change = f'{step["difference"]:+.3g}' if unit else f'{100 * step["difference"]:+.0f} points'
    return f'{change}, p {step["p"]:.2g}'
