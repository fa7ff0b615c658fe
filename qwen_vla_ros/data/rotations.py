"""Rotation matrices -> rotation vectors, many at once."""

import numpy as np

NEAR_PI = 1e-3  # rad; nearer than this the axis is lost in the skew part


def rotation_vectors(rotations: np.ndarray) -> np.ndarray:
    """Return axis times angle in rad [..., 3] of matrices [..., 3, 3], angles from 0 to pi."""
    skew = np.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        -1,
    )
    sine = np.linalg.norm(skew, axis=-1) / 2
    cosine = (np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2
    angle = np.arctan2(sine, cosine)
    scale = np.divide(angle, 2 * sine, out=np.full_like(sine, 0.5), where=sine > 1e-9)
    found = skew * scale[..., None]
    for index in np.argwhere(angle > np.pi - NEAR_PI):
        found[tuple(index)] = _half_turn(rotations[tuple(index)], angle[tuple(index)])
    return found


def _half_turn(rotation: np.ndarray, angle: float) -> np.ndarray:
    """Return the vector of a turn by nearly pi: the axis from the symmetric part."""
    outer = (rotation + rotation.T) / 2 - np.cos(angle) * np.eye(3)
    column = int(np.argmax(np.diag(outer)))
    axis = outer[:, column] / np.linalg.norm(outer[:, column])
    twist = rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0]
    turned = np.array([*twist, rotation[1, 0] - rotation[0, 1]])
    return axis * angle * (-1 if turned @ axis < 0 else 1)
