"""
What moves, as the picture follows it: each arm's tip, and the base; where it goes, where it was.

A track turns a chunk into a way (places over time) and keeps the trail of what was measured.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.command import output_of
from qwen_vla_ros.navigation_commands import waypoint_poses
from qwen_vla_ros.output_kinds import BaseRows
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup, WorkspaceBox

TRAIL_STEP_NS = 40_000_000
NEAR_NS = 300_000_000  # a place further away in time is not the place of an instant
LEAP_M_S = 5.0  # nothing here moves faster: a simulation was reset, odometry was set anew
BASE_SIZE = 3.0  # a base is seen from further away: its lines are so much wider than a tip's
ON_GROUND_M = 0.01  # the base's way lies this high, above the floor that a viewer draws


@dataclass(frozen=True)
class Way:
    """Places [N, 3] in m at times_ns int64 [N]; headings [N] in rad, of bases only."""

    times_ns: np.ndarray
    places: np.ndarray
    headings: np.ndarray | None = None

    def after(self, time_ns: int) -> 'Way':
        """Return the part from an instant on, which begins with the place of that instant."""
        if time_ns <= self.times_ns[0]:
            return self
        later = self.times_ns > time_ns
        place = self.at(min(time_ns, int(self.times_ns[-1])))
        headings = self.headings
        if headings is not None:
            turn = np.interp(time_ns, self.times_ns, headings)
            headings = np.concatenate([[turn], headings[later]])
        times = np.concatenate([[time_ns], self.times_ns[later]])
        return Way(times, np.vstack([place, self.places[later]]), headings)

    def before(self, time_ns: int) -> 'Way | None':
        """Return the part up to an instant, which ends there; None when it has not begun."""
        over = self.times_ns < time_ns
        if not over.any():
            return None
        places = np.vstack([self.places[over], self.at(time_ns)])
        return Way(np.append(self.times_ns[over], time_ns), places)

    def at(self, time_ns: int) -> np.ndarray:
        """Return the place [3] at an instant, linear between places."""
        since = (self.times_ns - self.times_ns[0]) * 1e-9
        now = (time_ns - int(self.times_ns[0])) * 1e-9
        return np.array([np.interp(now, since, column) for column in self.places.T])


class Trail:
    """What was measured lately: time, place [3] and heading, thinned and bounded."""

    def __init__(self, seconds: float) -> None:
        """Keep so many seconds."""
        kept = round(seconds * 1e9 / TRAIL_STEP_NS) + 1
        self._seen: deque[tuple[int, np.ndarray, float]] = deque(maxlen=kept)

    def add(self, time_ns: int, place: np.ndarray, heading: float = 0.0) -> None:
        """Take a place; a clock that went back, or a leap of the robot, starts a new trail."""
        place = np.asarray(place, np.float64)
        if self._seen:
            before_ns, before, _ = self._seen[-1]
            reach = LEAP_M_S * (time_ns - before_ns) * 1e-9
            if reach < 0 or np.linalg.norm(place - before) > reach:
                self._seen.clear()
        self._seen.append((time_ns, place, heading))

    def due(self, time_ns: int) -> bool:
        """Return whether the next place is wanted yet."""
        return not self._seen or abs(time_ns - self._seen[-1][0]) >= TRAIL_STEP_NS

    def since(self, time_ns: int) -> Way | None:
        """Return the way since an instant; None for fewer than two places."""
        seen = [item for item in self._seen if item[0] >= time_ns]
        if len(seen) < 2:
            return None
        times, places, headings = zip(*seen, strict=True)
        return Way(np.array(times), np.array(places), np.unwrap(headings))

    @property
    def newest(self) -> tuple[np.ndarray, float] | None:
        """Return the newest place [3] and heading; None before the first."""
        return self._seen[-1][1:] if self._seen else None

    def near(self, time_ns: int) -> tuple[np.ndarray, float] | None:
        """Return place [3] and heading nearest to an instant; None when none is near."""
        if not self._seen:
            return None
        at_ns, place, heading = min(self._seen, key=lambda item: abs(item[0] - time_ns))
        return None if abs(at_ns - time_ns) > NEAR_NS else (place, heading)


class ArmTrack:
    """The tip of one arm, in the URDF's root link."""

    def __init__(
        self,
        name: str,
        link: str,
        links: RobotLinks,
        frame: str,
        groups: 'tuple[ActionGroup, ...]',
        box: 'WorkspaceBox | None',
        trail_s: float,
    ) -> None:
        """Follow a link; groups: Cartesian ones that move it; frame: how views call the root."""
        self.name, self.frame, self.link, self.box = name, frame, link, box
        self.joints, self.size = links.joints_of(link), 1.0
        self.trail = Trail(trail_s)
        self._links, self._groups = links, groups

    def measured(self, positions: Mapping[str, float], time_ns: int) -> None:
        """Take joints by name; without all of this arm's the trail ends."""
        if not self.trail.due(time_ns) or not all(name in positions for name in self.joints):
            return
        row = np.array([[positions[name] for name in self.joints]])
        if np.isfinite(row).all():
            self.trail.add(time_ns, self._links.way(self.link, self.joints, row)[0])

    def way(self, chunk: ActionChunk, others: Mapping[str, float]) -> Way | None:
        """Return where a chunk takes the tip, up to its first row that is not finite, or None."""
        places = self._places(chunk, others)
        if places is None or not len(places):
            return None
        return Way(_times(chunk, len(places)), places)

    def _places(self, chunk: ActionChunk, others: Mapping[str, float]) -> np.ndarray | None:
        own = [name for name in self.joints if name in chunk.names]
        if own:
            rest = {name: others[name] for name in self.joints if name in others}
            if any(name not in own and name not in rest for name in self.joints):
                return None
            rows = _finite(chunk.actions[:, [chunk.names.index(name) for name in own]])
            return self._links.way(self.link, own, rows, rest)
        group = next((g for g in self._groups if set(g.names) <= set(chunk.names)), None)
        begin = self.trail.near(chunk.start_ns)
        if group is None or begin is None:
            return None
        columns = [chunk.names.index(name) for name in group.names[:3]]
        return begin[0] + _finite(chunk.actions[:, columns])


class BaseTrack:
    """A mobile base: waypoints from its pose at the chunk's stamp, in odometry's frame."""

    def __init__(self, group: 'ActionGroup', trail_s: float) -> None:
        """Follow a group of waypoints."""
        self.name, self.frame, self.box = group.name, group.frame or 'odom', None
        self.joints, self.link, self.size = group.names, group.name, BASE_SIZE
        self.trail = Trail(trail_s)
        kind = output_of(group.output.type)
        self._relative_to = kind.filled(group.output.options)['relative_to']

    def measured(self, frame: str, pose: tuple[float, float, float], time_ns: int) -> None:
        """Take where odometry has the base: (x, y in m, yaw in rad) in frame."""
        self.frame = frame or self.frame
        if self.trail.due(time_ns) and np.isfinite(pose).all():
            self.trail.add(time_ns, np.array([pose[0], pose[1], ON_GROUND_M]), pose[2])

    def way(self, chunk: ActionChunk, others: Mapping[str, float]) -> Way | None:
        """Return where a chunk takes the base; None when its pose at the stamp is not known."""
        begin = self.trail.near(chunk.start_ns)
        if begin is None or not set(self.joints) <= set(chunk.names):
            return None
        columns = [chunk.names.index(name) for name in self.joints]
        steps = _finite(chunk.actions[:, columns])
        if not len(steps):
            return None
        place, heading = begin
        pose = (float(place[0]), float(place[1]), heading)
        seconds = chunk.step_s * np.arange(1, len(steps) + 1)
        rows = BaseRows(self.frame, pose, seconds, steps, chunk.start_ns, chunk.start_ns)
        poses = np.vstack([pose, waypoint_poses(rows, self._relative_to)])
        places = np.column_stack([poses[:, :2], np.full(len(poses), ON_GROUND_M)])
        return Way(_times(chunk, len(poses)), places, poses[:, 2])


Track = ArmTrack | BaseTrack


def _times(chunk: ActionChunk, count: int) -> np.ndarray:
    return chunk.start_ns + np.rint(np.arange(count) * chunk.step_s * 1e9).astype(np.int64)


def _finite(rows: np.ndarray) -> np.ndarray:
    """Return the rows before the first that is not finite, float64."""
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    return rows[: bad[0] if len(bad) else len(rows)].astype(np.float64)
