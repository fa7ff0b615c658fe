"""The simulated robots of a suite: one world each, which runs a task under a shift."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from qwen_vla_ros.evaluate import shifts
from qwen_vla_ros.evaluate.manipulation_metrics import score_manipulation
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.types import ActionChunk, Observation

FILM_SIZE, FILM_HZ = (320, 240), 5  # w, h; a frame an inference


class World(Protocol):
    """One simulated robot with one task."""

    def policy(self) -> Policy | None:
        """Return the policy that only this world can make (a teacher with its map), or None."""

    def run(self, policy: Policy, shift: str, seed: int, film: Path | None) -> dict[str, Any]:
        """Run an episode; film it into a file when it fails. Returns JSON-able facts."""

    def close(self) -> None:
        """Free the GL contexts."""


class Watched:
    """A policy that keeps a small picture of every observation, for a film of a failure."""

    def __init__(self, policy: Policy) -> None:
        """Wrap a policy for one episode."""
        self._policy, self.metadata = policy, policy.metadata
        self.frames: list[np.ndarray] = []

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Infer, and keep the first view."""
        for image in list(observation.images.values())[:1]:
            self.frames.append(cv2.resize(image, FILM_SIZE, interpolation=cv2.INTER_AREA))
        return self._policy.infer(observation, prefix)

    def reset(self) -> None:
        """Reset the inner policy."""
        self._policy.reset()

    def write(self, path: Path) -> str:
        """Write the film; return its name beside the report, '' when there was no picture."""
        from qwen_vla_ros.seeing.film import Film

        if not self.frames:
            return ''
        path.parent.mkdir(parents=True, exist_ok=True)
        with Film(path, FILM_SIZE, rate_hz=FILM_HZ) as film:
            for frame in self.frames:
                film.add(frame, wait=True)
        return f'{path.parent.name}/{path.name}'


def open_world(robot: str, task: str, args: argparse.Namespace) -> World:
    """Return the world of a robot and a task."""
    kinds = {'widowx': Tabletop, 'aloha': Aloha, 'mobile_base': Rooms}
    return kinds[robot](task, args)


class Tabletop:
    """The WidowX: touch the named object, which may move."""

    def __init__(self, task: str, args: argparse.Namespace) -> None:
        """Make the world."""
        from qwen_vla_ros.sim.environment import TabletopEnv

        self._env = TabletopEnv()

    def policy(self) -> Policy | None:
        """Return nothing."""
        return None

    def run(self, policy: Policy, shift: str, seed: int, film: Path | None) -> dict[str, Any]:
        """Run an episode; a moving target gives a manipulation score as well."""
        from qwen_vla_ros.sim.arm import forward
        from qwen_vla_ros.sim.environment import run_episode

        task = shifts.tabletop_task(shift, seed)
        watched = Watched(policy)
        further = {'scene': task.scene, **task.further}
        facts = run_episode(
            watched, seed, task.target, task.instruction, env=self._env, further=further
        )
        found = _facts(task, facts, watched, film)
        if task.further:
            place = self._env.world.object_positions()[task.target]
            score = score_manipulation(
                found['success'],
                [forward(np.array(task.scene.posture))[0]],
                [self._env.world.tip_position()],
                place,
                len([name for name in facts['touched'] if name != task.target]),
                shifts.is_lost(place),
            )
            found['manipulation'] = score.to_json()
        return found

    def close(self) -> None:
        """Free the GL contexts."""
        self._env.close()


class Aloha:
    """Both arms: hand a cube over, or bring a peg into a socket."""

    def __init__(self, task: str, args: argparse.Namespace) -> None:
        """Make the world of a task."""
        from qwen_vla_ros.sim.aloha.environment import AlohaEnv

        self._env = AlohaEnv(task)

    def policy(self) -> Policy | None:
        """Return nothing."""
        return None

    def run(self, policy: Policy, shift: str, seed: int, film: Path | None) -> dict[str, Any]:
        """Run an episode."""
        from qwen_vla_ros.sim.aloha.environment import run_episode

        task = shifts.aloha_task(self._env.task, shift, seed)
        watched = Watched(policy)
        facts = run_episode(
            watched, seed, self._env, task.target, task.instruction, scene=task.scene
        )
        return {**_facts(task, facts, watched, film), 'best_stage': facts['best']}

    def close(self) -> None:
        """Free the GL contexts."""
        self._env.close()


class Rooms:
    """The base: go where the sentence says, and stop."""

    def __init__(self, task: str, args: argparse.Namespace) -> None:
        """Make the world; teachers need no pictures."""
        from qwen_vla_ros.sim.rooms.environment import RoomsEnv

        self._args = args
        self._env = RoomsEnv('rgb_array', images=args.policy not in ('expert', 'constant'))

    def policy(self) -> Policy | None:
        """Return the teacher, which has the map, or the one that stands."""
        if self._args.policy not in ('expert', 'constant'):
            return None
        from qwen_vla_ros.evaluate.rooms import scripted

        return scripted(self._args, self._env)

    def run(self, policy: Policy, shift: str, seed: int, film: Path | None) -> dict[str, Any]:
        """Run an episode."""
        from qwen_vla_ros.evaluate.rooms import score_task
        from qwen_vla_ros.policy import AblatedPolicy
        from qwen_vla_ros.sim.rooms.environment import run_episode

        task = shifts.rooms_task(shift, seed)
        watched = Watched(AblatedPolicy(policy, {'instruction': task.instruction}))
        facts = run_episode(watched, seed, env=self._env, further=task.further)
        score = score_task(self._env.task, facts['track'], facts['stopped'])
        facts = {**facts, 'success': score.success}
        return {**_facts(task, facts, watched, film), 'navigation': score.to_json()}

    def close(self) -> None:
        """Free the GL contexts."""
        self._env.close()


def _facts(
    task: shifts.ShiftedTask, facts: Mapping[str, Any], watched: Watched, film: Path | None
) -> dict[str, Any]:
    """Return what every episode tells, after filming a failure."""
    success = bool(facts['success'])
    return {
        'instruction': task.instruction,
        'target': task.target,
        'success': success,
        'elapsed_s': float(facts['elapsed_s']),
        'inferences': int(facts['inferences']),
        'refused': int(facts.get('refused', 0)),
        'note': str(facts.get('gave_up', '')),
        'film': '' if success or film is None else watched.write(film),
    }
