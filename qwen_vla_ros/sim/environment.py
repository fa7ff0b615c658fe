"""
The tabletop as a gymnasium environment, with the observation that a robot gives over ROS.

Action: the seven absolute joints (rad, m) to be reached 0.2 s later, joined linearly as the
trajectory controller does. Reward 1 when the named object is touched first, else 0; any touch ends
the episode, 12 s truncate it. Importing this module registers 'qwen_vla_ros/Tabletop-v0'.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import instruction_for, parse_target
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.world import SIZE, TIME_LIMIT_S, VIEWS, TabletopWorld
from qwen_vla_ros.types import ActionChunk, Observation

ENVIRONMENT_ID = 'qwen_vla_ros/Tabletop-v0'
EMBODIMENT = 'widowx'
STEP_S = 0.2
CONTROL_S = 0.01


class TabletopEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Three objects, one sentence, one arm; see the module's docstring."""

    metadata: ClassVar[dict[str, Any]] = {'render_modes': ['rgb_array'], 'render_fps': 5}

    def __init__(
        self, render_mode: str | None = None, size: tuple[int, int] = SIZE, images: bool = True
    ) -> None:
        """Make the world; size is (h, w) of the images, images=False leaves them out."""
        self.render_mode = render_mode
        self.world = self.make_world(images or render_mode is not None)
        self._size, self._views = size, VIEWS if images else ()
        pixels = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                'images': spaces.Dict(dict.fromkeys(self._views, pixels)),
                'state': spaces.Box(-np.inf, np.inf, (7,), np.float32),
                'instruction': spaces.Text(200, charset=string.printable),
            }
        )
        lower, upper = arm.LOWER.astype(np.float32), arm.UPPER.astype(np.float32)
        self.action_space = spaces.Box(lower, upper, dtype=np.float32)

    def make_world(self, render: bool) -> TabletopWorld:
        """Return the world of this environment."""
        return TabletopWorld(render)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Lay out the scene of a seed (without one: a random training scene).

        options: target (name of an object; default drawn from the seed), instruction (default a
        sentence that names the target), scene (a Scene instead of the seed's), drift (velocity
        [2] in m/s of the target over the table).
        """
        super().reset(seed=seed)
        options = options or {}
        scene_seed = int(self.np_random.integers(1_000_000, 2**31)) if seed is None else seed
        scene = self.world.reset(scene_seed, options.get('scene'))
        target = options.get('target')
        if target is None and options.get('instruction'):
            target = parse_target(options['instruction'], scene.names)
        if target is None:
            target = scene.names[int(self.np_random.integers(len(scene.names)))]
        self.target = scene.named(target).name
        self.instruction = options.get('instruction') or instruction_for(target, self.np_random)
        if options.get('drift') is not None:
            self.world.drift_object(self.target, options['drift'])
        self._controller = TrajectoryController(arm.JOINT_NAMES, scene.posture)
        return self._observe(), self.facts()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move for 0.2 s towards an action [7]; stop early on a touch."""
        terminated, truncated = self.advance(action)
        facts = self.facts()
        return self._observe(), float(facts['success']), terminated, truncated, facts

    def advance(self, action: np.ndarray) -> tuple[bool, bool]:
        """Do a step without pictures; return whether it terminated or truncated the episode."""
        self._drive(action)
        terminated = self.world.result(self.target).first_touched is not None
        return terminated, not terminated and self.world.time >= TIME_LIMIT_S - 1e-9

    def _drive(self, action: np.ndarray) -> None:
        """Follow the straight way to an action [7] for STEP_S, or until the world halts it."""
        now_ns = self._now_ns()
        reason = self._controller.accept(
            arm.JOINT_NAMES, [STEP_S], [np.asarray(action, np.float64)], None, now_ns, now_ns
        )
        if reason is not None:
            raise QwenVlaError(f'{ENVIRONMENT_ID}: bad action, {reason}')
        for _ in range(round(STEP_S / CONTROL_S)):
            ahead_ns = self._now_ns() + round(CONTROL_S * 1e9)
            self.world.set_targets(*self._controller.sample(ahead_ns))
            self.world.step(CONTROL_S)
            if self._halts():
                break

    def _halts(self) -> bool:
        """Tell whether the step ends at once."""
        return bool(self.world.touched())

    def observation(self) -> Observation:
        """Return the present instant as the observation that a policy takes."""
        return observation(self._observe(), self._now_ns())

    def render(self) -> np.ndarray | None:
        """Return the scene camera's image uint8 [h, w, 3], or nothing without a render mode."""
        return self.world.render('ego', self._size) if self.render_mode else None

    def close(self) -> None:
        """Free the GL contexts."""
        self.world.close()

    def _now_ns(self) -> int:
        """Return the world's time."""
        return round(self.world.time * 1e9)

    def _observe(self) -> dict[str, Any]:
        """Return images, state and sentence."""
        return {
            'images': {view: self.world.render(view, self._size) for view in self._views},
            'state': self.world.positions().astype(np.float32),
            'instruction': self.instruction,
        }

    def facts(self) -> dict[str, Any]:
        """Return what a policy may not see."""
        outcome = self.world.result(self.target)
        return {
            'success': outcome.success,
            'target': self.target,
            'first_touched': outcome.first_touched,
            'touched': list(outcome.touched),
            'elapsed_s': outcome.elapsed_s,
            'objects': list(self.world.scene.names),
            'seed': self.world.scene.seed,
        }


def observation(fields: Mapping[str, Any], stamp_ns: int) -> Observation:
    """Return the environment's dict as an Observation taken at stamp_ns of the world's time."""
    sources = dict.fromkeys((*fields['images'], 'state'), stamp_ns)
    return Observation(
        images=fields['images'],
        state=fields['state'],
        state_names=arm.JOINT_NAMES,
        instruction=fields['instruction'],
        stamp_ns=stamp_ns,
        embodiment=EMBODIMENT,
        sources_ns=sources,
    )


def run_episode(
    policy: Policy,
    seed: int,
    instruction_target: str | None = None,
    instruction: str | None = None,
    replan_steps: int = 2,
    env: TabletopEnv | None = None,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Run one episode synchronously (the world waits for the policy) and return its facts.

    instruction_target is the object that counts; instruction, when given, is what the policy
    reads; further are options of reset(). The first replan_steps rows of each chunk after its row
    0 are executed.
    """
    own = env is None
    env = env or TabletopEnv()
    try:
        options = {'target': instruction_target, 'instruction': instruction, **(further or {})}
        return follow(policy, env, seed, options, replan_steps)
    finally:
        if own:
            env.close()


def follow(
    policy: Policy,
    env: TabletopEnv,
    seed: int,
    options: Mapping[str, Any],
    replan_steps: int,
) -> dict[str, Any]:
    """
    Return the facts of an episode, its sentence and the number of inferences.

    Pictures are rendered for the policy only, not after every row.
    """
    env.reset(seed=seed, options=options)
    policy.reset()
    inferences, ended = 0, False
    while not ended:
        rows = rows_in_order(policy.infer(env.observation()), arm.JOINT_NAMES, STEP_S)
        inferences += 1
        for row in rows[1 : 1 + replan_steps]:
            ended = any(env.advance(row))
            if ended:
                break
    return {**env.facts(), 'instruction': env.instruction, 'inferences': inferences}


def rows_in_order(chunk: ActionChunk, names: Sequence[str], step_s: float) -> np.ndarray:
    """Return a chunk's rows [H, J] in the order of names, at least two of them, step_s apart."""
    if set(chunk.names) != set(names) or chunk.horizon < 2:
        raise QwenVlaError(
            f'simulation: needs at least 2 rows of absolute joints {list(names)}, '
            f'the policy gave {chunk.horizon} of {list(chunk.names)}'
        )
    if abs(chunk.step_s - step_s) > 1e-6:
        raise QwenVlaError(f'simulation: needs rows {step_s} s apart, got {chunk.step_s} s')
    return chunk.actions[:, [chunk.names.index(name) for name in names]]


gymnasium.register(ENVIRONMENT_ID, entry_point='qwen_vla_ros.sim.environment:TabletopEnv')
