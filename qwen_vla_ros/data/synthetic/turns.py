"""Rotations as the sets write them: quaternions x y z w, and roll, pitch, yaw about fixed axes."""

import numpy as np


def about_x(angle: float) -> np.ndarray:
    """Return the rotation [3, 3] by an angle in rad about x."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def about_z(angle: float) -> np.ndarray:
    """Return the rotation [3, 3] by an angle in rad about z."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def euler(rotations: np.ndarray) -> np.ndarray:
    """
    Return roll, pitch, yaw [..., 3] in rad of rotations [..., 3, 3] = Rz(yaw) Ry(pitch) Rx(roll).

    At a pitch of 90 degrees only their sum is defined: the roll is zero there.
    """
    pitch = np.arcsin(np.clip(-rotations[..., 2, 0], -1.0, 1.0))
    upright = np.abs(rotations[..., 2, 0]) > 1.0 - 1e-12
    roll = np.arctan2(rotations[..., 2, 1], rotations[..., 2, 2])
    yaw = np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0])
    alone = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    return np.stack([np.where(upright, 0.0, roll), pitch, np.where(upright, alone, yaw)], -1)


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """Return x y z w [R, 4] of rotations [R, 3, 3], continuous from row to row, first w >= 0."""
    diagonal = np.diagonal(rotations, axis1=1, axis2=2)
    trace = diagonal.sum(1)
    # Four times the square of each component; the largest is divided by, so none is near zero.
    squares = np.column_stack([1 + 2 * diagonal - trace[:, None], 1 + trace])
    largest = squares.argmax(1)
    i, j, k = (rotations[:, a, b] for a, b in ((2, 1), (0, 2), (1, 0)))
    ti, tj, tk = (rotations[:, a, b] for a, b in ((1, 2), (2, 0), (0, 1)))
    table = np.empty((len(rotations), 4, 4))  # row n: the components times four times the n-th
    table[:, 3] = np.stack([i - ti, j - tj, k - tk, squares[:, 3]], 1)
    table[:, 0] = np.stack([squares[:, 0], k + tk, j + tj, i - ti], 1)
    table[:, 1] = np.stack([k + tk, squares[:, 1], i + ti, j - tj], 1)
    table[:, 2] = np.stack([j + tj, i + ti, squares[:, 2], k - tk], 1)
    found = table[np.arange(len(rotations)), largest]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found[0] *= 1.0 if found[0, 3] >= 0 else -1.0
    signs = np.sign((found[1:] * found[:-1]).sum(1))
    found[1:] *= np.cumprod(np.where(signs < 0, -1.0, 1.0))[:, None]
    return found


def matrices(quaternions_xyzw: np.ndarray) -> np.ndarray:
    """Return rotations [R, 3, 3] of unit quaternions x y z w [R, 4]."""
    x, y, z, w = np.moveaxis(quaternions_xyzw, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))
