"""
The goals of a joint_trajectory_controller's FollowJointTrajectory, without ROS.

As ros2_controllers does it (joint_trajectory_controller.cpp, goal_accepted_callback to update;
tolerances.hpp, branches humble, jazzy, kilted, master): a goal that the controller accepts takes
the place of the running one, which ends as cancelled on humble and as aborted on the others, both
with INVALID_GOAL. A cancelled or aborted goal holds the measured joints at once, which jerks an
arm in motion. A trajectory by topic replaces the motion and lets the goal go on. Tolerance 0 in a
goal is the controller's own, -1 none, another negative number leaves all at the controller's;
defaults of 0 check nothing, and without a goal_time nothing is given up after the end. Velocity
and acceleration tolerances are not modelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.sim.trajectory_controller import TrajectoryController

SUCCEEDED, ABORTED, CANCELED = 'succeeded', 'aborted', 'canceled'
# control_msgs/action/FollowJointTrajectory, error_code of the result.
SUCCESSFUL, INVALID_GOAL, PATH_VIOLATED, GOAL_VIOLATED = 0, -1, -4, -5
_ERASED = -1.0


@dataclass(frozen=True)
class Ending:
    """How a goal ended: its key, its status, and the result's error_code and error_string."""

    key: Any
    status: str
    code: int = SUCCESSFUL
    text: str = ''


@dataclass(frozen=True)
class Tolerances:
    """How far a joint may be off: by name, rad or m; goal_time_s after the end. 0: unchecked."""

    path: Mapping[str, float]
    goal: Mapping[str, float]
    goal_time_s: float = 0.0

    def merged(self, asked: 'Tolerances', known: Sequence[str]) -> 'Tolerances':
        """Return what holds for a goal that asks for others; bad ones change nothing."""
        wishes = (*asked.path.values(), *asked.goal.values(), asked.goal_time_s)
        unknown = {*asked.path, *asked.goal} - set(known)
        if unknown or any(wish < 0 and wish != _ERASED for wish in wishes):
            return self
        return Tolerances(
            {**self.path, **_resolved(asked.path)},
            {**self.goal, **_resolved(asked.goal)},
            max(0.0, asked.goal_time_s or self.goal_time_s),
        )


NO_TOLERANCES = Tolerances({}, {})


def _resolved(wishes: Mapping[str, float]) -> dict[str, float]:
    return {name: max(0.0, wish) for name, wish in wishes.items() if wish}


class TrajectoryGoals:
    """One running goal at most; the controller's owner calls update() at its rate."""

    def __init__(
        self, controller: TrajectoryController, tolerances: Tolerances = NO_TOLERANCES
    ) -> None:
        """Watch the goals of a controller with the tolerances of its parameters."""
        self._controller, self._default = controller, tolerances
        self._key: Any = None
        self._tolerances = tolerances

    @property
    def running(self) -> Any:
        """Return the key of the goal that runs, or None."""
        return self._key

    def accepted(self, key: Any, tolerances: Tolerances = NO_TOLERANCES) -> Ending | None:
        """Take the goal whose trajectory the controller accepted; return how the older ended."""
        ended = None
        if self._key is not None:
            if self._controller.distribution == 'humble':
                text = 'Current goal cancelled due to new incoming action.'
                ended = Ending(self._key, CANCELED, INVALID_GOAL, text)
            else:
                text = 'Current goal preempted by new incoming action.'
                ended = Ending(self._key, ABORTED, INVALID_GOAL, text)
        self._key = key
        self._tolerances = self._default.merged(tolerances, self._controller.joint_names)
        return ended

    def cancel(self, key: Any, measured: np.ndarray) -> Ending | None:
        """End the running goal at the measured joints [J]; None for one that does not run."""
        if key is None or key != self._key:
            return None
        return self._end(CANCELED, SUCCESSFUL, '', measured)

    def update(self, now_ns: int, measured: np.ndarray) -> Ending | None:
        """Compare the measured joints [J] with the desired ones; return how the goal ended."""
        if self._key is None:
            return None
        desired, _ = self._controller.sample(now_ns)
        error = np.abs(np.asarray(measured) - desired)
        late_s = (now_ns - self._controller.ends_ns()) * 1e-9
        if late_s < 0.0:
            if self._beyond(error, self._tolerances.path):
                text = 'Aborted due to path tolerance violation'
                return self._end(ABORTED, PATH_VIOLATED, text, measured)
            return None
        if not self._beyond(error, self._tolerances.goal):
            key, self._key = self._key, None
            return Ending(key, SUCCEEDED, SUCCESSFUL, 'Goal successfully reached!')
        if 0.0 < self._tolerances.goal_time_s < late_s:
            text = f'Aborted due to goal_time_tolerance exceeding by {late_s:f} seconds'
            return self._end(ABORTED, GOAL_VIOLATED, text, measured)
        return None

    def _beyond(self, error: np.ndarray, allowed: Mapping[str, float]) -> bool:
        limits = [allowed.get(name, 0.0) for name in self._controller.joint_names]
        return any(0.0 < limit < off for limit, off in zip(limits, error, strict=True))

    def _end(self, status: str, code: int, text: str, measured: np.ndarray) -> Ending:
        key, self._key = self._key, None
        self._controller.hold(measured)
        return Ending(key, status, code, text)
