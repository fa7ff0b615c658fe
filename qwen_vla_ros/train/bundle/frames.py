"""
What a family of the bundled checkpoint is made of: pictures, and what may be said of each.

One picture serves several sentences: the same table with another sentence asks for another motion.
A family is a Maker; its episodes come from their seeds alone. Seeds below 1,000,000 are for
evaluation, from HELD_OUT on for held-out figures, from TRAINING on for training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TRAINING, HELD_OUT = 10_000_000, 2_500_000


@dataclass(frozen=True)
class Taught:
    """
    One sentence about a picture, and what follows from it.

    actions: float32 [H, A] in the order of the layout's names, row h the command for the
    picture's instant + h * step (row 0: where the robot is); [0, 0] for a question. point: where
    in `ego` the thing lies that the sentence is about first, (u, v) in 0..1 from the upper left
    corner; None where it is not in the picture. text: what the language head answers, or ''
    """

    instruction: str
    actions: np.ndarray
    point: tuple[float, float] | None = None
    text: str = ''


@dataclass(frozen=True)
class Frame:
    """Pictures uint8 [h, w, 3] by view, as the model sees them; state float32 [S] or None."""

    images: Mapping[str, np.ndarray]
    state: np.ndarray | None
    taught: tuple[Taught, ...]


class Maker(Protocol):
    """A family of episodes. Made once a process, from (view -> (h, w)) of the model's pictures."""

    embodiment: str  # name of the contract, '' for questions
    layout: str  # of the contract, '' for questions
    views: tuple[str, ...]

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed, always the same ones."""
