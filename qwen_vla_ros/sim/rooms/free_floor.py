"""
Where the base may be, and how far it is from there: a grid over the house, relaxed to the end.

A cell is free when the middle of the base keeps GAP m from what stands. Steps go to 16
neighbours, so a distance is at most 2.7 % longer than the shortest way between cells; a path is
then pulled straight, which leaves the true shortest way within a few centimetres.
"""

from collections.abc import Iterable

import numpy as np

from qwen_vla_ros.sim.rooms.house import House, cell_centres, clearance
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS

CELL = 0.1  # m
GAP = RADIUS + 0.03  # m, of the middle of the base from what stands
SPACING = 0.25  # m between two points of a path
_STEPS = [
    (dx, dy) for dx in range(-2, 3) for dy in range(-2, 3) if max(abs(dx), abs(dy)) and
    np.gcd(dx, dy) == 1
]  # fmt: skip


class FreeFloor:
    """The free floor of a house. A region is bool [ny, nx] over its cells."""

    def __init__(self, house: House) -> None:
        """Measure the distance of every cell to what stands."""
        self.house = house
        self.x, self.y = cell_centres(house, CELL)
        self.clearance = clearance(house, self.x, self.y)
        self.free = self.clearance >= GAP

    def distances(self, region: np.ndarray, comfort: float = 0.0) -> np.ndarray:
        """
        Return the length in m of the way from each cell [ny, nx] to the region; inf: no way.

        comfort m: cells nearer than that to what stands cost up to four times their length.
        """
        ny, nx = self.free.shape
        price = np.ones_like(self.x)
        if comfort > 0.0:
            price += 3.0 * ((comfort - self.clearance) / comfort).clip(0.0)
        price[~self.free] = np.inf
        around = np.pad(price, 2, constant_values=np.inf)
        found = np.full_like(around, np.inf)
        core = found[2:-2, 2:-2]
        core[region & self.free] = 0.0
        ways = []
        for dx, dy in _STEPS:
            there = np.s_[2 + dy : 2 + dy + ny, 2 + dx : 2 + dx + nx]
            length = CELL * float(np.hypot(dx, dy))
            ways.append((found[there], length * 0.5 * (around[there] + price)))
        before = np.zeros_like(core)
        while not np.array_equal(before, core):
            before = core.copy()
            for other, cost in ways:
                np.minimum(core, other + cost, out=core)
        return before

    def at(self, distances: np.ndarray, x: float, y: float) -> float:
        """Return the distance in m from a point on the floor, by the cells around it."""
        j, i = self._near(x, y, distances)
        if j is None:
            return float('inf')
        return float(distances[j, i] + np.hypot(self.x[j, i] - x, self.y[j, i] - y))

    def path(self, distances: np.ndarray, x: float, y: float) -> np.ndarray:
        """Return the way [N, 2] in m to where the distance is 0; the point alone without one."""
        j, i = self._near(x, y, distances)
        points = [(x, y)]
        while j is not None and np.isfinite(distances[j, i]) and distances[j, i] > 0.0:
            rows, columns = self._neighbours(j, i)
            lengths = CELL * np.hypot(rows - j, columns - i)
            ahead = distances[rows, columns] + 1e-6 * lengths
            best = int(ahead.argmin())
            if ahead[best] >= distances[j, i]:
                break
            j, i = int(rows[best]), int(columns[best])
            points.append((float(self.x[j, i]), float(self.y[j, i])))
        return np.array(points)

    def pulled(self, path: np.ndarray, gap: float = GAP) -> np.ndarray:
        """Return the path [N, 2] drawn tight around what stands, keeping the gap."""
        path = resampled(self._shortcut(path, gap), 0.15)
        for count in range(120):
            middle = (path[:-2] + path[2:])[count % 2 :: 2] / 2
            clear = clearance(self.house, middle[:, 0], middle[:, 1]) >= gap
            inner = path[1:-1][count % 2 :: 2]
            inner[clear] = middle[clear]
        return self._shortcut(path, gap)

    def _shortcut(self, path: np.ndarray, gap: float) -> np.ndarray:
        """Return the path with corners left out where the straight way keeps the gap."""
        kept, start = [0], 0
        while start < len(path) - 1:
            ahead = range(len(path) - 1, start + 1, -1)
            seen = (other for other in ahead if self.sees(path[start], path[other], gap))
            start = next(seen, start + 1)
            kept.append(start)
        return path[kept]

    def sees(self, a: np.ndarray, b: np.ndarray, gap: float = GAP) -> bool:
        """Return whether the straight way between two points keeps the gap."""
        count = max(2, int(np.ceil(np.linalg.norm(b - a) / 0.04)))
        points = a + np.linspace(0.0, 1.0, count)[:, None] * (b - a)
        return bool((clearance(self.house, points[:, 0], points[:, 1]) >= gap - 0.02).all())

    def _near(self, x: float, y: float, distances: np.ndarray) -> tuple[int | None, int]:
        """Return row and column of the free cell nearest to a point, within 0.4 m."""
        ny, nx = self.free.shape
        j0, i0 = int(np.clip(y / CELL, 0, ny - 1)), int(np.clip(x / CELL, 0, nx - 1))
        grid = np.mgrid[max(j0 - 4, 0) : min(j0 + 5, ny), max(i0 - 4, 0) : min(i0 + 5, nx)]
        rows, columns = grid.reshape(2, -1)
        away = np.hypot(self.x[rows, columns] - x, self.y[rows, columns] - y)
        away[~np.isfinite(distances[rows, columns])] = np.inf
        best = int(away.argmin())
        return (int(rows[best]), int(columns[best])) if away[best] <= 0.4 else (None, 0)

    def _neighbours(self, j: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        ny, nx = self.free.shape
        found = [(j + dy, i + dx) for dx, dy in _STEPS if 0 <= j + dy < ny and 0 <= i + dx < nx]
        rows, columns = np.array(found).T
        return rows, columns


def resampled(path: Iterable[Iterable[float]], spacing: float = SPACING) -> np.ndarray:
    """Return a path [N, 2] as points so many m apart along it; both ends stay."""
    points = np.array([[*point][:2] for point in path], np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    if along[-1] <= 0.0:
        return points[:1]
    stops = np.append(np.arange(0.0, along[-1], spacing), along[-1])
    return np.stack([np.interp(stops, along, points[:, axis]) for axis in (0, 1)], 1)
