"""
Forward kinematics of many rows at once, of a chain of revolute and prismatic joints.

pinocchio places one row at a time; from Python that is 30 us a row, most of it on the way there
and back. Shape letters: R rows, J joints.
"""

from typing import Any

import numpy as np


class Chain:
    """The joints of a pinocchio model without branches, as arrays. Thread-safe."""

    def __init__(self, pin: Any, model: Any) -> None:
        """Take each joint's place and axis: the screw of one unit of its coordinate."""
        unit, data = np.ones(model.nq), model.createData()
        pin.forwardKinematics(model, data, unit)
        places = [model.jointPlacements[i] for i in range(1, model.njoints)]
        screws = np.array(
            [
                pin.log6(place.inverse() * moved).vector
                for place, moved in zip(places, list(data.liMi)[1:], strict=True)
            ]
        ).reshape(-1, 6)
        self._turns = np.array([place.rotation for place in places])
        self._shifts = np.array([place.translation for place in places])
        self._slides = np.einsum('jab,jb->ja', self._turns, screws[:, :3])
        x, y, z = screws[:, 3:].T
        still = np.zeros(len(places))
        self._skews = np.stack([still, -z, y, z, still, -x, -y, x, still], 1).reshape(-1, 3, 3)
        self._squares = self._skews @ self._skews

    def transforms(self, rows: np.ndarray) -> np.ndarray:
        """Return where each joint's moving side is at rows [R, J]: [R, J + 1, 3, 4] in m."""
        count = rows.shape[1]
        sines, versines = np.sin(rows)[..., None, None], (1 - np.cos(rows))[..., None, None]
        turns = self._turns @ (np.eye(3) + sines * self._skews + versines * self._squares)
        shifts = self._shifts + rows[..., None] * self._slides
        found = np.zeros((len(rows), count + 1, 3, 4))
        found[:, 0, :, :3] = np.eye(3)
        for joint in range(count):
            before, after = found[:, joint], found[:, joint + 1]
            after[..., :3] = before[..., :3] @ turns[:, joint]
            after[..., 3] = (before[..., :3] @ shifts[:, joint, :, None])[..., 0] + before[..., 3]
        return found
