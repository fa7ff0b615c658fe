"""
How smooth a motion was: path length, jerk, SPARC, gripper flips; in bounded memory.

SPARC (Balasubramanian et al. 2015, "On the analysis of movement smoothness"): minus the arc length
of the speed's amplitude spectrum, normalised, up to an adaptive cut-off of at most 10 Hz; nearer
to zero is smoother. Taken over windows of WINDOW_S in which the arm moves; the median is told.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

WINDOW_S, GAP_S, STILL = 5.0, 0.25, 0.05  # s, s, rad/s
CUT_HZ, LEAST_SHARE, PADDED = 10.0, 0.05, 4
HYSTERESIS = 0.2  # share of a gripper's range that it must cross beyond the middle


def sparc(speed: np.ndarray, rate_hz: float) -> float | None:
    """Return the spectral arc length of a speed [N] sampled at rate_hz; None where none moved."""
    speed = np.asarray(speed, float)
    if len(speed) < 4 or speed.max() <= 0:
        return None
    count = 2 ** (int(np.ceil(np.log2(len(speed)))) + PADDED)
    shares = np.abs(np.fft.rfft(speed, count))
    shares = shares / shares[0] if shares[0] > 0 else shares
    frequencies = np.arange(len(shares)) * rate_hz / count
    kept = frequencies <= CUT_HZ
    frequencies, shares = frequencies[kept], shares[kept]
    loud = np.flatnonzero(shares >= LEAST_SHARE)
    if not loud.size or loud[-1] < 1:
        return None
    frequencies, shares = frequencies[: loud[-1] + 1], shares[: loud[-1] + 1]
    steps = np.hypot(np.diff(frequencies) / (frequencies[-1] - frequencies[0]), np.diff(shares))
    return -float(steps.sum())


class Smoothness:
    """Take a motion sample by sample; a gap of more than GAP_S begins another one."""

    def __init__(self, names: Sequence[str], grippers: Sequence[str] = ()) -> None:
        """Follow named joints; grippers are left out of the speed and their flips counted."""
        self.names = tuple(names)
        self._arm = np.array([name not in grippers for name in names])
        self._grippers = [names.index(name) for name in grippers]
        self._range = np.full((2, len(names)), (np.inf,)) * np.array([[1.0], [-1.0]])
        self.path = np.zeros(len(names))
        self.seconds, self.samples = 0.0, 0
        self._jerk_squared, self._jerk_most = np.zeros(len(names)), np.zeros(len(names))
        self._jerks = 0
        self._recent: list[tuple[int, np.ndarray]] = []
        self._speeds: list[float] = []
        self._steps_s: list[float] = []
        self._arcs: list[float] = []
        self._sides: dict[int, list[tuple[int, float]]] = {}
        self._turns: dict[int, list[float]] = {index: [] for index in self._grippers}

    def add(self, time_ns: int, position: np.ndarray) -> None:
        """Take where the joints are [A] at an instant."""
        position = np.asarray(position, float)
        self._range[0] = np.minimum(self._range[0], position)
        self._range[1] = np.maximum(self._range[1], position)
        self._note_grippers(position)
        self.samples += 1
        if self._recent:
            step_s = (time_ns - self._recent[-1][0]) * 1e-9
            if step_s <= 0:
                return
            if step_s > GAP_S:
                self.gap()
            else:
                moved = position - self._recent[-1][1]
                self.path += np.abs(moved)
                self.seconds += step_s
                self._speeds.append(float(np.linalg.norm(moved[self._arm])) / step_s)
                self._steps_s.append(step_s)
                if sum(self._steps_s) >= WINDOW_S:
                    self._end_window()
        self._recent = [*self._recent[-3:], (time_ns, position)]
        self._note_jerk()

    def gap(self) -> None:
        """End a motion: what comes next does not continue it."""
        self._end_window()
        self._recent = []

    def as_dict(self) -> dict[str, Any]:
        """Return the figures; rad or m a joint, rad/s^3 or m/s^3 for jerk."""
        self._end_window()
        rms = np.sqrt(self._jerk_squared / max(self._jerks, 1))
        told = self._jerks > 0
        return {
            'seconds': self.seconds,
            'path': dict(zip(self.names, self.path.tolist(), strict=True)),
            'jerk_rms': dict(zip(self.names, rms.tolist(), strict=True)) if told else {},
            'jerk_max': dict(zip(self.names, self._jerk_most.tolist(), strict=True))
            if told
            else {},
            'sparc': float(np.median(self._arcs)) if self._arcs else None,
            'gripper_flips': self._flips(),
        }

    def _end_window(self) -> None:
        if len(self._speeds) >= 20 and max(self._speeds) > STILL:
            arc = sparc(np.array(self._speeds), 1.0 / float(np.median(self._steps_s)))
            self._arcs += [] if arc is None else [arc]
        if len(self._arcs) > 2000:
            self._arcs = self._arcs[::2]
        self._speeds, self._steps_s = [], []

    def _note_jerk(self) -> None:
        """Take the third difference of the last four samples, where they are evenly spaced."""
        if len(self._recent) < 4:
            return
        times = np.array([time for time, _ in self._recent]) * 1e-9
        steps = np.diff(times)
        if steps.max() > 1.3 * steps.min():
            return
        rows = np.array([row for _, row in self._recent])
        jerk = (rows[3] - 3 * rows[2] + 3 * rows[1] - rows[0]) / steps.mean() ** 3
        self._jerk_squared += jerk**2
        self._jerk_most = np.maximum(self._jerk_most, np.abs(jerk))
        self._jerks += 1

    def _note_grippers(self, position: np.ndarray) -> None:
        """Keep the turning points of each gripper: its flips need its whole range."""
        for index in self._grippers:
            turns, value = self._turns[index], float(position[index])
            if len(turns) >= 2 and (turns[-1] - turns[-2]) * (value - turns[-1]) >= 0:
                turns[-1] = value
            elif not turns or value != turns[-1]:
                turns.append(value)
            if len(turns) > 20000:
                del turns[1:-1:2]

    def _flips(self) -> dict[str, int]:
        found = {}
        for index in self._grippers:
            low, high = self._range[:, index] if self.samples else (0.0, 0.0)
            middle, room = (low + high) / 2, HYSTERESIS * (high - low) / 2
            side, flips = 0, 0
            for value in self._turns[index] if high > low else ():
                now = 1 if value > middle + room else -1 if value < middle - room else side
                flips += side != 0 and now != side
                side = now
            found[self.names[index]] = flips
        return found
