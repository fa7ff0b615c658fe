"""
A bag through the very code that drives the robot: Pilot with assembler, executor and safety gate.

Time is the bag's: messages are pushed when the recorder heard them, the watch and the commands
come as the node's timers bring them, and while a policy infers the bag goes on for as long as the
latency says. Nothing waits, so the run is as fast as the machine allows and the same every time.

Schedules: 'free' infers as the node does; 'recorded' infers for the very observations of the
chunks in the bag and lets each chunk come when it came that day, so the same policy says the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bag_policy import InBagTime
from qwen_vla_ros.evaluate.bag_source import (
    COMMAND,
    INPUT,
    INSTRUCTION,
    BagSource,
    Event,
    RecordedChunk,
)
from qwen_vla_ros.evaluate.base_drive import BaseDrive
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.nodes.arm_models import capsules_of, kinematics_of
from qwen_vla_ros.nodes.pilot import Arming, Pilot
from qwen_vla_ros.nodes.timed_policy import WARM_UP_CALLS
from qwen_vla_ros.output_kinds import CommandRefused
from qwen_vla_ros.policy import Policy, refuse_mismatch
from qwen_vla_ros.stages import FULL, SCALED, SHADOW
from qwen_vla_ros.types import ActionChunk, Observation

FREE, RECORDED = 'free', 'recorded'
WATCH_NS, POLL_NS, PAUSE_NS = 20_000_000, 5_000_000, 2_000_000  # as the policy node's
POINT_STEP_S = 0.05
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Latency:
    """
    How long an inference takes in the bag's time.

    seconds   None: as long as the policy really takes here
    jitter_s  standard deviation of what is added, never negative
    """

    seconds: float | None = 0.0
    jitter_s: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        """Say it in a few words."""
        told = 'as measured' if self.seconds is None else f'{1e3 * self.seconds:g} ms'
        return told + (f' + jitter {1e3 * self.jitter_s:g} ms' if self.jitter_s else '')


@dataclass(frozen=True)
class RunOptions:
    """
    One run.

    splice        '' takes the contract's
    schedule      'free' or 'recorded'
    instruction   '' takes the sentences in the bag
    """

    name: str
    splice: str = ''
    latency: Latency = Latency()
    replan_s: float = 0.2
    stage: str = FULL
    schedule: str = FREE
    instruction: str = ''
    layout: str = ''


@dataclass(frozen=True)
class Said:
    """
    What became of one inference.

    joints       the chunk in joints [H, A] as it was judged, of a base its waypoints [H, 3]; None
                 where it was not used
    refused      why it may not run; '' where it may
    measured     where the joints were at its first row [A]; the base: x, y in m, yaw in rad
    departed_ns  when the observation went to the policy; arrived_ns: when the chunk was there
    """

    joints: ActionChunk | None
    refused: str
    measured: np.ndarray
    departed_ns: int
    arrived_ns: int
    observation: Observation


class Onlooker(Protocol):
    """Whoever wants to know what happens in a run; each method may do nothing."""

    def heard(self, event: Event) -> None:
        """See a message of the bag, before the pilot does."""

    def said(self, said: Said) -> None:
        """See a chunk."""

    def commanded(self, now_ns: int, motion: Any, pilot: Pilot) -> None:
        """
        See where the joints are sent, every 20 ms; motion is None where nothing runs.

        Of a base motion is its speed (vx, vy in m/s, wz in rad/s).
        """

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """See 'stage', 'refused', 'latched', 'input' or 'policy' and why."""


class BagRun:
    """One policy through one bag in one manner."""

    def __init__(
        self,
        source: BagSource,
        policy: Policy,
        options: RunOptions,
        recorded: Sequence[RecordedChunk] = (),
    ) -> None:
        """Build the pilot as the node does; QwenVlaError when policy and robot do not fit."""
        robot = source.embodiment
        self.source, self.options = source, options
        self._onlookers: tuple[Onlooker, ...] = ()
        layout = options.layout or robot.default_layout
        refuse_mismatch(policy.metadata, robot, layout)
        if options.schedule == RECORDED and not recorded:
            raise QwenVlaError(
                f"{source.path}: no chunks of a policy in it; take the schedule 'free'"
            )
        self._recorded = tuple(recorded) if options.schedule == RECORDED else ()
        self._now_ns = source.first_ns
        self._policy = InBagTime(policy, self)
        self.pilot = Pilot(
            robot,
            self._policy,
            layout,
            lambda: self._now_ns,
            robot.safety.lookahead_s,
            POINT_STEP_S,
            *kinematics_of(robot, layout),
            splice=options.splice,
            replan_s=options.replan_s,
            arming=Arming(options.stage, from_rest=bool(self._recorded)),
            capsules=capsules_of(robot, layout),
            stopwatch=lambda: self._now_ns * 1e-9,
        )
        self.base = self._base_drive(layout) if self.pilot.arm is None else None
        self._sources = {c.view: c.topic for c in robot.cameras}
        self._rng = np.random.default_rng(options.latency.seed)
        self._command_ns = round(SECOND_NS / robot.safety.command_rate_hz)
        self._arrives_ns: int | None = None
        self._fresh, self._told = False, ('', '')

    def _base_drive(self, layout: str) -> BaseDrive:
        """Return what a robot without joints drives with; QwenVlaError where it is no base."""
        robot, groups = self.source.embodiment, self.pilot.parts.followers
        if [group.kind for group in groups] != ['waypoint']:
            raise QwenVlaError(
                f'{robot.name}, layout {layout}: a bag is compared joint by joint, or a base by '
                'its waypoints; this layout has neither'
            )
        if self.pilot.base.pose_names is None:
            raise QwenVlaError(
                f'{robot.name}: no Odometry with x, y and yaw in its state; the way of the base '
                'is not known'
            )
        if self.options.splice:
            raise QwenVlaError(
                f'{robot.name}: chunks of a base are not spliced, a new one replaces the running '
                'one; leave --splice out'
            )
        return BaseDrive(groups[0])

    @property
    def now_ns(self) -> int:
        """Return the bag's time."""
        return self._now_ns

    def look(self, onlookers: Sequence[Onlooker]) -> None:
        """Tell these of everything from now on."""
        self._onlookers = tuple(onlookers)

    def run(self) -> None:
        """Play the whole bag."""
        self._events = self.source.events((INPUT, INSTRUCTION, COMMAND))
        self._next: Event | None = next(self._events, None)
        if self._next is None:
            raise QwenVlaError(f'{self.source.path}: {self.source.damage or "no message in it"}')
        if not self.options.instruction and not self.source.has_sentence:
            raise QwenVlaError(f'{self.source.path}: no instruction in it; give --instruction')
        self._now_ns = min(self.source.first_ns, self._next.time_ns)
        self._watch_at = self._command_at = self._now_ns
        self.pilot.instruct(self.options.instruction)
        self.pilot.activate()
        for departs_ns in self._departures():
            if self._now_ns >= self._last_ns:
                break
            self._depart(departs_ns)
        self._advance(self._last_ns)

    @property
    def _last_ns(self) -> int:
        torn = self.source.damage and self._next is None
        return self._now_ns if torn else self.source.last_ns

    # When to infer -------------------------------------------------------------------------------

    def _departures(self) -> Iterator[int | None]:
        """Yield after having played up to an instant at which the policy is asked."""
        if self._recorded:
            yield from self._as_recorded()
            return
        while self._next is not None:
            self._advance(self._now_ns + POLL_NS)
            if self._fresh:
                self._fresh = False
                yield None

    def _as_recorded(self) -> Iterator[int | None]:
        first_ns = self._recorded[0].chunk.start_ns
        while self._policy.calls < WARM_UP_CALLS and self._now_ns < first_ns:
            self._advance(min(self._now_ns + POLL_NS, first_ns))
            if self._next is None:
                return
            yield None
        for item in self._recorded:
            if item.time_ns <= self._now_ns:
                continue
            self._play_to(item)
            yield item.time_ns

    def _play_to(self, item: RecordedChunk) -> None:
        """Play until the observation of a recorded chunk is there, and the policy was asked."""
        wanted_ns, departs_ns = item.chunk.start_ns, item.time_ns
        if item.inference_s is not None:
            departs_ns -= round(item.inference_s * SECOND_NS)
        self._advance(min(wanted_ns, item.time_ns))
        while (event := self._next) is not None and event.time_ns < item.time_ns:
            there = self.pilot.buffer.anchor_ns(self._now_ns) == wanted_ns
            newer = event.source in self._sources
            if there and (newer or event.time_ns > departs_ns):
                break
            self._advance(event.time_ns)
        later_ns = item.time_ns if self._next is None else self._next.time_ns - 1
        self._advance(max(self._now_ns, min(departs_ns, later_ns)))

    def _depart(self, arrives_ns: int | None) -> None:
        """Ask the policy, as the node's worker does."""
        began_ns, calls, self._arrives_ns = self._now_ns, self._policy.calls, arrives_ns
        chunk = self.pilot.think()
        self._arrives_ns = None
        self._tell(chunk, calls)
        if chunk is not None:
            self.pilot.command()
            self._lead_base()
        self._settle()
        if not self._recorded and self._policy.calls > calls:
            again_ns = began_ns + round(self.options.replan_s * SECOND_NS)
            pause_ns = PAUSE_NS if chunk is not None else POLL_NS
            self._advance(max(self._now_ns + pause_ns, again_ns if chunk is not None else 0))

    def _lead_base(self) -> None:
        """Hand the waypoints to the base's output; what it refuses is a fault, as in the node."""
        follow = self.pilot.take_follow()
        if follow is None or self.base is None:
            return
        try:
            self.base.follow(follow)
        except CommandRefused as error:
            self.pilot.fault(str(error))
            self.base.hold(self._now_ns)

    def _tell(self, chunk: ActionChunk | None, calls: int) -> None:
        """Tell the onlookers of one inference."""
        refused = self.pilot.take_refused()
        if self._policy.calls == calls:
            return
        seen, departed_ns = self._policy.asked
        reason, joints = '', None
        if refused is not None:
            joints, reason = refused
            self.happened('refused', reason)
        elif chunk is not None:
            joints = self.pilot.chunk
        arm, base = self.pilot.arm, self.pilot.base
        measured = np.array(base.pose(seen)) if arm is None else arm.measured(seen)
        said = Said(joints, reason, measured, departed_ns, self._now_ns, seen)
        for onlooker in self._onlookers:
            onlooker.said(said)

    # The bag's time ------------------------------------------------------------------------------

    def infer_until(self, measured_s: float) -> float:
        """Let the bag go on while the policy infers; return how long that took there, s."""
        latency, began_ns = self.options.latency, self._now_ns
        if self._arrives_ns is not None:
            self._advance(self._arrives_ns)
        else:
            seconds = measured_s if latency.seconds is None else latency.seconds
            seconds += abs(self._rng.normal(0.0, latency.jitter_s)) if latency.jitter_s else 0.0
            self._advance(self._now_ns + round(seconds * SECOND_NS))
        return (self._now_ns - began_ns) * 1e-9

    def _advance(self, until_ns: int) -> None:
        """Play messages and timers up to an instant, in their order."""
        while True:
            message_ns = self._next.time_ns if self._next is not None else until_ns + 1
            due_ns = min(message_ns, self._watch_at, self._command_at)
            if due_ns > until_ns:
                break
            self._now_ns = max(self._now_ns, due_ns)
            if due_ns == message_ns:
                self._hear(self._next)
                self._next = next(self._events, None)
            elif due_ns == self._watch_at:
                self._watch_at += WATCH_NS
                self._watch()
            else:
                self._command_at += self._command_ns
                self.pilot.command()
                self._settle()
        self._now_ns = max(self._now_ns, until_ns)

    def _hear(self, event: Event) -> None:
        for onlooker in self._onlookers:
            onlooker.heard(event)
        if event.kind == INSTRUCTION:
            if not self.options.instruction:
                self.pilot.instruct(event.message.data)
        elif event.kind == INPUT:
            self._fresh = True
            try:
                self.pilot.push(event.source, event.message)
            except InputError as error:
                self.happened('input', str(error))

    def _watch(self) -> None:
        stop = self.pilot.watch()
        if stop is not None and self.base is not None:
            self.base.hold(self._now_ns)
        self._settle()
        told = self.pilot.stage, self.pilot.reason.split(':')[0]
        if told != self._told:
            self._told = told
            self.happened('stage', f'{self.pilot.stage} {self.pilot.reason}'.strip())
        motion = self._motion()
        for onlooker in self._onlookers:
            onlooker.commanded(self._now_ns, motion, self.pilot)

    def _motion(self) -> Any:
        arm = self.pilot.arm
        if arm is None:
            self.base.advance(self._now_ns)
            return self.base.speed_at(self._now_ns)
        return arm.executor.motion(arm.clock.at(self._now_ns)) if arm.moving else None

    def _settle(self) -> None:
        """Note a latched gate and release it at once: the bag's robot is not in danger."""
        if self.pilot.latched:
            self.happened('latched', self.pilot.latched)
            self.pilot.reset_safety()
        stages, wanted = self.pilot.stages, self.options.stage
        if stages.stage == wanted or self.pilot.latched:
            return
        for step in (SHADOW, SCALED, FULL):
            self.pilot.request_stage(step, 'evaluation of a bag', force=True)
            if step == wanted:
                break

    def happened(self, kind: str, text: str) -> None:
        """Tell the onlookers of an event at the present instant."""
        for onlooker in self._onlookers:
            onlooker.happened(self._now_ns, kind, text)
