"""
Hand and eye: where the arm says its tip is, seen through the camera, against where it is seen.

A sample is the joints at rest and the pixel of a known point of the hand, clicked by a person or
found as the centre of an ArUco marker. Each known point is projected by camera_info and the
extrinsics; the distance in the picture is told in pixels, and in mm at the point's depth. With it
stands the pose of the camera that fits best and what it would leave: a small rest means that the
extrinsics are wrong, a large one that joints, tip or lens are. Three points leave that pose
ambiguous, so fewer than four samples are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from qwen_vla_ros.checks.home import PASS, REFUSE, Finding
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.seeing.camera import Camera

NEAR_MM, FEWEST = 10.0, 4
DICTIONARIES = ('DICT_4X4_50', 'DICT_5X5_50', 'DICT_6X6_50', 'DICT_ARUCO_ORIGINAL')


@dataclass(frozen=True)
class HandEye:
    """
    What the samples say.

    pixels, mm      [N] distance of each sample, nan behind the camera
    moved_mm, turned_deg, rest_px   the best camera pose against the one told: how far it is moved
                    and turned, and the median of what it leaves; None with one behind the camera
    """

    pixels: np.ndarray
    mm: np.ndarray
    moved_mm: float | None = None
    turned_deg: float | None = None
    rest_px: float | None = None

    def finding(self, near_mm: float = NEAR_MM) -> Finding:
        """Return the verdict on the median distance."""
        middle, worst = float(np.median(self.mm)), float(np.max(self.mm))
        seen = (
            f'{len(self.mm)} samples: median {np.median(self.pixels):.1f} px, {middle:.1f} mm; '
            f'largest {worst:.1f} mm (median at most {near_mm:g} mm)'
        )
        if self.moved_mm is not None:
            seen += (
                f'; best with the camera moved by {self.moved_mm:.1f} mm and turned by '
                f'{self.turned_deg:.2f} deg, which leaves {self.rest_px:.1f} px'
            )
        if middle <= near_mm:
            return Finding('hand-eye', PASS, seen)
        if not np.isfinite(middle):
            remedy = 'the tip lies behind the camera: the extrinsics are those of another frame'
        elif self.rest_px is not None and self.rest_px > 0.5 * np.median(self.pixels):
            remedy = 'no pose of the camera explains it: check joints, tip, camera_info'
        else:
            remedy = 'calibrate the extrinsics of this camera anew'
        return Finding('hand-eye', REFUSE, seen, remedy)


def compare(camera: Camera, points: np.ndarray, pixels: np.ndarray) -> HandEye:
    """
    Compare known points [N, 3] (m, in the frame that the camera's pose is told in) and pixels.

    Raises QwenVlaError for fewer than FEWEST samples, other shapes, or numbers that are not
    finite.
    """
    points, pixels = np.asarray(points, np.float64), np.asarray(pixels, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or pixels.shape != (len(points), 2):
        raise QwenVlaError('hand-eye: a point [3] and a pixel [2] are wanted for each sample')
    if len(points) < FEWEST:
        raise QwenVlaError(
            f'hand-eye: {len(points)} samples, at least {FEWEST} are wanted (fewer do not tell '
            'where a camera hangs): add postures, far from each other'
        )
    if not np.isfinite(points).all() or not np.isfinite(pixels).all():
        raise QwenVlaError('hand-eye: a sample with a number that is not finite')
    depth = camera.seen(points)[:, 2]
    off = np.linalg.norm(camera.project(points) - pixels, axis=1)
    focal = (camera.matrix[0, 0] + camera.matrix[1, 1]) / 2.0
    mm = off * depth / focal * 1e3
    if not np.isfinite(off).all():
        return HandEye(off, mm)
    best = _fitted(camera, points, pixels)
    change = np.linalg.inv(camera.pose) @ best.pose
    angle = np.arccos(np.clip((np.trace(change[:3, :3]) - 1.0) / 2.0, -1.0, 1.0))
    rest = np.linalg.norm(best.project(points) - pixels, axis=1)
    return HandEye(
        off,
        mm,
        float(np.linalg.norm(change[:3, 3]) * 1e3),
        float(np.degrees(angle)),
        float(np.median(rest)),
    )


def marker_centre(image: np.ndarray, marker: int, dictionary: str = 'DICT_4X4_50') -> np.ndarray:
    """
    Return the pixel [2] of the centre of an ArUco marker in a picture uint8 [h, w] or [h, w, 3].

    The centre is where the diagonals cross, which perspective keeps. Raises QwenVlaError when the
    marker is not seen, or seen twice.
    """
    if dictionary not in DICTIONARIES:
        raise QwenVlaError(f'marker: {dictionary!r} is not one of {", ".join(DICTIONARIES)}')
    known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    corners, numbers, _ = cv2.aruco.ArucoDetector(known, parameters).detectMarkers(image)
    found = [] if numbers is None else list(np.flatnonzero(numbers.ravel() == marker))
    if len(found) != 1:
        seen = [] if numbers is None else numbers.ravel().tolist()
        raise QwenVlaError(f'marker {marker} is seen {len(found)} times in the picture: {seen}')
    a, b, c, d = corners[found[0]][0].astype(np.float64)
    sides = np.stack([c - a, b - d], axis=1)
    return a + (c - a) * float(np.linalg.solve(sides, b - a)[0])


def read_samples(path: Path, kinematics: ArmKinematics) -> tuple[Camera, np.ndarray, np.ndarray]:
    """
    Read a file of samples; return the camera, and points [N, 3] in m and pixels [N, 2].

        camera: {width: 640, height: 480, k: [9 numbers], d: [...], distortion_model: plumb_bob}
        extrinsics: {position: [x, y, z], quaternion: [x, y, z, w]}   # optical frame in the root
        point: [x, y, z]      # of the known point in the tip's link, m; [0, 0, 0] when left out
        samples:
          - {joints: {waist: 0.1, ...}, pixel: [u, v]}
          - {joints: {...}, image: one.png, marker: 7}

    Raises QwenVlaError with the place.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
        camera = _camera(data['camera'], data['extrinsics'])
        place = np.append(np.asarray(data.get('point', (0, 0, 0)), np.float64), 1.0)
        samples = list(data['samples'])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise QwenVlaError(f'{path}: not a file of hand-eye samples: {error!r}') from error
    points, pixels = [], []
    for number, sample in enumerate(samples):
        try:
            q = [float(sample['joints'][name]) for name in kinematics.joint_names]
            pixels.append(_pixel(sample, Path(path).parent))
        except (KeyError, TypeError, ValueError) as error:
            raise QwenVlaError(f'{path}: sample {number}: {error!r}') from error
        position, rotation = kinematics.forward(q)
        points.append(rotation @ place[:3] + position)
    return camera, np.array(points), np.array(pixels)


def _pixel(sample: Mapping[str, Any], folder: Path) -> Sequence[float]:
    if 'pixel' in sample:
        u, v = (float(value) for value in sample['pixel'])
        return u, v
    image = cv2.imread(str(folder / sample['image']))
    if image is None:
        raise QwenVlaError(f'{folder / sample["image"]}: no picture')
    return marker_centre(image, int(sample['marker']), sample.get('dictionary', DICTIONARIES[0]))


def _camera(info: Mapping[str, Any], extrinsics: Mapping[str, Any]) -> Camera:
    x, y, z, w = np.asarray(extrinsics['quaternion'], np.float64)
    if not 0.99 < np.linalg.norm([x, y, z, w]) < 1.01:
        raise ValueError('extrinsics: the quaternion [x, y, z, w] has not length 1')
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = extrinsics['position']
    matrix = np.asarray(info['k'], np.float64).reshape(3, 3)
    distortion = np.asarray(info.get('d') or np.zeros(4), np.float64)
    model = info.get('distortion_model', 'plumb_bob')
    return Camera(matrix, int(info['width']), int(info['height']), pose, distortion, model)


def _fitted(camera: Camera, points: np.ndarray, pixels: np.ndarray) -> Camera:
    """Return the camera where the points are seen best, by least squares from where it is told."""
    inverse = np.linalg.inv(camera.pose)
    turn, move = cv2.Rodrigues(inverse[:3, :3])[0], inverse[:3, 3:].copy()
    undone = cv2.undistortPoints(pixels[:, None], camera.matrix, camera.distortion)
    flat = (
        undone
        if camera.model not in ('equidistant', 'fisheye')
        else (cv2.fisheye.undistortPoints(pixels[:, None], camera.matrix, camera.distortion))
    )
    turn, move = cv2.solvePnPRefineLM(points, flat, np.eye(3), None, turn, move)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3:] = cv2.Rodrigues(turn)[0], move
    return camera.placed(np.linalg.inv(pose))
