"""
The rooms as a gymnasium environment, with the observation that a base gives over ROS.

Action: a chunk of eight waypoints (dx, dy in m, dtheta in rad) in base_link now. The base drives
towards them for 0.5 s as the policy node's cmd_vel output makes it, then the next chunk is due.
Waypoints that all stay within the contract's stop_m and stop_rad are STOP and end the episode.
Reward 1 when it stops on the goal's floor, else 0; 120 s truncate it. Importing this module
registers 'qwen_vla_ros/Rooms-v0'.
"""

import string
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.navigation_commands import base_speeds, is_stop, limited_speeds, waypoint_poses
from qwen_vla_ros.output_kinds import BaseRows, CommandRefused
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.recovery import Recovery
from qwen_vla_ros.sim.rooms.drive import Drift
from qwen_vla_ros.sim.rooms.expert import HORIZON, NAMES, STEP_S
from qwen_vla_ros.sim.rooms.tasks import Task, sample_task
from qwen_vla_ros.sim.rooms.world import SIZE, VIEW, RoomsWorld
from qwen_vla_ros.types import ActionChunk, Observation

ENVIRONMENT_ID = 'qwen_vla_ros/Rooms-v0'
TIME_LIMIT_S = 120.0


class RoomsEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One base, one house, one sentence; see the module's docstring."""

    metadata: ClassVar[dict[str, Any]] = {'render_modes': ['rgb_array'], 'render_fps': 2}

    def __init__(
        self,
        render_mode: str | None = None,
        size: tuple[int, int] = SIZE,
        images: bool = True,
        drift: float = 0.0,
    ) -> None:
        """Make the world; images=False: no pictures; drift: share by which odometry errs."""
        self.render_mode = render_mode
        self.driven: Callable[[], None] = lambda: None  # called after every command
        self.world = RoomsWorld(render=images or render_mode is not None)
        self._size, self._views, self._drift = size, (VIEW,) if images else (), drift
        contract = Embodiment.load('mobile_base')
        self._state_names = contract.state_names
        group = contract.action_groups()[0]
        self._options = output_of(group.output.type).filled(group.output.options)
        self._group, self.recovery = group, Recovery.of(group)
        pixels = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                'images': spaces.Dict(dict.fromkeys(self._views, pixels)),
                'state': spaces.Box(-np.inf, np.inf, (5,), np.float32),
                'instruction': spaces.Text(200, charset=string.printable),
            }
        )
        self.action_space = spaces.Box(-np.inf, np.inf, (HORIZON, 3), np.float32)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Build the house of a seed (without one: a random training house) and put the base into it.

        options: instruction (a sentence, or the name of a goal), task (a Task instead of the
        seed's), look (a Look of the house).
        """
        super().reset(seed=seed)
        options = options or {}
        house_seed = int(self.np_random.integers(1_000_000, 2**31)) if seed is None else seed
        words = options.get('instruction') or ''
        self.task: Task = options.get('task') or sample_task(house_seed, words)
        drift = Drift.sample(self._drift, house_seed)
        self.world.reset(self.task.house, self.task.start, drift)
        if options.get('look') is not None:
            self.world.dress(options['look'])
        self.instruction = self.task.instruction
        self.track = [self.task.start[:2]]
        self.stopped, self.refused, self._speed = False, 0, np.zeros(3)
        self.recovery = Recovery.of(self._group)
        return self._observe(), self._facts()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Drive for 0.5 s along a chunk [8, 3]; STOP brings the base to rest and ends."""
        rows = np.asarray(action, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 3 or not np.isfinite(rows).all():
            raise QwenVlaError(
                f'{ENVIRONMENT_ID}: needs finite waypoints [N, 3], got {list(rows.shape)}'
            )
        for speed in self._speeds(rows):
            self._speed = speed
            self.world.base.command(float(speed[0]), float(speed[2]))
            self.world.step(1.0 / self._options['rate_hz'])
            self.track.append(self.world.base.pose[:2])
            self.driven()
        facts = self._facts()
        truncated = not self.stopped and self.world.time >= TIME_LIMIT_S
        return self._observe(), float(facts['success']), self.stopped, truncated, facts

    def followed(self, chunk: ActionChunk) -> np.ndarray:
        """Return the waypoints [N, 3] that the policy node has the base follow for a chunk."""
        rows = waypoints_of(chunk)
        if self.recovery is None:
            return rows
        return waypoints_of(self.recovery.chunk(chunk, self.world.base.odometry))

    def observation(self) -> Observation:
        """Return the present instant as the observation that a policy takes."""
        fields, stamp_ns = self._observe(), round(self.world.time * 1e9)
        return Observation(
            images=fields['images'],
            state=fields['state'],
            state_names=self._state_names,
            instruction=fields['instruction'],
            stamp_ns=stamp_ns,
            embodiment='mobile_base',
            sources_ns=dict.fromkeys((*fields['images'], 'state'), stamp_ns),
        )

    def render(self) -> np.ndarray | None:
        """Return the camera's image uint8 [h, w, 3], or nothing without a render mode."""
        return self.world.render(VIEW, self._size) if self.render_mode else None

    def close(self) -> None:
        """Free the GL contexts."""
        self.world.close()

    def _speeds(self, rows: np.ndarray) -> np.ndarray:
        """Return the commands [M, 3] of the next 0.5 s, as the cmd_vel output sends them."""
        times = STEP_S * np.arange(1, len(rows) + 1)
        base = BaseRows('odom', self.world.base.odometry, times, rows, 0, 0, tuple(self._speed))
        poses = waypoint_poses(base, self._options['relative_to'])
        self.stopped = is_stop(base, poses, self._options)
        rate = self._options['rate_hz']
        wanted = np.zeros((1, 3))
        if not self.stopped:
            try:
                arcs = base_speeds(base, poses, self._options)
                wanted = np.repeat(arcs, round(STEP_S * rate), axis=0)
            except CommandRefused:
                self.refused += 1
        found = limited_speeds(wanted, self._speed, 1.0 / rate, self._options)
        rest = np.zeros((round(STEP_S * rate), 3))
        return found if self.stopped else np.vstack([found, rest])[: len(rest)]

    def _observe(self) -> dict[str, Any]:
        base = self.world.base
        return {
            'images': {view: self.world.render(view, self._size) for view in self._views},
            'state': np.array([*base.odometry, base.linear, base.angular], np.float32),
            'instruction': self.instruction,
        }

    def _facts(self) -> dict[str, Any]:
        """Return what a policy may not see; distance_m and lengths are those of the metrics."""
        x, y, _ = self.world.base.pose
        return {
            'success': self.stopped and self.task.reached(x, y),
            'stopped': self.stopped,
            'goal': self.task.goal.name,
            'room': self.world.room_name(),
            'distance_m': self.task.distance(x, y),
            'shortest_m': self.task.length,
            'elapsed_s': self.world.time,
            'bumped': list(self.world.bumped),
            'refused': self.refused,
            'recoveries': 0 if self.recovery is None else self.recovery.begun,
            'seed': self.task.house.seed,
        }


def run_episode(
    policy: Policy,
    seed: int,
    instruction: str | None = None,
    env: RoomsEnv | None = None,
    told: Callable[[np.ndarray], None] = lambda rows: None,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Run one episode synchronously (the world waits for the policy) and return its facts.

    told is called with every chunk [8, 3] before the base follows it; further are options of
    reset().

    With them come track [N, 2] (where the base was, on the map, in m), the instruction and the
    number of inferences.
    """
    own = env is None
    env = env or RoomsEnv()
    try:
        _, facts = env.reset(seed=seed, options={'instruction': instruction, **(further or {})})
        policy.reset()
        inferences, ended = 0, False
        while not ended:
            rows = env.followed(policy.infer(env.observation()))
            inferences += 1
            told(rows)
            _, _, terminated, truncated, facts = env.step(rows)
            ended = terminated or truncated
        track = np.array(env.track)
        return {**facts, 'instruction': env.instruction, 'inferences': inferences, 'track': track}
    finally:
        if own:
            env.close()


def waypoints_of(chunk: ActionChunk) -> np.ndarray:
    """Return a chunk's rows [N, 3] in the order of NAMES."""
    if set(chunk.names) != set(NAMES) or abs(chunk.step_s - STEP_S) > 1e-6:
        raise QwenVlaError(
            f'{ENVIRONMENT_ID}: needs waypoints {list(NAMES)} {STEP_S} s apart, the policy gave '
            f'{list(chunk.names)} {chunk.step_s} s apart'
        )
    return chunk.actions[:, [chunk.names.index(name) for name in NAMES]]


gymnasium.register(ENVIRONMENT_ID, entry_point='qwen_vla_ros.sim.rooms.environment:RoomsEnv')
