"""
The two nouns that travel through the stack, drawn once.

Observation                              ActionChunk
  images  view -> uint8 [h, w, 3] RGB      actions  float32 [H, A], SI, robot order, absolute
  state   float32 [S], SI                  row i is the command for start_ns + i * step_s
  stamps  int ns of the node clock         start_ns = the observation's anchor, not its arrival
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qwen_vla_ros.errors import QwenVlaError


@dataclass(frozen=True)
class Observation:
    """
    What the robot saw and felt at one instant.

    images       view tag -> uint8 [h, w, 3] RGB
    state        float32 [S] in SI units (rad, m), ordered as state_names
    instruction  the task in words
    stamp_ns     the anchor: the instant for which state and images hold
    sources_ns   source (view tag, 'state' or 'state.<key>') -> its own exposure or sample time
    embodiment   name of the contract that assembled it
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    state_names: tuple[str, ...]
    instruction: str
    stamp_ns: int
    embodiment: str
    sources_ns: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse shapes, types and numbers that no policy may see."""
        for view, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise QwenVlaError(
                    f'observation.images.{view}: expected uint8 [h, w, 3], '
                    f'got {image.dtype} {list(image.shape)}'
                )
        if self.state.shape != (len(self.state_names),):
            raise QwenVlaError(
                f'observation.state: {list(self.state.shape)} values for '
                f'{len(self.state_names)} names'
            )
        if np.isfinite(self.state).all():
            return
        for name, value in zip(self.state_names, self.state, strict=True):
            if not np.isfinite(value):
                raise QwenVlaError(f'observation.state.{name}: {value} is not a finite number')


@dataclass(frozen=True)
class ActionChunk:
    """
    H commands in SI units, absolute in time.

    actions   float32 [H, A]; row i is the command for start_ns + i * step_s
    names     A action names in robot order
    frame     reference frame of Cartesian channels, '' for joint channels
    """

    actions: np.ndarray
    names: tuple[str, ...]
    start_ns: int
    step_s: float
    frame: str = ''

    def __post_init__(self) -> None:
        """Refuse a chunk whose rows and names do not belong together."""
        if self.actions.ndim != 2 or self.actions.shape[1] != len(self.names):
            raise QwenVlaError(
                f'action chunk: actions {list(self.actions.shape)} for {len(self.names)} names'
            )
        if not self.step_s > 0:
            raise QwenVlaError(f'action chunk: step_s must be positive, got {self.step_s}')

    @property
    def horizon(self) -> int:
        """Return the number of rows H."""
        return self.actions.shape[0]

    @property
    def end_ns(self) -> int:
        """Return the instant of the last row."""
        return self.start_ns + round((self.horizon - 1) * self.step_s * 1e9)

    def row_at(self, time_ns: int) -> np.ndarray | None:
        """Return the command float64 [A] at an instant, linear between rows; None outside."""
        if not self.start_ns <= time_ns <= self.end_ns:
            return None
        position = min((time_ns - self.start_ns) * 1e-9 / self.step_s, self.horizon - 1)
        low = min(int(position), max(self.horizon - 2, 0))
        high = min(low + 1, self.horizon - 1)
        rows = self.actions[[low, high]].astype(np.float64)
        return rows[0] + (position - low) * (rows[1] - rows[0])
