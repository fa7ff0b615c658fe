"""
ALOHA's table as a gymnasium environment, with the observation that the robot gives over ROS.

Action: the 14 absolute joints (rad, m) to be reached 0.02 s later. Reward: the stage of the task,
0 to 4, as gym-aloha gives it; stage 4 for half a second ends the episode, 25 s truncate it.
Importing this module registers 'qwen_vla_ros/AlohaTransfer-v0' and '.../AlohaInsertion-v0'.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.motion import Unreachable
from qwen_vla_ros.sim.aloha.scene import (
    INSERTION,
    TRANSFER,
    AlohaScene,
    instruction_for,
    target_in,
)
from qwen_vla_ros.sim.aloha.world import TIME_LIMIT_S, VIEWS, AlohaWorld
from qwen_vla_ros.sim.cameras import SIZE
from qwen_vla_ros.sim.environment import rows_in_order
from qwen_vla_ros.types import Observation

ENVIRONMENT_IDS = {
    TRANSFER: 'qwen_vla_ros/AlohaTransfer-v0',
    INSERTION: 'qwen_vla_ros/AlohaInsertion-v0',
}
EMBODIMENT = 'aloha'
STEP_S = 0.02
CONTROL_S = 0.01
REPLAN_STEPS = 25


class AlohaEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Three objects, one sentence, two arms; see the module's docstring."""

    metadata: ClassVar[dict[str, Any]] = {'render_modes': ['rgb_array'], 'render_fps': 50}

    def __init__(
        self,
        task: str = TRANSFER,
        render_mode: str | None = None,
        size: tuple[int, int] = SIZE,
        images: bool = True,
    ) -> None:
        """Make the world; size is (h, w) of the images, images=False leaves them out."""
        self.task, self.render_mode = task, render_mode
        self.world = AlohaWorld(render=images or render_mode is not None)
        self._size, self._views = size, VIEWS if images else ()
        pixels = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                'images': spaces.Dict(dict.fromkeys(self._views, pixels)),
                'state': spaces.Box(-np.inf, np.inf, (14,), np.float32),
                'instruction': spaces.Text(200, charset=string.printable),
            }
        )
        lower, upper = vx300s.LOWER.astype(np.float32), vx300s.UPPER.astype(np.float32)
        self.action_space = spaces.Box(lower, upper, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Lay out the scene of a seed (without one: a random training scene).

        options: target (name of an object), instruction (default a sentence that names the
        target), scene (an AlohaScene instead of the seed's).
        """
        super().reset(seed=seed)
        options = options or {}
        scene_seed = int(self.np_random.integers(1_000_000, 2**31)) if seed is None else seed
        scene = self.world.reset(scene_seed, options.get('scene'), self.task)
        sentence = options.get('instruction') or ''
        self.world.aim(options.get('target') or target_in(scene, sentence) or scene.target)
        self.instruction = sentence or instruction_for(scene, self.world.target, self.np_random)
        self._command = self.world.positions()
        return self._observe(), self.facts()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move for 0.02 s towards an action [14]."""
        terminated, truncated = self.advance(action)
        facts = self.facts()
        return self._observe(), float(facts['stage']), terminated, truncated, facts

    def advance(self, action: np.ndarray) -> tuple[bool, bool]:
        """Do a step without pictures; return whether it terminated or truncated the episode."""
        goal = np.asarray(action, np.float64)
        if goal.shape != (14,) or not np.isfinite(goal).all():
            raise QwenVlaError(f'{ENVIRONMENT_IDS[self.task]}: bad action, 14 numbers are wanted')
        start, speed = self._command, (goal - self._command) / STEP_S
        for part in (0.5, 1.0):
            self.world.set_targets(start + part * (goal - start), speed)
            self.world.step(CONTROL_S)
        self._command = goal
        success = self.world.result().success
        return success, not success and self.world.time >= TIME_LIMIT_S - 1e-9

    def observation(self) -> Observation:
        """Return the present instant as the observation that a policy takes."""
        fields, stamp_ns = self._observe(), round(self.world.time * 1e9)
        return Observation(
            images=fields['images'],
            state=fields['state'],
            state_names=vx300s.JOINT_NAMES,
            instruction=self.instruction,
            stamp_ns=stamp_ns,
            embodiment=EMBODIMENT,
            sources_ns=dict.fromkeys((*self._views, 'state.left', 'state.right'), stamp_ns),
        )

    def facts(self) -> dict[str, Any]:
        """Return what a policy may not see."""
        outcome = self.world.result()
        return {
            **asdict(outcome),
            'touched': list(outcome.touched),
            'first_touched': outcome.first_touched,
            'objects': list(self.world.scene.names),
            'seed': self.world.scene.seed,
        }

    def render(self) -> np.ndarray | None:
        """Return the high camera's image uint8 [h, w, 3], or nothing without a render mode."""
        return self.world.render('ego', self._size) if self.render_mode else None

    def close(self) -> None:
        """Free the GL contexts."""
        self.world.close()

    def _observe(self) -> dict[str, Any]:
        return {
            'images': {view: self.world.render(view, self._size) for view in self._views},
            'state': self.world.positions().astype(np.float32),
            'instruction': self.instruction,
        }


def run_episode(
    policy: Policy,
    seed: int,
    env: AlohaEnv,
    target: str | None = None,
    instruction: str | None = None,
    replan_steps: int = REPLAN_STEPS,
    on_step: Callable[[], None] | None = None,
    scene: AlohaScene | None = None,
) -> dict[str, Any]:
    """
    Run one episode synchronously (the world waits for the policy) and return its facts.

    target is the object that counts; instruction, when given, is what the policy reads. The first
    replan_steps rows of each chunk after its row 0 are executed; on_step hears of each. scene: in
    the place of the seed's. A teacher whose plan asks for an unreachable pose (it was told of an
    object that is not there, say) ends its episode; gave_up then says where, else it is ''.
    """
    options = {'target': target, 'instruction': instruction, 'scene': scene}
    env.reset(seed=seed, options=options)
    policy.reset()
    inferences, ended, gave_up = 0, False, ''
    while not ended:
        try:
            chunk = policy.infer(env.observation())
        except Unreachable as error:
            gave_up = str(error)
            break
        rows = rows_in_order(chunk, vx300s.JOINT_NAMES, STEP_S)
        inferences += 1
        for row in rows[1 : 1 + replan_steps]:
            ended = any(env.advance(row))
            if on_step is not None:
                on_step()
            if ended:
                break
    return {
        **env.facts(),
        'instruction': env.instruction,
        'inferences': inferences,
        'gave_up': gave_up,
    }


for _task, _id in ENVIRONMENT_IDS.items():
    gymnasium.register(
        _id, entry_point='qwen_vla_ros.sim.aloha.environment:AlohaEnv', kwargs={'task': _task}
    )
