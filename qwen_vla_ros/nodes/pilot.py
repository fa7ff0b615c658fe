"""
What the policy node does, without topics and timers: observations in, checked motions out.

    push, instruct   from subscriptions: only store
    think            from the worker: newest observation -> policy -> safety -> executor
    watch            from a fast timer: a motion to rest as soon as something is missing
    command          from the command timer: the next lookahead, every row checked

A problem ends the motion once, decelerated, and then nothing is sent. When all is back the robot
starts again from where it is measured. A latched safety gate waits for reset_safety(). How much
reaches the robot is the stage's business (stages.py); joints are arm_drive.py's.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.clock_watch import ClockWatch
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.interlocks import ESTOP, Interlocks
from qwen_vla_ros.nodes.arm_drive import ArmDrive, RowRefused, ToJoints
from qwen_vla_ros.nodes.base_part import BasePart
from qwen_vla_ros.nodes.hindrances import CLOCK_STANDS, Hindrances, prefixed, unlike
from qwen_vla_ros.nodes.layout_parts import LayoutParts, split_layout, whole_chunk
from qwen_vla_ros.nodes.motion import Follow, Motion, Problem, standing
from qwen_vla_ros.nodes.timed_policy import TimedPolicy
from qwen_vla_ros.observation import ObservationBuffer
from qwen_vla_ros.shadow import Shadow
from qwen_vla_ros.splicing import splicing_of
from qwen_vla_ros.stages import FULL, SCALED, SHADOW, StageChange, Stages
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.capsules import CapsuleModel
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.policy import Policy

INACTIVE, WAITING, RUNNING, HOLDING = 'INACTIVE', 'WAITING', 'RUNNING', 'HOLDING'
WATCHING, PARKING = 'WATCHING', 'PARKING'


@dataclass(frozen=True)
class Arming:
    """
    How the robot is armed.

    stage       where it begins: full in simulation, dry-run on hardware
    speed       share of the speed in the stage `scaled`
    ramp_s      s, from standstill to that share, and from there to full speed
    shadow_s    s that must have been compared before the shadow is left
    min_skill   least skill in the shadow (1 - squared error / that of standing still)
    from_rest   an arm that somebody moves is not started; False: where a record is played
    """

    stage: str = FULL
    speed: float = 0.25
    ramp_s: float = 2.0
    shadow_s: float = 3.0
    min_skill: float = 0.0
    from_rest: bool = True


class Pilot:
    """Join a contract, a policy, the stages and what drives the robot. Thread-safe."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        policy: 'Policy',
        layout: str,
        clock: ClockWatch | Callable[[], int],
        lookahead_s: float,
        dt_s: float,
        tip_position: Callable[[np.ndarray], np.ndarray] | None = None,
        to_joints: ToJoints | None = None,
        splice: str = '',
        replan_s: float = 0.0,
        arming: Arming | None = None,
        capsules: 'CapsuleModel | None' = None,
        dead_man_s: float | None = None,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """
        Set up inactive.

        splice is one of splice.MODES ('': the contract's), replan_s the time between inferences.
        tip_position(q) -> [3] serves the workspace box; to_joints(rows [H, 6], q) -> [H, J] is
        needed by Cartesian layouts whose outputs take joints; capsules: the arm's volume;
        stopwatch: what times the policy, see TimedPolicy.
        """
        self.arming = arming or Arming()
        watched = isinstance(clock, ClockWatch)
        self._time = clock if watched else ClockWatch(clock, simulated=True, steady=clock)
        self._leaps_ns, self._farewell = 0, None
        self._policy = TimedPolicy(policy, embodiment.safety.inference_timeout_s, stopwatch)
        self.stages, self.interlocks = Stages(self.arming.stage), Interlocks(dead_man_s)
        self.parts: LayoutParts = split_layout(embodiment, layout)
        self.arm = None
        if self.parts.joints:
            self.arm = ArmDrive(
                self.parts.embodiment,
                self.parts.joints,
                splicing_of(embodiment, policy, layout, splice, replan_s),
                lookahead_s,
                dt_s,
                self.interlocks,
                tip_position,
                to_joints,
                capsules,
                self.parts.policy_groups,
            )
        self.base = BasePart(embodiment, self.parts.followers) if self.parts.followers else None
        self.groups = (*(self.arm.groups if self.arm else ()), *self.parts.followers)
        self.names = self.arm.names if self.arm else ()
        self.shadow = Shadow(self.names)
        self.buffer = ObservationBuffer(embodiment)
        self._hindrances = Hindrances(
            embodiment,
            self._time,
            self.buffer,
            self._policy,
            self.interlocks,
            self.arm,
            self.base,
        )
        self._lock = threading.RLock()
        self.instruction, self._generation = '', 0
        self.stage, self.reason, self.missing = INACTIVE, '', ()
        self._active = self._moved = self._parked = False
        self._rests = self._to_park = False  # the policy, after ~/park; parking, once at rest
        self._last_stamp_ns = 0
        self.chunk: ActionChunk | None = None
        self.observed_ns: int | None = None
        self._refused: tuple[ActionChunk, str] | None = None
        # what of the robot's topics does not fit the policy; asked before the shadow is left
        self.incompatible: Callable[[], list[str]] = list
        self.chunks = self.refused_starts = 0  # taken; not taken for their seam or a moving arm
        self.inference_s: deque[float] = deque(maxlen=2000)
        self.overhead_s: deque[float] = deque(maxlen=2000)

    @property
    def gate(self) -> Any:
        """Return the safety gate of the joints; None for a robot without any."""
        return self.arm.gate if self.arm else None

    @property
    def executor(self) -> Any:
        """Return the chunk executor of the joints; None for a robot without any."""
        return self.arm.executor if self.arm else None

    @property
    def transport(self) -> str:
        """Return how pictures reach the model; '' when it is in this process."""
        return self._policy.transport

    @property
    def latched(self) -> str:
        """Return why nothing may move until reset_safety(); '' when it may."""
        return self._hindrances.latched

    # Subscriptions -------------------------------------------------------------------------------

    def push(self, source: str, message: Any) -> None:
        """Store a message; InputError when it cannot be used."""
        self.buffer.push(source, message, self._time.read().now_ns)

    def instruct(self, instruction: str) -> None:
        """Take a new sentence at once: what is being inferred for the old one will not be used."""
        with self._lock:
            self._rests = False
            if instruction.strip() != self.instruction:
                self.instruction = instruction.strip()
                self._generation += 1

    def explain(self, hints: Mapping[str, str]) -> None:
        """Take what the ROS graph says of silent inputs, 'instruction' among them."""
        self._hindrances.explain(hints)

    def saw(self, reference: str, names: tuple[str, ...], position: np.ndarray) -> None:
        """Hear where another driver sends the joints, for the comparison in the shadow."""
        if self.arm is not None and self.arm.brakes(self._time.read().now_ns):
            return  # our own way to rest, on the same topic
        if set(self.names) <= set(names):
            order = [names.index(name) for name in self.names]
            self.shadow.saw(reference, self._time.read().now_ns, np.asarray(position)[order])

    # Life ----------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Allow motion from now on, as far as the stage does."""
        with self._lock:
            self._active, self._moved = True, False
            self._rests = self._to_park = False
            self._policy.succeed()
            self.stages.restart(self._now())
            self.shadow.clear()
            self._set(WAITING, 'warming up the policy')

    def deactivate(self) -> Motion | None:
        """Forbid motion; return the way to rest when the robot moves."""
        with self._lock:
            now_ns = self._now()
            motion = self._stop(now_ns) if self._moving else None
            self._active = False
            self._set(INACTIVE, '')
            return motion

    def request_stage(
        self, wanted: str, reason: str, force: bool = False
    ) -> tuple[StageChange, Motion | None]:
        """Go to a stage or say why not; return also the way to rest when motion is over."""
        with self._lock:
            now_ns = self._now()
            change = self.stages.request(wanted, reason, now_ns, self._obstacles(now_ns, force))
            if change.granted and not self.stages.commands:
                self._rests = self._to_park = False
            return change, self._follow_stage(now_ns) if change.granted else None

    def reset_safety(self) -> tuple[bool, str]:
        """Release a latched gate; return whether it is released, and what it was or is for."""
        with self._lock:
            now_ns = self._now()
            latched = self.latched
            if self.arm is None:
                causes = self.interlocks.causes(now_ns)
                if causes:
                    return False, f'reset refused: {"; ".join(causes.values())}'
                self.base.reset()
            else:
                verdict = self.arm.gate.reset(now_ns, self._measured(now_ns))
                if not verdict.ok:
                    return False, verdict.reason
            return True, f'released: {latched}' if latched else 'nothing was latched'

    def park(self) -> tuple[bool, str, Motion | None]:
        """
        Come to rest, go to the park posture, and stay there; return what happened.

        The policy rests from now on, until an instruction comes (the same one will do).
        """
        with self._lock:
            now_ns = self._now()
            if self.arm is None:
                return False, 'park: this robot has no joints to park', None
            if not self._active or not (self.stages.commands or self.stages.fallen):
                return False, f'park: stage {self.stages.stage} commands nothing', None
            if causes := self.interlocks.causes(now_ns):
                return False, f'park: {"; ".join(causes.values())}', None
            if self.arm.parking:
                return True, 'on its way already', None
            if self._measured(now_ns) is None:
                return False, 'park: the joint states are missing; the arm stays', None
            self._rests = True
            if not self.arm.moving and not self.arm.brakes(now_ns):
                return *self._begin_parking(now_ns), None
            motion = self._stop(now_ns) if self.arm.moving else None
            self._to_park = True
            self._set(HOLDING, 'comes to rest, then parks')
            return True, self.reason, motion

    def _begin_parking(self, now_ns: int) -> tuple[bool, str]:
        """Take the way to the park posture, or say why there is none."""
        self._to_park, measured = False, self._measured(now_ns)
        try:
            if measured is None:
                raise QwenVlaError('park: the joint states are missing; the arm stays')
            via = self.arm.park(measured, now_ns)
        except QwenVlaError as error:
            self._set(HOLDING, str(error))
            return False, str(error)
        self._moved, self._parked = True, False
        self._set(PARKING, f'parking ({via})')
        return True, f'parking ({via})'

    def emergency(self, source: str, pressed: bool) -> Motion | None:
        """Press or release an emergency stop; return the way to rest."""
        with self._lock:
            if not pressed:
                self.interlocks.release(source)
                return None
            self.interlocks.press(source, self._now())
            return self._faulted(self._now(), self.interlocks.estop)

    def fault(self, reason: str) -> Motion | None:
        """Hear of a fault from outside; latch, and return the way to rest."""
        with self._lock:
            return self._faulted(self._now(), reason)

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
        if self.arm is not None and not self.arm.wants(observation.stamp_ns):
            return None
        if self.arm is not None and self.arm.brakes(observation.stamp_ns):
            return None
        self._last_stamp_ns = observation.stamp_ns
        self.observed_ns = min(observation.sources_ns.values(), default=observation.stamp_ns)
        departure = self.arm.depart(observation.stamp_ns) if self.arm is not None else None
        prefix = None if departure is None else departure.prefix
        found = self._policy.infer(observation, generation, prefix)
        if found is None:
            return None
        accepted = self._execute(found.chunk, observation, generation, departure)
        self.inference_s.append(found.call_s)
        self.overhead_s.append(max(0.0, time.perf_counter() - begin - found.model_s))
        return accepted

    def _execute(
        self, chunk: ActionChunk, observation: Observation, generation: int, departure: Any
    ) -> ActionChunk | None:
        """Check a chunk and lead the motion onto it; None when it is refused or outdated."""
        measured, joints = None, None
        if self.arm is not None:
            measured = self.arm.measured(observation)
            try:
                joints = self.arm.in_joints(chunk, measured)
            except QwenVlaError as error:
                self._refused = (chunk, str(error))
                self._policy.fail(f'policy: {error}')
                return None
        with self._lock:
            now_ns = self._now()
            if generation != self._generation or self._problem(now_ns, thinking=True):
                return None
            refused = self._refused_motions
            try:
                if joints is not None:
                    verdict = self.arm.gate.admit(joints, now_ns, measured)
                    if not verdict.ok:
                        return self._refuse('safety refused a chunk', joints, verdict.reason)
                    joints = verdict.chunk
                follow = self.base.admitted(chunk, observation, now_ns) if self.base else None
                if self.stages.commands:
                    self._lead(joints, measured, departure, follow, now_ns)
            except ChunkRefused as error:
                self.refused_starts += refused == self._refused_motions
                return self._refuse('policy', chunk if joints is None else joints, str(error))
            self._policy.succeed()
            self.chunk = joints if joints is not None else chunk
            self.chunks += 1
            if self.stages.commands:
                self._moved, self._parked = True, False
                told = (part.notice for part in (self.executor, self.base) if part is not None)
                self._set(RUNNING, '; '.join(filter(None, told)))
            else:
                if self.stages.stage == SHADOW and joints is not None:
                    self.shadow.expect(joints, measured)
                self._set(WATCHING, f'stage {self.stages.stage}: nothing is commanded')
            return whole_chunk(joints, chunk, self.parts.followers)

    def _lead(
        self,
        joints: ActionChunk | None,
        measured: np.ndarray | None,
        departure: Any,
        follow: Follow | None,
        now_ns: int,
    ) -> None:
        if joints is not None:
            ramp_s = self.arming.ramp_s
            if not self.arm.moving and self.arming.from_rest:
                self.arm.refuse_moving(measured, self._measured(now_ns))
            self.arm.follow(joints, measured, departure, now_ns, self._speed, ramp_s)
        if follow is not None:
            self.base.lead(follow, self._speed)

    def take_refused(self) -> tuple[ActionChunk, str] | None:
        """Return the newest refused chunk and why, once: for those who look on."""
        found, self._refused = self._refused, None
        return found

    def take_follow(self) -> Follow | None:
        """Return the newest chunk for tips and bases, once."""
        with self._lock:
            return self.base.take() if self.base else None

    # Timers --------------------------------------------------------------------------------------

    def watch(self) -> Motion | None:
        """Look whether everything is there; return the way to rest in the moment it is not."""
        with self._lock:
            now_ns = self._now()
            if (farewell := self._take_farewell()) is not None:
                return farewell
            if not self._active:
                return None
            if self.stages.stage == SHADOW:
                self._compare(now_ns)
            if not self.latched and (fault := self._fault(now_ns)):
                return self._faulted(now_ns, fault)
            if self._lapsed(now_ns):
                return None
            if self.arm is not None and self.arm.parking:
                return self._watch_parking(now_ns)
            if self._to_park and not self._moving:
                if not self.arm.brakes(now_ns):
                    self._begin_parking(now_ns)
                return None
            problem = self._problem(now_ns)
            if problem is None:
                if not self._moving and self.stages.commands:
                    self._set(self._still, 'everything is there; waiting for the next chunk')
                return None
            motion = self._stop(now_ns) if self._moving else None
            parked = 'parked; ' if self._parked else ''
            self._set(self._still, parked + problem.reason, problem.missing)
            return motion

    def command(self, whole: bool = False) -> Motion | None:
        """Return the next lookahead, or all that is left; the way to rest if a row is refused."""
        with self._lock:
            now_ns = self._now()
            if (farewell := self._take_farewell()) is not None:
                return farewell
            if self.arm is None or not self.arm.moving:
                return None
            if fault := self._fault(now_ns):
                return self._faulted(now_ns, fault)
            if self._lapsed(now_ns):
                return None
            try:
                return self._even(self.arm.command(now_ns, whole))
            except RowRefused as error:
                return self._faulted(now_ns, str(error))

    def _watch_parking(self, now_ns: int) -> Motion | None:
        """Look after an arm on its way to the park posture: it needs its joint states alone."""
        if self.arm.parked(now_ns):
            self._parked = True
            self._set(HOLDING, 'parked')
            return None
        texts = self._hindrances.missing(now_ns, states_only=True)
        if not texts:
            return None
        motion = self._stop(now_ns)
        self._set(HOLDING, f'parking stopped: {"; ".join(texts)}', texts)
        return motion

    # Problems and faults -------------------------------------------------------------------------

    @property
    def _refused_motions(self) -> int:
        return self.arm.gate.refused_motions if self.arm else 0

    @property
    def _moving(self) -> bool:
        arm = self.arm is not None and self.arm.moving
        return arm or (self.base is not None and self.base.moving)

    @property
    def _speed(self) -> float:
        return self.arming.speed if self.stages.stage == SCALED else 1.0

    @property
    def speed_scale(self) -> float:
        """Return the share of the policy's speed that reaches the robot now."""
        if not self.stages.commands:
            return 0.0
        if self.arm is not None and self.arm.moving:
            return self.arm.clock.rate(self._time.read().now_ns)
        return self._speed

    @property
    def _still(self) -> str:
        """Return the stage of a robot that does not move: before its first motion it waits."""
        return HOLDING if self._moved and self.instruction else WAITING

    def _fault(self, now_ns: int) -> str:
        """Return what forbids motion beyond a hold: pressed, released, or silent rows."""
        if self.arm is None:
            causes = self.interlocks.causes(now_ns) if self._moving else {}
            return self.interlocks.estop or '; '.join(causes.values())
        verdict = self.arm.gate.watchdog(now_ns)
        return '' if verdict.ok else verdict.reason

    def _lapsed(self, now_ns: int) -> bool:
        """
        Let go of a motion that the arm has left: this node slept, or the clock stands.

        The arm brakes at the end of its last command. A command from here would be a jump.
        """
        if self.arm is None or not self.arm.moving:
            return False
        stands = self._hindrances.clock_stands
        if not stands and not self.arm.lapsed(now_ns):
            return False
        self.arm.forget(now_ns)
        self.chunk = None
        why = CLOCK_STANDS if stands else 'the node was held up'
        self._set(self._still, f'{why}; the arm came to rest at the end of its last command')
        return True

    def _faulted(self, now_ns: int, reason: str) -> Motion | None:
        """Latch, fall back a stage, and return the way to rest."""
        self._lapsed(now_ns)
        motion = self._stop(now_ns) if self._moving else None
        pressed = self.interlocks.estop
        if self.arm is None:
            self.base.latch(reason)
        elif not self.arm.gate.latched:
            self.arm.gate.latch(reason, now_ns, ESTOP if pressed else 'fault')
        if self._active:
            self.stages.fall_back(reason, now_ns, SHADOW if pressed else FULL)
            self.shadow.clear()
            self._set(HOLDING, f'{prefixed(reason)}; call ~/reset_safety')
        return motion

    def _obstacles(self, now_ns: int, force: bool) -> list[str]:
        """Return what stands against a step up."""
        if not self._active:
            return ['the node is not active']
        found, arming = self._hindrances.obstacles(now_ns, self.instruction), self.arming
        if self.stages.stage == SHADOW:
            found += self.incompatible()
        if self.arm is not None and not force:
            found += unlike(self.shadow, self.stages.stage, arming.shadow_s, arming.min_skill)
        return found

    def _follow_stage(self, now_ns: int) -> Motion | None:
        """Do what a new stage asks of a moving robot; return the way to rest when it must stop."""
        if self.stages.stage == SHADOW:
            self.shadow.clear()
        if self._moving and not self.stages.commands:
            motion = self._stop(now_ns)
            self._set(WATCHING, f'stage {self.stages.stage}: nothing is commanded')
            return motion
        if self.arm is not None:
            self.arm.change_speed(self._speed, now_ns, self.arming.ramp_s)
        return None

    def _problem(self, now_ns: int, thinking: bool = False) -> Problem | None:
        """Return why the robot may not move; thinking leaves out what only a chunk can mend."""
        if not self._active:
            return Problem('not active')
        if self._rests and self.stages.commands:
            return Problem('the policy rests until an instruction comes (the same one will do)')
        return self._hindrances.problem(now_ns, self.instruction, thinking)

    def _refuse(self, who: str, chunk: ActionChunk, reason: str) -> None:
        """Leave a chunk out: a moving robot goes on with the one that runs, while it lasts."""
        self._refused = (chunk, reason)
        if self._moving:
            self._policy.rest()
        else:
            self._policy.fail(f'{who}: {reason}')

    def _measured(self, now_ns: int) -> np.ndarray | None:
        """Return the newest joints [A]; None when they are missing."""
        return self.buffer.newest_state(now_ns, self.names)

    def _compare(self, now_ns: int) -> None:
        measured = self._measured(now_ns)
        if measured is not None:
            self.shadow.saw('measured', now_ns, measured)

    def _now(self) -> int:
        """Return the clock's time; after a leap the robot comes to rest as if there was none."""
        reading = self._time.read()
        if leap_ns := reading.leaps_ns - self._leaps_ns:
            self._leaps_ns = reading.leaps_ns
            self._leap(reading.now_ns, leap_ns)
        return reading.now_ns

    def _leap(self, now_ns: int, leap_ns: int) -> None:
        moved = self._moving
        self.interlocks.leap(leap_ns)
        motion = self.arm.leap(now_ns, leap_ns) if self.arm is not None else None
        if self.base is not None:
            self.base.forget()
        self.chunk, self._last_stamp_ns = None, 0
        self.shadow.clear()
        if moved:
            self._farewell = self._even(motion if self.arm is not None else standing(now_ns))
            told = f'the clock leapt by {leap_ns * 1e-9:+.3g} s; the robot comes to rest'
            self._hindrances.leapt = told
            self._set(self._still, told)

    def _take_farewell(self) -> Motion | None:
        """Return the way to rest after a leap of the clock, once."""
        found, self._farewell = self._farewell, None
        return found

    def _stop(self, now_ns: int) -> Motion:
        """Come to rest within the limits; return the way there."""
        self.chunk = None
        if self.base is not None:
            self.base.forget()
        moves = self.arm is not None and self.arm.moving
        return self._even(self.arm.stop(now_ns) if moves else standing(now_ns))

    def _even(self, motion: Motion | None) -> Motion | None:
        """Note which leaps a motion's time has behind it: it may be sent after the next one."""
        return motion and replace(motion, leaps_ns=self._leaps_ns)

    def _set(self, stage: str, reason: str, missing: tuple[str, ...] = ()) -> None:
        self.stage, self.reason, self.missing = stage, reason, missing
