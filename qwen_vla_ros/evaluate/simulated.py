"""`qwen-vla eval sim`: closed loop in the gymnasium world, with baselines and a report."""

import argparse
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import choose_policy, name_policy
from qwen_vla_ros.evaluate.closed_loop import VARIANTS, run_tasks
from qwen_vla_ros.evaluate.episodes import Episode, parse_seeds, plan_tasks, write_json
from qwen_vla_ros.evaluate.plots import plot_latency, plot_success
from qwen_vla_ros.evaluate.report import write_report
from qwen_vla_ros.evaluate.statistics import success_rate
from qwen_vla_ros.evaluate.summary import summarise, tell_partial
from qwen_vla_ros.sim.aloha import vx300s

TASK = 'touch the named object of three (simulated WidowX)'


def run_from_arguments(args: argparse.Namespace) -> int:
    """
    Run, print the rates, and leave summary.json, plots and report.html; 1 without episodes.

    Without --out each robot has a folder of its own, so none overwrites another's report.
    """
    embodiment = Embodiment.load(args.robot)
    args.out = args.out or Path('out', 'eval', embodiment.name)
    if embodiment.action_names() == vx300s.JOINT_NAMES:
        from qwen_vla_ros.evaluate.bimanual import run_from_arguments as run_both_arms

        return run_both_arms(args)
    if embodiment.action_groups()[0].kind == 'waypoint':
        from qwen_vla_ros.evaluate.rooms import run_from_arguments as run_rooms

        return run_rooms(args)
    tasks = plan_tasks(parse_seeds(args.seeds), args.swap, showcase=False)
    args.out.mkdir(parents=True, exist_ok=True)
    policy = choose_policy(args)
    variants = VARIANTS if args.baselines else VARIANTS[:1]
    found: dict[str, list[Episode]] = {}
    started = time.monotonic()
    try:
        with tqdm(total=len(tasks) * len(variants), unit='episode', disable=None) as bar:
            for variant in variants:
                bar.set_description(variant)
                for episode in run_tasks(policy, tasks, variant):
                    found.setdefault(variant, []).append(episode)
                    _write(args, found, len(tasks), time.monotonic() - started)
                    bar.update()
    finally:
        summary = _write(args, found, len(tasks), time.monotonic() - started)
        _draw(summary, found, args.out)
        tell_partial(**summary['run'])
        for variant, row in summary['baseline_details'].items():
            print(f'{variant}: {row["success"]} of {row["episodes"]}')
        print(f'report: {args.out / "report.html"}')
    return 0 if found else 1


def _write(
    args: argparse.Namespace, found: dict[str, list[Episode]], planned: int, seconds: float
) -> dict[str, Any]:
    """Write summary.json of what there is and return it; planned episodes of each variant."""
    variants = len(VARIANTS) if args.baselines else 1
    own = found.get('policy', [])
    details = {
        variant: success_rate(episode.success for episode in episodes)
        for variant, episodes in found.items()
    }
    summary = summarise(
        own,
        TASK,
        'gymnasium',
        planned,
        run={'ended': sum(map(len, found.values())), 'planned': planned * variants},
        policy=name_policy(args),
        date=time.strftime('%Y-%m-%d %H:%M'),
        baseline_details=details,
        durations_s={'whole run': round(seconds, 1)},
    )
    summary['baselines'] = {
        variant: row['success_rate'] for variant, row in details.items() if variant != 'policy'
    }
    write_json(summary, args.out / 'summary.json')
    return summary


def _draw(summary: dict[str, Any], found: dict[str, list[Episode]], folder: Path) -> None:
    """Draw the plots and the page."""
    seconds = [value for episode in found.get('policy', []) for value in episode.inference_s]
    plot_success(list(summary['baseline_details'].items()), folder / 'success.png')
    plot_latency(seconds, [], folder / 'latency.png', 'Time of one inference')
    write_report(summary, folder)
