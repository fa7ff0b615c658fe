"""Poses (x, y in m, yaw in rad) and ways of them on the floor; numpy alone."""

import numpy as np

from qwen_vla_ros.types import ActionChunk


def placed(start: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return poses [N, 3] given in the axes of start [3] in what start is given in."""
    cosine, sine = np.cos(start[2]), np.sin(start[2])
    x, y, yaw = poses.T
    turned = np.stack([cosine * x - sine * y, sine * x + cosine * y, yaw], 1)
    return np.asarray(start) + turned


def seen_from(start: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return poses [N, 3] in the axes of start [3]; the inverse of placed()."""
    cosine, sine = np.cos(start[2]), np.sin(start[2])
    x, y, yaw = (poses - np.asarray(start)).T
    return np.stack([cosine * x + sine * y, cosine * y - sine * x, yaw], 1)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Return angles in rad within (-pi, pi]."""
    return np.arctan2(np.sin(angle), np.cos(angle))


def pose_at(chunk: ActionChunk, poses: np.ndarray, time_ns: int) -> np.ndarray | None:
    """Return where a chunk has the base at an instant; poses [H + 1, 3]: from its start on."""
    steps = (time_ns - chunk.start_ns) * 1e-9 / chunk.step_s
    if not 0 <= steps <= len(poses) - 1:
        return None
    yaw = np.unwrap(poses[:, 2])
    at = np.arange(len(poses))
    return np.array([np.interp(steps, at, c) for c in (poses[:, 0], poses[:, 1], yaw)])


def distances_to(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how far each point [N, 2] lies from a line through [M, 2], in m."""
    if len(line) < 2:
        return np.linalg.norm(points - line[0], axis=1)
    begin, way = line[:-1], np.diff(line, axis=0)
    squared = np.maximum((way**2).sum(1), 1e-18)
    offset = points[:, None] - begin
    share = np.clip((offset * way).sum(2) / squared, 0.0, 1.0)
    return np.linalg.norm(offset - share[..., None] * way, axis=2).min(1)


def length(line: np.ndarray) -> float:
    """Return the length in m of a line through [N, >= 2]."""
    return float(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum())
