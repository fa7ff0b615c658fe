"""
The scripted teacher of both arms, as a policy: it plans once a sentence, then follows its plan.

Where things lie it is told, or sees (evaluate/colour_places.py). Where it is on its plan it reads
from the measured joints: after a hold it goes on where the arms stand. A sentence that names
nothing it can find makes it hold still.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.scene import SIDES_IN_WORDS, other
from qwen_vla_ros.sim.aloha.tasks import Place, insertion_rows, transfer_rows
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.types import ActionChunk, Observation

Locate = Callable[[Observation, Sequence[str]], Mapping[str, Place]]
ASTRAY_RAD = 0.06  # further from the plan than this, the joints say where on it the arms are
_NAME = re.compile(r'\b([a-z]+) (cube|peg|socket)\b')
_ARM = np.arange(14) % 7 != 6


class BimanualExpert:
    """Both tasks, told apart by the sentence."""

    def __init__(
        self,
        locate: Locate,
        metadata: Mapping[str, Any] | None = None,
        horizon: int = 50,
        step_s: float = 0.02,
    ) -> None:
        """Take locate(observation, names) -> where the named objects lie, those that it finds."""
        self._locate, self._horizon, self._step_s = locate, horizon, step_s
        self._metadata = {**(metadata or {}), 'checkpoint': 'expert'}
        self.reset()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the given facts."""
        return self._metadata

    def reset(self) -> None:
        """Forget the plan."""
        self._sentence, self._rows, self._index, self._stamp_ns = '', None, 0, 0

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return the part of the plan that begins where the arms are."""
        q = joints_of(observation)
        if observation.instruction != self._sentence:
            self.reset()
        if self._rows is None:
            self._sentence = observation.instruction
            self._rows = self._plan(observation, q)
        else:
            self._index = self._place_on_plan(q, observation.stamp_ns)
        self._stamp_ns = observation.stamp_ns
        rows = np.tile(q, (1, 1)) if self._rows is None else self._rows[self._index :]
        rows = np.concatenate([rows, np.tile(rows[-1], (self._horizon, 1))])[: self._horizon]
        return ActionChunk(
            rows.astype(np.float32), vx300s.JOINT_NAMES, observation.stamp_ns, self._step_s
        )

    def _plan(self, observation: Observation, q: np.ndarray) -> np.ndarray | None:
        """Return rows [N, 14] from q, or None where the sentence names nothing in sight."""
        words = observation.instruction.lower()
        names = list(dict.fromkeys(' '.join(found) for found in _NAME.findall(words)))
        places = self._locate(observation, names) if names else {}
        found = {name.split()[1]: places[name] for name in names if name in places}
        if len(found) < len(names):
            return None
        if set(found) == {'peg', 'socket'}:
            return insertion_rows(q, found['peg'], found['socket'], self._step_s)
        if set(found) == {'cube'}:
            sides = SIDES_IN_WORDS.findall(words)
            giver = other(sides[-1]) if sides else 'left' if found['cube'].x < 0 else 'right'
            return transfer_rows(q, found['cube'], giver, self._step_s)
        return None

    def _place_on_plan(self, q: np.ndarray, stamp_ns: int) -> int:
        """Return the row that time says, or where the arms are not there the row nearest to q."""
        steps = round((stamp_ns - self._stamp_ns) * 1e-9 / self._step_s)
        ahead = min(self._index + max(0, steps), len(self._rows) - 1)
        gaps = np.abs(self._rows[self._index : ahead + 1] - q)[:, _ARM].max(1)
        return ahead if gaps[-1] < ASTRAY_RAD else self._index + int(gaps.argmin())


def told_by(world: AlohaWorld) -> Locate:
    """Return the source of a teacher that is told where the world has its objects."""

    def locate(observation: Observation, names: Sequence[str]) -> Mapping[str, Place]:
        poses = world.object_poses()
        return {name: _place(poses[name]) for name in names if name in poses}

    return locate


def _place(pose: np.ndarray) -> Place:
    return Place(pose[0, 3], pose[1, 3], float(np.arctan2(pose[1, 0], pose[0, 0])))


def joints_of(observation: Observation) -> np.ndarray:
    """Return the observed joints float64 [14] in the order of JOINT_NAMES."""
    absent = set(vx300s.JOINT_NAMES) - set(observation.state_names)
    if absent:
        raise QwenVlaError(f'expert policy: the state has no joints {sorted(absent)}')
    state = dict(zip(observation.state_names, observation.state, strict=True))
    return np.array([state[name] for name in vx300s.JOINT_NAMES], np.float64)
