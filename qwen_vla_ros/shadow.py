"""
The policy in the shadow of whoever drives: what it wanted against what the robot did.

A chunk predicts where each joint will be at the instants of its rows. When those instants have
come, the rows are compared with the commands of the other driver, or with the measured joints
where nobody is heard commanding. The yardstick is standing still: a policy that predicts better
than `nothing moves` has a skill above 0, a perfect one 1.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.types import ActionChunk

WINDOW_S = 30.0
SILENT_S = 1.0  # whoever commanded before that does so no longer
STILL = 1e-3  # rad or m, RMS: less is noise of standing still
NEAR_S = 0.05  # a reference further from a row's instant is not compared with it


@dataclass(frozen=True)
class Agreement:
    """
    How well the policy foresaw the other driver, over the newest 30 s.

    reference  'commands' or 'measured'
    rms, most  joint -> error of the rows, rad or m
    skill      1 - squared error / squared error of standing still; None while nothing moved
    seconds    how much time was compared
    """

    reference: str
    rms: Mapping[str, float]
    most: Mapping[str, float]
    skill: float | None
    seconds: float
    rows: int

    def __str__(self) -> str:
        """Say it in one line, the worst joint named."""
        if not self.rows:
            return 'nothing compared yet'
        worst = max(self.rms, key=self.rms.__getitem__)
        skill = 'nothing moved' if self.skill is None else f'skill {self.skill:.2f}'
        return (
            f'{self.rows} rows over {self.seconds:.1f} s against {self.reference}: {skill}, '
            f'worst {worst} {self.rms[worst]:.3f} RMS (at most {self.most[worst]:.3f})'
        )


class Shadow:
    """Collect chunks and references, compare row by row. Thread-safe."""

    def __init__(self, names: Sequence[str], rows: int = 0) -> None:
        """Compare the named channels over the first `rows` of each chunk (0: all)."""
        self.names, self._rows = tuple(names), rows
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._open: deque[tuple[int, np.ndarray, np.ndarray]] = deque(maxlen=4096)
            self._pairs: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
            self._times = {'commands': deque(maxlen=4096), 'measured': deque(maxlen=4096)}

    def expect(self, chunk: ActionChunk, start: np.ndarray) -> None:
        """Take a chunk of these names; start [A] is where the joints were at its first row."""
        with self._lock:
            for row in range(1, min(self._rows or chunk.horizon, chunk.horizon)):
                at_ns = chunk.start_ns + round(row * chunk.step_s * 1e9)
                self._open.append((at_ns, chunk.actions[row].astype(np.float64), start))

    def saw(self, reference: str, time_ns: int, position: np.ndarray) -> None:
        """Take where the joints were told to be ('commands') or were ('measured') [A]."""
        with self._lock:
            self._times[reference].append((time_ns, np.asarray(position, np.float64)))
            self._settle(time_ns)

    def agreement(self) -> Agreement:
        """Return the figures over what has been compared."""
        with self._lock:
            reference = self._reference
            if not self._pairs:
                return Agreement(reference, {}, {}, None, 0.0, 0)
            error = np.array([pair[1] for pair in self._pairs])
            still = np.array([pair[2] for pair in self._pairs])
            spoken = np.sqrt((error**2).mean(0)), np.abs(error).max(0)
            moved = float((still**2).sum())
            rms, most = (dict(zip(self.names, values.tolist(), strict=True)) for values in spoken)
            seconds = (self._pairs[-1][0] - self._pairs[0][0]) * 1e-9
            skill = 1 - float((error**2).sum()) / moved if moved > STILL**2 * still.size else None
            return Agreement(reference, rms, most, skill, seconds, len(error))

    @property
    def _reference(self) -> str:
        """Return what is compared with: commands, while anybody is heard commanding."""
        commands, measured = self._times['commands'], self._times['measured']
        if not commands:
            return 'measured'
        silent_ns = measured[-1][0] - commands[-1][0] if measured else 0
        return 'measured' if silent_ns > SILENT_S * 1e9 else 'commands'

    def _settle(self, now_ns: int) -> None:
        """Compare the rows whose instants have passed."""
        waiting, near = deque(maxlen=self._open.maxlen), round(NEAR_S * 1e9)
        references = self._times[self._reference]
        for at_ns, row, start in self._open:
            if at_ns > now_ns - near:
                waiting.append((at_ns, row, start))
                continue
            found = _nearest(references, at_ns)
            if found is not None and abs(found[0] - at_ns) <= near:
                self._pairs.append((at_ns, row - found[1], start - found[1]))
        self._open = waiting
        while self._pairs and self._pairs[-1][0] - self._pairs[0][0] > WINDOW_S * 1e9:
            self._pairs.popleft()


def _nearest(
    references: deque[tuple[int, np.ndarray]], time_ns: int
) -> tuple[int, np.ndarray] | None:
    """Return the reference nearest to an instant that lies shortly behind the newest one."""
    best = None
    for item in reversed(references):
        if best is None or abs(item[0] - time_ns) < abs(best[0] - time_ns):
            best = item
        if item[0] < time_ns:
            break
    return best
