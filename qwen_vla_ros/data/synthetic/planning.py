"""
Joint paths between two postures that touch nothing: straight, or by RRT-Connect with shortcuts.

Our own forty lines and not OMPL: its planners draw from generators that are seeded one after
another for a whole process, so a path would depend on what the process planned before, and an
episode on the number of workers; and it asks for one state at a time, where the capsule model
checks hundreds of rows in one call. J joints, R rows.
"""

from collections.abc import Callable

import numpy as np

RESOLUTION_RAD = 0.05  # of a checked edge, in the joint that turns most
STEP_RAD = 0.4  # a tree grows by
ITERATIONS = 300
SHORTCUTS = 40

Free = Callable[[np.ndarray], bool]  # whether all rows [R, J] may be driven


class Tree:
    """Postures [N, J] and the number of the one each came from (-1: the root)."""

    def __init__(self, root: np.ndarray) -> None:
        """Plant it."""
        self.nodes, self.parents = root[None], [-1]

    def nearest(self, target: np.ndarray) -> int:
        """Return the number of the posture that is nearest in joint space."""
        return int(((self.nodes - target) ** 2).sum(1).argmin())

    def add(self, posture: np.ndarray, parent: int) -> int:
        """Add a posture and return its number."""
        self.nodes = np.vstack([self.nodes, posture])
        self.parents.append(parent)
        return len(self.parents) - 1

    def branch(self, number: int) -> np.ndarray:
        """Return the postures from one back to the root."""
        rows = []
        while number >= 0:
            rows.append(self.nodes[number])
            number = self.parents[number]
        return np.array(rows)

    def grow(self, target: np.ndarray, free: Free, greedy: bool) -> tuple[int, bool]:
        """Step towards a posture, once or until blocked; return the last node, and if it is it."""
        number = self.nearest(target)
        while True:
            way = target - self.nodes[number]
            length = np.linalg.norm(way)
            reached = bool(length <= STEP_RAD)
            posture = target if reached else self.nodes[number] + way * (STEP_RAD / length)
            if not free(edge(self.nodes[number], posture)):
                return number, False
            number = self.add(posture, number)
            if reached or not greedy:
                return number, reached


def edge(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return rows [R, J] from start to end, RESOLUTION_RAD apart or closer."""
    count = int(np.ceil(np.abs(end - start).max() / RESOLUTION_RAD)) + 1
    return start + np.linspace(0.0, 1.0, max(count, 2))[:, None] * (end - start)


def path_between(
    start: np.ndarray,
    goal: np.ndarray,
    free: Free,
    limits: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Return corners [N, J] of a free path, two where the straight line is; None if none found."""
    if free(edge(start, goal)):
        return np.array([start, goal])
    if not (free(start[None]) and free(goal[None])):
        return None
    one, other, swapped = Tree(start), Tree(goal), False
    for _ in range(ITERATIONS):
        number, _ = one.grow(rng.uniform(*limits), free, False)
        met, reached = other.grow(one.nodes[number], free, True)
        if reached:
            ahead, back = one.branch(number)[::-1], other.branch(met)[1:]
            rows = np.concatenate([ahead, back])
            return shortened(rows[::-1] if swapped else rows, free, rng)
        one, other, swapped = other, one, not swapped
    return None


def shortened(rows: np.ndarray, free: Free, rng: np.random.Generator) -> np.ndarray:
    """Return a path with fewer corners [N, J]: random pairs joined straight where that is free."""
    for _ in range(SHORTCUTS):
        if len(rows) < 3:
            break
        first, last = np.sort(rng.choice(len(rows), 2, replace=False))
        if last - first > 1 and free(edge(rows[first], rows[last])):
            rows = np.concatenate([rows[: first + 1], rows[last:]])
    return rows


def rounded(corners: np.ndarray, spacing_rad: float = 0.12) -> np.ndarray:
    """Return rows [R, J] equally far apart along a path, its corners rounded, its ends kept."""
    if len(corners) == 2:
        return corners
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    places = np.linspace(0.0, along[-1], max(int(along[-1] / spacing_rad) + 2, 5))
    rows = np.stack([np.interp(places, along, column) for column in corners.T], 1)
    for _ in range(3):
        rows[1:-1] = (rows[:-2] + 2 * rows[1:-1] + rows[2:]) / 4
    return rows
