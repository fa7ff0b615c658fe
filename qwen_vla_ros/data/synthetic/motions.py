"""
Steps of a task -> rows at 50 Hz: joints, velocities, gripper, and which step each row belongs to.

Between steps the arm stands still. Each step follows a C2 curve in joint space (a straight line of
the tip goes through inverse kinematics every 3 cm or less) with minimum-jerk timing:
s = 10 u^3 - 15 u^4 + 6 u^5, so speed and acceleration begin and end at zero. Its duration is the
shortest on the 20 ms grid that keeps joint speed, acceleration and the tip's speed under `pace` of
what the arm can. Every recorded row is checked for collisions. J joints, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.curve import through_rows
from qwen_vla_ros.data.synthetic.arm_model import ArmModel
from qwen_vla_ros.data.synthetic.planning import path_between, rounded
from qwen_vla_ros.kinematics import KinematicsError, load_pinocchio

RATE_HZ = 50
OUTSIDE, UNREACHABLE = 'goal outside the workspace', 'unreachable'
SINGULAR, NO_PATH = 'near a singular posture', 'no free path'
LIMIT = 'joint limit'  # a curve between two postures swings beyond it
FREE, LINE, GRIP = 'free', 'line', 'grip'
ACCELERATION = 6.0  # rad/s^2 at full pace
TIP_SPEED = 0.9  # m/s at full pace
GRIP_S = 0.4
SHORTEST_S = 0.3
LINE_M, LINE_RAD = 0.03, 0.15  # between two postures that inverse kinematics finds on a line
MAX_STEP_RAD = 0.5  # more between two of those: the arm would change its posture
PEAK_SPEED, PEAK_ACCELERATION = 1.875, 5.7735  # of minimum jerk over one unit in one second


class Rejected(Exception):
    """A task that this arm cannot do; the text is the reason that is counted."""


@dataclass(frozen=True)
class Step:
    """
    One step: kind, the words for it, and where the tip [3] m, [3, 3] is at its end.

    GRIP moves the fingers only, to `opening` m.
    """

    kind: str
    label: str
    position: np.ndarray | None = None
    rotation: np.ndarray | None = None
    opening: float = 0.0


@dataclass(frozen=True)
class Trajectory:
    """
    What is recorded at 50 Hz, row 0 the first posture.

    joints [R, J] rad, velocities [R, J] rad/s, opening [R] m between the fingers, step [R] the
    number of the step that moves there, labels of the steps
    """

    joints: np.ndarray
    velocities: np.ndarray
    opening: np.ndarray
    step: np.ndarray
    labels: tuple[str, ...]


def perform(
    model: ArmModel,
    start: np.ndarray,
    opening: float,
    steps: Sequence[Step],
    pace: float,
    rng: np.random.Generator,
) -> Trajectory:
    """Return the rows of all steps; Rejected says why the arm cannot do them."""
    joints, velocities = [start[None]], [np.zeros((1, len(start)))]
    openings, numbers = [np.array([opening])], [np.zeros(1, int)]
    for number, step in enumerate(steps):
        here = joints[-1][-1]
        if step.kind == GRIP:
            count = round(GRIP_S * RATE_HZ)
            moved, speeds = np.repeat(here[None], count, 0), np.zeros((count, len(here)))
            fingers = opening + (step.opening - opening) * _minimum_jerk(count)[0]
            opening = step.opening
        else:
            moved, speeds = timed(model, _way(model, here, step, rng), pace)
            fingers = np.full(len(moved), opening)
        joints.append(moved)
        velocities.append(speeds)
        openings.append(fingers)
        numbers.append(np.full(len(moved), number))
    rows = np.concatenate(joints)
    if (rows < model.lower).any() or (rows > model.upper).any():
        raise Rejected(LIMIT)
    reason = model.collision(rows)
    if reason:
        raise Rejected(reason)
    return Trajectory(
        rows,
        np.concatenate(velocities),
        np.concatenate(openings),
        np.concatenate(numbers),
        tuple(step.label for step in steps),
    )


def timed(model: ArmModel, way: np.ndarray, pace: float) -> tuple[np.ndarray, np.ndarray]:
    """Return joints and velocities [R, J] along a way [N, J], without its first row."""
    curve = through_rows(0, 1.0 / (len(way) - 1), way, np.zeros(way.shape[1], bool))
    places = np.linspace(0, 1_000_000_000, 4 * len(way) + 1).astype(np.int64)
    found = curve.motions(places)
    slope = np.abs(found[:, 1])
    speed = (slope.max(0) / model.speed).max() * PEAK_SPEED / pace
    bend = np.sqrt((slope.max() * PEAK_ACCELERATION) / (pace * ACCELERATION))
    tips = model.kinematics.tip_position(found[:, 0])
    length = np.linalg.norm(np.diff(tips, axis=0), axis=1).max() * (len(places) - 1)
    seconds = max(speed, bend, length * PEAK_SPEED / (pace * TIP_SPEED), SHORTEST_S)
    count = int(np.ceil(seconds * RATE_HZ))
    along, rate = _minimum_jerk(count)
    found = curve.motions(np.round(along * 1e9).astype(np.int64))
    return found[:, 0], found[:, 1] * (rate * RATE_HZ)[:, None]


def _minimum_jerk(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return s and ds per row, [count] each, of rows 1 .. count."""
    u = np.arange(1, count + 1) / count
    return u**3 * (10 - 15 * u + 6 * u * u), 30 * u * u * (1 - u) ** 2 / count


def _way(model: ArmModel, here: np.ndarray, step: Step, rng: np.random.Generator) -> np.ndarray:
    """Return the rows [N, J] that a step goes through, the first one where the arm is."""
    if step.kind == LINE:
        return _line(model, here, step)
    goal = _solve(model, step, (here, model.home))
    limits = (model.lower, model.upper)
    corners = path_between(here, goal, lambda rows: not model.collision(rows), limits, rng)
    if corners is None:
        raise Rejected(model.collision(goal[None]) or NO_PATH)
    return rounded(corners)


def _solve(model: ArmModel, step: Step, seeds: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return joints [J] that reach a step's pose, from the first seed that leads there."""
    for seed in seeds:
        try:
            return model.kinematics.joints_for(step.position, step.rotation, seed, 40)
        except KinematicsError:
            continue
    raise Rejected(UNREACHABLE)


def _line(model: ArmModel, here: np.ndarray, step: Step) -> np.ndarray:
    """Return postures [N, J] with the tip on a straight line, turning evenly on the way."""
    pin = load_pinocchio()
    start, turned = model.kinematics.forward(here)
    turn = pin.log3(step.rotation @ turned.T)
    away = step.position - start
    count = int(np.ceil(max(np.linalg.norm(away) / LINE_M, np.linalg.norm(turn) / LINE_RAD, 1)))
    rows = [here]
    for share in np.arange(1, count + 1) / count:
        at = Step(LINE, '', start + share * away, pin.exp3(share * turn) @ turned)
        rows.append(_solve(model, at, (rows[-1],)))
        if np.abs(rows[-1] - rows[-2]).max() > MAX_STEP_RAD:
            raise Rejected(SINGULAR)
    return np.array(rows)
