"""
A teacher for a student with one picture, the odometry and no memory: what to do is seen.

A goal that the picture shows is driven to along the expert's way, deeper past the edge of its
floor, so that a student who stops a little early has arrived. What is not in the picture is looked
for by rules that need no map:

- a base that touches something turns to where the floor leads off it, and drives off;
- at the start turn left once round, then right until a doorway shows, and go through the one
  nearest to the middle;
- a base that drives and sees no doorway drives straight on while there is floor;
- else turn left and look for a doorway that leads further from the start, until the yaw is that
  of the start; then turn right, for any; and when that round has ended drive on where there is
  floor.

Motion serves as memory. That the base turns right says that it has been round, and that a round
ends at one yaw wherever it began is what a student learns from odometry. A goal leaves the
picture where the way to it bends: so on ways even turns go forward a little, and one that drives
goes on along its way while the goal is in its room and the way lies about ahead. Nearly at rest is
at rest: STOP stands apart from the smallest motion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.rooms.drive import Pose, joined
from qwen_vla_ros.sim.rooms.expert import HORIZON, NAMES, SPEED, STEP_S, TURN, Way, pose_of, way_to
from qwen_vla_ros.sim.rooms.house import Doorway, House, clearance
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS
from qwen_vla_ros.sim.rooms.sight import Seen, Sight
from qwen_vla_ros.sim.rooms.tasks import Goal, floor_of, parse_goal
from qwen_vla_ros.types import ActionChunk, Observation

PIECE_DEEPER, ROOM_DEEPER = 0.30, 0.60  # m past the edge of the goal's floor
AT_START = 0.35  # m of odometry
ROUND, LAST = 0.9, 0.65  # rad, what is left of a turn to the left when all is seen; to the right
ROUND_BEGINS = -0.02  # rad of odometry
TURNING, FAST = 0.3, 0.15  # rad/s, m/s
LEAST_AHEAD = 0.5  # m that are free
WAY_M, ARRIVED = 1.5, 0.04  # m of a way: how far on it is told, and less is its end
MOST_TURN = 1.5  # rad of a chunk; what comes after it waits for the next picture
REST_M, REST_RAD = 0.08, 0.12
CREEP = 0.05  # m that a step of a turn goes forward
DRIVING = 0.05  # m/s
MOST_BEND = 1.0  # rad to where the way is WAY_M on, of a base that keeps to it
TOUCHES, OFF, STEP_OFF = RADIUS + 0.02, 0.3, 0.15  # m from what stands, to drive off, and to look
OWN_SHARE = 0.3  # of the picture that shows the room where the base is
PLAIN = 3.0  # times enough of a goal: a small picture shows no less to a student
FAR_DOOR = 4.0  # m, to a doorway that counts: one further away is a few points of the picture
_BEYOND, _DOOR_HEIGHT = 0.9, 0.5  # m


@dataclass(frozen=True)
class Ahead:
    """Straight on, so many m."""

    free: float


@dataclass(frozen=True)
class Turn:
    """A turn on the spot, +1: to the left."""

    side: float


LEFT, RIGHT = Turn(1.0), Turn(-1.0)
Motion = Way | Ahead | Turn


@dataclass(frozen=True)
class Asked:
    """A goal, and whether the sentence says its room."""

    goal: Goal
    with_room: bool = False


class RoomsTeacher:
    """The teacher of one house; ways are worked out when first asked for."""

    def __init__(self, house: House) -> None:
        """Take the map."""
        self.house, self.floor, self.sight = house, floor_of(house), Sight(house)
        self._ways: dict[Goal | tuple[Doorway, str], Way] = {}

    def way(self, goal: Goal) -> Way:
        """Return the ways to a goal."""
        if goal not in self._ways:
            deeper = PIECE_DEEPER if goal.piece else ROOM_DEEPER
            self._ways[goal] = way_to(self.house, goal, deeper, CREEP)
        return self._ways[goal]

    def next_way(self, pose: Pose, state: np.ndarray, asked: Asked, seen: Seen) -> Motion:
        """
        Return the way to take from a pose on the map, or where to turn and look.

        state: x, y, yaw of odometry, forward speed and turning speed, as the contract has it.
        """
        if self.clear(*pose[:2]) < TOUCHES:
            return self._off(pose, bool(state[4] < -TURNING))
        driving = state[3] > DRIVING and self._at_hand(pose, asked) and self._along(pose, asked)
        if driving or self.evident(pose, asked, seen):
            return self.way(asked.goal)
        return self._search(pose, state, asked)

    def evident(self, pose: Pose, asked: Asked, seen: Seen) -> bool:
        """Return whether the picture shows where to go."""
        goal, here = asked.goal, self.house.room_at(*pose[:2])
        inside = here is not None and here.name == goal.room
        if not goal.piece and inside:
            return goal.room in seen.rooms and seen.rooms[goal.room].share >= OWN_SHARE
        if asked.with_room and not inside and seen.shows(Goal(goal.room), PLAIN):
            return True
        return seen.shows(goal, 1.0 if inside else PLAIN) is not None

    def _at_hand(self, pose: Pose, asked: Asked) -> bool:
        """Return whether the goal is in the base's room, or is named by a room next to it."""
        here = self.house.room_at(*pose[:2])
        if here is None or here.name == asked.goal.room:
            return True
        if asked.goal.piece and not asked.with_room:
            return False
        there = self.house.room(asked.goal.room).box.grown(0.1)
        beside = here.box.grown(0.1)
        return any(
            there.contains(d.x, d.y) and beside.contains(d.x, d.y) for d in self.house.doorways
        )

    def _along(self, pose: Pose, asked: Asked) -> bool:
        """Return whether the way goes on about where the base is headed."""
        place = place_on(self.way(asked.goal), pose)
        if place is None:
            return True
        bearing = np.arctan2(place[1] - pose[1], place[0] - pose[0]) - pose[2]
        return abs(_wrapped(bearing)) < MOST_BEND

    def _search(self, pose: Pose, state: np.ndarray, asked: Asked) -> Motion:
        """Return how to look for what is not in the picture."""
        here = self.house.room_at(*pose[:2])
        stay = here is not None and here.name == asked.goal.room
        stay &= asked.with_room or not asked.goal.piece
        speed, turning = state[3:5]
        left, right = bool(turning > TURNING), bool(turning < -TURNING)
        start = bool(np.hypot(*state[:2]) < AT_START)
        to_end, to_begin = _on_the_round(state[2])
        ended = left and to_end < ROUND
        if start and not right and speed < DRIVING:
            return RIGHT if ended else LEFT
        if not stay:
            door = self._doorway(pose, state[:3] if left else None)
            if door is not None and rows_on(way := self._through(door, pose), pose).any():
                return way
        done = right and to_begin < LAST
        if (speed > FAST or done) and (free := self._free_ahead(pose)) >= LEAST_AHEAD:
            return Ahead(free)
        return RIGHT if right or ended else LEFT

    def clear(self, x: float, y: float) -> float:
        """Return how far a place is from what stands, in m."""
        return float(clearance(self.house, np.array([x]), np.array([y]))[0])

    def _off(self, pose: Pose, right: bool) -> Motion:
        """Return how to get off what the base touches: straight on, or a turn on the spot."""
        x, y, yaw = pose
        there = x + STEP_OFF * np.cos(yaw), y + STEP_OFF * np.sin(yaw)
        if self.clear(*there) > self.clear(x, y) + 0.5 * STEP_OFF:
            return Ahead(OFF)
        return RIGHT if right else LEFT

    def _free_ahead(self, pose: Pose) -> float:
        """Return how far the base can go straight on, in m, at most WAY_M."""
        here = np.array(pose[:2])
        ahead = np.array([np.cos(pose[2]), np.sin(pose[2])])
        steps = np.arange(0.1, WAY_M + 0.05, 0.1)
        free = [self.floor.sees(here, here + step * ahead) for step in steps]
        return float(steps[free.index(False)]) - 0.1 if False in free else WAY_M

    def _doorway(self, pose: Pose, odometry: np.ndarray | None) -> Doorway | None:
        """
        Return the doorway nearest to the middle of the picture, or around the base.

        odometry: x, y, yaw: only such as lead further from where it began; None: any
        """
        found = []
        for door in self.house.doorways:
            away = float(np.hypot(door.x - pose[0], door.y - pose[1]))
            bearing = _wrapped(np.arctan2(door.y - pose[1], door.x - pose[0]) - pose[2])
            if away < 0.5:
                across = np.pi / 2 if door.along == 'x' else 0.0
                if abs(np.cos(pose[2] - across)) > 0.7:
                    return door
                continue
            if away > FAR_DOOR:
                continue
            shown = self.sight.point(pose, (door.x, door.y, _DOOR_HEIGHT)) is not None
            if shown and (odometry is None or _leads_on(odometry, bearing, away)):
                found.append((abs(bearing), door))
        return min(found, key=lambda item: item[0])[1] if found else None

    def _through(self, door: Doorway, pose: Pose) -> Way:
        """Return the way through a doorway, to the side to which the base looks or is not."""
        ahead = np.array([np.cos(pose[2]), np.sin(pose[2])])
        across = np.array([0.0, 1.0] if door.along == 'x' else [1.0, 0.0])
        middle = np.array([door.x, door.y])
        side = float((middle - pose[:2]) @ across)
        if abs(side) < 0.5 and np.hypot(*(middle - pose[:2])) < 0.7:
            side = float(ahead @ across)
        goal = middle + _BEYOND * np.sign(side) * across
        key = (door, 'beyond' if side > 0 else 'before')
        if key not in self._ways:
            away = np.hypot(self.floor.x - goal[0], self.floor.y - goal[1])
            region = self.floor.free & (away <= max(0.25, float(away[self.floor.free].min())))
            self._ways[key] = Way(self.floor, region, creep=CREEP)
        return self._ways[key]


def _on_the_round(yaw: float) -> tuple[float, float]:
    """Return rad that are left of a round to the left, to the right; it begins at ROUND_BEGINS."""
    turned = float(yaw - ROUND_BEGINS) % (2 * np.pi)
    return 2 * np.pi - turned, turned


def _leads_on(odometry: np.ndarray, bearing: float, away: float) -> bool:
    """Return whether what lies behind a doorway is further from where the base began."""
    x, y, yaw = odometry
    far = away + _BEYOND
    there = x + far * np.cos(yaw + bearing), y + far * np.sin(yaw + bearing)
    return bool(np.hypot(*there) > np.hypot(x, y))


def _wrapped(angle: float) -> float:
    return float(np.arctan2(np.sin(angle), np.cos(angle)))


def rows_on(way: Motion, pose: Pose) -> np.ndarray:
    """Return waypoints [8, 3] in the base at a pose on the map."""
    steps = np.arange(1, HORIZON + 1)
    if isinstance(way, Ahead):
        rows = np.zeros((HORIZON, 3))
        rows[:, 0] = np.minimum(SPEED * STEP_S * steps, way.free)
    elif isinstance(way, Turn):
        rows = np.zeros((HORIZON, 3))
        rows[:, 2] = way.side * TURN * STEP_S * steps
    else:
        rows = way.rows(pose)
    rows[:, 2] = np.unwrap(rows[:, 2], axis=0)
    if len(beyond := np.flatnonzero(np.abs(rows[:, 2]) > MOST_TURN)):
        rows[beyond[0] :] = rows[beyond[0] - 1]
    far, turned = np.linalg.norm(rows[:, :2], axis=1).max(), np.abs(rows[:, 2]).max()
    return np.zeros_like(rows) if far < REST_M and turned < REST_RAD else rows


def place_on(way: Motion, pose: Pose) -> tuple[float, float] | None:
    """Return where a way is WAY_M on, or ends, on the map in m; None where it has ended."""
    if isinstance(way, Turn):
        return None
    if isinstance(way, Ahead):
        return pose[0] + way.free * np.cos(pose[2]), pose[1] + way.free * np.sin(pose[2])
    path, here = way.path(pose), np.array(pose[:2])
    ahead = path[int(np.linalg.norm(path - here, axis=1).argmin()) :]
    along = np.cumsum(np.linalg.norm(np.diff(np.vstack([here, ahead]), axis=0), axis=1))
    if along[-1] < ARRIVED:
        return None
    x, y = ahead[min(int(np.searchsorted(along, WAY_M)), len(ahead) - 1)]
    return float(x), float(y)


class RoomsTeacherPolicy:
    """The teacher as a policy in a closed loop, told where it is: what a student can reach."""

    def __init__(self, where: Callable[[], tuple[House, Pose]]) -> None:
        """Take what returns the house and the pose of odom on its map."""
        self._where, self._teacher = where, None
        self.metadata: Mapping[str, Any] = {'checkpoint': 'expert'}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return eight waypoints for the sentence's goal; QwenVlaError where it names none."""
        house, odom = self._where()
        goal = parse_goal(observation.instruction, house)
        if goal is None:
            raise QwenVlaError(f'rooms teacher: {observation.instruction!r} names no goal')
        if self._teacher is None or self._teacher.house is not house:
            self._teacher = RoomsTeacher(house)
        pose = joined(odom, pose_of(observation))
        asked = Asked(goal, bool(goal.piece) and f' {goal.room} ' in observation.instruction)
        seen = self._teacher.sight.look(pose)
        way = self._teacher.next_way(pose, observation.state, asked, seen)
        rows = rows_on(way, pose)
        return ActionChunk(rows.astype(np.float32), NAMES, observation.stamp_ns, STEP_S)

    def reset(self) -> None:
        """Nothing to forget."""
