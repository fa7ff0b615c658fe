"""
What the policy node does, without topics and timers: observations in, checked motions out.

    push, instruct   from subscriptions: only store
    think            from the worker: newest observation -> policy -> safety -> executor
    watch            from a fast timer: a motion to rest as soon as something is missing
    command          from the command timer: the next lookahead, every row checked

A problem ends the motion once, decelerated, and then nothing is sent. When all is back the arm
starts again from where it is measured. Only a latched safety gate waits for reset_safety().
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.chunk import ChunkExecutor, Departure
from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.timed_policy import TimedPolicy
from qwen_vla_ros.observation import CLOCK_JUMP_NS, ObservationBuffer
from qwen_vla_ros.safety import CARTESIAN, SafetyGate
from qwen_vla_ros.splicing import splicing_of
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.policy import Policy

INACTIVE, WAITING, RUNNING, HOLDING = 'INACTIVE', 'WAITING', 'RUNNING', 'HOLDING'
LOOKAHEAD, CHUNK, STOP = 'lookahead', 'chunk', 'stop'
STOP_S, STOP_DT_S = 1.0, 0.02
REST = 1e-6


@dataclass(frozen=True)
class Motion:
    """
    Commands for all joints: times float64 [N] in s from now; positions, velocities [N, A].

    part tells what it covers: the near future (lookahead), all that is left of the chunk (chunk),
    or the way to rest, after which nothing comes (stop).
    """

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    now_ns: int
    part: str = LOOKAHEAD


@dataclass(frozen=True)
class Problem:
    """Why the arm may not move; missing lists the absent inputs, topic included."""

    reason: str
    missing: tuple[str, ...] = ()


class Pilot:
    """Join a contract, a policy, the executor and the safety gate. Thread-safe."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        policy: 'Policy',
        layout: str,
        clock: Callable[[], int],
        lookahead_s: float,
        dt_s: float,
        tip_position: Callable[[np.ndarray], np.ndarray] | None = None,
        to_joints: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        splice: str = '',
        replan_s: float = 0.0,
    ) -> None:
        """
        Set up inactive.

        splice is one of splice.MODES ('': the contract's), replan_s the time between inferences.
        tip_position(q) -> [3] serves the workspace box; to_joints(rows [H, 6], q) -> [H, J] is
        needed by Cartesian layouts. They are called from different threads.
        """
        self._embodiment, self._clock = embodiment, clock
        self._policy = TimedPolicy(policy, embodiment.safety.inference_timeout_s)
        self._lookahead_s, self._dt_s, self._to_joints = lookahead_s, dt_s, to_joints
        self._layout, joints = layout, joint_layout(embodiment, layout)
        self.groups = embodiment.action_groups(joints)
        self.names = tuple(embodiment.action_names(joints))
        self.buffer = ObservationBuffer(embodiment)
        self.gate = SafetyGate(embodiment, joints, tip_position)
        self.executor = ChunkExecutor(
            embodiment.safety.blend_s,
            self.names,
            tuple(name for g in self.groups if g.kind == 'gripper' for name in g.names),
            np.array([embodiment.limits[name].acceleration for name in self.names]),
            np.array([embodiment.limits[name].velocity for name in self.names]),
            splicing_of(embodiment, policy, layout, splice, replan_s),
        )
        self._topics = {camera.view: camera.topic for camera in embodiment.cameras}
        self._topics.update({state.name: state.topic for state in embodiment.states})
        self._why_no_instruction = ''
        self._lock = threading.RLock()
        self.instruction, self._generation = '', 0
        self.stage, self.reason, self.missing = INACTIVE, '', ()
        self._active = self._moving = self._moved = False
        self._last_stamp_ns = self._latest_ns = 0
        self.chunk: ActionChunk | None = None
        self.observed_ns: int | None = None
        self.chunks = 0
        self.inference_s: deque[float] = deque(maxlen=2000)
        self.overhead_s: deque[float] = deque(maxlen=2000)

    # Subscriptions -------------------------------------------------------------------------------

    def push(self, source: str, message: Any) -> None:
        """Store a message; InputError when it cannot be used."""
        self.buffer.push(source, message, self._clock())

    def instruct(self, instruction: str) -> None:
        """Take a new sentence at once: what is being inferred for the old one will not be used."""
        with self._lock:
            if instruction.strip() != self.instruction:
                self.instruction = instruction.strip()
                self._generation += 1

    def explain(self, hints: Mapping[str, str]) -> None:
        """Take what the ROS graph says of silent inputs, 'instruction' among them."""
        self.buffer.explain(hints)
        self._why_no_instruction = hints.get('instruction', '')

    @property
    def transport(self) -> str:
        """Return how pictures reach the model; '' when it is in this process."""
        return self._policy.transport

    # Life ----------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Allow motion from now on."""
        with self._lock:
            self._active, self._moved = True, False
            self._policy.succeed()
            self._set(WAITING, 'warming up the policy')

    def deactivate(self) -> Motion | None:
        """Forbid motion; return the way to rest when the arm moves."""
        with self._lock:
            now_ns = self._now()
            motion = self._stop(now_ns) if self._moving else None
            self._active = False
            self._set(INACTIVE, '')
            return motion

    def reset_safety(self) -> str:
        """Release a latched safety gate; return what had latched it ('' when it was not)."""
        latched = self.gate.latched
        self.gate.reset()
        return latched

    # Worker --------------------------------------------------------------------------------------

    def think(self) -> ActionChunk | None:
        """Infer once if something new can be inferred; return the chunk that is now executed."""
        begin = time.perf_counter()
        with self._lock:
            instruction, generation = self.instruction, self._generation
            now_ns = self._now()
            if self._policy.resting or self._problem(now_ns, thinking=True):
                return None
        observation = self.buffer.sample(now_ns, instruction)
        if observation is None or observation.stamp_ns <= self._last_stamp_ns:
            return None
        if not self.executor.wants(observation.stamp_ns):
            return None
        self._last_stamp_ns = observation.stamp_ns
        self.observed_ns = min(observation.sources_ns.values(), default=observation.stamp_ns)
        departure = self.executor.depart(observation.stamp_ns, self._embodiment.step_s)
        found = self._policy.infer(observation, generation, departure.prefix)
        if found is None:
            return None
        accepted = self._execute(found.chunk, observation, generation, departure)
        self.inference_s.append(found.call_s)
        self.overhead_s.append(max(0.0, time.perf_counter() - begin - found.model_s))
        return accepted

    def _execute(
        self,
        chunk: ActionChunk,
        observation: Observation,
        generation: int,
        departure: Departure,
    ) -> ActionChunk | None:
        """Check a chunk and lead the motion onto it; None when it is refused or outdated."""
        measured = np.array(
            [observation.state[observation.state_names.index(n)] for n in self.names], np.float64
        )
        try:
            chunk = self._in_joints(chunk, measured)
        except QwenVlaError as error:
            self._policy.fail(f'policy: {error}')
            return None
        with self._lock:
            now_ns = self._now()
            if generation != self._generation or self._problem(now_ns, thinking=True):
                return None
            verdict = self.gate.check_chunk(chunk, now_ns, measured)
            if not verdict.ok:
                return self._refuse(f'safety refused a chunk: {verdict.reason}')
            if not self._moving:
                self.gate.reset()
                self.executor.hold(measured, now_ns)
            try:
                self.executor.put(chunk, now_ns, departure)
            except ChunkRefused as error:
                return self._refuse(f'policy: {error}')
            self._policy.succeed()
            self.chunk = chunk
            self._moving = self._moved = True
            self.chunks += 1
            self._set(RUNNING, self.executor.notice)
            return chunk

    def _in_joints(self, chunk: ActionChunk, measured: np.ndarray) -> ActionChunk:
        """Return a chunk of joint positions; Cartesian deltas go through the kinematics."""
        if self._to_joints is None:
            return chunk
        columns, start = [], 0
        for group, joints in zip(
            self._embodiment.action_groups(self._layout), self.groups, strict=True
        ):
            rows = chunk.actions[:, start : start + len(group.names)]
            start += len(group.names)
            if group.kind == 'delta_eef':
                at = [self.names.index(name) for name in joints.names]
                rows = self._to_joints(rows, measured[at])
            columns.append(rows)
        actions = np.concatenate(columns, axis=1).astype(np.float32)
        return ActionChunk(actions, self.names, chunk.start_ns, chunk.step_s)

    # Timers --------------------------------------------------------------------------------------

    def watch(self) -> Motion | None:
        """Look whether everything is there; return the way to rest in the moment it is not."""
        with self._lock:
            if not self._active:
                return None
            now_ns = self._now()
            problem = self._problem(now_ns)
            if problem is None:
                if not self._moving:
                    self._set(self._still, 'everything is there; waiting for the next chunk')
                return None
            motion = self._stop(now_ns) if self._moving else None
            self._set(self._still, problem.reason, problem.missing)
            return motion

    def command(self, whole: bool = False) -> Motion | None:
        """Return the next lookahead, or all that is left; the way to rest if a row is refused."""
        with self._lock:
            now_ns = self._now()
            if not self._moving:
                return None
            reach_s, expires_ns = self._lookahead_s, self.executor.expires_ns
            if whole and expires_ns is not None:
                reach_s = max(reach_s, (expires_ns - now_ns) * 1e-9)
            points = self.executor.points(now_ns, reach_s, self._dt_s)
            if points is None:
                return None
            for seconds, position, velocity in zip(*points, strict=True):
                at_ns = now_ns + round(seconds * 1e9)
                verdict = self.gate.check_row(position, velocity, at_ns)
                if not verdict.ok:
                    motion = self._stop(now_ns)
                    self._set(HOLDING, f'safety: {verdict.reason}; call ~/reset_safety')
                    return motion
            return Motion(*points, now_ns, CHUNK if whole else LOOKAHEAD)

    @property
    def _still(self) -> str:
        """Return the stage of an arm that does not move: before its first motion it waits."""
        return HOLDING if self._moved and self.instruction else WAITING

    def _problem(self, now_ns: int, thinking: bool = False) -> Problem | None:
        """Return why the arm may not move; thinking leaves out what only a chunk can mend."""
        if not self._active:
            return Problem('not active')
        if self.gate.latched:
            return Problem(f'safety: {self.gate.latched}; call ~/reset_safety')
        missing = self.buffer.missing(now_ns)
        if missing:
            texts = tuple(self._told_missing(item.source, item.reason) for item in missing)
            return Problem('; '.join(texts), texts)
        if lost := self._policy.lost:
            return Problem(lost, (lost,))
        if not self.instruction:
            why = f': {self._why_no_instruction}' if self._why_no_instruction else ''
            return Problem(f'no instruction on ~/instruction{why}')
        if thinking:
            return None
        return self._policy_problem(now_ns)

    def _policy_problem(self, now_ns: int) -> Problem | None:
        if problem := self._policy.problem:
            return Problem(problem)
        expires = self.executor.expires_ns
        if not self._moving or expires is None:
            return None
        if (expires - now_ns) * 1e-9 < self._lookahead_s:
            return Problem('policy: the chunk ends and no new one came')
        return None

    def _told_missing(self, source: str, reason: str) -> str:
        topic = self._topics.get(source, source)
        return f'{source}: {reason}' if topic in reason else f'{source} ({topic}): {reason}'

    def _refuse(self, reason: str) -> None:
        """Leave a chunk out: a moving arm goes on with the one that runs, as long as it lasts."""
        if self._moving:
            self._policy.rest()
        else:
            self._policy.fail(reason)

    def _now(self) -> int:
        """
        Return the clock's time.

        When it jumped back (a simulation started anew), what runs belongs to a time that is gone:
        it is dropped, and the arm rests at the end of its last command.
        """
        now_ns = self._clock()
        if now_ns < self._latest_ns - CLOCK_JUMP_NS:
            self.executor.clear()
            self._moving, self.chunk, self._last_stamp_ns = False, None, 0
        self._latest_ns = now_ns
        return now_ns

    def _stop(self, now_ns: int) -> Motion:
        """Come to rest within the limits; return the way there."""
        self.executor.stop(now_ns)
        self._moving, self.chunk = False, None
        times, positions, velocities = self.executor.points(now_ns, STOP_S, STOP_DT_S)
        resting = np.flatnonzero((np.abs(velocities) < REST).all(axis=1))
        end = int(resting[0]) + 1 if resting.size else len(times)
        return Motion(times[:end], positions[:end], velocities[:end], now_ns, STOP)

    def _set(self, stage: str, reason: str, missing: tuple[str, ...] = ()) -> None:
        self.stage, self.reason, self.missing = stage, reason, missing


def joint_layout(embodiment: 'Embodiment', layout: str) -> str:
    """Return the layout itself, or for a Cartesian one the contract's layout of joints."""
    for name in (layout, *embodiment.layouts):
        if not any(group.kind in CARTESIAN for group in embodiment.action_groups(name)):
            return name
    raise QwenVlaError(f'{embodiment.source}: no layout of joints to execute {layout!r} with')
