"""
`qwen-vla eval suite`: closed loop on a simulated robot, as trained and under the paper's shifts.

out/episodes.jsonl has one line an episode, written as it ends, so a run that was stopped goes on
where it was; suite.json says of what it is, and another policy's folder is refused. With
--against DIR, a finished suite of another policy on the same worlds, both are compared in pairs.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import choose_policy, name_policy, require_checkpoint
from qwen_vla_ros.evaluate.episodes import parse_seeds, write_json
from qwen_vla_ros.evaluate.kept_episodes import EPISODES, append_row, read_rows, run_cases
from qwen_vla_ros.evaluate.manipulation_metrics import ManipulationScore, summarise_manipulation
from qwen_vla_ros.evaluate.navigation_metrics import NavigationScore, summarise_navigation
from qwen_vla_ros.evaluate.paired import compare_paired
from qwen_vla_ros.evaluate.processes import interrupted_by_signals
from qwen_vla_ros.evaluate.shifts import check_shifts
from qwen_vla_ros.evaluate.statistics import success_rate
from qwen_vla_ros.evaluate.suite_report import write_suite_report
from qwen_vla_ros.evaluate.suite_worlds import World, open_world
from qwen_vla_ros.evaluate.summary import tell_partial
from qwen_vla_ros.policy import Policy

FACTS, SUMMARY = 'suite.json', 'summary.json'
Case = tuple[str, str, int]  # task, shift, seed


def run_from_arguments(args: argparse.Namespace) -> int:
    """Run what is still missing, and leave episodes, summary, films of failures and report."""
    robot = Embodiment.load(args.robot).name
    shifts = check_shifts(robot, args.shifts.split(','))
    seeds = parse_seeds(args.seeds)
    if args.workers < 1:
        raise QwenVlaError(f'--workers {args.workers}: at least 1')
    against = read_episodes(args.against) if args.against else None
    args.out = args.out or Path('out', 'suite', robot)
    facts = {'robot': robot, 'policy': name_policy(args), 'weights': _weights(args)}
    args.out.mkdir(parents=True, exist_ok=True)
    _refuse_other(args.out, facts)
    done = read_episodes(args.out) if (args.out / EPISODES).exists() else {}
    cases = [(task, shift, seed) for task in tasks_of(robot) for shift in shifts for seed in seeds]
    missing = [case for case in cases if case not in done]
    started = time.monotonic()
    try:
        with interrupted_by_signals():
            given = argparse.Namespace(**{k: v for k, v in vars(args).items() if not callable(v)})
            rows = run_cases(_Runner, (given, robot), missing, args.workers)
            for row in tqdm(rows, total=len(missing), unit='episode', disable=None):
                done[_case(row)] = row
                append_row(args.out / EPISODES, row)
    finally:
        found = [done[case] for case in cases if case in done]
        summary = summarise_suite(facts, found, len(cases), against)
        summary['seconds'] = round(time.monotonic() - started, 1)
        write_json(summary, args.out / SUMMARY)
        write_suite_report(summary, found, args.out)
        _tell(summary)
        tell_partial(len(found), len(cases))
        print(f'report: {args.out / "report.html"}')
    return 0 if found else 1


def tasks_of(robot: str) -> tuple[str, ...]:
    """Return the tasks of a simulated robot."""
    from qwen_vla_ros.sim.aloha.scene import TASKS

    return {'widowx': ('touch',), 'aloha': TASKS, 'mobile_base': ('rooms',)}[robot]


def summarise_suite(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    planned: int,
    against: Mapping[Case, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return rates with Wilson intervals by task and shift, and the paired comparison."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f'{row["task"]}, {row["shift"]}', []).append(row)
    summary: dict[str, Any] = {
        **facts,
        'planned_episodes': planned,
        'complete': len(rows) == planned,
        'date': time.strftime('%Y-%m-%d %H:%M'),
        'groups': {name: _summarise(found) for name, found in groups.items()},
    }
    if against is not None:
        groups['all'] = list(rows)
        summary['against'] = next((row['policy'] for row in against.values()), '')
        summary['comparison'] = {
            name: compare_paired(
                {_case(row): row['success'] for row in found},
                {case: row['success'] for case, row in against.items()},
            )
            for name, found in groups.items()
            if any(_case(row) in against for row in found)
        }
    return summary


def read_episodes(folder: Path) -> dict[Case, dict[str, Any]]:
    """Return the episodes of a suite by case; a line that was cut off is left out."""
    try:
        return read_rows(folder / EPISODES, _case)
    except OSError as error:
        raise QwenVlaError(f'{folder}: no suite, there is no {EPISODES}') from error


def _refuse_other(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write of what the suite is; refuse a folder that holds another one's episodes."""
    path = folder / FACTS
    if path.exists():
        known = json.loads(path.read_text(encoding='utf-8'))
        if known != facts:
            other = ' with other weights' if known.get('policy') == facts['policy'] else ''
            raise QwenVlaError(
                f'--out {folder} holds the suite of {known.get("policy")}{other} on '
                f'{known.get("robot")}; choose another folder'
            )
    write_json(facts, path)


def _weights(args: argparse.Namespace) -> str:
    """Return the fingerprint of a checkpoint; '' of a policy without one."""
    if args.policy != 'model':
        return ''
    from qwen_vla_ros.model.adapters import fingerprint
    from qwen_vla_ros.model.hub import find_checkpoint

    folder = Path(name_policy(args))
    require_checkpoint(folder)
    return fingerprint(find_checkpoint(folder))


class _Runner:
    """A worker: worlds and policy come with the first case that needs them."""

    def __init__(self, args: argparse.Namespace, robot: str) -> None:
        self._args, self._robot = args, robot
        self._worlds: dict[str, World] = {}
        self._policy: Policy | None = None

    def run(self, case: Case) -> dict[str, Any]:
        """Run a case."""
        task, shift, seed = case
        args = self._args
        if task not in self._worlds:
            self._worlds[task] = open_world(self._robot, task, args)
        world = self._worlds[task]
        if self._policy is None:
            self._policy = world.policy() or choose_policy(args)
        film = args.out / 'failures' / f'{task}_{shift}_{seed:05d}.mp4' if args.films else None
        facts = world.run(self._policy, shift, seed, film)
        head = {'task': task, 'shift': shift, 'seed': seed, 'policy': name_policy(args)}
        return {**head, **facts}

    def close(self) -> None:
        """Free the GL contexts."""
        for world in self._worlds.values():
            world.close()


def _case(row: Mapping[str, Any]) -> Case:
    return str(row['task']), str(row['shift']), int(row['seed'])


def _summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metrics of one task under one shift."""
    kinds: dict[str, tuple[type, Callable[..., dict[str, Any]]]] = {
        'navigation': (NavigationScore, summarise_navigation),
        'manipulation': (ManipulationScore, summarise_manipulation),
    }
    found = success_rate(row['success'] for row in rows)
    found['elapsed_s'] = float(np.mean([row['elapsed_s'] for row in rows]))
    for name, (kind, summarise) in kinds.items():
        scores = [kind(**row[name]) for row in rows if row.get(name)]
        if scores:
            found[name] = summarise(scores)
    return found


def _tell(summary: Mapping[str, Any]) -> None:
    for name, row in summary['groups'].items():
        low, high = row['interval95']
        score = row.get('manipulation', {}).get('MS', {}).get('mean')
        told = '' if score is None else f'  MS {score:.1f}'
        print(f'{name:24} {row["success"]} of {row["episodes"]} [{low:.0%}, {high:.0%}]{told}')
    for name, row in summary.get('comparison', {}).items():
        print(
            f'{name:24} {row["difference"]:+.2f} against {summary["against"]} on '
            f'{row["worlds"]} worlds, p {row["p"]:.3g}'
        )
