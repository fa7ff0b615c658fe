"""
The tips and bases of a robot: chunks checked and handed to the outputs, which execute them.

The outputs keep a base within its speeds and end at rest by themselves; here a chunk must be
finite, young and ahead, and the base's pose at its observation must be known. A base that is held
up gets off by itself where its output says so (recovery.py).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.motion import Follow
from qwen_vla_ros.recovery import Recovery
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup, Embodiment

POSE = ('x', 'y', 'yaw')


class BasePart:
    """What follows chunks by itself. Not thread-safe: Pilot locks."""

    def __init__(self, embodiment: 'Embodiment', groups: 'tuple[ActionGroup, ...]') -> None:
        """Find where the pose comes from: the Odometry source of the contract."""
        self._embodiment, self._groups = embodiment, groups
        self.pose_names = _pose_names(embodiment)
        self._frame = next((group.frame for group in groups if group.frame), 'odom')
        self._recoveries = [found for g in groups if (found := Recovery.of(g)) is not None]
        if self._recoveries and self.pose_names is None:
            raise QwenVlaError(
                f'contract {embodiment.name}: recovery: true needs x, y and yaw of an Odometry '
                'source in the state; give it one, or leave recovery out'
            )
        self._newest: Follow | None = None
        self._end_ns: int | None = None
        self.latched = ''

    @property
    def moving(self) -> bool:
        """Return whether a chunk runs."""
        return self._end_ns is not None

    @property
    def notice(self) -> str:
        """Return what the base does other than what the policy asks; '' when nothing."""
        return next((r.notice for r in self._recoveries if r.notice), '')

    def admitted(self, chunk: ActionChunk, observation: Observation, now_ns: int) -> Follow:
        """Return what the outputs get; raise ChunkRefused when they may not get it."""
        for group in self._groups:
            columns = [chunk.names.index(name) for name in group.names]
            bad = np.argwhere(~np.isfinite(chunk.actions[:, columns]))
            if len(bad):
                row, column = bad[0]
                raise ChunkRefused(
                    f'chunk refused: row {row}, {group.names[column]} is not a finite number'
                )
        age_s, limit_s = (now_ns - chunk.start_ns) * 1e-9, self._embodiment.safety
        if age_s > limit_s.inference_timeout_s or -age_s > limit_s.max_future_s:
            raise ChunkRefused(f'chunk refused: it starts {age_s:.3f} s before now')
        if chunk.end_ns <= now_ns:
            raise ChunkRefused('chunk refused: its last row is over')
        return Follow(chunk, now_ns, self.pose(observation), self._frame)

    def lead(self, follow: Follow, speed: float) -> None:
        """
        Make a chunk the one that runs; at a share of the speed its rows lie further apart.

        A base that is held up runs another one, which gets it off.
        """
        chunk = follow.chunk
        for recovery in self._recoveries:
            chunk = recovery.chunk(chunk, follow.pose, speed)
        chunk = replace(chunk, step_s=chunk.step_s / speed)
        self._newest, self._end_ns = replace(follow, chunk=chunk), chunk.end_ns

    def take(self) -> Follow | None:
        """Return the newest chunk, once."""
        found, self._newest = self._newest, None
        return found

    def ends(self, now_ns: int) -> str:
        """Return why the motion has no future; '' when it has."""
        if self._end_ns is not None and now_ns >= self._end_ns:
            return 'policy: the chunk ends and no new one came'
        return ''

    def forget(self) -> None:
        """Nothing runs any more."""
        self._newest = self._end_ns = None
        for recovery in self._recoveries:
            recovery.reset()

    def latch(self, reason: str) -> None:
        """Forbid motion until reset(): a robot without joints has no gate of its own."""
        self.latched = self.latched or reason

    def reset(self) -> None:
        """Allow motion again."""
        self.latched = ''

    def pose(self, observation: Observation) -> tuple[float, float, float] | None:
        """Return (x, y in m, yaw in rad) of the base at an observation; None without odometry."""
        if self.pose_names is None:
            return None
        names = observation.state_names
        x, y, yaw = (float(observation.state[names.index(name)]) for name in self.pose_names)
        return x, y, yaw


def _pose_names(embodiment: 'Embodiment') -> tuple[str, str, str] | None:
    """Return the names of x, y and yaw in the state; None when no odometry gives them."""
    for source in embodiment.states:
        names = [field.name.removeprefix(source.prefix) for field in source.fields]
        if source.type == 'Odometry' and set(POSE) <= set(names):
            x, y, yaw = (f'{source.prefix}{name}' for name in POSE)
            return x, y, yaw
    return None
