"""
Distances between the parts of an arm: capsules on its links, against each other and planes.

A capsule is a segment with a radius, fixed to a link of the description. Pairs on one link, on two
links with one joint between them, and those that the contract ignores are left out; so are planes
for capsules that no joint moves. Shape letters: R rows, C capsules, P pairs, J joints.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.limits import Verdict

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Capsules
    from qwen_vla_ros.kinematics import ArmKinematics
    from qwen_vla_ros.several_arms import SeveralArms

TINY = 1e-12


class CapsuleModel:
    """The capsules of one arm: distances for rows of joints [R, J]. Thread-safe."""

    def __init__(self, capsules: 'Capsules', kinematics: 'ArmKinematics | SeveralArms') -> None:
        """Bind capsules to links; KinematicsError when the description has no such link."""
        parts = capsules.parts
        self.names = tuple(part.name for part in parts)
        places = [kinematics.link_place(part.link) for part in parts]
        self._joints = np.array([joint for joint, _ in places])
        ends = np.array([[part.start, part.end] for part in parts])
        turns = np.array([place[:3, :3] for _, place in places])
        shifts = np.array([place[:3, 3] for _, place in places])
        ends = np.einsum('cij,cej->cei', turns, ends) + shifts[:, None]
        along = ends[:, 1] - ends[:, 0]
        self._local = np.zeros((len(parts), 4, 2))  # start as a point, along as a direction
        self._local[:, :3] = np.stack([ends[:, 0], along], axis=2)
        self._local[:, 3, 0] = 1.0
        self._radii = np.array([part.radius for part in parts])
        self._transforms: Callable[[np.ndarray], np.ndarray] = kinematics.joint_transforms
        ignored = {frozenset(pair) for pair in capsules.ignore}
        self.pairs = np.array(
            [
                (i, j)
                for i in range(len(parts))
                for j in range(i)
                if abs(self._joints[i] - self._joints[j]) > 1
                and frozenset((self.names[i], self.names[j])) not in ignored
            ],
            int,
        ).reshape(-1, 2)
        length = (along**2).sum(axis=1)
        self._squares = np.maximum(length[self.pairs].T, TINY)  # [2, P]
        self._products = self._gram_places()
        self._reach = self._radii[self.pairs].sum(axis=1)
        self._spheres = self._reach + np.sqrt(length)[self.pairs].sum(axis=1) / 2
        self._normals = np.array([plane.normal for plane in capsules.planes]).reshape(-1, 3)
        self._offsets = np.array([plane.offset for plane in capsules.planes])
        self._planes = tuple(plane.name for plane in capsules.planes)
        self._moving = np.flatnonzero(self._joints > 0)
        self._clearance = capsules.clearance

    def _gram_places(self) -> np.ndarray:
        """Return int [8, P]: where the products of a pair stand in the flat Gram matrix."""
        one, other = self.pairs.T
        count = len(self.names)
        u, v = count + one, count + other
        rows = np.stack([u, u, u, v, v, one, other, one])
        columns = np.stack([v, one, other, one, other, one, other, other])
        return rows * 2 * count + columns

    def placed(self, rows: np.ndarray) -> np.ndarray:
        """Return all starts, then all directions times length: [R, 2 C, 3], root link, in m."""
        transforms = self._transforms(rows)[:, self._joints]
        placed = transforms @ self._local
        return placed.transpose(0, 3, 1, 2).reshape(len(placed), -1, 3)

    def pair_gaps(self, rows: np.ndarray) -> np.ndarray:
        """Return the gap of every pair float64 [R, P] in m, negative where capsules overlap."""
        every = np.arange(len(self.pairs))
        return self._pair_gaps(self.placed(np.atleast_2d(rows)), every)

    def plane_gaps(self, rows: np.ndarray) -> np.ndarray:
        """Return the gap of every moving capsule to every plane, [R, moving, planes] in m."""
        return self._plane_gaps(self.placed(np.atleast_2d(rows)))

    def problem(self, rows: np.ndarray, tolerance: float) -> Verdict | None:
        """Refuse rows [R, J] where a gap is smaller than the clearance, less tolerance in m."""
        placed = self.placed(rows)
        least = self._clearance - tolerance
        near = self._near(placed, least)
        gaps = self._pair_gaps(placed, near)
        if gaps.size and gaps.min() < least:
            row, pair = np.unravel_index(np.argmin(gaps), gaps.shape)
            one, other = (self.names[part] for part in self.pairs[near[pair]])
            return self._told(int(row), f'{one} to {other}', float(gaps[row, pair]))
        gaps = self._plane_gaps(placed)
        if gaps.size and gaps.min() < least:
            row, part, plane = np.unravel_index(np.argmin(gaps), gaps.shape)
            what = f'{self.names[self._moving[part]]} to {self._planes[plane]}'
            return self._told(int(row), what, float(gaps[row, part, plane]))
        return None

    def _told(self, row: int, what: str, gap: float) -> Verdict:
        reason = f'row {row}: gap of {what} {gap:.4g} m < limit {self._clearance:.4g} m'
        return Verdict(False, reason, what, gap, self._clearance, 'm')

    def _plane_gaps(self, placed: np.ndarray) -> np.ndarray:
        heights = placed @ self._normals.T
        near = heights[:, self._moving]
        far = near + heights[:, len(self.names) + self._moving]
        return np.minimum(near, far) - self._radii[self._moving][:, None] - self._offsets

    def _near(self, placed: np.ndarray, least: float) -> np.ndarray:
        """Return which pairs may come closer than least in some row, by spheres around them."""
        count = len(self.names)
        middles = placed[:, :count] + placed[:, count:] / 2
        one, other = self.pairs.T
        apart = middles[:, one] - middles[:, other]
        return np.flatnonzero((apart**2).sum(axis=2).min(axis=0) < (self._spheres + least) ** 2)

    def _pair_gaps(self, placed: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """
        Return [R, len(pairs)]: the least distance of two segments, less both radii.

        Of |r + s u - t v|^2 with s and t in [0, 1]: first s for the endless lines, then t for
        this s, then s for this t, each clipped. All products come from one Gram matrix.
        """
        gram = placed @ placed.transpose(0, 2, 1)
        uu, vv = self._squares[:, pairs]
        products = gram.reshape(len(gram), -1)[:, self._products[:, pairs]].transpose(1, 0, 2)
        uv, u_one, u_other, v_one, v_other, oo, pp, op = products
        ur, vr, rr = u_one - u_other, v_one - v_other, oo + pp - 2 * op
        across = uu * vv - uv * uv
        s = _unit((uv * vr - ur * vv) / np.maximum(across, TINY))
        t = _unit((uv * s + vr) / vv)
        s = _unit((uv * t - ur) / uu)
        square = rr + s * (s * uu + 2 * ur) + t * (t * vv - 2 * vr) - 2 * s * t * uv
        return np.sqrt(np.maximum(square, 0.0)) - self._reach[pairs]


def _unit(values: np.ndarray) -> np.ndarray:
    """Return values clipped to [0, 1]; np.clip takes several times as long on small arrays."""
    return np.minimum(np.maximum(values, 0.0), 1.0)
