"""
A base that is held up: told to drive, it stands. It turns, drives on a little, then obeys again.

A policy without memory that asks to drive against a chair asks so again, for its picture stays the
same. Nav2 has recoveries for that (Spin, BackUp); where velocities go to a bare base, this is the
one: turn on the spot, go straight on, and turn further while that is blocked. It never backs off,
for nobody sees what is behind. Its chunks are waypoints like the policy's, so what checks and
limits those does so with these. A STOP of the policy counts at once.

Option `recovery` of the outputs Twist and TwistStamped (navigation_commands.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.command import commands, output_of
from qwen_vla_ros.navigation_commands import is_stop, rows_of_chunk, waypoint_poses
from qwen_vla_ros.output_kinds import BASE
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup

Pose = tuple[float, float, float]

HELD_UP_S, PROGRESS_M = 1.0, 0.03  # asked to drive for so long, and no further
DRIVES_M_S = 0.1  # to the first waypoint: less is no driving
TURN_RAD, AHEAD_M, MOST_TURN = 1.0, 0.3, 1.5  # MOST_TURN: rad of one chunk
SPEED, TURNING = 0.3, 1.2  # m/s, rad/s; the output's limits are held besides
GIVE_UP_S = 6.0  # of one turn, or of one way ahead


@dataclass
class _Leg:
    """A turn or a way ahead: where it began, and where progress was last seen."""

    turns: bool
    begun_ns: int
    begin: Pose
    seen_ns: int
    seen: Pose


class Recovery:
    """Chunks in, chunks out: the policy's, or one that gets the base off. Not thread-safe."""

    def __init__(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        """
        Begin an episode.

        names: of the waypoints' dx, dy, dtheta in chunks; options: relative_to, stop_m, stop_rad
        """
        self._names, self._options = names, options
        self.begun = 0
        self.reset()

    @classmethod
    def of(cls, group: 'ActionGroup') -> 'Recovery | None':
        """Return the recovery that an action group's output asks for; None when it does not."""
        if not commands(group, BASE):
            return None
        options = output_of(group.output.type).filled(group.output.options)
        return cls(group.names, options) if options.get('recovery') else None

    @property
    def notice(self) -> str:
        """Return what it does; '' while the base is the policy's."""
        return '' if self._leg is None else 'held up: the base turns and drives on by itself'

    def reset(self) -> None:
        """Forget what was: the base came to rest, or another episode begins."""
        self._since: tuple[int, Pose] | None = None
        self._leg: _Leg | None = None
        self._side = -1.0

    def chunk(self, chunk: ActionChunk, pose: Pose, speed: float = 1.0) -> ActionChunk:
        """
        Return the chunk to follow instead of the policy's; it has its names, start and steps.

        pose: x, y in m, yaw in rad of odometry at the chunk's start; speed: share of its speed
        that the base drives with, 0..1
        """
        order = [chunk.names.index(name) for name in self._names]
        rows = rows_of_chunk(chunk, self._names, (0.0, 0.0, 0.0), '', chunk.start_ns)
        way = waypoint_poses(rows, self._options['relative_to'])
        now_ns, allowed_ns = chunk.start_ns, HELD_UP_S / speed * 1e9
        if is_stop(rows, way, self._options):
            self._since = self._leg = None
            return chunk
        if self._leg is None:
            if not self._held_up(way, chunk.step_s, now_ns, pose, allowed_ns):
                return chunk
            self.begun, self._side = self.begun + 1, -self._side
            self._leg = _Leg(True, now_ns, pose, now_ns, pose)
        else:
            self._leg = self._next(self._leg, now_ns, pose, allowed_ns)
        if self._leg is None:
            self._since = None
            return chunk
        actions = chunk.actions.copy()
        actions[:, order] = self._rows(chunk.step_s * np.arange(1, chunk.horizon + 1))
        return replace(chunk, actions=actions)

    def _held_up(
        self, way: np.ndarray, step_s: float, now_ns: int, pose: Pose, allowed_ns: float
    ) -> bool:
        """Return whether the base has been asked to drive for a while, and hardly did."""
        if np.hypot(*way[0, :2]) < DRIVES_M_S * step_s:
            self._since = None
        elif self._since is None or _away(pose, self._since[1]) > PROGRESS_M:
            self._since = now_ns, pose
        return self._since is not None and now_ns - self._since[0] >= allowed_ns

    def _next(self, leg: _Leg, now_ns: int, pose: Pose, allowed_ns: float) -> _Leg | None:
        """Return the leg to go on with; None when the base is off, or cannot get off."""
        if now_ns - leg.begun_ns > GIVE_UP_S / HELD_UP_S * allowed_ns:
            return None
        if leg.turns:
            turned = pose[2] - leg.begin[2]
            if abs(np.arctan2(np.sin(turned), np.cos(turned))) < TURN_RAD:
                return leg
            return _Leg(False, now_ns, pose, now_ns, pose)
        if _away(pose, leg.begin) >= AHEAD_M:
            return None
        if _away(pose, leg.seen) > PROGRESS_M:
            return replace(leg, seen_ns=now_ns, seen=pose)
        blocked = now_ns - leg.seen_ns >= allowed_ns
        return _Leg(True, now_ns, pose, now_ns, pose) if blocked else leg

    def _rows(self, seconds: np.ndarray) -> np.ndarray:
        """Return waypoints [H, 3] of the leg at times after now."""
        way = np.zeros((len(seconds), 3))
        if self._leg.turns:
            way[:, 2] = self._side * np.minimum(TURNING * seconds, MOST_TURN)
        else:
            way[:, 0] = np.minimum(SPEED * seconds, AHEAD_M)
        if self._options['relative_to'] == 'previous':
            way = np.diff(way, axis=0, prepend=np.zeros((1, 3)))
        return way


def _away(pose: Pose, other: Pose) -> float:
    return float(np.hypot(pose[0] - other[0], pose[1] - other[1]))
