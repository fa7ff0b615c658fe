"""
Closed loop in the gymnasium world: the policy itself and its two baselines, on the same tasks.

The world waits for the policy here, so this measures the policy alone; the demo measures policy
and robot over ROS.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.episodes import Episode, Task
from qwen_vla_ros.policy import AblatedPolicy, Policy
from qwen_vla_ros.sim.environment import TabletopEnv, run_episode
from qwen_vla_ros.sim.scene import instruction_for, sample_scene
from qwen_vla_ros.types import ActionChunk, Observation

OTHER_SCENE = 99_999
VARIANTS = ('policy', 'no_language', 'no_image')


class TimedPolicy:
    """A policy that keeps how long each inference took, and swaps the sentence when told to."""

    def __init__(self, policy: Policy, task: Task) -> None:
        """Wrap a policy for one episode."""
        self._policy, self._task = policy, task
        self.seconds: list[float] = []

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the inner policy's metadata."""
        return self._policy.metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Infer and take the time; the world's clock starts at 0 with the episode."""
        swap = self._task.swap
        if swap is not None and observation.stamp_ns >= swap.after_s * 1e9:
            observation = replace(observation, instruction=swap.instruction)
        started = time.perf_counter()
        chunk = self._policy.infer(observation, prefix)
        self.seconds.append(time.perf_counter() - started)
        return chunk

    def reset(self) -> None:
        """Reset the inner policy."""
        self._policy.reset()


def run_tasks(
    policy: Policy,
    tasks: Sequence[Task],
    variant: str = 'policy',
    env: TabletopEnv | None = None,
    started: Callable[[Task], None] = lambda task: None,
) -> Iterator[Episode]:
    """Yield one Episode a task; variant is 'policy', 'no_language' or 'no_image'."""
    env = env or TabletopEnv()
    images = _images_of_other_scene(env) if variant == 'no_image' else None
    for task in tasks:
        started(task)
        yield _run_task(_ablated(policy, variant, task, images), task, env)


def _run_task(policy: Policy, task: Task, env: TabletopEnv) -> Episode:
    """Run one task and return what happened."""
    timed = TimedPolicy(policy, task)
    facts = run_episode(timed, task.seed, task.final_target, task.instruction, env=env)
    return Episode(
        seed=task.seed,
        instruction=task.swap.instruction if task.swap else task.instruction,
        target=task.final_target,
        success=facts['success'],
        first_touched=facts['first_touched'],
        touched=tuple(facts['touched']),
        elapsed_s=facts['elapsed_s'],
        swapped=task.swap is not None,
        inference_s=tuple(timed.seconds),
    )


def _ablated(
    policy: Policy, variant: str, task: Task, images: Mapping[str, np.ndarray] | None
) -> Policy:
    """Return the policy, denied what the variant denies it."""
    if variant == 'no_language':
        names = sample_scene(task.seed).names
        rng = np.random.default_rng([task.seed, 11])
        sentence = instruction_for(names[int(rng.integers(len(names)))], rng)
        return AblatedPolicy(policy, {'instruction': sentence})
    if images is not None:
        return AblatedPolicy(policy, {'images': images})
    return policy


def _images_of_other_scene(env: TabletopEnv) -> Mapping[str, np.ndarray]:
    """Return the first images of a scene that no task uses."""
    observation, _ = env.reset(seed=OTHER_SCENE)
    return observation['images']
