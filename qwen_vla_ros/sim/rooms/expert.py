"""
The scripted teacher of the base: it knows the map, reads the sentence by keyword, and drives.

Along the way that keeps comfortably off what stands, by pure pursuit in arcs that a differential
base can drive; on the goal's floor it turns to the piece and stops (waypoints of zero). Asking
again on the way continues the same motion.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.rooms.drive import Pose, inverted, joined, moved
from qwen_vla_ros.sim.rooms.free_floor import GAP, FreeFloor
from qwen_vla_ros.sim.rooms.house import House, clearance
from qwen_vla_ros.sim.rooms.tasks import Goal, floor_of, goal_region, parse_goal
from qwen_vla_ros.types import ActionChunk, Observation

HORIZON, STEP_S = 8, 0.5
NAMES = ('dx', 'dy', 'dtheta')
SPEED, TURN = 0.29, 1.2  # m/s, rad/s
AHEAD = 0.40  # m, the point of the path that the base steers to
ON_THE_SPOT = 0.7  # rad; further off its way than that, it turns before it goes
TIGHT = 0.15  # rad, the same where it is narrow
FACING = 0.12  # rad
COMFORT = 0.45  # m from what stands, where there is so much room
DEEPER = 0.12  # m past the edge of the goal's floor


class RoomsExpert:
    """The teacher as a policy; where() returns the house and the pose of odom on its map."""

    def __init__(
        self, where: Callable[[], tuple[House, Pose]], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Take where it is; metadata is what the robot compares."""
        self._where = where
        self._metadata = {**(metadata or {}), 'checkpoint': 'expert'}
        self._known: tuple[House, Goal] | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the given facts."""
        return self._metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return eight waypoints in base_link; eight zeros where the sentence names no goal."""
        house, odom = self._where()
        goal = parse_goal(observation.instruction, house)
        rows = np.zeros((HORIZON, 3))
        if goal is not None:
            if self._known != (house, goal):
                self._way, self._known = way_to(house, goal), (house, goal)
            rows = self._way.rows(joined(odom, pose_of(observation)))
        return ActionChunk(rows.astype(np.float32), NAMES, observation.stamp_ns, STEP_S)

    def reset(self) -> None:
        """Nothing to forget."""


class Way:
    """The ways from everywhere to a part of the floor, worked out once."""

    def __init__(
        self,
        floor: FreeFloor,
        region: np.ndarray,
        face: tuple[float, float] | None = None,
        creep: float = 0.0,
    ) -> None:
        """
        Take the free cells [ny, nx] to stop on and, where it matters, a point to turn to.

        creep: m that a step goes forward while it turns onto the way.
        """
        self._floor, self._creep = floor, creep
        self._face = None if face is None else np.array(face)
        self.region = region
        self.distances = floor.distances(region, COMFORT)

    def path(self, pose: Pose) -> np.ndarray:
        """Return the way [N, 2] in m on the map from a pose; the point alone without one."""
        return self._floor.path(self.distances, *pose[:2])

    def rows(self, pose: Pose) -> np.ndarray:
        """Return waypoints [8, 3] in the base at a pose on the map."""
        path = self.path(pose)
        back, at, rows = inverted(pose), pose, []
        for _ in range(HORIZON):
            way, turn = self._drive(at, path)
            at = moved(at, way, turn)
            rows.append(joined(back, at))
        return np.array(rows)

    def _drive(self, pose: Pose, path: np.ndarray) -> tuple[float, float]:
        """Return way (m) and turn (rad) of the next step: an arc."""
        here = np.array(pose[:2])
        away = np.linalg.norm(path - here, axis=1)
        ahead = path[int(away.argmin()) :]
        left = float(away.min() + np.linalg.norm(np.diff(ahead, axis=0), axis=1).sum())
        most = TURN * STEP_S
        if left < 0.04:
            if self._face is None:
                return 0.0, 0.0
            bearing = _bearing(pose, self._face)
            return 0.0, float(np.clip(bearing, -most, most)) if abs(bearing) > FACING else 0.0
        point = self._steer_to(here, ahead)
        bearing = _bearing(pose, point)
        tight = clearance(self._floor.house, *here[:, None])[0] < GAP + 0.1
        if abs(bearing) > (TIGHT if tight else ON_THE_SPOT):
            return self._creep, float(np.clip(bearing, -most, most))
        distance = max(float(np.linalg.norm(point - here)), 1e-6)
        way = min(SPEED * STEP_S, left * np.cos(bearing))
        turn = way * 2.0 * np.sin(bearing) / distance
        return float(way), float(np.clip(turn, -most, most))

    def _steer_to(self, here: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Return the point of the path at AHEAD, or nearer where the chord would cut a corner."""
        reach = AHEAD
        while reach > 0.1:
            far = np.flatnonzero(np.linalg.norm(ahead - here, axis=1) >= reach)
            point = ahead[far[0]] if len(far) else ahead[-1]
            if self._floor.sees(here, point):
                break
            reach -= 0.1
        return point


class StandingPolicy:
    """The baseline that says STOP at once."""

    def __init__(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Wear the given metadata."""
        self.metadata = {**(metadata or {}), 'checkpoint': 'constant'}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return eight waypoints of zero."""
        return ActionChunk(np.zeros((HORIZON, 3), np.float32), NAMES, observation.stamp_ns, STEP_S)

    def reset(self) -> None:
        """Nothing to forget."""


def way_to(house: House, goal: Goal, deeper: float = DEEPER, creep: float = 0.0) -> Way:
    """Return the ways to a goal's floor, to deeper m past its edge where it is that deep."""
    floor = floor_of(house)
    piece = house.piece(goal.piece) if goal.piece else None
    region = _inner(floor, goal_region(floor, goal), deeper)
    return Way(floor, region, (piece.x, piece.y) if piece else None, creep)


def pose_of(observation: Observation) -> Pose:
    """Return x, y in m and yaw in rad of an observation's odometry; QwenVlaError without it."""
    absent = {'x', 'y', 'yaw'} - set(observation.state_names)
    if absent:
        raise QwenVlaError(f'rooms expert: the state has no {sorted(absent)}')
    state = dict(zip(observation.state_names, observation.state, strict=True))
    return float(state['x']), float(state['y']), float(state['yaw'])


def _inner(floor: FreeFloor, region: np.ndarray, deeper: float) -> np.ndarray:
    """Return the part of a region that lies deeper m from its edge, or its middle."""
    outside = floor.free & ~region
    if not outside.any():
        return region
    depth = floor.distances(outside)
    return region & (depth >= min(deeper, float(depth[region].max())))


def _bearing(pose: Pose, point: np.ndarray) -> float:
    """Return the direction of a point in the base, in (-pi, pi]."""
    angle = np.arctan2(point[1] - pose[1], point[0] - pose[0]) - pose[2]
    return float(np.arctan2(np.sin(angle), np.cos(angle)))
