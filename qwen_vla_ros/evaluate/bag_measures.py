"""
What a run through a bag is measured by: errors by joint and step, seams, smoothness, safety.

A chunk's rows are compared with where the measured joints were at their instants, and beside it
with standing still. Where the bag has chunks of the same observations both are compared row by
row; where it has joint trajectories, so are the commands. All sums are kept, never the samples, so
memory does not grow with the bag; what is drawn is thinned out by halves.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.bag_run import Said
from qwen_vla_ros.evaluate.bag_source import COMMAND, INPUT, Event, RecordedChunk, stamp_ns
from qwen_vla_ros.evaluate.smoothness import Smoothness
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.nodes.pilot import Pilot
from qwen_vla_ros.state_reading import state_reader

SECOND_NS = 1_000_000_000
DRAWN, EVENTS = 6000, 500
EQUAL = 1e-6  # rad or m: two chunks that differ less are the same
STILL = 1e-3  # rad or m, RMS: less is a robot that stands


class Thinned:
    """A series for drawing: every second sample goes when there are too many."""

    def __init__(self, most: int = DRAWN) -> None:
        """Keep at most so many samples."""
        self._most, self._stride, self._count = most, 1, 0
        self.times: list[int] = []
        self.rows: list[Any] = []

    def add(self, time_ns: int, row: Any) -> None:
        """Take a sample."""
        self._count += 1
        if self._count % self._stride:
            return
        self.times.append(time_ns)
        self.rows.append(row)
        if len(self.times) > self._most:
            self.times, self.rows = self.times[::2], self.rows[::2]
            self._stride *= 2


class Deviation:
    """Sums over rows [H, A] of what was predicted against what came."""

    def __init__(self, shape: tuple[int, int]) -> None:
        """Begin with nothing."""
        self.count = np.zeros(shape)
        self.squared, self.summed = np.zeros(shape), np.zeros(shape)
        self.most, self.still = np.zeros(shape), np.zeros(shape)

    def add(self, rows: np.ndarray, truth: np.ndarray, start: np.ndarray, mask: Any) -> None:
        """Take the first rows [N, A] of a chunk; mask [N] tells which instants are known."""
        rows, truth = rows[mask], truth[mask]
        at = np.flatnonzero(mask)
        error = rows - truth
        self.count[at] += 1
        self.squared[at] += error**2
        self.summed[at] += error
        self.most[at] = np.maximum(self.most[at], np.abs(error))
        self.still[at] += (start - truth) ** 2

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return RMS, mean and most by joint, RMS by step and joint, and the skill."""
        rows = np.maximum(self.count, 1)
        total = np.maximum(self.count.sum(0), 1)
        if not self.count.sum():
            tables = {k: {} for k in ('rms', 'mean', 'max', 'rms_by_step', 'still_rms')}
            return {**tables, 'rows': 0, 'skill': None}
        still = float(self.still.sum())
        moved = still > STILL**2 * max(float(self.count.sum()), 1)
        return {
            'rows': int(self.count[:, 0].sum()),
            'rms': by_name(names, np.sqrt(self.squared.sum(0) / total)),
            'mean': by_name(names, self.summed.sum(0) / total),
            'max': by_name(names, self.most.max(0)),
            'rms_by_step': by_name(names, np.sqrt(self.squared / rows).T),
            'still_rms': by_name(names, np.sqrt(self.still.sum(0) / total)),
            'skill': 1 - float(self.squared.sum()) / still if moved else None,
        }


class Happenings:
    """What happened in a run, up to EVENTS of a kind; the counts are of all."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.events: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def add(self, time_ns: int, kind: str, text: str) -> None:
        """Take one."""
        self.counts[kind] += 1
        if self.counts[kind] <= EVENTS:
            self.events.append({'time_ns': time_ns, 'kind': kind, 'text': text})


class Measures:
    """An onlooker of one run that sums up; as_dict() is its result."""

    def __init__(
        self, embodiment: Embodiment, pilot: Pilot, recorded: Sequence[RecordedChunk] = ()
    ) -> None:
        """Measure the joints of a pilot."""
        self.names = pilot.names
        self.step_s, self._horizon = embodiment.step_s, embodiment.horizon
        groups = pilot.arm.groups
        grippers = [n for g in groups if g.kind == 'gripper' for n in g.names]
        self.units = {n: u for g in groups for n, u in zip(g.names, g.units, strict=True)}
        self._jump = np.array(
            [
                embodiment.safety.max_jump_m
                if self.units[n] == 'm'
                else embodiment.safety.max_jump_rad
                for n in self.names
            ]
        )
        self._readers = {}
        for state in embodiment.states:
            fields = [field.name for field in state.fields]
            offset = round(state.latency_offset_s * SECOND_NS)
            self._readers[state.name] = state_reader(state), fields, offset
        self._pilot = pilot
        shape = self._horizon, len(self.names)
        self.joints, self.commands = Thinned(), Thinned()
        self.predicted: list[tuple[int, int, np.ndarray]] = []
        self.future, self.first = Deviation(shape), Deviation((1, shape[1]))
        self._told = Deviation((1, shape[1]))
        self.command_error = Deviation((1, shape[1]))
        self.smooth = Smoothness(self.names, grippers)
        self.smooth_recorded = Smoothness(self.names, grippers)
        self.seams = Thinned()
        self._happenings = Happenings()
        self._recorded = {item.chunk.start_ns: item.chunk for item in recorded}
        self._matched = self._same = 0
        self.chunks = self.refused = self.calls = 0
        self.inference_s: deque[float] = deque(maxlen=2000)
        self._open: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        window = 3.0 + 1.2 * self._horizon * self.step_s
        self._agree = np.zeros((3, shape[1]))
        self._window_ns = round(window * SECOND_NS)
        self._joints: dict[str, float] = {}
        self._history: deque[tuple[int, np.ndarray]] = deque()
        self._running = None

    # Onlooker ------------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Follow the measured joints and the commands of that day."""
        if event.kind == COMMAND:
            self._compare_command(event)
        elif event.kind == INPUT and event.source in self._readers:
            read, fields, offset = self._readers[event.source]
            try:
                row = read(event.message)
            except InputError:
                return
            self._joints.update(zip(fields, row, strict=True))
            if set(self.names) <= set(self._joints):
                at_ns = stamp_ns(event.message.header) - offset
                self._take(at_ns, np.array([self._joints[n] for n in self.names], float))

    def said(self, said: Said) -> None:
        """Take a chunk; those of the warm-up and those that were outdated bring no joints."""
        self.calls += 1
        self.inference_s.append((said.arrived_ns - said.departed_ns) * 1e-9)
        if said.joints is None:
            return
        chunk, rows = said.joints, said.joints.actions.astype(float)
        self.chunks += 1
        self.refused += bool(said.refused)
        self.first.add(rows[:1], said.measured[None], said.measured[None], np.ones(1, bool))
        self._open.append((chunk.start_ns, rows, said.measured))
        if len(self.predicted) < DRAWN:
            self.predicted.append((chunk.start_ns, said.arrived_ns, rows.astype(np.float32)))
        same = self._recorded.get(chunk.start_ns)
        if same is not None and set(self.names) <= set(same.names):
            self._compare_chunk(rows, same)
        if said.refused:
            return
        before, self._running = self._running, chunk
        if before is not None:
            old, new = before.row_at(said.arrived_ns), chunk.row_at(said.arrived_ns)
            if old is not None and new is not None:
                self.seams.add(said.arrived_ns, np.abs(new - old))

    def commanded(self, now_ns: int, motion: Any, pilot: Pilot) -> None:
        """Take where the joints are sent."""
        if motion is None:
            self.smooth.gap()
            return
        self.smooth.add(now_ns, motion.position)
        self.commands.add(now_ns, motion.position)

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """Keep what happened."""
        self._happenings.add(now_ns, kind, text)
        if kind == 'latched':
            self._running = None

    # Sums ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Settle the chunks whose last rows lie behind the end of the bag."""
        while self._open:
            self._settle(*self._open.popleft())

    def _take(self, time_ns: int, row: np.ndarray) -> None:
        if self._history and time_ns <= self._history[-1][0]:
            return
        self._history.append((time_ns, row))
        self.joints.add(time_ns, row)
        self.smooth_recorded.add(time_ns, row)
        while self._history[0][0] < time_ns - self._window_ns:
            self._history.popleft()
        reach_ns = round((self._horizon - 1) * self.step_s * SECOND_NS)
        while self._open and self._open[0][0] + reach_ns < time_ns:
            self._settle(*self._open.popleft())

    def _settle(self, start_ns: int, rows: np.ndarray, start: np.ndarray) -> None:
        """Compare a chunk with where the joints were."""
        if not self._history:
            return
        steps = np.round(np.arange(len(rows)) * self.step_s * SECOND_NS)
        times = np.array([time - start_ns for time, _ in self._history], float)
        known = np.array([row for _, row in self._history])
        truth = np.stack([np.interp(steps, times, column) for column in known.T], 1)
        mask = (steps >= times[0]) & (steps <= times[-1])
        rows, truth, mask = (part[: self._horizon] for part in (rows, truth, mask))
        self.future.add(rows, truth, start, mask)
        # Which way it was to go and went, once the chunk has left the place where it began.
        late = slice(self._horizon // 4, None)
        wanted, done = (np.diff(part[mask][late], axis=0) for part in (rows, truth))
        self._agree += np.array([(wanted * done).sum(0), (wanted**2).sum(0), (done**2).sum(0)])

    def _compare_chunk(self, rows: np.ndarray, same: Any) -> None:
        order = [same.names.index(name) for name in self.names]
        told = same.actions[:, order].astype(float)
        error = np.abs(rows[: len(told)] - told[: len(rows)])
        self._matched += 1
        self._same += bool((error <= EQUAL).all())
        worst = error.max(0)[None]
        self._told.add(worst, np.zeros_like(worst), np.zeros_like(worst), np.ones(1, bool))

    def _compare_command(self, event: Event) -> None:
        """Compare the first point of a recorded trajectory with the motion at its instant."""
        message, arm = event.message, self._pilot.arm
        points = getattr(message, 'points', ())  # a base's velocities have none
        if not arm.moving or not len(points):
            return
        point = points[0]
        due = point.time_from_start
        at_ns = (stamp_ns(message.header) or event.time_ns) + due.sec * SECOND_NS + due.nanosec
        found = arm.executor.motion(arm.clock.at(at_ns))
        if found is None:
            return
        error = np.zeros((1, len(self.names)))
        mask = [name in self.names for name in message.joint_names]
        for name, value, known in zip(message.joint_names, point.positions, mask, strict=False):
            if known:
                column = self.names.index(name)
                error[0, column] = found.position[column] - value
                self.command_error.count[0, column] += 1
        self.command_error.squared += error**2
        self.command_error.most = np.maximum(self.command_error.most, np.abs(error))

    def as_dict(self) -> dict[str, Any]:
        """Return the result of the run, ready for JSON."""
        self.close()
        seams = np.array(self.seams.rows).reshape(-1, len(self.names))
        known = self.command_error.count.sum() > 0
        commands = self.command_error.as_dict(self.names)
        return {
            'of': 'joints',
            'units': self.units,
            'inferences': self.calls,
            'chunks': self.chunks,
            'refused': self.refused,
            'error': self.future.as_dict(self.names),
            'first_row': {
                **{k: self.first.as_dict(self.names)[k] for k in ('rms', 'mean', 'max')},
                'limit': by_name(self.names, self._jump),
            },
            'agreement': self._agreement(),
            'same_as_recorded': {
                'recorded': len(self._recorded),
                'matched': self._matched,
                'equal': self._same,
                'max': by_name(self.names, self._told.most[0]) if self._matched else {},
            },
            'commands': {
                'compared': int(self.command_error.count.max()),
                'rms': commands['rms'] if known else {},
                'max': commands['max'] if known else {},
            },
            'seams': {
                'count': len(seams),
                'p95': by_name(self.names, np.percentile(seams, 95, axis=0)) if len(seams) else {},
                'max': by_name(self.names, seams.max(0)) if len(seams) else {},
            },
            'commanded': self.smooth.as_dict(),
            'measured': self.smooth_recorded.as_dict(),
            'latency_s': percentiles(self.inference_s),
            'inputs': self._pilot.buffer.statistics(),
            'event_counts': dict(self._happenings.counts),
            'events': self._happenings.events,
        }

    def _agreement(self) -> dict[str, float | None]:
        """Return joint -> correlation of the ways wanted and made; None where nothing moved."""
        both, wanted, done = self._agree
        rows = max(float(self.future.count[:, 0].sum()), 1.0)
        least = rows * np.array([2e-5 if self.units[n] == 'rad' else 2e-7 for n in self.names])
        return {
            name: float(both[i] / np.sqrt(wanted[i] * done[i]))
            if min(wanted[i], done[i]) > least[i]
            else None
            for i, name in enumerate(self.names)
        }


def by_name(names: Sequence[str], values: np.ndarray) -> Mapping[str, Any]:
    """Return name -> number or list."""
    return {name: np.asarray(value).tolist() for name, value in zip(names, values, strict=True)}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99; empty where there is nothing."""
    if not seconds:
        return {}
    p50, p95, p99 = np.percentile(list(seconds), (50, 95, 99))
    return {'p50': float(p50), 'p95': float(p95), 'p99': float(p99)}
