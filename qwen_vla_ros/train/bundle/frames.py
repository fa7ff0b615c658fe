"""
What a family of the bundled checkpoint is made of: pictures, and what may be said of each.

One picture serves several sentences: the same table with another sentence asks for another motion.
A family is a Maker; its episodes come from their seeds alone. Seeds below 1,000,000 are for
evaluation, from HELD_OUT on for held-out figures, from TRAINING on for training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qwen_vla_ros.sim.cameras import SIZE

TRAINING, HELD_OUT = 10_000_000, 2_500_000
# Where things are in the pictures, by view (model/readout.py): what the sentence is about, what it
# is put at (of a base: where its way is 1.5 m on), and the hands.
POINTS = (
    'ego/target',
    'ego/reference',
    'ego/left_hand',
    'ego/right_hand',
    'cam_left_wrist/target',
    'cam_right_wrist/target',
)
Points = Mapping[str, tuple[float, float] | None]
# Where they are in the robot's own frame, and the target's turn (a block looks the same every
# quarter; that of a can and of a held cube is not told): arms and traces in base_link or table,
# in REACH_M; a base from itself, in m. Of a base also what its place and picture ask for: that
# it has arrived (1), or is to turn on the spot (1: to the left, -1).
VALUES = (
    'target_x',
    'target_y',
    'target_z',
    'target_cos4',
    'target_sin4',
    'reference_x',
    'reference_y',
    'reference_z',
    'left_hand_x',
    'left_hand_y',
    'left_hand_z',
    'right_hand_x',
    'right_hand_y',
    'right_hand_z',
    'arrived',
    'turn',
)
REACH_M = 0.1


@dataclass(frozen=True)
class Taught:
    """
    One sentence about a picture, and what follows from it.

    actions: float32 [H, A] in the order of the layout's names, row h the command for the
    picture's instant + h * step (row 0: where the robot is); [0, 0] for a question. points: some
    of POINTS, each (u, v) in 0..1 from its picture's upper left corner, None where it is not in
    the picture; values: some of VALUES. text: what the language head answers, or ''
    """

    instruction: str
    actions: np.ndarray
    points: Points = field(default_factory=dict)
    text: str = ''
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """
    Pictures uint8 [h, w, 3] by view, as the model sees them; state float32 [S] or None.

    rays: what each part of the first view shows, int16 [rows, columns, 4] (sim/rooms/sight.py)
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray | None
    taught: tuple[Taught, ...]
    rays: np.ndarray | None = None


class Maker(Protocol):
    """A family of episodes. Made once a process, from (view -> (h, w)) of the model's pictures."""

    embodiment: str  # name of the contract, '' for questions
    layout: str  # of the contract, '' for questions
    views: tuple[str, ...]

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed, always the same ones."""


def inside(projected: tuple[np.ndarray, np.ndarray]) -> tuple[float, float] | None:
    """Return what a camera's project() says of one place as (u, v) in 0..1; None: not in sight."""
    u, v = projected[0][0] / (SIZE[1], SIZE[0])
    return (float(u), float(v)) if 0 <= u <= 1 and 0 <= v <= 1 else None


def values_of(
    target: Sequence[float],
    yaw: float | None = None,
    reference: Sequence[float] | None = None,
    hands: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """Return VALUES of places [3] in m of an arm's frame and the target's turn in rad."""
    places = {'target': target, 'reference': reference}
    places |= {f'{side}_hand': place for side, place in (hands or {}).items()}
    found = {
        f'{name}_{axis}': x / REACH_M
        for name, place in places.items()
        if place is not None
        for axis, x in zip('xyz', place, strict=True)
    }
    if yaw is not None:
        found |= {'target_cos4': math.cos(4 * yaw), 'target_sin4': math.sin(4 * yaw)}
    return {name: float(value) for name, value in found.items()}
