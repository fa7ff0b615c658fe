"""Episodes -> summary.json: success with its interval, latencies, rates, what safety did."""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_vla_ros.evaluate.episodes import Episode
from qwen_vla_ros.evaluate.statistics import percentiles, success_rate


def summarise(
    episodes: Sequence[Episode], task: str, through: str, planned: int, **more: Any
) -> dict[str, Any]:
    """
    Return the summary of the episodes so far.

    Swapped episodes count on their own (instruction_swap) unless there are only such. through
    names the route ('ros' or 'gymnasium'); planned episodes tell whether it is complete; so does
    run, {'ended', 'planned'}, in `more`: all episodes, those of the baselines too.
    """
    plain = [episode for episode in episodes if not episode.swapped]
    swapped = [episode for episode in episodes if episode.swapped]
    run = more.get('run', {'ended': len(episodes), 'planned': planned})
    return {
        'task': task,
        'through': through,
        **success_rate(episode.success for episode in plain),
        'complete': run['ended'] == run['planned'],
        'planned_episodes': planned,
        'per_instruction': _grouped(plain, _sentence),
        'per_object': _grouped(plain, lambda episode: episode.target),
        'first_touched': dict(Counter(_what_was_touched(episode) for episode in plain)),
        'instruction_swap': success_rate(episode.success for episode in swapped),
        'baselines': {},
        'latency_ms': _milliseconds(episodes, 'inference_s'),
        'node_overhead_ms': _milliseconds(episodes, 'overhead_s'),
        'chunk_age_ms': _milliseconds(episodes, 'chunk_age_s'),
        'rate_hz': _mean(episode.command_rate_hz for episode in episodes),
        'chunk_rate_hz': _mean(episode.chunk_rate_hz for episode in episodes),
        'tracking_rms_rad': _mean(episode.tracking_rms for episode in episodes),
        'safety': _safety(episodes),
        'seeds': [episode.seed for episode in plain],
        'machine': describe_machine(),
        **more,
        'episode_list': [episode.to_json() for episode in episodes],
    }


def tell_partial(ended: int, planned: int) -> None:
    """Print, where a run was stopped, of how many episodes its figures and its report are."""
    if ended < planned:
        print(f'PARTIAL: {ended} of {planned} episodes ended before the run was stopped')


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to judge the times: processor, cores, memory, Python."""
    return {
        'system': f'{platform.system()} {platform.machine()}',
        'processor': _processor(),
        'cores': len(os.sched_getaffinity(0)),
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
        'python': platform.python_version(),
    }


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with Path('/proc/cpuinfo').open(encoding='utf-8') as file:
            lines = [line for line in file if line.startswith('model name')]
    except OSError:
        lines = []
    return lines[0].partition(':')[2].strip() if lines else platform.processor()


def _sentence(episode: Episode) -> str:
    """Return the instruction with its object left out, so that few rows tell all."""
    return episode.instruction.replace(episode.target, '<object>')


def _grouped(episodes: Sequence[Episode], key: Any) -> dict[str, Any]:
    """Return the success rate of each group, by name."""
    groups: dict[str, list[bool]] = {}
    for episode in episodes:
        groups.setdefault(key(episode), []).append(episode.success)
    return {name: success_rate(groups[name]) for name in sorted(groups)}


def _what_was_touched(episode: Episode) -> str:
    """Return 'named', 'another' or 'nothing'."""
    if episode.first_touched is None:
        return 'nothing'
    return 'named' if episode.success else 'another'


def _milliseconds(episodes: Sequence[Episode], field: str) -> dict[str, float | None]:
    """Return percentiles in ms of one of the episodes' lists of seconds."""
    return percentiles([1e3 * value for episode in episodes for value in getattr(episode, field)])


def _mean(values: Any) -> float | None:
    """Return the mean of what was measured; None when nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _safety(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return how often the gate refused and the arm held, and why."""
    holds = [hold for episode in episodes for hold in episode.holds]
    reasons: Mapping[str, int] = Counter(str(hold['reason']) for hold in holds)
    return {
        'refusals': sum(episode.refusals for episode in episodes),
        'holds': len(holds),
        'latches': sum(count for reason, count in reasons.items() if 'reset_safety' in reason),
        'hold_reasons': dict(reasons),
    }
