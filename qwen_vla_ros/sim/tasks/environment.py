"""
The tasks as a gymnasium environment: same action and observation as Tabletop-v0.

Reward 1 when the task is done, which ends the episode; 24 s truncate it. Importing this module
registers 'qwen_vla_ros/Tasks-v0'.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import TabletopEnv, follow
from qwen_vla_ros.sim.tasks.expert import TaskExpert
from qwen_vla_ros.sim.tasks.goals import HELD_ROWS, TASK_LIMIT_S, done, sample_goal
from qwen_vla_ros.sim.tasks.world import TaskWorld
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.world import SIZE
from qwen_vla_ros.sim.zero_errors import NO_ERRORS, as_joints

ENVIRONMENT_ID = 'qwen_vla_ros/Tasks-v0'


class TasksEnv(TabletopEnv):
    """Three objects, one task of pick, place, push, stack; see the module's docstring."""

    def __init__(
        self,
        render_mode: str | None = None,
        size: tuple[int, int] = SIZE,
        images: bool = True,
        kind: str = '',
        zero_errors: Mapping[str, float] = NO_ERRORS,
    ) -> None:
        """Make the world; kind: one of goals.KINDS only; zero_errors: see sim/zero_errors.py."""
        self._kind, self._zeros = kind, as_joints(zero_errors)
        super().__init__(render_mode, size, images)

    def make_world(self, render: bool) -> TaskWorld:
        """Return the world of this environment."""
        return TaskWorld(render)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Lay out the scene of a seed (without one: a random training scene) and draw a task.

        options: goal (a Goal), kind (one of goals.KINDS, else the environment's own), scene (a
        TaskScene instead of the seed's).
        """
        gymnasium.Env.reset(self, seed=seed)
        options = options or {}
        scene_seed = int(self.np_random.integers(1_000_000, 2**31)) if seed is None else seed
        scene = self.world.reset(scene_seed, options.get('scene'))
        kind = options.get('kind') or self._kind
        self.goal = options.get('goal') or sample_goal(scene, self.np_random, kind)
        self.target, self.instruction = self.goal.target, self.goal.instruction
        self._controller = TrajectoryController(arm.JOINT_NAMES, scene.posture)
        self.first = self.world.object_positions()
        self._held = 0
        return self._observe(), self.facts()

    def advance(self, action: np.ndarray) -> tuple[bool, bool]:
        """Move for 0.2 s towards an action [7], without pictures; return whether that ended it."""
        self._drive(action)
        self._held = self._held + 1 if done(self.world, self.goal, self.first) else 0
        terminated = self._held >= HELD_ROWS
        return terminated, not terminated and self.world.time >= TASK_LIMIT_S - 1e-9

    def place_arm(self, posture: np.ndarray) -> None:
        """Put the arm at a posture [7], at rest; what is to be done and all things stay."""
        self.world.set_posture(posture)
        self._controller.hold(posture)

    def _observe(self) -> dict[str, Any]:
        """Return what is seen; joints as they read."""
        seen = super()._observe()
        return {**seen, 'state': (seen['state'] + self._zeros).astype(np.float32)}

    def _drive(self, action: np.ndarray) -> None:
        """Go where the joints read an action [7]; none goes beyond its true end."""
        true = np.asarray(action, np.float64) - self._zeros
        super()._drive(np.clip(true, arm.LOWER, arm.UPPER) if self._zeros.any() else true)

    def _halts(self) -> bool:
        """Go on when things are touched."""
        return False

    def expert(self) -> TaskExpert:
        """Return the teacher of the present task."""
        return TaskExpert(self.world, self.goal)

    def facts(self) -> dict[str, Any]:
        """Return what a policy may not see."""
        return {
            'success': self._held >= HELD_ROWS,
            'kind': self.goal.kind,
            'target': self.goal.target,
            'reference': self.goal.reference,
            'elapsed_s': self.world.time,
            'objects': list(self.world.scene.names),
            'seed': self.world.scene.seed,
        }


def run_episode(
    policy: Policy,
    seed: int,
    kind: str = '',
    env: TasksEnv | None = None,
    replan_steps: int = 2,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Run one episode synchronously (the world waits for the policy) and return its facts.

    kind: one of goals.KINDS, '' for any. The first replan_steps rows of each chunk after its row 0
    are executed; further are options of reset(). With the facts come the instruction and the
    number of inferences.
    """
    own = env is None
    env = env or TasksEnv()
    try:
        options = {'kind': kind, **(further or {})}
        return follow(policy, env, seed, options, replan_steps)
    finally:
        if own:
            env.close()


gymnasium.register(ENVIRONMENT_ID, entry_point='qwen_vla_ros.sim.tasks.environment:TasksEnv')
