"""
Pick, place, push and stack in closed loop: a policy in the gymnasium world, seed by seed.

The world waits for the policy, so this measures the policy alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim.tasks.environment import TasksEnv, run_episode
from qwen_vla_ros.sim.tasks.goals import KINDS


def run(
    policy: Policy,
    seeds: Sequence[int],
    kinds: Sequence[str] = KINDS,
    rows_per_inference: int = 2,
    env: TasksEnv | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the facts of sim.tasks.environment.run_episode for each seed and kind, in order."""
    own = env is None
    env = env or TasksEnv()
    try:
        for seed in seeds:
            for kind in kinds:
                yield run_episode(policy, seed, kind, env, rows_per_inference)
    finally:
        if own:
            env.close()
