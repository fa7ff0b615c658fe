"""
What reinforcement learning acts in, a chunk an action, as gymnasium environments.

  turn      a base that is told "turn left" or "turn right" and succeeds when it does: seconds to
            learn, for the demo and for tests
  tabletop  the WidowX over three objects (sim/environment.py); some rows of each chunk are run
  tasks     the WidowX that picks, places, pushes, stacks (sim/tasks); the same
  handover  ALOHA, one arm hands the named cube to the other (sim/aloha)
  rooms     the mobile base in furnished rooms (sim/rooms)

Observations are dicts of images, state and instruction; the reward is 1 where an episode ends in
success, and 0 everywhere else. Seeds are those of scenes for training.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.tasks.goals import KINDS
from qwen_vla_ros.transforms import ResizeImages

SIZE = (32, 32)
FIRST_SEED = 3_000_000
LEAST = 0.05  # rad
SENTENCES = ('turn left', 'turn right')
HORIZON, BIMANUAL_HORIZON = 16, 50  # rows of the WidowX's and of ALOHA's chunks
ZeroErrors = tuple[tuple[str, float], ...]


class TurnEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One chunk of waypoints; success is a mean heading to the named side, by LEAST rad."""

    def __init__(self) -> None:
        """Declare what is seen and done."""
        self.action_space = spaces.Box(-np.inf, np.inf, (8, 3), np.float32)
        pixels = spaces.Box(0, 255, (*SIZE, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                'images': spaces.Dict({'ego': pixels}),
                'state': spaces.Box(-np.inf, np.inf, (5,), np.float32),
                'instruction': spaces.Text(200, min_length=0),
            }
        )

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
    A tabletop (sim/environment.py) as a world of chunks [H, A]: rows 1 .. run of each are run.

    Row 0 is where the robot stands. Pictures are taken when the last row is done. A row beyond
    the limits is held at them; one that the controller refuses ends the episode without reward.
    """

    def __init__(self, env: gymnasium.Env, horizon: int, run: int) -> None:
        """Take the world and how many rows are run; QwenVlaError when a chunk has fewer."""
        super().__init__(env)
        if not 1 <= run < horizon:
            raise QwenVlaError(f'--rows {run}: choose 1 to {horizon - 1}')
        self._run, box = run, env.action_space
        self._low, self._high = box.low, box.high
        self.action_space = spaces.Box(-np.inf, np.inf, (horizon, *box.shape), np.float32)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Run some rows of a chunk."""
        world: Any = self.env.unwrapped
        ended, cut, refused = False, False, False
        for row in action[1 : 1 + self._run]:
            try:
                ended, cut = world.advance(np.clip(row, self._low, self._high))
            except QwenVlaError:
                ended, refused = True, True
            if ended or cut:
                break
        success = ended and not refused and bool(world.facts()['success'])
        facts = {'success': success, 'chunk_refused': refused}
        return world._observe(), float(success), ended, cut, facts


def _turn(order: 'Order') -> gymnasium.Env:
    return TurnEnv()


def _tabletop(order: 'Order') -> gymnasium.Env:
    from qwen_vla_ros.sim.environment import TabletopEnv

    return ChunkEnv(TabletopEnv(), HORIZON, order.rows)


def _tasks(order: 'Order') -> gymnasium.Env:
    from qwen_vla_ros.sim.tasks.environment import TasksEnv

    env = TasksEnv(kind=order.kind, zero_errors=dict(order.zero_errors))
    return ChunkEnv(env, HORIZON, order.rows)


def _handover(order: 'Order') -> gymnasium.Env:
    from qwen_vla_ros.sim.aloha.environment import AlohaEnv

    return ChunkEnv(AlohaEnv(), BIMANUAL_HORIZON, order.rows)


def _rooms(order: 'Order') -> gymnasium.Env:
    from qwen_vla_ros.sim.rooms.environment import RoomsEnv

    return RoomsEnv()


@dataclass(frozen=True)
class World:
    """
    robot: name of its contract; make: its order -> environment.

    limit   rows until its time runs out, or chunks where it takes whole ones
    rows    of each chunk that are run when nothing is said; 0: it takes whole chunks
    kinds   of tasks there are, if any; a world that has them takes zero errors
    """

    robot: str
    make: Callable[['Order'], gymnasium.Env]
    limit: int
    rows: int = 0
    kinds: tuple[str, ...] = ()


WORLDS: Mapping[str, World] = {
    'turn': World('mobile_base', _turn, 1),
    'tabletop': World('widowx', _tabletop, 60, 2),
    'tasks': World('widowx', _tasks, 120, 8, KINDS),
    'handover': World('aloha', _handover, 1250, 25),
    'rooms': World('mobile_base', _rooms, 240),
}


@dataclass(frozen=True)
class Order:
    """
    One world to be made: which, its kind of task ('': any), and rows of a chunk to be run.

    zero_errors: of its joints, (name, rad or m) each; see sim/zero_errors.py
    """

    world: str
    kind: str = ''
    rows: int = 0
    zero_errors: ZeroErrors = ()

    @property
    def robot(self) -> str:
        """Return the name of the contract of its robot."""
        return WORLDS[self.world].robot

    @property
    def label(self) -> str:
        """Return what figures of it are told under."""
        return f'{self.world} {self.kind}'.strip()

    @property
    def longest(self) -> int:
        """Return how many decisions an episode may take."""
        return -(-WORLDS[self.world].limit // max(1, self.rows))


def order_worlds(
    names: Sequence[str],
    kinds: Sequence[str],
    rows: int,
    count: int,
    zero_errors: ZeroErrors = (),
) -> list[Order]:
    """
    Return `count` worlds: those of the names in turn, each of the kinds in turn where it has any.

    rows 0: as usual in each; zero_errors: of the arms in `tasks`. QwenVlaError for what there is
    not.
    """
    known = {kind for name in names if name in WORLDS for kind in WORLDS[name].kinds}
    if unknown := [name for name in names if name not in WORLDS]:
        raise QwenVlaError(f'world {unknown[0]!r} is unknown; choose of {", ".join(WORLDS)}')
    if unknown := [kind for kind in kinds if kind not in known]:
        there = ', '.join(sorted(known)) or 'none'
        raise QwenVlaError(f'--kinds {unknown[0]}: {", ".join(names)} has {there}')
    if zero_errors and not any(WORLDS[name].kinds for name in names):
        raise QwenVlaError(f'--zero-errors: {", ".join(names)} takes none; choose --world tasks')
    variants = [
        Order(
            name,
            kind,
            (rows or WORLDS[name].rows) if WORLDS[name].rows else 0,
            zero_errors if WORLDS[name].kinds else (),
        )
        for name in names
        for kind in ((kinds or ('',)) if WORLDS[name].kinds else ('',))
    ]
    if not len(variants) <= count:
        raise QwenVlaError(f'--worlds {count}: at least {len(variants)}, one of each kind')
    return list(itertools.islice(itertools.cycle(variants), count))


Sizes = Mapping[str, Mapping[str, tuple[int, int]]]
"""robot -> view -> (h, w) of the pictures that its policy takes."""


@dataclass(frozen=True)
class Met:
    """What a world answers to a chunk: fields as those of gymnasium's step()."""

    observation: dict[str, Any]
    reward: float
    ended: bool
    cut: bool
    success: bool
    refused: bool


class Hall:
    """Worlds of one process, by number; pictures leave it at the sizes that the policy takes."""

    def __init__(self, orders: Mapping[int, Order], sizes: Sizes) -> None:
        """Make the worlds."""
        self._worlds = {
            number: WORLDS[order.world].make(order) for number, order in orders.items()
        }
        self._small = {n: ResizeImages(sizes[order.robot]) for n, order in orders.items()}

    def reset(self, seeds: Mapping[int, int]) -> dict[int, dict[str, Any]]:
        """Begin an episode in some worlds, by its seed; return what they show."""
        return {n: self._shown(n, self._worlds[n].reset(seed=s)[0]) for n, s in seeds.items()}

    def step(self, chunks: Mapping[int, np.ndarray]) -> dict[int, Met]:
        """Run a chunk [H, A] in each of some worlds."""
        found = {}
        for number, chunk in chunks.items():
            seen, reward, ended, cut, facts = self._worlds[number].step(chunk)
            found[number] = Met(
                self._shown(number, seen),
                float(reward),
                bool(ended),
                bool(cut),
                bool(facts['success']),
                bool(facts.get('chunk_refused', False)),
            )
        return found

    def close(self) -> None:
        """Free the worlds."""
        for world in self._worlds.values():
            world.close()

    def _shown(self, number: int, seen: Mapping[str, Any]) -> dict[str, Any]:
        state = np.asarray(seen['state'], np.float32)
        return self._small[number].forward({**seen, 'state': state})
