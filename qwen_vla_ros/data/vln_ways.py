"""
The way of an episode of VLN-CE, on the ground: x, y in m and theta in rad, as REP-103 has it.

Habitat's y points up and its -z forward; here x is -z and y is -x: theta grows to the left.
The way holds a pose a picture: one before each action, the last one where the agent stops.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen_vla_ros.data.json_files import list_of, table_of
from qwen_vla_ros.errors import QwenVlaError

FORWARD_M = 0.25
START, STOP, FORWARD, LEFT, RIGHT = -1, 0, 1, 2, 3
LOOKS = (4, 5)  # RxR's agents also look up and down, on the spot
STILL_M, SLACK_M, ASTRAY_RAD = 0.01, 0.05, math.radians(25)


def way_of(
    place: str, episode: Mapping[str, Any], truth: Any, turn_deg: float
) -> tuple[np.ndarray, bool]:
    """
    Return the way [F, 3] of an episode, and whether it stops at its end.

    Positions are the recorded ones (an agent slides along walls), headings follow the turns.
    QwenVlaError where actions, positions and the size of a turn do not belong together.
    """
    told = table_of(place, truth)
    actions = list_of(f'{place}: actions', told.get('actions'))
    start = _numbers(f'{place}: start_position', episode.get('start_position'), (3,))
    turned = _numbers(f'{place}: start_rotation', episode.get('start_rotation'), (4,))
    positions = _numbers(f'{place}: locations', told.get('locations'), (None, 3))
    way, stops = way_of_actions(place, actions, turn_deg, _heading(turned))
    ground = np.stack([-positions[:, 2], -positions[:, 0]], 1)
    begin = np.array([-start[2], -start[0]])
    way[:, :2] = _positions(place, actions, begin, ground, len(way))
    _check(place, way, turn_deg)
    return way, stops


def way_of_actions(
    place: str, actions: Sequence[Any], turn_deg: float, heading: float = 0.0
) -> tuple[np.ndarray, bool]:
    """Return the way [F, 3] that actions make on free ground, and whether the last is a stop."""
    known = (START, STOP, FORWARD, LEFT, RIGHT, *LOOKS)
    for number, action in enumerate(actions):
        wrong = action not in known or isinstance(action, bool)
        if wrong or (action == START and number) or (action == STOP and number < len(actions) - 1):
            raise QwenVlaError(f'{place}: action {number} is {action!r}')
    moves = [action for action in actions if action not in (START, STOP)]
    poses = [np.array([0.0, 0.0, heading])]
    for action in moves:
        x, y, theta = poses[-1]
        if action == FORWARD:
            x, y = x + FORWARD_M * math.cos(theta), y + FORWARD_M * math.sin(theta)
        elif action in (LEFT, RIGHT):
            theta += math.radians(turn_deg) * (1 if action == LEFT else -1)
        poses.append(np.array([x, y, theta]))
    return np.array(poses), actions[-1] == STOP


def _positions(
    place: str, actions: Sequence[int], begin: np.ndarray, ground: np.ndarray, count: int
) -> np.ndarray:
    """
    Return a position a pose [F, 2].

    Recorded are positions before each action, after each one, or only where one moved, with or
    without the first: what fits is where the base stands still unless it goes forward.
    """
    moves = [action for action in actions if action not in (START, STOP)]
    forward = np.array([action == FORWARD for action in moves], bool)
    whole = np.concatenate([[begin], ground])
    once = np.concatenate([[0], np.cumsum(forward)])
    readings = [rows[:count] for rows in (ground, whole) if len(rows) - count in (0, 1)]
    readings += [rows[once] for rows in (ground, whole) if len(rows) == once[-1] + 1]
    fitting = []
    for rows in readings:
        moved = np.linalg.norm(np.diff(rows, axis=0), axis=1) > STILL_M
        if np.linalg.norm(rows[0] - begin) < SLACK_M and not moved[~forward].any():
            fitting.append((int(moved.sum()), rows))
    if not fitting:
        raise QwenVlaError(
            f'{place}: locations: {len(ground)} for {len(actions)} actions, {forward.sum()} of '
            'them forward; they do not belong together'
        )
    return max(fitting, key=lambda reading: reading[0])[1]


def _check(place: str, way: np.ndarray, turn_deg: float) -> None:
    """Refuse steps that are too long, and turns of another size than the agent's."""
    steps = np.diff(way[:, :2], axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if len(lengths) and lengths.max() > FORWARD_M + SLACK_M:
        step = int(np.argmax(lengths))
        raise QwenVlaError(
            f'{place}: locations: step {step} is {lengths[step]:.2f} m long, the agent makes '
            f'{FORWARD_M}; actions and locations do not belong together'
        )
    free = lengths > 0.9 * FORWARD_M  # shorter ones slide along something
    if free.any():
        astray = np.arctan2(steps[free, 1], steps[free, 0]) - way[:-1][free, 2]
        middle = float(np.median(np.abs(np.arctan2(np.sin(astray), np.cos(astray)))))
        if middle > ASTRAY_RAD:
            raise QwenVlaError(
                f'{place}: locations go {math.degrees(middle):.0f} degrees beside where turns of '
                f'{turn_deg:g} degrees look; actions and locations do not belong together'
            )


def _heading(quaternion: np.ndarray) -> float:
    """Return theta of Habitat's quaternion x, y, z, w: a turn about its vertical axis."""
    x, y, z, w = quaternion
    return math.atan2(2 * (w * y + x * z), 1 - 2 * (x * x + y * y))


def _numbers(place: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    try:
        found = np.asarray(value, np.float64)
    except (ValueError, TypeError):
        found = np.zeros(0)
    fits = found.ndim == len(shape) and found.size
    if not fits or any(
        want not in (None, got) for want, got in zip(shape, found.shape, strict=True)
    ):
        wanted = ' of '.join(
            'numbers' if size is None else f'{size} numbers' for size in shape[::-1]
        )
        raise QwenVlaError(f'{place}: {wanted} are expected')
    if not np.isfinite(found).all():
        raise QwenVlaError(f'{place}: a value is not a number')
    return found
