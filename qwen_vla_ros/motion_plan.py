"""
What the executor follows at any instant: a path, and the seam that leads onto it.

  before the seam   the plan that ran until then, so the past can be asked as well
  in the seam       ordinary channels: new path + a quintic that takes the difference of position,
                    velocity and acceleration to zero. Monotone channels: the smootherstep blend
                    of old and new, which never leaves the two.
  after the seam    the path exactly
"""

from dataclasses import dataclass, replace

import numpy as np

from qwen_vla_ros.curve import Curve, through_knots

# Knots of a smootherstep from one to zero.
FADE = np.array([[[1.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])


@dataclass(frozen=True)
class Seam:
    """From `before` onto a new path: a bridge for ordinary channels, a fade for monotone ones."""

    before: 'Plan'
    bridge: Curve  # what is added to the new path; zero in monotone channels
    fade: Curve  # one channel: the weight of `before` in monotone channels, from 1 to 0
    monotone: np.ndarray  # bool [A]

    @property
    def start_ns(self) -> int:
        """Return the instant until which the old plan is followed exactly."""
        return self.bridge.start_ns

    @property
    def end_ns(self) -> int:
        """Return the instant from which the new path is followed exactly."""
        return self.bridge.start_ns + round(self.bridge.step_s * 1e9)

    def lead(self, path: np.ndarray, time_ns: int) -> np.ndarray:
        """Return the motion [3, A] of an instant of the seam, on the way onto the path's."""
        motion = path + self.bridge.motion(time_ns)
        if self.monotone.any():
            self._fade(motion, path, self.before.motion(time_ns), self.fade.motion(time_ns))
        return motion

    def leads(self, path: np.ndarray, times_ns: np.ndarray) -> np.ndarray:
        """Return lead() of many instants of the seam at once, [T, 3, A]."""
        motion = path + self.bridge.motions(times_ns)
        if self.monotone.any():
            self._fade(motion, path, self.before.motions(times_ns), self.fade.motions(times_ns))
        return motion

    def _fade(
        self, motion: np.ndarray, path: np.ndarray, before: np.ndarray, fade: np.ndarray
    ) -> None:
        """Add to the monotone channels of [..., 3, A] what is left of the old plan."""
        weight, rate, bend = fade[..., 0, :], fade[..., 1, :], fade[..., 2, :]
        gap = (before - path) * self.monotone
        value, speed = gap[..., 0, :], gap[..., 1, :]
        motion += weight[..., None, :] * gap
        motion[..., 1, :] += rate * value
        motion[..., 2, :] += 2 * rate * speed + bend * value


@dataclass(frozen=True)
class Plan:
    """
    A path, the seam that leads onto it, when it ends and how far it is counted.

    consumed is the number of policy rows that had run at the path's row 0; row_ns and rows tell
    how it goes on. A hold has no rows: it consumes nothing.
    """

    path: Curve
    seam: Seam | None = None
    end_ns: int | None = None  # None: a hold, which never ends
    observed_ns: int | None = None  # stamp of the chunk's observation; None: a hold or a stop
    rest_ns: int | None = None  # from here on it stands still by itself; None: never
    row_ns: float = 0.0  # ns from one row to the next
    rows: int = 0
    consumed: float = 0.0

    def motion(self, time_ns: int) -> np.ndarray:
        """Return float64 [3, A]: position, velocity, acceleration."""
        if self.seam is not None and time_ns < self.seam.end_ns:
            if time_ns < self.seam.start_ns:
                return self.seam.before.motion(time_ns)
            return self.seam.lead(self.path.motion(time_ns), time_ns)
        return self.path.motion(time_ns)

    def motions(self, times_ns: np.ndarray) -> np.ndarray:
        """Return float64 [T, 3, A]: motion() of many instants, int64 [T], at once."""
        motion = self.path.motions(times_ns)
        if self.seam is not None:
            early = times_ns < self.seam.start_ns
            within = ~early & (times_ns < self.seam.end_ns)
            if early.any():
                motion[early] = self.seam.before.motions(times_ns[early])
            if within.any():
                motion[within] = self.seam.leads(motion[within], times_ns[within])
        return motion

    def progress(self, time_ns: int) -> float:
        """Return how many policy rows were consumed at an instant, over all plans so far."""
        if self.seam is not None:
            until = self.seam.start_ns if self.rows else self.seam.end_ns
            if time_ns < until:
                return self.seam.before.progress(time_ns)
        if not self.rows:
            return self.consumed
        return self.consumed + min((time_ns - self.path.start_ns) / self.row_ns, self.rows - 1)

    def ended(self, time_ns: int) -> bool:
        """Tell whether an instant lies after the last row."""
        return self.end_ns is not None and time_ns > self.end_ns

    def rests(self, time_ns: int) -> bool:
        """Tell whether the motion stands still from an instant on."""
        return self.rest_ns is not None and time_ns >= self.rest_ns

    def takes(self, stamp_ns: int) -> bool:
        """Tell whether an observation of this stamp may lead to the next chunk."""
        return self.rest_ns is None or self.observed_ns is None or self.rests(stamp_ns)

    def seams(self, now_ns: int) -> int:
        """Return how many seams that are not over lie upon one another."""
        if self.seam is None or now_ns >= self.seam.end_ns:
            return 0
        return 1 + self.seam.before.seams(now_ns)

    def without_past(self, time_ns: int) -> 'Plan':
        """Return the same plan without what was over at an instant, so plans do not pile up."""
        if self.seam is None:
            return self
        if time_ns >= self.seam.end_ns:
            return replace(self, seam=None)
        before = self.seam.before.without_past(time_ns)
        return replace(self, seam=replace(self.seam, before=before))


def standing(row: np.ndarray, now_ns: int, consumed: float = 0.0) -> Plan:
    """Return the plan that stands at a row [A]."""
    knots = np.zeros((2, 3, len(row)))
    knots[:, 0] = row
    return Plan(through_knots(now_ns, 1.0, knots), rest_ns=now_ns, consumed=consumed)


def joined(running: Plan, plan: Plan, start_ns: int, seconds: float, monotone: np.ndarray) -> Plan:
    """Return the plan with a seam from the running one: C2 at both of its ends."""
    seconds = round(seconds * 1e9) * 1e-9  # whole ns, as its end is asked for
    knots = np.zeros((2, 3, len(monotone)))
    knots[0] = running.motion(start_ns) - plan.path.motion(start_ns)
    knots[0][:, monotone] = 0.0
    seam = Seam(
        running,
        through_knots(start_ns, seconds, knots),
        through_knots(start_ns, seconds, FADE),
        monotone,
    )
    return replace(plan, seam=seam)
