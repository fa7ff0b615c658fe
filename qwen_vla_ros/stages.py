"""
Staged arming: how much of what the policy wants reaches the robot. No ROS, no clock of its own.

  dry-run   nothing is commanded; chunks and status can be looked at
  shadow    nothing is commanded; the policy is compared with what the robot is made to do
  scaled    commanded at a share of the speed, ramped in from standstill
  full      commanded at the policy's own speed

One step up at a time, each asked for with a reason and granted only when nothing stands against
it; any step down at once. A fault falls back one stage:

  fault                                             the motion    the stage
  input or model lost, chunk refused, slow model    hold          stays; goes on by itself
  safety latched, watchdog, dead-man released       hold, latch   one down
  emergency stop                                    hold, latch   one down, at most shadow
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qwen_vla_ros.errors import QwenVlaError

DRY_RUN, SHADOW, SCALED, FULL = 'dry-run', 'shadow', 'scaled', 'full'
STAGES = (DRY_RUN, SHADOW, SCALED, FULL)
COMMANDING = (SCALED, FULL)


@dataclass(frozen=True)
class StageChange:
    """One change, or one that was refused: when, from where to where, and why."""

    granted: bool
    time_ns: int
    before: str
    after: str
    reason: str
    fell: bool = False

    def __str__(self) -> str:
        """Say it in one line."""
        verb = f'{self.before} -> {self.after}' if self.granted else f'stays {self.before}'
        return f'{verb}: {self.reason}'


class Stages:
    """The present stage and how it came to be. Thread-safe."""

    def __init__(self, stage: str = DRY_RUN) -> None:
        """Begin at a stage: full in simulation, dry-run on hardware."""
        self._start = self._checked(stage)
        self._lock = threading.Lock()
        self._stage = self._start
        self.history: deque[StageChange] = deque(maxlen=100)

    @property
    def stage(self) -> str:
        """Return the present stage."""
        return self._stage

    @property
    def commands(self) -> bool:
        """Return whether the robot may be commanded."""
        return self._stage in COMMANDING

    @property
    def fallen(self) -> bool:
        """Return whether a fault, not a person, ended commanding, and nobody changed it since."""
        granted = [change for change in self.history if change.granted]
        return bool(granted) and granted[-1].fell and granted[-1].before in COMMANDING

    @property
    def reason(self) -> str:
        """Return why the present stage was entered; '' when it is where the node began."""
        granted = [change for change in self.history if change.granted]
        return granted[-1].reason if granted else ''

    def request(
        self, wanted: str, reason: str, time_ns: int, obstacles: Sequence[str] = ()
    ) -> StageChange:
        """
        Go to a stage, or say why not; QwenVlaError for a stage that does not exist.

        obstacles: what stands against more than now (missing inputs, a latched gate, ...); a step
        down needs none of that. Every request needs a reason: it is kept.
        """
        wanted = self._checked(wanted)
        with self._lock:
            now, after = STAGES.index(self._stage), STAGES.index(wanted)
            refusal = ''
            if not reason.strip():
                refusal = 'a change of stage needs a reason; it is logged'
            elif after > now + 1:
                refusal = f'one step at a time: ask for {STAGES[now + 1]} first'
            elif after > now and obstacles:
                refusal = '; '.join(obstacles)
            return self._note(refusal or reason.strip(), time_ns, wanted, not refusal)

    def fall_back(self, reason: str, time_ns: int, highest: str = FULL) -> StageChange | None:
        """Go one stage down, at most to `highest`, for a fault; None at the lowest."""
        with self._lock:
            now = STAGES.index(self._stage)
            after = STAGES[min(max(now - 1, 0), STAGES.index(highest))]
            if after == self._stage:
                return None
            return self._note(reason, time_ns, after, True, fell=True)

    def restart(self, time_ns: int) -> None:
        """Go back to where the node began: it was deactivated and starts anew."""
        with self._lock:
            if self._stage != self._start:
                self._note('activated anew', time_ns, self._start, True)

    def _note(
        self, reason: str, time_ns: int, after: str, granted: bool, fell: bool = False
    ) -> StageChange:
        change = StageChange(granted, time_ns, self._stage, after, reason, fell)
        self.history.append(change)
        if granted:
            self._stage = after
        return change

    def _checked(self, stage: str) -> str:
        if stage not in STAGES:
            raise QwenVlaError(f'stage {stage!r} is unknown; choose one of {", ".join(STAGES)}')
        return stage
