"""
Navigation: what the base sees in houses, and the waypoints to whatever may be named there.

Most frames lie where the goal is in sight or found by turning on the spot: along its way, before
it, and at rest on its floor. The others are anywhere, also in doorways, and touching what
stands, where a base that errs comes to stand. Every frame is labelled for several goals by the
teacher of rooms_teacher.py.
"""

from collections.abc import Mapping

import numpy as np

from qwen_vla_ros.sim.rooms.drive import Pose, inverted, joined
from qwen_vla_ros.sim.rooms.expert import FACING
from qwen_vla_ros.sim.rooms.free_floor import GAP
from qwen_vla_ros.sim.rooms.house import House, sample_house
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS
from qwen_vla_ros.sim.rooms.sight import Seen
from qwen_vla_ros.sim.rooms.tasks import BOTH_SENTENCES, OBJECT_SENTENCES, ROOM_SENTENCES, Goal
from qwen_vla_ros.sim.rooms.world import VIEW, RoomsWorld
from qwen_vla_ros.train.bundle.frames import Frame, Taught
from qwen_vla_ros.train.bundle.rooms_teacher import (
    AT_START,
    Asked,
    RoomsTeacher,
    Turn,
    place_on,
    rows_on,
)

FRAMES, SENTENCES = 40, 5  # a house, and at most a frame
HIDDEN = 2  # of the sentences of a frame name what it does not show
# How a frame's pose is drawn: on the way to its goal, before it, at rest there, in a doorway,
# touching something, or anywhere.
KINDS = {'way': 0.28, 'near': 0.18, 'rest': 0.18, 'door': 0.11, 'touch': 0.05, 'any': 0.2}
# Forward and turning speeds, m/s and rad/s. One that is held up stands and was told to go on: no
# other stands, but where it began and at rest, so that its speeds tell a student that it touches.
_STANDING = ((0.0, 0.0),)
_HELD_UP = ((0.0, 0.0), (0.0, 0.3), (0.0, -0.3), (0.0, 0.6), (0.0, -0.6), (0.0, 1.2), (0.0, -1.2))
_MOVING = (
    (0.29, 0.0),
    (0.29, 0.6),
    (0.29, -0.6),
    (0.0, 1.2),
    (0.0, -1.2),
    (0.1, 1.2),
    (0.1, -1.2),
)


class RoomsMaker:
    """Frames of the mobile base, one house an episode."""

    embodiment, layout, views = 'mobile_base', 'cmd_vel', (VIEW,)

    def __init__(self, sizes: Mapping[str, tuple[int, int]], frames: int = FRAMES) -> None:
        """Take the sizes (h, w) of the model's pictures by view, and the frames a house."""
        self._size, self._frames = sizes[VIEW], frames
        self._world = RoomsWorld()

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of the house of a seed, always the same ones."""
        house, rng = sample_house(seed), np.random.default_rng([seed, 11])
        teacher = RoomsTeacher(house)
        goals = goals_of(house, rng)
        self._world.reset(house, (*_middle(house), 0.0))
        frames = []
        for _ in range(self._frames):
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
            goal = goals[int(rng.integers(len(goals)))]
            pose = _pose(teacher, goal, kind, rng)
            frames.append(self._frame(teacher, goal, goals, pose, kind, rng))
        return frames

    def _frame(
        self,
        teacher: RoomsTeacher,
        goal: Goal,
        goals: list[Goal],
        pose: Pose,
        kind: str,
        rng: np.random.Generator,
    ) -> Frame:
        """Return the picture at a pose with what is said of it, the given goal first."""
        odometry = _odometry(teacher, pose, rng)
        state = np.array([*odometry, *_speeds(kind, odometry, rng)], np.float32)
        self._world.put(pose)
        picture = self._world.render(VIEW, self._size)
        return Frame({VIEW: picture}, state, *said_at(teacher, goal, goals, pose, state, rng))


def said_at(
    teacher: RoomsTeacher,
    goal: Goal,
    goals: list[Goal],
    pose: Pose,
    state: np.ndarray,
    rng: np.random.Generator,
) -> tuple[tuple[Taught, ...], np.ndarray]:
    """Return what is said at a pose, of the given goal first, then of others; and the rays."""
    seen = teacher.sight.look(pose)
    chosen = [goal, *_others(teacher, goal, goals, pose, seen, rng)][:SENTENCES]
    said = tuple(_taught(teacher, one, pose, state, seen, rng) for one in chosen)
    return said, seen.rays


def _taught(
    teacher: RoomsTeacher,
    goal: Goal,
    pose: Pose,
    state: np.ndarray,
    seen: Seen,
    rng: np.random.Generator,
) -> Taught:
    """Return a sentence with its waypoints, and where its goal and the way to take are seen."""
    said, with_room = sentence_for(teacher.house, goal, rng)
    way = teacher.next_way(pose, state, Asked(goal, with_room), seen)
    part = seen.shows(goal)
    points = {'ego/target': part.point if part else None, 'ego/reference': None}
    places = {}
    if part and goal.piece:
        piece = teacher.house.piece(goal.piece)
        places['target'] = piece.x, piece.y
    rows = rows_on(way, pose).astype(np.float32)
    if rows.any() and (ahead := place_on(way, pose)):
        places['reference'] = ahead
        points['ego/reference'] = teacher.sight.point(pose, (*ahead, 0.0))
    values = {}
    for name, place in places.items():
        x, y, _ = joined(inverted(pose), (*place, 0.0))
        values |= {f'{name}_x': float(x), f'{name}_y': float(y)}
    if not rows.any():
        values['arrived'] = 1.0
    elif isinstance(way, Turn):
        values['turn'] = way.side
    return Taught(said, rows, points, values=values)


def goals_of(house: House, rng: np.random.Generator) -> list[Goal]:
    """Return goals of a house in a random order: some pieces, and all rooms."""
    pieces = [Goal(piece.room, piece.name) for piece in house.pieces]
    rng.shuffle(pieces)
    found = [*pieces[:10], *(Goal(room.name) for room in house.rooms)]
    rng.shuffle(found)
    return found


def _others(
    teacher: RoomsTeacher,
    goal: Goal,
    goals: list[Goal],
    pose: Pose,
    seen: Seen,
    rng: np.random.Generator,
) -> list[Goal]:
    """Return further goals to name: those in sight, then such as are not."""
    shown = [g for g in goals if g != goal and seen.shows(g)]
    hidden = [g for g in goals if g != goal and not seen.shows(g)]
    rng.shuffle(shown)
    rng.shuffle(hidden)
    return [*shown[: SENTENCES - HIDDEN - 1], *hidden[:HIDDEN]]


def sentence_for(house: House, goal: Goal, rng: np.random.Generator) -> tuple[str, bool]:
    """Return words that name the goal alone, and whether they say its room beside the piece."""
    if not goal.piece:
        return str(rng.choice(ROOM_SENTENCES)).format(goal.room), False
    piece = house.piece(goal.piece)
    alone = sum(p.kind == piece.kind and p.room == goal.room for p in house.pieces) == 1
    if alone and rng.random() < 0.5:
        return str(rng.choice(BOTH_SENTENCES)).format(goal.room, piece.kind), True
    return str(rng.choice(OBJECT_SENTENCES)).format(piece.name), False


def _pose(teacher: RoomsTeacher, goal: Goal, kind: str, rng: np.random.Generator) -> Pose:
    """Return a free pose of a kind of KINDS for a goal."""
    if kind == 'rest':
        return _at_rest(teacher, goal, rng)
    if kind == 'near':
        return _before(teacher, goal, rng)
    if kind == 'door':
        return _in_doorway(teacher, rng)
    if kind == 'touch':
        return _touching(teacher, rng)
    place = _place(teacher, _floor_of_room(teacher, goal, rng), rng)
    if kind == 'any':
        return *place, float(rng.uniform(-np.pi, np.pi))
    return _on_the_way(teacher, goal, place, rng)


def _floor_of_room(teacher: RoomsTeacher, goal: Goal, rng: np.random.Generator) -> np.ndarray:
    """Return the free cells of the goal's room, mostly, or of the whole house."""
    floor = teacher.floor
    roomy = floor.clearance >= 0.25
    if rng.random() < 0.3:
        return roomy
    box = teacher.house.room(goal.room).box.grown(0.0 if goal.piece else 1.5)
    inside = (floor.x > box.x0) & (floor.x < box.x1) & (floor.y > box.y0) & (floor.y < box.y1)
    return roomy & inside if (roomy & inside).any() else roomy


def _on_the_way(
    teacher: RoomsTeacher, goal: Goal, place: tuple[float, float], rng: np.random.Generator
) -> Pose:
    """Return a pose met on the way from a place to the goal, a little off it."""
    path = teacher.way(goal).path((*place, 0.0))
    if len(path) < 3:
        return *place, float(rng.uniform(-np.pi, np.pi))
    index = int(rng.integers(len(path) - 1))
    ahead = path[min(index + 3, len(path) - 1)] - path[index]
    yaw = float(np.arctan2(ahead[1], ahead[0]))
    yaw += float(rng.normal(0.0, 0.2 if rng.random() < 0.6 else 0.7))
    return _free(teacher, path[index] + rng.normal(0.0, 0.06, 2), path[index], yaw)


def _before(teacher: RoomsTeacher, goal: Goal, rng: np.random.Generator) -> Pose:
    """Return a pose within a metre of where the base stops, turned about to the goal."""
    distances = teacher.way(goal).distances
    x, y = _place(teacher, (distances > 0.0) & (distances <= 1.2), rng)
    yaw = _facing(teacher, goal, x, y, rng) + float(rng.normal(0.0, 0.45))
    return x, y, yaw


def _at_rest(teacher: RoomsTeacher, goal: Goal, rng: np.random.Generator) -> Pose:
    """Return a pose at which the base has arrived, and now and then has yet to turn."""
    x, y = _place(teacher, teacher.way(goal).region, rng)
    turn = FACING * rng.uniform(-0.9, 0.9) if rng.random() < 0.8 else rng.normal(0.0, 0.4)
    return x, y, _facing(teacher, goal, x, y, rng) + float(turn)


def _in_doorway(teacher: RoomsTeacher, rng: np.random.Generator) -> Pose:
    """Return a pose in or before a doorway, headed through it."""
    doors = teacher.house.doorways
    door = doors[int(rng.integers(len(doors)))]
    along, across = float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-1.0, 1.0))
    x, y = (along, across) if door.along == 'x' else (across, along)
    yaw = (np.pi / 2 if door.along == 'x' else 0.0) + np.pi * int(rng.integers(2))
    place = np.array([door.x + x, door.y + y])
    return _free(teacher, place, np.array([door.x, door.y]), yaw + rng.normal(0.0, 0.3))


def _touching(teacher: RoomsTeacher, rng: np.random.Generator) -> Pose:
    """Return a pose at which the base touches something, headed against it or anywhere."""
    near = (teacher.floor.clearance >= GAP) & (teacher.floor.clearance < GAP + 0.1)
    x, y = _place(teacher, near, rng)
    step, yaw = 0.01, float(rng.uniform(-np.pi, np.pi))
    while teacher.clear(x, y) > RADIUS + step:
        slope = [
            teacher.clear(x + step, y) - teacher.clear(x - step, y),
            teacher.clear(x, y + step) - teacher.clear(x, y - step),
        ]
        yaw = float(np.arctan2(-slope[1], -slope[0]))
        x, y = x + step * np.cos(yaw), y + step * np.sin(yaw)
    turn = rng.normal(0.0, 0.8) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
    return float(x), float(y), yaw + float(turn)


def _facing(
    teacher: RoomsTeacher, goal: Goal, x: float, y: float, rng: np.random.Generator
) -> float:
    """Return the yaw in rad from a place to the goal's piece; for a room any."""
    if not goal.piece:
        return float(rng.uniform(-np.pi, np.pi))
    piece = teacher.house.piece(goal.piece)
    return float(np.arctan2(piece.y - y, piece.x - x))


def _place(
    teacher: RoomsTeacher, cells: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Return a place in one of the given cells, or of all free ones where there are none."""
    floor = teacher.floor
    rows, columns = np.nonzero(cells if cells.any() else floor.free)
    which = int(rng.integers(len(rows)))
    x, y = floor.x[rows[which], columns[which]], floor.y[rows[which], columns[which]]
    return float(x + rng.uniform(-0.03, 0.03)), float(y + rng.uniform(-0.03, 0.03))


def _free(teacher: RoomsTeacher, place: np.ndarray, instead: np.ndarray, yaw: float) -> Pose:
    """Return a pose at a place where the base can be, else at the other one."""
    free = teacher.floor.sees(place, place, RADIUS + 0.02)
    x, y = place if free else instead
    return float(x), float(y), float(np.arctan2(np.sin(yaw), np.cos(yaw)))


def _odometry(teacher: RoomsTeacher, pose: Pose, rng: np.random.Generator) -> Pose:
    """Return odometry at a pose: of a start right here, or anywhere in the house."""
    if rng.random() < 0.3:
        x, y = rng.uniform(-0.6 * AT_START, 0.6 * AT_START, 2) * (rng.random() < 0.5)
        return float(x), float(y), float(rng.uniform(-np.pi, np.pi))
    start = _place(teacher, teacher.floor.clearance >= 0.35, rng)
    return joined(inverted((*start, float(rng.uniform(-np.pi, np.pi)))), pose)


def _speeds(kind: str, odometry: Pose, rng: np.random.Generator) -> tuple[float, float]:
    """Return forward and turning speed of a pose of a kind."""
    begins = bool(np.hypot(*odometry[:2]) < AT_START)
    those = (*_STANDING, *_MOVING) if begins or kind == 'rest' else _MOVING
    those = _HELD_UP if kind == 'touch' else those
    return those[int(rng.integers(len(those)))]


def _middle(house: House) -> tuple[float, float]:
    return house.width / 2, house.depth / 2
