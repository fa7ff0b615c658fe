"""
Tasks: a sentence, where the base starts, and the floor on which it has to stop.

    go to the red chair                        beside the piece: its edge within NEAR m, same room
    go to the bedroom                          in the room, the whole footprint past the doorway
    go to the kitchen and stop at the table    beside the one table of that room

An episode succeeds when the base stops, by its own will, on the goal's floor.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.rooms.drive import Pose
from qwen_vla_ros.sim.rooms.free_floor import FreeFloor, resampled
from qwen_vla_ros.sim.rooms.furniture import COLOURS, KINDS
from qwen_vla_ros.sim.rooms.house import ROOMS, House, Piece, distance_to, sample_house
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS

NEAR = 0.80  # m, from the middle of the base to the piece's edge
_INSIDE = RADIUS + 0.10  # m past the wall's middle
_MARGIN = 0.05  # m, from the goal's edge to the middles of its cells
_SHORTEST, _LONGEST = 2.0, 14.0  # m, of the way to the goal

OBJECT_SENTENCES = ('go to the {0}', 'drive to the {0}', 'move over to the {0}', 'find the {0}')
ROOM_SENTENCES = ('go to the {0}', 'drive into the {0}', 'head for the {0}')
BOTH_SENTENCES = ('go to the {0} and stop at the {1}', 'enter the {0} and wait beside the {1}')


@dataclass(frozen=True)
class Goal:
    """Where to stop: a room, or a piece of furniture (by name) in its room."""

    room: str
    piece: str = ''

    @property
    def name(self) -> str:
        """Return the piece's name, or the room's."""
        return self.piece or self.room


class Task:
    """One episode's task; the floor, its distances and the shortest way are worked out once."""

    def __init__(self, house: House, goal: Goal, start: Pose, instruction: str) -> None:
        """Take the map; QwenVlaError when the goal cannot be reached from the start."""
        self.house, self.goal, self.start, self.instruction = house, goal, start, instruction
        self.floor = floor_of(house)
        self.region = goal_region(self.floor, goal)
        self.distances = self.floor.distances(self.region)
        way = self.floor.pulled(self.floor.path(self.distances, *start[:2]))
        self.shortest = resampled(way)
        self.length = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
        if not np.isfinite(self.floor.at(self.distances, *start[:2])):
            raise QwenVlaError(f'house {house.seed}: no way from {start} to the {goal.name}')

    def distance(self, x: float, y: float) -> float:
        """Return how far it is from a point to the goal's floor, in m along the shortest way."""
        if self.reached(x, y):
            return 0.0
        return self.floor.at(self.distances, x, y)

    def reached(self, x: float, y: float) -> bool:
        """Return whether a base that stands there has arrived."""
        room = self.house.room(self.goal.room)
        if not self.goal.piece:
            return room.box.contains(x, y, _INSIDE)
        box = self.house.piece(self.goal.piece).box
        near = float(distance_to(box, np.array(x), np.array(y))) <= NEAR
        return near and room.box.contains(x, y)


def sample_task(seed: int, words: str = '') -> Task:
    """
    Return the task of a seed; with words, the goal that they name, from the seed's start.

    Raises QwenVlaError when the words name no goal of that house.
    """
    house = sample_house(seed)
    rng = np.random.default_rng([seed, 7])
    wanted = None
    if words:
        wanted = parse_goal(words, house)
        if wanted is None:
            names = ', '.join([*(r.name for r in house.rooms), *(p.name for p in house.pieces)])
            raise QwenVlaError(f'house {seed}: {words!r} names no goal; there are {names}')
    for attempt in range(60):
        goal = wanted or _draw_goal(house, rng)
        start = _draw_start(house, rng)
        said = words if ' ' in words and words != goal.name else _sentence(house, goal, rng)
        try:
            task = Task(house, goal, start, said)
        except QwenVlaError:
            continue
        other = house.room_at(*start[:2]).name != goal.room
        if (_SHORTEST if other or goal.piece else np.inf) <= task.length <= _LONGEST:
            return task
        if wanted and attempt > 40 and task.length > 1.0:
            return task
    raise QwenVlaError(f'house {seed}: no start that suits {words or "any goal"}')


def parse_goal(instruction: str, house: House) -> Goal | None:
    """Return the one goal that a sentence names in a house; None for none or several."""
    words = ' ' + ' '.join(re.findall(r'[a-z]+', instruction.lower())) + ' '
    rooms = [name for name in ROOMS if f' {name} ' in words]
    pieces = _named_pieces(words, house.pieces)
    if len(rooms) == 1:
        in_room = [piece for piece in pieces if piece.room == rooms[0]]
        if in_room:
            return Goal(rooms[0], in_room[0].name) if len(in_room) == 1 else None
        known = any(room.name == rooms[0] for room in house.rooms)
        return Goal(rooms[0]) if known and not pieces else None
    if not rooms and len(pieces) == 1:
        return Goal(pieces[0].room, pieces[0].name)
    return None


def goal_region(floor: FreeFloor, goal: Goal) -> np.ndarray:
    """Return the free cells [ny, nx] on which a base has arrived, a few cm inside the edge."""
    box = floor.house.room(goal.room).box
    depth = np.minimum.reduce(
        [floor.x - box.x0, box.x1 - floor.x, floor.y - box.y0, box.y1 - floor.y]
    )
    region = floor.free & (depth >= _INSIDE + _MARGIN)
    if goal.piece:
        away = distance_to(floor.house.piece(goal.piece).box, floor.x, floor.y)
        region = floor.free & (depth >= _MARGIN) & (away <= NEAR - _MARGIN)
    return region


@lru_cache(maxsize=8)
def floor_of(house: House) -> FreeFloor:
    """Return the free floor of a house, measured once."""
    return FreeFloor(house)


def _named_pieces(words: str, pieces: tuple[Piece, ...]) -> list[Piece]:
    """Return the pieces that the words name: by colour and kind, else by kind alone."""
    full = [piece for piece in pieces if f' {piece.name} ' in words]
    if full:
        return full
    coloured = any(f' {colour} {kind} ' in words for colour in COLOURS for kind in KINDS)
    return [] if coloured else [piece for piece in pieces if f' {piece.kind} ' in words]


def _draw_goal(house: House, rng: np.random.Generator) -> Goal:
    """Return a room (a third of the time) or a piece."""
    if rng.random() < 1 / 3:
        return Goal(str(rng.choice([room.name for room in house.rooms])))
    piece = house.pieces[int(rng.integers(len(house.pieces)))]
    return Goal(piece.room, piece.name)


def _sentence(house: House, goal: Goal, rng: np.random.Generator) -> str:
    """Return words that name the goal and nothing else in the house."""
    if not goal.piece:
        return str(rng.choice(ROOM_SENTENCES)).format(goal.room)
    piece = house.piece(goal.piece)
    alone = sum(p.kind == piece.kind and p.room == goal.room for p in house.pieces) == 1
    if alone and rng.random() < 0.5:
        return str(rng.choice(BOTH_SENTENCES)).format(goal.room, piece.kind)
    return str(rng.choice(OBJECT_SENTENCES)).format(piece.name)


def _draw_start(house: House, rng: np.random.Generator) -> Pose:
    """Return a pose with room to turn."""
    floor = floor_of(house)
    cells = np.argwhere(floor.clearance >= 0.35)
    j, i = cells[int(rng.integers(len(cells)))]
    yaw = float(rng.uniform(-np.pi, np.pi))
    return round(float(floor.x[j, i]), 3), round(float(floor.y[j, i]), 3), round(yaw, 3)
