"""Rotations as the contracts write them: angles about fixed axes, and rotation vectors."""

import numpy as np

NEAR_PI = 1e-3  # rad; nearer than this the axis is lost in the skew part


def euler_matrix(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return Rz(yaw) Ry(pitch) Rx(roll): turns about fixed axes, in rad."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def euler_angles(rotation: np.ndarray) -> np.ndarray:
    """Return roll, pitch, yaw [3] in rad of a matrix; pitch within a quarter turn."""
    pitch = -np.arcsin(np.clip(rotation[2, 0], -1.0, 1.0))
    roll = np.arctan2(rotation[2, 1], rotation[2, 2])
    return np.array([roll, pitch, np.arctan2(rotation[1, 0], rotation[0, 0])])


def vector_matrix(vector: np.ndarray) -> np.ndarray:
    """Return the matrix of axis times angle [3], in rad."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle [3] of a matrix; near half a turn the axis is open."""
    axis = 0.5 * np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine, cosine = float(np.linalg.norm(axis)), 0.5 * (float(np.trace(rotation)) - 1.0)
    return axis if sine < 1e-9 else axis * (float(np.arctan2(sine, cosine)) / sine)


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
