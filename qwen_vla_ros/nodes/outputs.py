"""
The outputs of a layout: publishers, action clients, and the thread that keeps their rates.

send() takes joint motions, follow() chunks for tips and bases, hold() brings the latter to a
stand. Each makes all messages of all outputs first; when one is refused, none goes out. What is
due at once is published at once; single positions and velocities follow at their instants from a
thread, and end at rest, so an arm whose node dies stops by itself.
"""

import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node

from qwen_vla_ros.clock_watch import ClockWatch
from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import ActionGroup
from qwen_vla_ros.navigation_commands import rows_of_chunk
from qwen_vla_ros.nodes.goals import GoalClient
from qwen_vla_ros.nodes.motion import CHUNK, LOOKAHEAD, STOP, Motion
from qwen_vla_ros.nodes.qos import COMMAND
from qwen_vla_ros.output_kinds import (
    BASE,
    JOINTS,
    STREAM,
    TIP,
    BaseRows,
    CommandRefused,
    JointRows,
    OutputUnavailable,
    Plan,
    TipRows,
)
from qwen_vla_ros.timeline import Timeline
from qwen_vla_ros.types import ActionChunk

LONGEST_WAIT_S = 0.02  # a simulated clock may run faster than ours
CATCH_UP = 0.5  # of a stream's period: how close positions that are late follow one another
REST_S = 1.0  # how long close() lets a way to rest go on


class _Output:
    """One group's output: its kind, its timeline, and the publisher or client it sends through."""

    def __init__(self, node: Node, group: ActionGroup) -> None:
        self.group, self.kind = group, output_of(group.output.type)
        self.options = self.kind.filled(group.output.options)
        self.takes = self.kind.takes(group.output.options)
        self.streams = self.kind.rows == JOINTS and 'rate_hz' in self.options
        spacing_s = CATCH_UP / self.options['rate_hz'] if self.streams else 0.0
        self.timeline = Timeline(round(spacing_s * 1e9))
        self.goals = self._publisher = None
        self._node = node
        interface = self.kind.message_class()
        if self.kind.is_action:
            self.goals = GoalClient(node, interface, group.output.topic)
        else:
            self._publisher = node.create_publisher(interface, group.output.topic, COMMAND)

    def wants(self, part: str) -> bool:
        """Return whether a part of a motion is for this output."""
        return part == STOP or part == (LOOKAHEAD if self.takes == STREAM else CHUNK)

    def send_due(self, even_ns: int) -> None:
        """Send the newest message that is due, by the time without leaps."""
        timed = self.timeline.take(even_ns)
        if timed is None or not self._node.context.ok():
            return
        if self.goals is not None:
            self.goals.send(timed.message)
        else:
            self._publisher.publish(timed.message)

    def close(self) -> None:
        """Destroy what sends."""
        if self.goals is not None:
            self.goals.close()
        else:
            self._node.destroy_publisher(self._publisher)


class Outputs:
    """Everything that a layout commands. Thread-safe; close() before the node is destroyed."""

    def __init__(
        self,
        node: Node,
        groups: Sequence[ActionGroup],
        names: Sequence[str],
        clock: ClockWatch | None = None,
    ) -> None:
        """
        Create what the groups need; names [A] are the columns of the motions that will come.

        Raises OutputUnavailable that names every type this machine lacks, and creates nothing.
        """
        _refuse_absent(groups)
        self._node = node
        self._time = clock or ClockWatch(lambda: node.get_clock().now().nanoseconds)
        self._columns = {
            group.name: [list(names).index(name) for name in group.names]
            for group in groups
            if output_of(group.output.type).rows == JOINTS
        }
        self._outputs = [_Output(node, group) for group in groups]
        self._lock, self._wake = threading.RLock(), threading.Condition()
        self._base: tuple[str, tuple[float, float, float]] | None = None
        self._end: float | None = None  # monotonic s at which the thread ends at the latest
        self._rest_ns = 0
        self._refused = self.said = ''
        self._thread = threading.Thread(target=self._play, name='outputs', daemon=True)
        self._thread.start()

    @property
    def takes_chunks(self) -> bool:
        """Return whether an output for joints wants whole chunks (Motion.part 'chunk')."""
        return any(o.takes == CHUNK and o.kind.rows == JOINTS for o in self._outputs)

    @property
    def problem(self) -> str:
        """Return what was refused, why goals are not carried out, or what was said (STOP)."""
        told = [o.goals.problem for o in self._outputs if o.goals is not None]
        return '; '.join(text for text in (self._refused, *told, self.said) if text)

    @property
    def failures(self) -> int:
        """Return how many goals the servers of actions gave up, replaced ones left out."""
        return sum(o.goals.failures for o in self._outputs if o.goals is not None)

    def send(self, motion: Motion) -> None:
        """
        Send a motion of the joints to the outputs that take its part; a stop goes to all.

        Raises CommandRefused, before anything is sent, for what no controller may get.
        """
        with self._refusals():
            self._send(self._joint_rows(motion), motion.now_ns, motion.leaps_ns)
        if motion.part == STOP:
            rest_ns = motion.now_ns + round(motion.times_s[-1] * 1e9)
            self._rest_ns = rest_ns - self._leaps(motion.leaps_ns)
            self.hold(motion.now_ns)

    def follow(
        self,
        chunk: ActionChunk,
        now_ns: int,
        base_pose: tuple[float, float, float] | None = None,
        base_frame: str = 'odom',
    ) -> None:
        """
        Send the tip and base columns of a checked chunk, from its observation's instant on.

        chunk       names of the layout; row i holds for start_ns + i * step_s
        base_pose   (x, y in m, theta in rad) of the base in base_frame at chunk.start_ns; needed
                    by waypoints

        Raises CommandRefused, before anything is sent, for what no controller may get.
        """
        with self._refusals():
            rows = self._followed_rows(chunk, now_ns, base_pose, base_frame)
            self._send(rows, now_ns)
        if base_pose is not None:
            self._base = (base_frame, tuple(base_pose))

    def hold(self, now_ns: int, base_pose: tuple[float, float, float] | None = None) -> None:
        """
        Bring tips and bases to a stand: zero velocity within the limits, goals cancelled.

        base_pose is where the base is (paths and goals are set there); by default as last given.
        """
        rows: list[tuple[_Output, Any]] = []
        for output in self._outputs:
            if output.kind.rows == TIP:
                frame, still = output.group.frame, np.zeros((1, 6))
                rows.append((output, TipRows(frame, np.zeros(1), still, now_ns, now_ns)))
            elif output.kind.rows == BASE and self._base is not None:
                frame, pose = self._base[0], base_pose or self._base[1]
                speed, still = output.timeline.speed, np.zeros((1, 3))
                base = BaseRows(frame, pose, np.zeros(1), still, now_ns, now_ns, speed)
                rows.append((output, base))
        self._send(rows, now_ns)
        self.said = ''  # it is not the policy that asks for it

    def cancel(self, now_ns: int) -> None:
        """
        Cancel every goal, stream no joint further, brake tips and bases: for an emergency stop.

        Controllers hold the joints where they are, at once; send() a stop for a way to rest.
        """
        self.hold(now_ns)
        for output in self._outputs:
            if output.kind.rows == JOINTS:
                output.timeline.clear()
            if output.goals is not None:
                output.goals.hold()

    def close(self) -> None:
        """Let a way to rest that has begun end, cancel goals and destroy what was created."""
        with self._wake:
            self._end = time.monotonic() + REST_S
            self._wake.notify()
        self._thread.join(REST_S + 1.0)
        goals = any(output.goals is not None and output.goals.running for output in self._outputs)
        left_s = (self._rest_ns - self._time.even_ns()) * 1e-9
        if goals and left_s > 0.0:
            time.sleep(min(left_s, REST_S))
        for output in self._outputs:
            output.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Keep what is refused, until something is sent again."""
        try:
            yield
        except CommandRefused as error:
            self._refused = str(error)
            raise
        self._refused = ''

    def _joint_rows(self, motion: Motion) -> list[tuple[_Output, Any]]:
        first = min(int(np.searchsorted(motion.times_s, motion.lead_s)), len(motion.times_s) - 1)
        late = np.maximum(motion.times_s[first:], motion.lead_s)
        rows = []
        for output in self._outputs:
            if output.kind.rows != JOINTS or not output.wants(motion.part):
                continue
            columns, stamp_ns = self._columns[output.group.name], motion.now_ns
            if output.streams:  # the instants of a stream go on evenly across a leap
                stamp_ns -= self._leaps(motion.leaps_ns)
            begin, times = (0, motion.times_s) if output.streams else (first, late)
            positions, velocities = motion.positions[begin:], motion.velocities[begin:]
            part = positions[:, columns], velocities[:, columns]
            rows.append((output, JointRows(output.group.names, times, *part, stamp_ns)))
        return rows

    def _followed_rows(
        self,
        chunk: ActionChunk,
        now_ns: int,
        base_pose: tuple[float, float, float] | None,
        base_frame: str,
    ) -> list[tuple[_Output, Any]]:
        rows: list[tuple[_Output, Any]] = []
        for output in self._outputs:
            if output.kind.rows == JOINTS:
                continue
            names = output.group.names
            if output.kind.rows == TIP:
                values = chunk.actions[:, [chunk.names.index(name) for name in names]]
                times = chunk.step_s * np.arange(len(values))
                values, frame = values.astype(np.float64), output.group.frame
                made: Any = TipRows(frame, times, values, chunk.start_ns, now_ns)
            elif base_pose is None:
                raise CommandRefused(
                    f'{output.group.name}: waypoints need the pose of the base at the observation'
                )
            else:
                speed = output.timeline.speed
                made = rows_of_chunk(chunk, names, base_pose, base_frame, now_ns, speed)
            rows.append((output, made))
        return rows

    def _leaps(self, leaps_ns: int | None) -> int:
        return self._time.read().leaps_ns if leaps_ns is None else leaps_ns

    def _send(
        self, rows: Sequence[tuple[_Output, Any]], now_ns: int, leaps_ns: int | None = None
    ) -> None:
        leaps_ns = self._leaps(leaps_ns)
        plans = [(output, output.kind.plan(part, output.options)) for output, part in rows]
        with self._lock:
            for output, plan in plans:
                self._take(output, plan, now_ns, leaps_ns)
            even_ns = max(now_ns - leaps_ns, self._time.even_ns())
            for output, _ in plans:
                output.send_due(even_ns)
        with self._wake:
            self._wake.notify()

    def _take(self, output: _Output, plan: Plan, now_ns: int, leaps_ns: int) -> None:
        if plan.cancel and output.goals is not None:
            output.timeline.clear()
            output.goals.hold()
        shift_ns = 0 if output.streams else leaps_ns
        timed = [replace(one, at_ns=one.at_ns - shift_ns) for one in plan.timed]
        output.timeline.put(timed, now_ns - leaps_ns)
        if output.kind.rows == BASE:
            self.said = plan.said

    def _play(self) -> None:
        """Send what becomes due, until close() and nothing is left (or its time is over)."""
        while True:
            with self._wake:
                times = [output.timeline.next_ns for output in self._outputs]
                ahead = [time_ns for time_ns in times if time_ns is not None]
                if self._end is not None and (not ahead or time.monotonic() > self._end):
                    return
                if not ahead:
                    self._wake.wait()
                    continue
                wait_s = (min(ahead) - self._time.even_ns()) * 1e-9
                if wait_s > 0.0:
                    self._wake.wait(min(wait_s, LONGEST_WAIT_S))
            try:
                with self._lock:
                    even_ns = self._time.even_ns()
                    for output in self._outputs:
                        output.send_due(even_ns)
            except Exception:  # a defect must be seen, and must not end the thread unseen
                if not self._node.context.ok():
                    return
                self._node.get_logger().error(traceback.format_exc())


def _refuse_absent(groups: Sequence[ActionGroup]) -> None:
    """Name every type of the groups that this machine lacks."""
    problems = []
    for group in groups:
        try:
            output_of(group.output.type).message_class()
        except OutputUnavailable as error:
            problems.append(f'{group.name} ({group.output.type}): {error}')
    if problems:
        raise OutputUnavailable('; '.join(problems))
