"""
What a run of a mobile base through a bag is measured by: waypoints against the way it drove.

Waypoints and the driven way are compared in the axes of the base as it was at the observation,
instant by instant (`error`, m and rad), and as lines on the floor, whatever the speed (`path`).
A policy that says STOP is right where the base stood: from one step after the observation to the
end of the horizon it stayed within the contract's stop_m and stop_rad (the first step is for
braking). Sums are kept, never the samples; what is drawn is thinned out.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.bag_measures import (
    DRAWN,
    EQUAL,
    SECOND_NS,
    Deviation,
    Happenings,
    Thinned,
    by_name,
    percentiles,
)
from qwen_vla_ros.evaluate.bag_run import BagRun, Said
from qwen_vla_ros.evaluate.bag_source import COMMAND, INPUT, Event, RecordedChunk, stamp_ns
from qwen_vla_ros.evaluate.floor_ways import (
    distances_to,
    length,
    placed,
    pose_at,
    seen_from,
    wrapped,
)
from qwen_vla_ros.evaluate.smoothness import GAP_S, Smoothness
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.state_reading import state_reader
from qwen_vla_ros.types import ActionChunk

SPEEDS = {'linear_x': 'm/s', 'angular_z': 'rad/s'}
SETTLED_NS = 200_000_000  # so long after a command the chunk that it is of has been heard
SEAM = {'distance': 'm', 'heading': 'rad'}


class BaseMeasures:
    """An onlooker of one run that sums up; as_dict() is its result."""

    def __init__(
        self, embodiment: Embodiment, run: BagRun, recorded: Sequence[RecordedChunk] = ()
    ) -> None:
        """Measure the base of a run."""
        self._run, self._drive = run, run.base
        group = self._drive.group
        self.names = group.names
        self.units = dict(zip(group.names, group.units, strict=True))
        self.step_s, self._horizon = embodiment.step_s, embodiment.horizon
        wanted = run.pilot.base.pose_names
        source = next(s for s in embodiment.states if wanted[0] in [f.name for f in s.fields])
        fields = [field.name for field in source.fields]
        self._source, self._read = source.name, state_reader(source)
        self._columns = [fields.index(name) for name in wanted]
        self._offset_ns = round(source.latency_offset_s * SECOND_NS)
        shape = self._horizon, len(self.names)
        self.future, self._told = Deviation(shape), Deviation((1, shape[1]))
        self._speed_error = Deviation((1, len(SPEEDS)))
        self._agree = np.zeros((3, shape[1]))
        self._aside, self._aside_rows, self._aside_most = 0.0, 0, 0.0
        self._lengths, self._ways = np.zeros(2), 0
        self._stops: Counter[tuple[bool, bool]] = Counter()
        self.way, self.speeds, self.seams = Thinned(), Thinned(), Thinned()
        self.predicted: list[tuple[int, bool, np.ndarray]] = []
        self._smooth = Smoothness(('x', 'y'))
        self._driven, self._sent = np.zeros(2), np.zeros(2)  # m and rad in all
        self._sent_ns: int | None = None
        self._happenings = Happenings()
        self._recorded = {item.chunk.start_ns: item.chunk for item in recorded}
        self._matched = self._same = self.chunks = self.refused = self.calls = 0
        self.inference_s: deque[float] = deque(maxlen=2000)
        self._open: deque[tuple[ActionChunk, np.ndarray, np.ndarray]] = deque()
        self._commands: deque[tuple[int, list[float]]] = deque()
        self._history: deque[tuple[int, np.ndarray]] = deque()
        self._window_ns = round((3.0 + 1.2 * (self._horizon + 1) * self.step_s) * SECOND_NS)
        self._running: tuple[ActionChunk, np.ndarray] | None = None

    # Onlooker ------------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Follow the odometry and the velocities of that day."""
        if event.kind == COMMAND:
            self._note_command(event)
        elif event.kind == INPUT and event.source == self._source:
            try:
                row = self._read(event.message)
            except InputError:
                return
            at_ns = stamp_ns(event.message.header) - self._offset_ns
            self._take(at_ns, np.array([row[column] for column in self._columns]))

    def said(self, said: Said) -> None:
        """Take a chunk; those of the warm-up and those that were outdated bring no waypoints."""
        self.calls += 1
        self.inference_s.append((said.arrived_ns - said.departed_ns) * 1e-9)
        if said.joints is None:
            return
        self.chunks += 1
        self.refused += bool(said.refused)
        if not np.isfinite(said.joints.actions).all():
            return
        chunk, rows = said.joints, self._drive.poses(said.joints)
        self._open.append((chunk, rows, said.measured))
        on_floor = placed(said.measured, np.vstack([np.zeros(3), rows]))
        if len(self.predicted) < DRAWN:
            self.predicted.append((chunk.start_ns, self._drive.stops(chunk), on_floor))
        same = self._recorded.get(chunk.start_ns)
        if same is not None and set(self.names) <= set(same.names):
            self._compare_chunk(chunk, same)
        if said.refused:
            return
        before, self._running = self._running, (chunk, on_floor)
        if before is not None:
            old, new = (pose_at(*part, said.arrived_ns) for part in (before, self._running))
            if old is not None and new is not None:
                step = new - old
                self.seams.add(said.arrived_ns, [np.hypot(*step[:2]), abs(wrapped(step[2]))])

    def commanded(self, now_ns: int, motion: Any, pilot: Any) -> None:
        """Take the speed that is sent."""
        self._compare_commands(now_ns - SETTLED_NS)
        last_ns, self._sent_ns = self._sent_ns, None if motion is None else now_ns
        if motion is None:
            return
        self.speeds.add(now_ns, motion)
        if last_ns is not None:
            speed = np.array([np.hypot(motion[0], motion[1]), abs(motion[2])])
            self._sent += (now_ns - last_ns) * 1e-9 * speed

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """Keep what happened."""
        self._happenings.add(now_ns, kind, text)
        if kind == 'latched':
            self._running = None

    # Sums ----------------------------------------------------------------------------------------

    def _take(self, time_ns: int, pose: np.ndarray) -> None:
        """Take where the base is; yaw goes on past half a turn."""
        if self._history:
            before_ns, before = self._history[-1]
            if time_ns <= before_ns:
                return
            pose[2] = before[2] + wrapped(pose[2] - before[2])
            if (time_ns - before_ns) * 1e-9 <= GAP_S:
                self._driven += [length(np.array([before, pose])), abs(pose[2] - before[2])]
        self._history.append((time_ns, pose))
        self.way.add(time_ns, pose)
        self._smooth.add(time_ns, pose[:2])
        while self._history[0][0] < time_ns - self._window_ns:
            self._history.popleft()
        reach_ns = round(self._horizon * self.step_s * SECOND_NS)
        while self._open and self._open[0][0].start_ns + reach_ns < time_ns:
            self._settle(*self._open.popleft())

    def _settle(self, chunk: ActionChunk, rows: np.ndarray, start: np.ndarray) -> None:
        """Compare a chunk with where the base was."""
        if not self._history:
            return
        rows = rows[: self._horizon].copy()
        rows[:, 2] = np.unwrap([0.0, *rows[:, 2]])[1:]
        steps = np.round(np.arange(1, len(rows) + 1) * chunk.step_s * SECOND_NS)
        times = np.array([time - chunk.start_ns for time, _ in self._history], float)
        known = np.array([pose for _, pose in self._history])
        mask = (steps >= times[0]) & (steps <= times[-1])
        at = np.stack([np.interp(steps, times, column) for column in known.T], 1)
        truth = seen_from(start, at)
        # Headings go on past half a turn: those of the record since its begin, ours since start.
        begin = np.interp(0.0, times, known[:, 2]) - start[2]
        truth[:, 2] -= begin - wrapped(begin)
        self.future.add(rows, truth, np.zeros(3), mask)
        wanted, done = (np.diff(part[mask], axis=0) for part in (rows, truth))
        self._agree += np.array([(wanted * done).sum(0), (wanted**2).sum(0), (done**2).sum(0)])
        if not mask.all():
            return
        self._stops[self._drive.stops(chunk), self._drive.stood(truth)] += 1
        driven = known[(times >= 0) & (times <= steps[-1])]
        self._compare_lines(placed(start, rows), np.vstack([start, driven]))

    def _compare_lines(self, waypoints: np.ndarray, driven: np.ndarray) -> None:
        """Add how far waypoints lie from the way that was driven, and how long both are."""
        aside = distances_to(driven[:, :2], waypoints[:, :2])
        self._aside += float(aside.sum())
        self._aside_rows += len(aside)
        self._aside_most = max(self._aside_most, float(aside.max()))
        self._lengths += [length(np.vstack([driven[:1], waypoints])), length(driven)]
        self._ways += 1

    def _compare_chunk(self, chunk: ActionChunk, same: ActionChunk) -> None:
        rows, told = (
            part.actions[:, [part.names.index(name) for name in self.names]].astype(float)
            for part in (chunk, same)
        )
        error = np.abs(rows[: len(told)] - told[: len(rows)])
        self._matched += 1
        self._same += bool((error <= EQUAL).all())
        worst = error.max(0)[None]
        self._told.most = np.maximum(self._told.most, worst)

    def _note_command(self, event: Event) -> None:
        """Keep a recorded velocity until all that is sent for its instant is known."""
        message = event.message
        header, twist = getattr(message, 'header', None), getattr(message, 'twist', message)
        at_ns = (stamp_ns(header) if header is not None else 0) or event.time_ns
        if self._commands and self._commands[-1][0] == at_ns:
            self._commands.pop()
        self._commands.append((at_ns, [twist.linear.x, twist.angular.z]))

    def _compare_commands(self, until_ns: float) -> None:
        """Compare recorded velocities of instants up to one with those that are sent there."""
        while self._commands and self._commands[0][0] <= until_ns:
            at_ns, told = self._commands.popleft()
            speed = self._drive.speed_at(at_ns)
            if speed is not None:
                mine = np.array([[speed[0], speed[2]]])
                known = np.ones(1, bool)
                self._speed_error.add(mine, np.array([told]), np.zeros(2), known)

    def as_dict(self) -> dict[str, Any]:
        """Return the result of the run, ready for JSON."""
        while self._open:
            self._settle(*self._open.popleft())
        self._compare_commands(np.inf)
        error = self.future.as_dict(self.names)
        commands = self._speed_error.as_dict(tuple(SPEEDS))
        driven, sent = self._driven.tolist(), self._sent.tolist()
        return {
            'of': 'base',
            'units': self.units,
            'inferences': self.calls,
            'chunks': self.chunks,
            'refused': self.refused,
            'error': {**error, 'distance_by_step': self._distance_by_step()},
            'agreement': self._agreement(),
            'path': self._path(),
            'stop': self._stop_table(),
            'same_as_recorded': {
                'recorded': len(self._recorded),
                'matched': self._matched,
                'equal': self._same,
                'max': by_name(self.names, self._told.most[0]) if self._matched else {},
            },
            'commands': {'units': SPEEDS, 'compared': commands['rows']}
            | {key: commands[key] for key in ('rms', 'max')},
            'seams': self._seam_table(),
            'commanded': {'path_m': sent[0], 'turn_rad': sent[1]},
            'measured': {
                'path_m': driven[0],
                'turn_rad': driven[1],
                'sparc': self._smooth.as_dict()['sparc'],
            },
            'latency_s': percentiles(self.inference_s),
            'inputs': self._run.pilot.buffer.statistics(),
            'event_counts': dict(self._happenings.counts),
            'events': self._happenings.events,
        }

    def _distance_by_step(self) -> list[float]:
        """Return the RMS distance in m between waypoint and base, step by step."""
        rows = np.maximum(self.future.count[:, :2], 1)
        return np.sqrt((self.future.squared[:, :2] / rows).sum(1)).tolist()

    def _agreement(self) -> dict[str, float | None]:
        """Return name -> correlation of the ways wanted and made; None where nothing moved."""
        both, wanted, done = self._agree
        least = max(float(self.future.count[:, 0].sum()), 1.0) * 1e-5
        return {
            name: float(both[i] / np.sqrt(wanted[i] * done[i]))
            if min(wanted[i], done[i]) > least
            else None
            for i, name in enumerate(self.names)
        }

    def _path(self) -> dict[str, float | None]:
        if not self._ways:
            return dict.fromkeys(('mean_m', 'max_m', 'predicted_m', 'driven_m'))
        predicted, driven = self._lengths / self._ways
        mean = self._aside / self._aside_rows
        return {
            'mean_m': mean,
            'max_m': self._aside_most,
            'predicted_m': float(predicted),
            'driven_m': float(driven),
        }

    def _stop_table(self) -> dict[str, Any]:
        count = sum(self._stops.values())
        right = self._stops[True, True] + self._stops[False, False]
        return {
            'compared': count,
            'agreement': right / count if count else None,
            'both': self._stops[True, True],
            'only_said': self._stops[True, False],
            'only_stood': self._stops[False, True],
        }

    def _seam_table(self) -> dict[str, Any]:
        seams = np.array(self.seams.rows).reshape(-1, len(SEAM))
        if not len(seams):
            return {'units': SEAM, 'count': 0, 'p95': {}, 'max': {}}
        return {
            'units': SEAM,
            'count': len(seams),
            'p95': by_name(tuple(SEAM), np.percentile(seams, 95, axis=0)),
            'max': by_name(tuple(SEAM), seams.max(0)),
        }
