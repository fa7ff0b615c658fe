"""
What the base's camera shows of a house: rays against the map, no picture and no MuJoCo.

Walls and the parts of furniture are axis-aligned boxes with a height; a ray ends at the nearest,
or on the floor. Shares are those of a picture 4 wide and 3 high.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.rooms.drive import Pose
from qwen_vla_ros.sim.rooms.furniture import COLOURS, KINDS
from qwen_vla_ros.sim.rooms.house import ROOMS, House, Piece
from qwen_vla_ros.sim.rooms.house_mjcf import CAMERA, CAMERA_FOVX, CAMERA_TILT, HEIGHT
from qwen_vla_ros.sim.rooms.tasks import Goal, Task

PIECE_SHARE, ROOM_SHARE = 0.006, 0.04  # of the picture, from which on a goal counts as in sight
_RAYS = (18, 24)  # rows and columns
FLOOR, WALL, NOTHING = len(KINDS), len(KINDS) + 1, len(KINDS) + 2  # beside the kinds' numbers
NO_COLOUR, NO_ROOM = len(COLOURS), len(ROOMS)
FAR = 12.0  # m, what a ray that meets nothing has for its length
_ROUND = 0.886  # a box that shows as much as what is round
_HALF = (float(np.tan(CAMERA_FOVX / 2)) * 3 / 4, float(np.tan(CAMERA_FOVX / 2)))


@dataclass(frozen=True)
class Part:
    """Which share of the picture shows a thing, and a point (u, v) in 0..1 that does."""

    share: float
    point: tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """
    What is in the picture, by name: pieces, and the floors and walls of rooms.

    rays: int16 [18, 24, 4], what each part of the picture shows: the number of its kind (or FLOOR,
    WALL, NOTHING), of its colour, of its room, and how far away it is in cm
    """

    pieces: Mapping[str, Part]
    rooms: Mapping[str, Part]
    rays: np.ndarray | None = None

    def shows(self, goal: Goal, times: float = 1.0) -> Part | None:
        """Return where a goal is seen; None where less of it is than so many times enough."""
        part = self.pieces.get(goal.piece) if goal.piece else self.rooms.get(goal.room)
        least = PIECE_SHARE if goal.piece else ROOM_SHARE
        return part if part is not None and part.share >= times * least else None


class Sight:
    """The boxes of a house, ready to be looked at."""

    def __init__(self, house: House) -> None:
        """Collect walls and parts of furniture."""
        self._house = house
        self._names = [*(piece.name for piece in house.pieces), *(r.name for r in house.rooms)]
        boxes = [box for piece in house.pieces for box in _parts(piece)]
        owners = [i for i, piece in enumerate(house.pieces) for _ in _parts(piece)]
        for index, room in enumerate(house.rooms, len(house.pieces)):
            walls = house.walls(room)
            boxes += [((w.x0, w.y0, 0.0), (w.x1, w.y1, HEIGHT)) for w in walls]
            owners += [index] * len(walls)
        kinds, colours, rooms = list(KINDS), list(COLOURS), list(ROOMS)
        told = [
            (kinds.index(p.kind), colours.index(p.colour), rooms.index(p.room))
            for p in house.pieces
        ]
        told += [(WALL, NO_COLOUR, rooms.index(room.name)) for room in house.rooms]
        self._told = np.array([*told, (NOTHING, NO_COLOUR, NO_ROOM)], np.int16)
        self._low, self._high = np.array(boxes, np.float32).transpose(1, 0, 2)
        self._owners = np.array(owners)
        self._middle = (self._low + self._high)[:, :2] / 2
        self._radius = np.linalg.norm(self._high - self._low, axis=1) / 2
        v, u = ((np.arange(count) + 0.5) / count for count in _RAYS)
        self._u, self._v = (part.ravel() for part in np.meshgrid(u, v))
        self._rays = _directions(self._u, self._v)

    def look(self, pose: Pose) -> Seen:
        """Return what the camera shows at a pose on the map."""
        place, turn = _camera(pose)
        rays = (self._rays @ turn.T).astype(np.float32)
        owner, on_floor, away = self._owner(place, rays)
        pieces, count = len(self._house.pieces), len(owner)
        found = {}
        for index in np.unique(owner[owner >= 0]):
            seen = np.flatnonzero(owner == index)
            middle = np.hypot(*((a[seen] - a[seen].mean()) for a in (self._u, self._v)))
            best = seen[int(middle.argmin())]
            point = (float(self._u[best]), float(self._v[best]))
            found[int(index)] = Part(len(seen) / count, point)
        return Seen(
            {self._names[i]: part for i, part in found.items() if i < pieces},
            {self._names[i]: part for i, part in found.items() if i >= pieces},
            self._rays_told(owner, on_floor, away),
        )

    def _rays_told(self, owner: np.ndarray, on_floor: np.ndarray, away: np.ndarray) -> np.ndarray:
        """Return int16 [18, 24, 4]."""
        told = self._told[owner]
        told[on_floor & (owner >= 0), 0] = FLOOR
        far = np.minimum(away * np.linalg.norm(self._rays, axis=1), FAR)
        return np.column_stack([told, np.round(100 * far).astype(np.int16)]).reshape(*_RAYS, 4)

    def point(self, pose: Pose, place: tuple[float, float, float]) -> tuple[float, float] | None:
        """Return (u, v) in 0..1 of a point on the map in m; None where it is not to be seen."""
        eye, turn = _camera(pose)
        away = np.array(place) - eye
        x, y, z = away @ turn
        if x <= 0.05:
            return None
        u, v = 0.5 - y / x / (2 * _HALF[1]), 0.5 - z / x / (2 * _HALF[0])
        if not (0.0 < u < 1.0 and 0.0 < v < 1.0):
            return None
        free = self._hits(eye, away[None].astype(np.float32))[0].min() > 1.0
        return (float(u), float(v)) if free else None

    def _owner(
        self, place: np.ndarray, rays: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Return whose each ray [N, 3] is, whether it ends on the floor, and how many lengths on.

        Whose: a piece's or a room's number, -1 for nothing.
        """
        hits, near = self._hits(place, rays)
        owner = self._owners[near[hits.argmin(1)]]
        first = hits.min(1)
        down = np.where(rays[:, 2] < 0.0, -place[2] / np.minimum(rays[:, 2], -1e-9), np.inf)
        owner[~np.isfinite(first)] = -1
        for ray in np.flatnonzero(down < first):
            x, y = place[:2] + down[ray] * rays[ray, :2]
            room = self._house.room_at(float(x), float(y))
            owner[ray] = -1 if room is None else self._names.index(room.name)
        return owner, down < first, np.minimum(first, down)

    def _hits(self, place: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how many of its lengths each ray [N, 3] is from the boxes near it: [N, B]."""
        ahead = rays.mean(0)[:2] / max(float(np.linalg.norm(rays.mean(0)[:2])), 1e-9)
        away = self._middle - place[:2]
        near = np.flatnonzero(away @ ahead > -self._radius)
        eye = place.astype(np.float32)
        with np.errstate(divide='ignore'):
            inverse = 1.0 / np.where(rays == 0.0, np.float32(1e-12), rays)
        one = (self._low[near] - eye)[None] * inverse[:, None]
        two = (self._high[near] - eye)[None] * inverse[:, None]
        enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
        return np.where((enter <= leave) & (enter > 0.0), enter, np.inf), near


def in_sight(task: Task, turning: bool = False) -> bool:
    """Return whether the first picture of a task shows its goal, or one of a turn on the spot."""
    sight, (x, y, yaw) = Sight(task.house), task.start
    turns = np.arange(0.0, 2 * np.pi, 0.4) if turning else (0.0,)
    return any(sight.look((x, y, yaw + turn)).shows(task.goal) for turn in turns)


def _parts(piece: Piece) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the boxes (lower, upper corner on the map) of a piece's parts."""
    cosine, sine = round(float(np.cos(piece.yaw))), round(float(np.sin(piece.yaw)))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    found = []
    for shape, size, place, _ in piece.form.parts:
        half = size if shape in ('box', 'egg') else (size[0], size[0], size[-1])
        half = np.array(half) * (1.0 if shape == 'box' else _ROUND)
        middle = turn @ place + (piece.x, piece.y, 0.0)
        half = np.abs(turn @ half)
        found.append((middle - half, middle + half))
    return found


def _directions(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return directions [N, 3] in the camera's frame (x ahead, y left, z up)."""
    return np.stack([np.ones_like(u), (1 - 2 * u) * _HALF[1], (1 - 2 * v) * _HALF[0]], -1)


def _camera(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return place [3] and rotation [3, 3] (columns: ahead, left, up) of the camera on the map."""
    x, y, yaw = pose
    flat = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    tilt = CAMERA_TILT
    down = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    return flat @ CAMERA + (x, y, 0.0), flat @ down
