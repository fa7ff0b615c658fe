"""
From our action channels to those of a benchmark's client, and how each is meant.

absolute    as it is: joints in rad, lengths in m
chunk       displacements of the tip from where it was at the observation (ours, and the paper's)
step        the same motion as the displacement from row to row, as LIBERO and Bridge count it:
            translation along, rotation about the frame's fixed axes
opening     a gripper in m or rad as the client's number between `closed` and `open`
words       waypoints as one discrete action of VLN-CE, in NaVILA's sentence

A value divided by full_scale is what a simulator's controller takes as -1 .. 1; it clips beyond.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from qwen_vla_ros.embodiment import AXIS_ANGLE, EULER
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import euler_angles, euler_matrix, rotation_vector, vector_matrix

WAYS = ('absolute', 'chunk', 'step', 'opening', 'words')


@dataclass(frozen=True)
class ActionPart:
    """
    Some channels of a chunk in the answer; parts under one key stand side by side.

    keys        of the answer; several: one column each, as GR00T's clients name them
    names       our channels, in the client's order
    way         one of WAYS
    rotation    of `step`: 'axis_angle' or 'euler', of the rotation that is sent
    full_scale  what the client calls 1, in our units; empty: values are sent in our units
    closed, open  of `opening`: our values
    send        of `opening`: the client's values for closed and open
    binary      of `opening`: only these two are sent, the nearer one
    forward_m, turn_deg   of `words`: VLN-CE's steps
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    way: str = 'absolute'
    rotation: str = AXIS_ANGLE
    full_scale: tuple[float, ...] = ()
    closed: float = 0.0
    open: float = 1.0
    send: tuple[float, float] = (0.0, 1.0)
    binary: bool = False
    forward_m: float = 0.25
    turn_deg: float = 15.0

    def convert(self, rows: np.ndarray, rotation: str = EULER) -> np.ndarray:
        """
        Return float32 [H, n] for the client from our channels [H, n] (SI units).

        rotation says how the policy writes its own: its contract's.
        """
        rows = np.asarray(rows, np.float64)
        if self.way == 'step':
            rows = step_displacements(rows, rotation, self.rotation)
        elif self.way == 'opening':
            rows = self._opening(rows)
        if self.full_scale:
            rows = np.clip(rows / np.asarray(self.full_scale), -1.0, 1.0)
        return rows.astype(np.float32)

    @property
    def width(self) -> int:
        """Return the columns under each key."""
        return len(self.names) // len(self.keys)

    def restore(self, values: np.ndarray, rotation: str = EULER) -> np.ndarray:
        """Undo convert() (within full_scale): our channels [H, n] from another server's."""
        rows = np.asarray(values, np.float64)
        if self.full_scale:
            rows = rows * np.asarray(self.full_scale)
        if self.way == 'step':
            return joined_displacements(rows, self.rotation, rotation)
        if self.way == 'opening':
            share = (rows - self.send[0]) / (self.send[1] - self.send[0])
            return self.closed + np.clip(share, 0.0, 1.0) * (self.open - self.closed)
        if self.way == 'words':
            raise QwenVlaError('actions in words are no waypoints: this server cannot be a policy')
        return rows

    def _opening(self, rows: np.ndarray) -> np.ndarray:
        share = np.clip((rows - self.closed) / (self.open - self.closed), 0.0, 1.0)
        if self.binary:
            share = np.where(share > 0.5, 1.0, 0.0)
        closed, opened = self.send
        return closed + share * (opened - closed)


def step_displacements(rows: np.ndarray, given: str = EULER, sent: str = AXIS_ANGLE) -> np.ndarray:
    """
    Return the displacements [H, 6] from row to row of displacements from one common pose.

    The first row is from that pose itself. given, sent: how rotations are written.
    """
    if rows.shape[1] != 6:
        raise QwenVlaError(f'step displacements: 6 channels are wanted, got {rows.shape[1]}')
    turns = [np.eye(3), *(_matrix(row[3:], given) for row in rows)]
    moves = np.diff(rows[:, :3], axis=0, prepend=np.zeros((1, 3)))
    steps = [after @ before.T for before, after in pairwise(turns)]
    return np.hstack([moves, [_written(step, sent) for step in steps]])


def joined_displacements(
    steps: np.ndarray, given: str = AXIS_ANGLE, written: str = EULER
) -> np.ndarray:
    """Undo step_displacements(): displacements [H, 6] from the pose before the first step."""
    if steps.shape[1] != 6:
        raise QwenVlaError(f'step displacements: 6 channels are wanted, got {steps.shape[1]}')
    turns = list(accumulate((_matrix(row[3:], given) for row in steps), lambda a, b: b @ a))
    places = np.cumsum(steps[:, :3], axis=0)
    return np.hstack([places, [_written(turn, written) for turn in turns]])


def navigation_words(waypoints: np.ndarray, forward_m: float = 0.25, turn_deg: float = 15) -> str:
    """
    Return the next discrete action of VLN-CE in words, from waypoints [H, 3] (dx, dy, dtheta).

    The waypoints are poses (m, rad) in the frame of the observation. The first that is at least
    half a step away, or turned by half a turn, says the action: a turn towards it (at most three
    steps) or so many steps forward (at most three). None at all: stop. The sentence is the one
    that NaVILA's evaluator reads (`is move forward`, `turn left N degree`, `stop`).
    """
    turn = np.radians(turn_deg)
    for dx, dy, heading in np.asarray(waypoints, np.float64):
        distance = float(np.hypot(dx, dy))
        far = distance >= forward_m / 2
        angle = float(np.arctan2(dy, dx)) if far else float(heading)
        turns = min(3, round(abs(angle) / turn))
        if turns:
            side = 'left' if angle > 0 else 'right'
            return f'The next action is turn {side} {round(turns * turn_deg)} degree.'
        if far:
            steps = min(3, max(1, round(distance / forward_m)))
            return f'The next action is move forward {round(steps * forward_m * 100)} cm.'
    return 'The next action is stop.'


def _matrix(rotation: np.ndarray, written: str) -> np.ndarray:
    return euler_matrix(*rotation) if written == EULER else vector_matrix(rotation)


def _written(turn: np.ndarray, written: str) -> np.ndarray:
    if written == EULER:
        return euler_angles(turn)
    vector = rotation_vector(turn)
    if np.linalg.norm(vector) > 3.0:
        raise QwenVlaError('step displacements: two rows differ by about half a turn')
    return vector
