"""
`qwen-vla eval sim --robot aloha`: both tasks through gymnasium, with baselines, and a film.

The world waits for the policy here, so this measures the policy alone. The sentence of a seed is
drawn from the seed, as its scene is. Baselines: no_language (the sentence of a transfer names a
cube at random; with a single peg there is nothing to draw) and no_image (pictures of another
scene).
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bimanual_film import AlohaFilm
from qwen_vla_ros.evaluate.choose_policy import choose_policy, name_policy
from qwen_vla_ros.evaluate.closed_loop import OTHER_SCENE, TimedPolicy
from qwen_vla_ros.evaluate.episodes import Episode, Task, parse_seeds, write_json
from qwen_vla_ros.evaluate.plots import plot_latency, plot_success
from qwen_vla_ros.evaluate.report import write_report
from qwen_vla_ros.evaluate.statistics import success_rate
from qwen_vla_ros.evaluate.summary import summarise, tell_partial
from qwen_vla_ros.policy import AblatedPolicy, Policy
from qwen_vla_ros.sim.aloha.environment import AlohaEnv, run_episode
from qwen_vla_ros.sim.aloha.scene import (
    INSERTION,
    TASKS,
    TRANSFER,
    AlohaScene,
    instruction_for,
    sample_scene,
)

TASK = 'hand the named cube over, and bring the peg into the socket (simulated ALOHA)'
FILMED = 1  # so many of the first episodes of each task
VARIANTS = {
    TRANSFER: ('policy', 'no_language', 'no_image'),
    INSERTION: ('policy', 'no_image'),
}


@dataclass(frozen=True)
class Trial:
    """
    One episode that ended: which task, which variant, and the best stage of 4.

    gave_up: the teacher's plan asked for a pose out of reach, which counts as a failure.
    """

    task: str
    variant: str
    best: int
    episode: Episode
    gave_up: bool = False


def run_from_arguments(args: argparse.Namespace) -> int:
    """Run, print the rates, and leave summary.json, plots, film and report.html."""
    if args.swap:
        raise QwenVlaError('--swap: the tasks of aloha have no swapped form; leave it out')
    seeds = parse_seeds(args.seeds)
    args.out.mkdir(parents=True, exist_ok=True)
    policy = choose_policy(args)
    planned = sum(len(VARIANTS[task]) if args.baselines else 1 for task in TASKS) * len(seeds)
    trials: list[Trial] = []
    started = time.monotonic()
    try:
        with (
            AlohaFilm(args.out / 'video.mp4') as film,
            tqdm(total=planned, unit='episode', disable=None) as bar,
        ):
            for trial in run_trials(
                policy, seeds, args.baselines, film, FILMED, bar.set_description
            ):
                trials.append(trial)
                bar.update()
    finally:
        _write(args, trials, len(seeds) * len(TASKS), planned, time.monotonic() - started)
        tell_partial(len(trials), planned)
    return 0 if trials else 1


def _write(
    args: argparse.Namespace,
    trials: Sequence[Trial],
    own_planned: int,
    planned: int,
    seconds: float,
) -> None:
    """Write and print what there is; planned counts the baselines' episodes too."""
    own = [trial.episode for trial in trials if trial.variant == 'policy']
    details = rates(trials)
    summary = summarise(
        own,
        TASK,
        'gymnasium',
        own_planned,
        run={'ended': len(trials), 'planned': planned},
        policy=name_policy(args),
        date=time.strftime('%Y-%m-%d %H:%M'),
        baseline_details=details,
        counted='both arms done, stage 4 of 4',
        durations_s={'whole run': round(seconds, 1)},
    )
    summary['baselines'] = {
        name: row['success_rate'] for name, row in details.items() if ', ' in name
    }
    write_json(summary, args.out / 'summary.json')
    plot_success(list(details.items()), args.out / 'success.png')
    inferences = [value for episode in own for value in episode.inference_s]
    plot_latency(inferences, [], args.out / 'latency.png', 'Time of one inference')
    write_report(summary, args.out)
    for name, row in details.items():
        low, high = row['interval95']
        print(
            f'{name}: {row["success"]} of {row["episodes"]} (95 %: {low:.0%} to {high:.0%}), '
            f'mean best stage {row["mean_stage"]:.2f} of 4' + _told_gave_up(row)
        )
    print(f'report: {args.out / "report.html"}')


def run_trials(
    policy: Policy,
    seeds: Sequence[int],
    baselines: bool = True,
    film: AlohaFilm | None = None,
    filmed: int = 0,
    started: Callable[[str], None] = lambda label: None,
) -> Iterator[Trial]:
    """Yield one Trial a seed, task and variant; the first `filmed` of each task are filmed."""
    for task in TASKS:
        env = AlohaEnv(task)
        try:
            env.reset(seed=OTHER_SCENE)
            images = env.observation().images
            for variant in VARIANTS[task] if baselines else ('policy',):
                started(f'{task}, {variant}')
                for number, seed in enumerate(seeds):
                    shown = film if variant == 'policy' and number < filmed else None
                    yield _run(policy, env, seed, variant, images, shown)
        finally:
            env.close()


def rates(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Return success with its interval, and mean best stage, of each task and variant."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        name = trial.task if trial.variant == 'policy' else f'{trial.task}, {trial.variant}'
        groups.setdefault(name, []).append(trial)
    return {
        name: {
            **success_rate(trial.episode.success for trial in found),
            'mean_stage': sum(trial.best for trial in found) / len(found),
            'gave_up': sum(trial.gave_up for trial in found),
        }
        for name, found in groups.items()
    }


def _told_gave_up(row: Mapping[str, Any]) -> str:
    count = row['gave_up']
    return f'; {count} gave up, as the plan asked for an unreachable pose' if count else ''


def _run(
    policy: Policy,
    env: AlohaEnv,
    seed: int,
    variant: str,
    images: Mapping[str, np.ndarray],
    film: AlohaFilm | None,
) -> Trial:
    """Run one episode and return what happened."""
    scene = sample_scene(seed, env.task)
    rng = np.random.default_rng([seed, 7])
    names = [item.name for item in scene.objects if item.shape == 'cube']
    target = scene.target if env.task != TRANSFER else names[int(rng.integers(len(names)))]
    sentence = instruction_for(scene, target, rng)
    timed = TimedPolicy(
        _ablated(policy, variant, scene, names, images), Task(seed, sentence, target)
    )
    watch = None if film is None else film.watch(env, timed, f'{env.task}, scene {seed}')
    facts = run_episode(watch or timed, seed, env, target, sentence, on_step=watch and watch.shoot)
    if watch is not None:
        watch.end(facts)
    episode = Episode(
        seed=seed,
        instruction=sentence,
        target=target,
        success=facts['success'],
        first_touched=facts['first_touched'],
        touched=tuple(facts['touched']),
        elapsed_s=facts['elapsed_s'],
        inference_s=tuple(timed.seconds),
        note=f'{env.task}: best stage {facts["best"]} of 4'
        + (f'; gave up: {facts["gave_up"]}' if facts['gave_up'] else ''),
    )
    return Trial(env.task, variant, facts['best'], episode, bool(facts['gave_up']))


def _ablated(
    policy: Policy,
    variant: str,
    scene: AlohaScene,
    names: Sequence[str],
    images: Mapping[str, np.ndarray],
) -> Policy:
    """Return the policy, denied what the variant denies it."""
    if variant == 'no_language':
        rng = np.random.default_rng([scene.seed, 11])
        sentence = instruction_for(scene, names[int(rng.integers(len(names)))], rng)
        return AblatedPolicy(policy, {'instruction': sentence})
    return AblatedPolicy(policy, {'images': images}) if variant == 'no_image' else policy
