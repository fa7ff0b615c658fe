"""
A camera that a picture is projected into: pinhole with the lens distortions of camera_info.

Optical axes: x right, y down, z forward (REP-103). plumb_bob and rational_polynomial go through
cv2.projectPoints, equidistant through cv2.fisheye.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from qwen_vla_ros.errors import QwenVlaError

NEAR_M = 0.02
POLYNOMIAL, FISHEYE = ('plumb_bob', 'rational_polynomial'), ('equidistant', 'fisheye')
# Beyond the picture's corners by this factor a fitted polynomial says nothing: it may fold back.
BEYOND_CORNERS = 1.15


class CameraUnusable(QwenVlaError):
    """A camera_info that says too little, or another thing than the picture."""


@dataclass(frozen=True)
class Camera:
    """
    Intrinsics, and where the camera is.

    matrix      K [3, 3] in pixels; distortion [D] of model (one of camera_info's names)
    pose        [4, 4] of the optical frame in the world of the points
    """

    matrix: np.ndarray
    width: int
    height: int
    pose: np.ndarray
    distortion: np.ndarray
    model: str = 'plumb_bob'

    def placed(self, pose: np.ndarray) -> 'Camera':
        """Return the same camera elsewhere."""
        return replace(self, pose=pose)

    def seen(self, points: np.ndarray) -> np.ndarray:
        """Return points [N, 3] in the optical frame."""
        turn, place = self.pose[:3, :3], self.pose[:3, 3]
        return (np.asarray(points, np.float64) - place) @ turn

    def project(self, points: np.ndarray) -> np.ndarray:
        """
        Return the pixels [N, 2] of points [N, 3] of the world; NaN where none can be told.

        None can be told behind the camera, and so far outside the picture that the distortion
        has no meaning. Pixels may lie outside the picture.
        """
        return self.pixels(self.seen(points))

    def pixels(self, seen: np.ndarray) -> np.ndarray:
        """Return the pixels [N, 2] of points [N, 3] in the optical frame, as project() does."""
        found = np.full((len(seen), 2), np.nan)
        ahead = seen[:, 2] > NEAR_M * (1.0 - 1e-9)
        if self.distortion.any():
            flat = seen[:, :2] / np.where(ahead, seen[:, 2], 1.0)[:, None]
            ahead &= np.hypot(*flat.T) <= self._widest
        if ahead.any():
            found[ahead] = self._distorted(seen[ahead])
        return found

    @property
    def _widest(self) -> float:
        """Return the largest tan(angle to the axis) at which the distortion was fitted."""
        corners = np.array([[0, 0], [self.width, 0], [0, self.height], [self.width, self.height]])
        corners = corners.astype(np.float64)[:, None]
        undo = cv2.fisheye.undistortPoints if self.model in FISHEYE else cv2.undistortPoints
        flat = undo(corners, self.matrix, self.distortion)[:, 0]
        return BEYOND_CORNERS * float(np.hypot(*flat.T).max())

    def _distorted(self, seen: np.ndarray) -> np.ndarray:
        zero = np.zeros(3)
        if self.model in FISHEYE:
            points = cv2.fisheye.projectPoints(
                seen[:, None], zero, zero, self.matrix, self.distortion
            )[0]
            return points[:, 0]
        return cv2.projectPoints(seen[:, None], zero, zero, self.matrix, self.distortion)[0][:, 0]


def camera_of_info(message: Any, rectified: bool, size: tuple[int, int]) -> Camera:
    """
    Return the camera of a sensor_msgs/CameraInfo, at the origin.

    rectified: the picture is undistorted, so that P counts; size (w, h) is the picture's.
    Raises CameraUnusable for an uncalibrated camera, another size, or an unknown distortion.
    """
    if (message.width, message.height) != size:
        raise CameraUnusable(
            f'camera_info is for {message.width}x{message.height}, the picture has '
            f'{size[0]}x{size[1]}'
        )
    matrix = np.array(message.p, np.float64).reshape(3, 4)[:, :3] if rectified else message.k
    matrix = np.array(matrix, np.float64).reshape(3, 3)
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise CameraUnusable('camera_info has no focal length: the camera is not calibrated')
    distortion = np.zeros(0) if rectified else np.array(message.d, np.float64)
    model = message.distortion_model or 'plumb_bob'
    if distortion.any() and (model not in (*POLYNOMIAL, *FISHEYE) or len(distortion) < 4):
        raise CameraUnusable(
            f'camera_info: distortion {model!r} with {len(distortion)} numbers; '
            f'{", ".join((*POLYNOMIAL, *FISHEYE))} are known, with at least 4'
        )
    if not distortion.any():
        distortion = np.zeros(4)
    return Camera(matrix, *size, np.eye(4), distortion, model)


def looking(
    eye: np.ndarray, target: np.ndarray, size: tuple[int, int], view_deg: float = 40.0
) -> Camera:
    """Return a camera without distortion at eye [3] that looks at target [3]; size (w, h)."""
    eye, target = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-6:  # straight down: x of the world to the top
        right = np.array([0.0, -1.0, 0.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    width, height = size
    focal = 0.5 * height / np.tan(np.radians(view_deg) / 2)
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Camera(matrix, width, height, pose, np.zeros(4))
