"""
What stands against motion, and against a step up of the stages, in words for a person.

Reads the parts of a pilot and changes none. Told is the first cause in the order in which somebody
has to mend them: the clock, a latched gate, missing inputs, the model, the sentence, the chunk.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qwen_vla_ros.interlocks import ESTOP_PRESSED, ESTOP_RELEASED
from qwen_vla_ros.nodes.motion import Problem
from qwen_vla_ros.stages import SHADOW

if TYPE_CHECKING:
    from qwen_vla_ros.clock_watch import ClockWatch
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.interlocks import Interlocks
    from qwen_vla_ros.nodes.arm_drive import ArmDrive
    from qwen_vla_ros.nodes.base_part import BasePart
    from qwen_vla_ros.nodes.timed_policy import TimedPolicy
    from qwen_vla_ros.observation import ObservationBuffer
    from qwen_vla_ros.shadow import Shadow

NO_INSTRUCTION = 'no instruction on ~/instruction'
CLOCK_STANDS = 'the clock stands (/clock is silent)'
STANDS_S = 0.2  # a clock that stands longer moves nothing


class Hindrances:
    """The causes, asked at an instant. Not thread-safe: Pilot locks."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        clock: 'ClockWatch',
        buffer: 'ObservationBuffer',
        policy: 'TimedPolicy',
        interlocks: 'Interlocks',
        arm: 'ArmDrive | None',
        base: 'BasePart | None',
    ) -> None:
        """Take the parts of a pilot; a robot has an arm, a base, or both."""
        self._clock, self._buffer, self._policy = clock, buffer, policy
        self._interlocks, self._arm, self._base = interlocks, arm, base
        self._topics = {camera.view: camera.topic for camera in embodiment.cameras}
        self._topics.update({state.name: state.topic for state in embodiment.states})
        self._states = {state.name for state in embodiment.states}
        self._why_no_instruction = ''
        self.leapt = ''  # what is told while the arm comes to rest after a leap of the clock

    @property
    def latched(self) -> str:
        """Return why nothing may move until reset_safety(); '' when it may."""
        found = self._arm.gate.latched if self._arm else self._base.latched
        if found.startswith(ESTOP_PRESSED) and not self._interlocks.estop:
            return found.replace(ESTOP_PRESSED, ESTOP_RELEASED, 1)
        return found

    @property
    def clock_stands(self) -> bool:
        """Return whether the clock stands: what is sent now would lie in the past."""
        return self._clock.read().stands_s > STANDS_S

    def explain(self, hints: Mapping[str, str]) -> None:
        """Take what the ROS graph says of silent inputs, 'instruction' among them."""
        self._buffer.explain(hints)
        self._why_no_instruction = hints.get('instruction', '')

    def problem(self, now_ns: int, instruction: str, thinking: bool = False) -> Problem | None:
        """Return why the robot may not move; thinking leaves out what only a chunk can mend."""
        arm = self._arm
        if self.leapt and arm is not None and arm.brakes(now_ns):
            return Problem(self.leapt)
        if self.clock_stands:
            return Problem(CLOCK_STANDS)
        if self.latched:
            first = 'release it, then ' if self._interlocks.estop else ''
            return Problem(f'{prefixed(self.latched)}; {first}call ~/reset_safety')
        if arm is not None and arm.parking:
            return Problem('parking')
        if missing := self.missing(now_ns):
            return Problem('; '.join(missing), missing)
        if lost := self._policy.lost:
            return Problem(lost, (lost,))
        if not instruction:
            why = f': {self._why_no_instruction}' if self._why_no_instruction else ''
            return Problem(f'{NO_INSTRUCTION}{why}')
        if thinking:
            braking = arm is not None and arm.brakes(now_ns)
            return Problem('the arm comes to rest first') if braking else None
        if problem := self._policy.problem:
            return Problem(problem)
        ends = arm.ends(now_ns) if arm else ''
        ends = ends or (self._base.ends(now_ns) if self._base else '')
        return Problem(ends) if ends else None

    def missing(self, now_ns: int, states_only: bool = False) -> tuple[str, ...]:
        """Return which inputs are missing, each with its topic."""
        return tuple(
            self._told(item.source, item.reason)
            for item in self._buffer.missing(now_ns)
            if not states_only or item.source in self._states
        )

    def obstacles(self, now_ns: int, instruction: str) -> list[str]:
        """Return what stands against a step up, the comparison in the shadow left out."""
        found = [self.latched] if self.latched else []
        found += self._interlocks.causes(now_ns).values()
        problem = self.problem(now_ns, instruction, thinking=True)
        told = '' if problem is None or self.latched else problem.reason
        if told and not told.startswith(NO_INSTRUCTION):  # arming may come before the sentence
            found.append(told)
        return found + ([self._policy.problem] if self._policy.problem else [])

    def _told(self, source: str, reason: str) -> str:
        topic = self._topics.get(source, source)
        return f'{source}: {reason}' if topic in reason else f'{source} ({topic}): {reason}'


def unlike(shadow: 'Shadow', stage: str, shadow_s: float, min_skill: float) -> list[str]:
    """Return what the comparison in the shadow says against leaving it."""
    if stage != SHADOW:
        return []
    seen = shadow.agreement()
    if seen.seconds < shadow_s:
        return [
            f'shadow: {seen.seconds:.1f} s compared, {shadow_s:g} s are wanted (force skips the '
            'comparison)'
        ]
    if seen.skill is not None and seen.skill < min_skill:
        return [f'shadow: {seen}; force skips the comparison']
    return []


def prefixed(reason: str) -> str:
    """Return a reason with the part of the stack that it comes from."""
    return reason if reason.startswith(('safety:', 'park:')) else f'safety: {reason}'
