"""
Worlds that reinforcement learning acts in, a chunk an action, as gymnasium environments.

  turn      a base that is told "turn left" or "turn right" and succeeds when it does: seconds to
            learn, for the demo and for tests
  tabletop  the WidowX over three objects (sim/environment.py); some rows of each chunk are run
  rooms     the mobile base in furnished rooms (sim/rooms)

Observations are dicts of images, state and instruction; the reward is 1 where an episode ends in
success, and 0 everywhere else. Seeds are those of scenes for training.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from qwen_vla_ros.errors import QwenVlaError

SIZE = (32, 32)
FIRST_SEED = 3_000_000
LEAST = 0.05  # rad
SENTENCES = ('turn left', 'turn right')


class TurnEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One chunk of waypoints; success is a mean heading to the named side, by LEAST rad."""

    def __init__(self) -> None:
        """Declare what is seen and done."""
        self.action_space = spaces.Box(-np.inf, np.inf, (8, 3), np.float32)
        self.observation_space = _seen(('ego',), 5)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw the side and what the camera shows."""
        super().reset(seed=seed)
        self.left = bool(self.np_random.integers(2))
        self._image = self.np_random.integers(0, 256, (*SIZE, 3), np.uint8)
        return self._observe(), {'success': False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Turn, and end."""
        heading = float(np.asarray(action)[:, 2].mean())
        done = heading > LEAST if self.left else heading < -LEAST
        return self._observe(), float(done), True, False, {'success': done}

    def _observe(self) -> dict[str, Any]:
        return {
            'images': {'ego': self._image},
            'state': np.zeros(5, np.float32),
            'instruction': SENTENCES[0] if self.left else SENTENCES[1],
        }


class ChunkEnv(gymnasium.Wrapper):
    """
    A world of single rows as one of chunks [H, A]: rows 1 .. run of each are run.

    Row 0 is where the robot stands. A row beyond the limits is held at them; one that the
    controller refuses ends the episode without reward.
    """

    def __init__(self, env: gymnasium.Env, horizon: int, run: int) -> None:
        """Take the world and how many rows are run."""
        super().__init__(env)
        self._run, box = run, env.action_space
        self._low, self._high = box.low, box.high
        self.action_space = spaces.Box(-np.inf, np.inf, (horizon, *box.shape), np.float32)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Run some rows of a chunk."""
        for row in action[1 : 1 + self._run]:
            try:
                seen = self.env.step(np.clip(row, self._low, self._high))
            except QwenVlaError:
                shown = self.env.unwrapped._observe()
                return shown, 0.0, True, False, {'success': False, 'chunk_refused': True}
            if seen[2] or seen[3]:
                break
        return seen


def _seen(views: tuple[str, ...], width: int) -> spaces.Dict:
    pixels = spaces.Box(0, 255, (*SIZE, 3), np.uint8)
    return spaces.Dict(
        {
            'images': spaces.Dict(dict.fromkeys(views, pixels)),
            'state': spaces.Box(-np.inf, np.inf, (width,), np.float32),
            'instruction': spaces.Text(200, min_length=0),
        }
    )


def _tabletop() -> gymnasium.Env:
    from qwen_vla_ros.sim.environment import TabletopEnv

    return ChunkEnv(TabletopEnv(), 16, 2)


def _rooms() -> gymnasium.Env:
    from qwen_vla_ros.sim.rooms.environment import RoomsEnv

    return RoomsEnv()


# name -> robot and what makes one
WORLDS: Mapping[str, tuple[str, Callable[[], gymnasium.Env]]] = {
    'turn': ('mobile_base', TurnEnv),
    'tabletop': ('widowx', _tabletop),
    'rooms': ('mobile_base', _rooms),
}


def make_worlds(name: str, count: int, processes: bool) -> VectorEnv:
    """Return `count` worlds, each in a process of its own or all in this one."""
    if name not in WORLDS:
        raise QwenVlaError(f'world {name!r} is unknown; choose one of {", ".join(WORLDS)}')
    make = [WORLDS[name][1]] * count
    if not processes:
        return SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)
    return AsyncVectorEnv(
        make, shared_memory=False, context='spawn', autoreset_mode=AutoresetMode.DISABLED
    )
