"""
`qwen-vla eval sim --robot mobile_base`: instructions followed in furnished rooms, with metrics.

Baselines: no_language reads the sentence of another goal of the same house, no_image (of a model)
sees the pictures of another house, standing says STOP at once.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import choose_policy, name_policy
from qwen_vla_ros.evaluate.episodes import parse_seeds, write_json
from qwen_vla_ros.evaluate.navigation_metrics import (
    NavigationScore,
    score_episode,
    summarise_navigation,
)
from qwen_vla_ros.evaluate.rooms_pictures import RoomsFilm, write_map
from qwen_vla_ros.evaluate.rooms_report import write_rooms_report
from qwen_vla_ros.evaluate.statistics import percentiles
from qwen_vla_ros.evaluate.summary import tell_partial
from qwen_vla_ros.evaluate.video import Film
from qwen_vla_ros.policy import AblatedPolicy, Policy, describe_policy
from qwen_vla_ros.sim.rooms.environment import RoomsEnv, run_episode
from qwen_vla_ros.sim.rooms.expert import RoomsExpert, StandingPolicy
from qwen_vla_ros.sim.rooms.free_floor import resampled
from qwen_vla_ros.sim.rooms.tasks import NEAR, Task, sample_task

TASK = 'go where the sentence says, and stop (simulated base in furnished rooms)'
OTHER_HOUSE = 99_999
FILMED, MAPPED = 3, 6  # so many of the first episodes; failures are mapped as well
MOST_FAILURES = 12  # that get a map


@dataclass(frozen=True)
class RoomsEpisode:
    """One episode that ended; inference_s are s, one an inference."""

    variant: str
    seed: int
    instruction: str
    goal: str
    stopped: bool
    bumped: tuple[str, ...]
    refused: int
    recoveries: int  # times that a base which was held up got off by itself
    elapsed_s: float
    score: NavigationScore
    inference_s: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return {
            **{key: value for key, value in vars(self).items() if key != 'inference_s'},
            'bumped': list(self.bumped),
            'score': self.score.to_json(),
        }


class _Timed:
    """A policy that keeps how long each inference took."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self.metadata = policy, policy.metadata
        self.seconds: list[float] = []

    def infer(self, observation: Any, prefix: np.ndarray | None = None) -> Any:
        started = time.perf_counter()
        chunk = self._policy.infer(observation, prefix)
        self.seconds.append(time.perf_counter() - started)
        return chunk

    def reset(self) -> None:
        self._policy.reset()


def run_from_arguments(args: argparse.Namespace) -> int:
    """Run, print the metrics, and leave summary.json, maps, film and report.html."""
    seeds = parse_seeds(args.seeds)
    model = args.policy not in ('expert', 'constant')
    variants = ['policy']
    if args.baselines:
        variants += ['no_language', *(['no_image'] if model else []), 'standing']
    loaded = choose_policy(args) if model else None
    (args.out / 'maps').mkdir(parents=True, exist_ok=True)
    env = RoomsEnv('rgb_array', images=model)
    policy = loaded or scripted(args, env)
    found: list[RoomsEpisode] = []
    started = time.monotonic()
    try:
        with tqdm(total=len(seeds) * len(variants), unit='episode', disable=None) as bar:
            for episode in _episodes(args.out, env, policy, seeds, variants):
                found.append(episode)
                bar.set_description(episode.variant)
                bar.update()
    finally:
        env.close()
        if found:
            summary = _summarise(args, found, len(seeds), time.monotonic() - started)
            write_json(summary, args.out / 'summary.json')
            write_rooms_report(summary, args.out)
            tell_partial(len(found), len(seeds) * len(variants))
            _tell(summary)
            print(f'report: {args.out / "report.html"}')
    return 0 if found else 1


def scripted(args: argparse.Namespace, env: RoomsEnv) -> Policy:
    """Return the teacher with an environment's map, or the policy that stands."""
    facts = describe_policy(Embodiment.load(args.robot))
    if args.policy == 'constant':
        return StandingPolicy(facts)
    return RoomsExpert(lambda: (env.task.house, env.world.odom_on_map), facts)


def _episodes(
    out: Path, env: RoomsEnv, policy: Policy, seeds: list[int], variants: list[str]
) -> Iterator[RoomsEpisode]:
    """Yield every episode; of the policy's own, film the first and draw maps."""
    images = _other_images(env) if 'no_image' in variants else None
    for variant in variants:
        failures = 0
        with ExitStack() as stack:
            film = stack.enter_context(Film(out / 'video.mp4')) if variant == 'policy' else None
            for index, seed in enumerate(seeds):
                chosen = _variant(policy, variant, seed, images)
                filmed = film if index < FILMED else None
                episode, track = _run(chosen, seed, variant, env, filmed)
                failures += not episode.score.success
                mapped = index < MAPPED or (
                    not episode.score.success and failures <= MOST_FAILURES
                )
                if variant == 'policy' and mapped:
                    facts = _told(episode)
                    path = out / 'maps' / f'seed_{seed:05d}.png'
                    write_map(path, env, track, facts, episode.score.success)
                yield episode


def _run(
    policy: Policy, seed: int, variant: str, env: RoomsEnv, film: Film | None
) -> tuple[RoomsEpisode, np.ndarray]:
    """Run one episode; return it and where the base was [N, 2]."""
    timed = _Timed(policy)
    watcher: RoomsFilm | None = None

    def told(rows: np.ndarray) -> None:
        nonlocal watcher
        if film is not None and watcher is None:
            watcher = RoomsFilm(film, env, f'mobile_base   house {seed}')
            env.driven = watcher.frame
        if watcher is not None:
            watcher.told(rows)

    try:
        facts = run_episode(timed, seed, env=env, told=told)
    finally:
        env.driven = lambda: None
    score = score_task(env.task, facts['track'], facts['stopped'])
    if watcher is not None:
        text = 'arrived' if score.success else 'stopped elsewhere' if facts['stopped'] else 'late'
        watcher.end(text, score.success)
    episode = RoomsEpisode(
        variant, seed, facts['instruction'], facts['goal'], facts['stopped'],
        tuple(facts['bumped']), facts['refused'], facts['recoveries'], facts['elapsed_s'],
        score, tuple(timed.seconds),
    )  # fmt: skip
    return episode, facts['track']


def score_task(task: Task, track: np.ndarray, stopped: bool) -> NavigationScore:
    """Return the metrics of a track [N, 2] in m; the goal is a region, d of nDTW is NEAR."""
    dense = resampled(track, 0.05)
    distances = [task.distance(float(x), float(y)) for x, y in dense]
    return score_episode(
        dense,
        distances,
        task.shortest,
        task.length,
        stopped,
        dtw_radius_m=NEAR,
        aligned=resampled(track),
    )


def _variant(
    policy: Policy, variant: str, seed: int, images: Mapping[str, np.ndarray] | None
) -> Policy:
    """Return the policy, denied what the variant denies it."""
    if variant == 'standing':
        return StandingPolicy(policy.metadata)
    if variant == 'no_image':
        return AblatedPolicy(policy, {'images': images})
    if variant == 'no_language':
        house, own = (task := sample_task(seed)).house, task.goal.name
        names = [*(r.name for r in house.rooms), *(p.name for p in house.pieces)]
        others = [name for name in names if name != own]
        name = others[int(np.random.default_rng([seed, 11]).integers(len(others)))]
        return AblatedPolicy(policy, {'instruction': f'go to the {name}'})
    return policy


def _other_images(env: RoomsEnv) -> Mapping[str, np.ndarray]:
    """Return the first pictures of a house that no task uses."""
    observation, _ = env.reset(seed=OTHER_HOUSE)
    return observation['images']


def _summarise(
    args: argparse.Namespace, found: list[RoomsEpisode], planned: int, seconds: float
) -> dict[str, Any]:
    variants = dict.fromkeys(episode.variant for episode in found)
    scores = {name: [e.score for e in found if e.variant == name] for name in variants}
    own = [episode for episode in found if episode.variant == 'policy']
    times = [1e3 * value for episode in own for value in episode.inference_s]
    return {
        'task': TASK,
        'robot': args.robot,
        'policy': 'scripted expert with the map' if args.policy == 'expert' else name_policy(args),
        'date': time.strftime('%Y-%m-%d %H:%M'),
        'goal': f'stopped with the middle of the base within {NEAR} m of the piece (same room), '
        'or wholly inside the room',
        'planned_episodes': planned,
        'complete': len(own) == planned,
        'variants': {name: summarise_navigation(rows) for name, rows in scores.items()},
        'bumped_episodes': sum(bool(episode.bumped) for episode in own),
        'refused_chunks': sum(episode.refused for episode in own),
        'recoveries': sum(episode.recoveries for episode in own),
        'inference_ms': percentiles(times),
        'durations_s': {'whole run': round(seconds, 1)},
        'episode_list': [episode.to_json() for episode in own],
    }


def _tell(summary: Mapping[str, Any]) -> None:
    """Print one line a variant."""
    for name, row in summary['variants'].items():
        sr, low, high = row['SR'], *row['SR']['interval95']
        print(
            f'{name:12} SR {sr["success"]}/{sr["episodes"]} [{100 * low:.0f}, {100 * high:.0f}] %'
            f'  OSR {row["OSR"]["success"]}/{row["episodes"]}  SPL {_mean(row["SPL"])}'
            f'  NE {_mean(row["NE_m"])} m  nDTW {_mean(row["nDTW"])}'
        )


def _mean(row: Mapping[str, Any]) -> str:
    if row['mean'] is None:
        return '-'
    low, high = row['interval95']
    return f'{row["mean"]:.3f} [{low:.3f}, {high:.3f}]'


def _told(episode: RoomsEpisode) -> str:
    score = episode.score
    error = '-' if score.error_m is None else f'{score.error_m:.2f} m'
    bumped = f'   bumped: {", ".join(episode.bumped)}' if episode.bumped else ''
    bumped += f'   recoveries: {episode.recoveries}' if episode.recoveries else ''
    return (
        f'NE {error}   SPL {score.spl:.2f}   nDTW {score.ndtw:.2f}   '
        f'{score.length_m:.1f} m of {score.shortest_m:.1f} m   {episode.elapsed_s:.0f} s{bumped}'
    )
