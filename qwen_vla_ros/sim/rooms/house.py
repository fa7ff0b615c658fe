"""
A seed gives a house: rooms in two rows, doorways between them, furniture with names and colours.

Two or three columns of two rooms, each kind of room at most once. x to the right, y up on the map,
metres; (0, 0) is the outer corner. Everything that stands is an axis-aligned box for the base, and
every piece, room and doorway can be reached: what would cut the free floor in two is not placed.
Seeds from 1,000,000 on are for training, 0 .. 99,999 for evaluation.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import cv2
import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.rooms.furniture import KINDS, Kind

WALL = 0.06  # m, what a wall takes of each of its two rooms
DOOR = 1.0  # m, width of a doorway
REACH = 0.30  # m from the middle of the base to what stands, so that it can pass
_CELL = 0.05
_KEEP_FREE = 0.75  # m before and behind a doorway

# What stands in which room: first what must, then what may. A piece comes once a room.
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'kitchen': (('counter', 'fridge'), ('table', 'chair', 'stool', 'plant')),
    'living room': (('sofa', 'television'), ('armchair', 'plant', 'lamp', 'bookshelf', 'table')),
    'bedroom': (('bed', 'wardrobe'), ('lamp', 'chair', 'plant', 'armchair')),
    'bathroom': (('bathtub', 'toilet', 'washbasin'), ('stool', 'plant')),
    'office': (('desk', 'bookshelf'), ('chair', 'plant', 'lamp', 'armchair')),
    'dining room': (('table', 'chair'), ('stool', 'plant', 'lamp', 'wardrobe')),
}
_YAW = {'north': 0.0, 'west': np.pi / 2, 'south': np.pi, 'east': -np.pi / 2}


@dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle on the floor: x0, y0, x1, y1 in m."""

    x0: float
    y0: float
    x1: float
    y1: float

    def contains(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Return whether a point lies inside, margin m from the edge."""
        inside = self.x0 + margin <= x <= self.x1 - margin
        return inside and self.y0 + margin <= y <= self.y1 - margin

    def grown(self, by: float) -> 'Box':
        """Return the box with every edge moved outwards."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def within(self, other: 'Box') -> 'Box':
        """Return what two boxes share."""
        return Box(
            max(self.x0, other.x0),
            max(self.y0, other.y0),
            min(self.x1, other.x1),
            min(self.y1, other.y1),
        )

    def overlaps(self, other: 'Box') -> bool:
        """Return whether two boxes share floor."""
        apart = self.x1 <= other.x0 or other.x1 <= self.x0
        return not (apart or self.y1 <= other.y0 or other.y1 <= self.y0)


@dataclass(frozen=True)
class Room:
    """A room: its kind is its name; box reaches from wall middle to wall middle."""

    name: str
    box: Box

    @property
    def inside(self) -> Box:
        """Return the floor between the walls."""
        return self.box.grown(-WALL)


@dataclass(frozen=True)
class Doorway:
    """An opening at (x, y), across a wall that runs along x ('x') or along y ('y')."""

    x: float
    y: float
    along: str

    @property
    def box(self) -> Box:
        """Return the floor in the opening."""
        half = (DOOR / 2, WALL) if self.along == 'x' else (WALL, DOOR / 2)
        return Box(self.x - half[0], self.y - half[1], self.x + half[0], self.y + half[1])

    @property
    def kept_free(self) -> Box:
        """Return the floor where nothing is placed."""
        half = (DOOR / 2, _KEEP_FREE) if self.along == 'x' else (_KEEP_FREE, DOOR / 2)
        return Box(self.x - half[0], self.y - half[1], self.x + half[0], self.y + half[1])


@dataclass(frozen=True)
class Piece:
    """
    A piece of furniture: a kind of KINDS, its colour, centre (m) and yaw (rad), its room.

    scale: of its footprint and of its height.
    """

    kind: str
    colour: str
    x: float
    y: float
    yaw: float
    room: str
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def name(self) -> str:
        """Return colour and kind, unique in a house."""
        return f'{self.colour} {self.kind}'

    @property
    def form(self) -> Kind:
        """Return its kind in its own size."""
        return KINDS[self.kind].scaled(*self.scale)

    @property
    def box(self) -> Box:
        """Return the floor under it."""
        kind = self.form
        turned = abs(np.sin(self.yaw)) > 0.5
        w, d = (kind.depth, kind.width) if turned else (kind.width, kind.depth)
        return Box(self.x - w / 2, self.y - d / 2, self.x + w / 2, self.y + d / 2)


@dataclass(frozen=True)
class House:
    """Rooms, doorways and furniture of a seed; width and depth in m."""

    seed: int
    width: float
    depth: float
    rooms: tuple[Room, ...]
    doorways: tuple[Doorway, ...]
    pieces: tuple[Piece, ...]

    def room(self, name: str) -> Room:
        """Return the room of that name; QwenVlaError lists those there are."""
        for room in self.rooms:
            if room.name == name:
                return room
        raise QwenVlaError(
            f'house {self.seed}: no room {name!r}; it has {", ".join(r.name for r in self.rooms)}'
        )

    def piece(self, name: str) -> Piece:
        """Return the piece of that name; QwenVlaError lists those there are."""
        for piece in self.pieces:
            if piece.name == name:
                return piece
        names = ', '.join(piece.name for piece in self.pieces)
        raise QwenVlaError(f'house {self.seed}: no {name!r}; it has {names}')

    def room_at(self, x: float, y: float) -> Room | None:
        """Return the room in which a point lies; None outside."""
        return next((room for room in self.rooms if room.box.contains(x, y)), None)

    def walls(self, room: Room) -> tuple[Box, ...]:
        """Return a room's own half of its walls, doorways left open."""
        box, found = room.box, []
        for side in ('south', 'north', 'west', 'east'):
            wall, along = _wall(box, side), 'x' if side in ('south', 'north') else 'y'
            cuts = sorted(
                (d.x if along == 'x' else d.y)
                for d in self.doorways
                if d.along == along and wall.grown(WALL / 2).contains(d.x, d.y)
            )
            found += _cut(wall, along, cuts)
        return tuple(found)

    @cached_property
    def obstacles(self) -> tuple[Box, ...]:
        """Return all that stands on the floor."""
        walls = (wall for room in self.rooms for wall in self.walls(room))
        return (*walls, *(piece.box for piece in self.pieces))

    @cached_property
    def edges(self) -> np.ndarray:
        """Return the obstacles' x0, y0, x1 and y1, [4, N]."""
        found = [(box.x0, box.y0, box.x1, box.y1) for box in self.obstacles]
        return np.array(found, np.float64).reshape(-1, 4).T


def sample_house(seed: int) -> House:
    """Return the house of a seed (any integer >= 0), always the same one."""
    if seed < 0:
        raise QwenVlaError(f'house seed {seed}: choose an integer from 0 on')
    rng = np.random.default_rng([seed, 3])
    house = _empty_house(seed, rng)
    centres = cell_centres(house, _CELL)
    distance = clearance(house, *centres)
    for room in house.rooms:
        must, may = ROOMS[room.name]
        count = int(rng.integers(1, 4))
        extra = rng.choice(may, min(count, len(may)), replace=False)
        for kind in (*must, *(str(kind) for kind in extra)):
            piece = _furnish(house, room, kind, distance, rng)
            if piece is not None:
                house = replace(house, pieces=(*house.pieces, piece))
                np.minimum(distance, distance_to(piece.box, *centres), out=distance)
    return house


def _empty_house(seed: int, rng: np.random.Generator) -> House:
    """Return rooms and doorways."""
    columns = int(rng.integers(2, 4))
    edges = np.concatenate([[0.0], np.cumsum(rng.uniform(3.3, 4.4, columns))]).round(2)
    depth = round(float(rng.uniform(6.8, 8.2)), 2)
    names = [str(name) for name in rng.permutation(list(ROOMS))]
    rooms = []
    for column in range(columns):
        split = round(depth * float(rng.uniform(0.44, 0.56)), 2)
        x0, x1 = float(edges[column]), float(edges[column + 1])
        rooms.append(Room(names.pop(), Box(x0, 0.0, x1, split)))
        rooms.append(Room(names.pop(), Box(x0, split, x1, depth)))
    doorways = _doorways(rooms, rng)
    return House(seed, float(edges[-1]), depth, tuple(rooms), doorways, ())


def _doorways(rooms: list[Room], rng: np.random.Generator) -> tuple[Doorway, ...]:
    """Join all rooms by as few doorways as it takes, and now and then one more."""
    pairs = list(combinations(range(len(rooms)), 2))
    group, found = list(range(len(rooms))), []
    for index in rng.permutation(len(pairs)):
        a, b = pairs[index]
        door = _doorway_between(rooms[a].box, rooms[b].box, rng)
        if door is None or (group[a] == group[b] and rng.random() > 0.4):
            continue
        found.append(door)
        group = [group[a] if label == group[b] else label for label in group]
    return tuple(found)


def _doorway_between(a: Box, b: Box, rng: np.random.Generator) -> Doorway | None:
    """Return an opening in the wall that two rooms share; None when it is too short."""
    room_for = DOOR / 2 + 0.25
    if a.x1 == b.x0 or b.x1 == a.x0:
        low, high = max(a.y0, b.y0) + room_for, min(a.y1, b.y1) - room_for
        x = a.x1 if a.x1 == b.x0 else b.x1
        return Doorway(x, round(float(rng.uniform(low, high)), 2), 'y') if low < high else None
    if a.y1 == b.y0 or b.y1 == a.y0:
        low, high = max(a.x0, b.x0) + room_for, min(a.x1, b.x1) - room_for
        y = a.y1 if a.y1 == b.y0 else b.y1
        return Doorway(round(float(rng.uniform(low, high)), 2), y, 'x') if low < high else None
    return None


def _furnish(
    house: House, room: Room, kind: str, distance: np.ndarray, rng: np.random.Generator
) -> Piece | None:
    """Return one more piece, where there is a place for it; distance: of the cells so far."""
    taken = {piece.name for piece in house.pieces}
    colours = [colour for colour in KINDS[kind].colours if f'{colour} {kind}' not in taken]
    if not colours:
        return None
    colour = str(rng.choice(colours))
    centres = cell_centres(house, _CELL)
    for _ in range(80):
        x, y, yaw = _place(KINDS[kind].at_wall, KINDS[kind].width, KINDS[kind].depth, room, rng)
        piece = Piece(kind, colour, x, y, yaw, room.name)
        if _fits(house, room, piece):
            left = np.minimum(distance, distance_to(piece.box, *centres))
            if _passable(house, left >= REACH, (*house.pieces, piece)):
                return piece
    return None


def _place(
    at_wall: bool, width: float, depth: float, room: Room, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return a random (x, y, yaw) in the room, with the back to a wall where it belongs there."""
    side = str(rng.choice(list(_YAW)))
    inside, gap = room.inside, 0.03
    along_x = side in ('north', 'south')
    w, d = (width, depth) if along_x else (depth, width)
    low = np.array([inside.x0 + w / 2 + gap, inside.y0 + d / 2 + gap])
    high = np.array([inside.x1 - w / 2 - gap, inside.y1 - d / 2 - gap])
    x, y = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    if at_wall:
        x = {'west': low[0], 'east': high[0]}.get(side, x)
        y = {'south': low[1], 'north': high[1]}.get(side, y)
    return round(float(x), 3), round(float(y), 3), float(_YAW[side])


def _fits(house: House, room: Room, piece: Piece) -> bool:
    """Return whether the piece stands in the room, off the doorways and off other pieces."""
    box, inside = piece.box, room.inside
    if not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)):
        return False
    if any(box.overlaps(doorway.kept_free) for doorway in house.doorways):
        return False
    return not any(box.grown(0.04).overlaps(other.box) for other in house.pieces)


def _passable(house: House, free: np.ndarray, pieces: tuple[Piece, ...]) -> bool:
    """Return whether a base can get from everywhere to everywhere, and next to every piece."""
    count, labels = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
    if count < 2:
        return False
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < 0.985 * sizes.sum():
        return False
    main = labels == 1 + int(sizes.argmax())
    boxes = [piece.box.grown(REACH + 0.25).within(house.room(piece.room).box) for piece in pieces]
    return all(_any_cell(main, box) for box in boxes)


def _any_cell(mask: np.ndarray, box: Box) -> bool:
    x0, y0, x1, y1 = (int(v / _CELL) for v in (box.x0, box.y0, box.x1, box.y1))
    return bool(mask[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1].any())


def cell_centres(house: House, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [ny, nx] of the centres of cells over the whole house."""
    xs = (np.arange(int(np.ceil(house.width / cell))) + 0.5) * cell
    ys = (np.arange(int(np.ceil(house.depth / cell))) + 0.5) * cell
    return tuple(np.meshgrid(xs, ys))


def clearance(house: House, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance in m from points to what stands nearest; 0 in it and outside."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    found = np.minimum.reduce([x, y, house.width - x, house.depth - y]).clip(0.0)
    x0, y0, x1, y1 = house.edges
    x, y = x[..., None], y[..., None]
    dx = np.maximum(np.maximum(x0 - x, x - x1), 0.0)
    dy = np.maximum(np.maximum(y0 - y, y - y1), 0.0)
    return np.minimum(found, np.hypot(dx, dy).min(-1, initial=np.inf))


def distance_to(box: Box, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance in m from points to a box; 0 inside."""
    dx = np.maximum(np.maximum(box.x0 - x, x - box.x1), 0.0)
    dy = np.maximum(np.maximum(box.y0 - y, y - box.y1), 0.0)
    return np.hypot(dx, dy)


def _wall(box: Box, side: str) -> Box:
    """Return the half of a wall that stands in the room."""
    if side == 'south':
        return Box(box.x0, box.y0, box.x1, box.y0 + WALL)
    if side == 'north':
        return Box(box.x0, box.y1 - WALL, box.x1, box.y1)
    if side == 'west':
        return Box(box.x0, box.y0, box.x0 + WALL, box.y1)
    return Box(box.x1 - WALL, box.y0, box.x1, box.y1)


def _cut(wall: Box, along: str, cuts: list[float]) -> list[Box]:
    """Return a wall without the openings at the given middles."""
    low, high = (wall.x0, wall.x1) if along == 'x' else (wall.y0, wall.y1)
    ends = [low, *(e for c in cuts for e in (c - DOOR / 2, c + DOOR / 2)), high]
    spans = list(zip(ends[::2], ends[1::2], strict=True))
    if along == 'x':
        return [Box(a, wall.y0, b, wall.y1) for a, b in spans]
    return [Box(wall.x0, a, wall.x1, b) for a, b in spans]
