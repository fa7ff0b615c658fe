"""What an episode's topics said: latencies, rates, holds, commanded and measured joints."""

import math
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.episodes import Episode, Task
from qwen_vla_ros.sim import arm


class EpisodeTrace:
    """
    Fed with the messages of one episode (duck-typed), in order of time; times in s of one clock.

    Bounded: an episode has a time limit, and every list grows with the episode only.
    """

    def __init__(self, task: Task, start_s: float) -> None:
        """Begin at the instant at which the instruction was given."""
        self.task, self.start_s = task, start_s
        self.running_since_s: float | None = None
        self.stage, self.reason = '', ''
        self._inference_s: list[float] = []
        self._overhead_s: list[float] = []
        self._chunk_age_s: list[float] = []
        self._chunks: int | None = None
        self._refusals: tuple[int, int] | None = None
        self._holds: list[dict[str, Any]] = []
        self._arm_commands_s: list[float] = []
        self._chunks_s: list[float] = []
        self._measured: list[tuple[float, np.ndarray]] = []
        self._commanded: list[tuple[float, np.ndarray]] = []

    def add_status(self, message: Any, time_s: float) -> None:
        """Take a PolicyStatus; a new chunk gives one latency, a new HOLDING one hold."""
        first, _ = self._refusals or (message.refusals, message.refusals)
        self._refusals = (first, message.refusals)
        if self._chunks is not None and message.chunks > self._chunks:
            for values, value in (
                (self._inference_s, message.inference_s),
                (self._overhead_s, message.overhead_s),
                (self._chunk_age_s, message.chunk_age_s),
            ):
                if math.isfinite(value):
                    values.append(value)
        self._chunks = message.chunks
        running = message.stage == 'RUNNING'
        if running and self.running_since_s is None:
            self.running_since_s = time_s
        if message.stage == 'HOLDING' and self.stage == 'RUNNING':
            self._holds.append({'time_s': time_s - self.start_s, 'reason': message.reason})
        self.stage, self.reason = message.stage, message.reason

    def add_chunk(self, time_s: float) -> None:
        """Note that a chunk was published."""
        self._chunks_s.append(time_s)

    def add_joint_state(self, message: Any, time_s: float) -> None:
        """Take a JointState that holds all joints of the arm; another one is left out."""
        names = list(message.name)
        if set(arm.JOINT_NAMES) <= set(names):
            row = [message.position[names.index(name)] for name in arm.JOINT_NAMES]
            self._measured.append((time_s - self.start_s, np.array(row)))

    def add_command(self, message: Any, time_s: float) -> None:
        """Take a JointTrajectory: its first point, at the instant for which it is meant."""
        names = list(message.joint_names)
        if not message.points:
            return
        if set(names) & set(arm.ARM_JOINTS):
            self._arm_commands_s.append(time_s)
        point = message.points[0]
        stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        after_s = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        row = self._commanded[-1][1].copy() if self._commanded else np.full(7, np.nan)
        for name, value in zip(names, point.positions, strict=True):
            if name in arm.JOINT_NAMES:
                row[arm.JOINT_NAMES.index(name)] = value
        self._commanded.append(((stamp_s or time_s) + after_s - self.start_s, row))

    def finish(
        self,
        first_touched: str | None,
        touched: tuple[str, ...],
        elapsed_s: float,
        note: str = '',
        done: bool | None = None,
    ) -> Episode:
        """
        Return the episode.

        done: what the world says of its task; None: to touch the object last asked for first.
        """
        swap = self.task.swap
        named = first_touched is not None and first_touched == self.task.final_target
        first, last = self._refusals or (0, 0)
        return Episode(
            seed=self.task.seed,
            instruction=swap.instruction if swap else self.task.instruction,
            target=self.task.final_target,
            success=named if done is None else done,
            first_touched=first_touched,
            touched=touched,
            elapsed_s=elapsed_s,
            swapped=swap is not None,
            inference_s=tuple(self._inference_s),
            overhead_s=tuple(self._overhead_s),
            chunk_age_s=tuple(self._chunk_age_s),
            command_rate_hz=_rate(self._arm_commands_s),
            chunk_rate_hz=_rate(self._chunks_s),
            refusals=last - first,
            holds=tuple(self._holds),
            tracking_rms=self.tracking_rms(),
            note=note,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the trace as plots.plot_tracking() takes it."""
        return {
            'names': np.array(arm.JOINT_NAMES),
            'measured_s': _times(self._measured),
            'measured': _rows(self._measured),
            'commanded_s': _times(self._commanded),
            'commanded': _rows(self._commanded),
        }

    def tracking_rms(self) -> float | None:
        """Return the arm joints' root mean square error in rad; None without commands."""
        times, rows = _times(self._commanded), _rows(self._commanded)[:, :6]
        known = np.isfinite(rows).all(1)
        times, rows = times[known], rows[known]
        at, measured = _times(self._measured), _rows(self._measured)[:, :6]
        if not times.size:
            return None
        order = np.argsort(times, kind='stable')
        times, rows = times[order], rows[order]
        inside = (at >= times[0]) & (at <= times[-1])
        if not inside.any():
            return None
        wanted = np.stack([np.interp(at[inside], times, column) for column in rows.T], 1)
        return float(np.sqrt(np.mean((wanted - measured[inside]) ** 2)))


def _rate(times_s: list[float]) -> float | None:
    """Return events a second between the first and the last; None for fewer than three."""
    if len(times_s) < 3 or times_s[-1] <= times_s[0]:
        return None
    return (len(times_s) - 1) / (times_s[-1] - times_s[0])


def _times(rows: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Return the times [N]."""
    return np.array([time_s for time_s, _ in rows], np.float64)


def _rows(rows: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Return the values [N, 7]."""
    return np.array([row for _, row in rows], np.float64).reshape(len(rows), 7)
