"""
Nav2's controller server and navigator as an action client meets them, without ROS and costmaps.

Semantics are navigation2's: SimpleActionServer (nav2_util/simple_action_server.hpp),
computeControl and updateGlobalPath (nav2_controller/src/controller_server.cpp), goalReceived and
onPreempt (nav2_bt_navigator/src/navigators/navigate_to_pose.cpp), branches humble, jazzy, kilted.

- An inactive server rejects; an active one accepts everything and finds faults later: an unknown
  controller or an empty path ends the goal as aborted, on humble without a code.
- A goal that comes while another runs waits for the next cycle, then the older one ends as aborted
  with an empty result; of two that wait the older is aborted at once. For NavigateToPose a waiting
  goal with another behaviour tree is aborted, and the older one goes on.
- A cancelled goal brings the base to a stand at once, without a ramp. So does the end of a goal.
- Without a metre of progress (0.5 m in 10 s) it is aborted; at the goal means 0.25 m, 0.25 rad.

Nothing is planned around obstacles: the base turns towards the path and follows it by pure
pursuit. Poses are (x, y, theta), m and rad, in a frame that is known; times are s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.trajectory_goals import ABORTED, CANCELED, SUCCEEDED, Ending

FOLLOW, NAVIGATE = 'follow_path', 'navigate_to_pose'
NAV_DISTRIBUTIONS = ('humble', 'jazzy', 'kilted')
# nav2_msgs/action/FollowPath, from jazzy on; NavigateToPose' own, from kilted on.
UNKNOWN, INVALID_CONTROLLER, TF_ERROR, INVALID_PATH, NO_PROGRESS = 100, 101, 102, 103, 105
NO_TREE, NAVIGATOR_TF_ERROR = 9001, 9002
# The defaults of nav2_controller's checkers, m, rad, s.
AT_M, AT_RAD, PROGRESS_M, PROGRESS_S = 0.25, 0.25, 0.5, 10.0
LOOKAHEAD_M, TURN_FIRST_RAD = 0.3, 0.8


@dataclass(frozen=True)
class NavigationGoal:
    """What was asked for: poses [N, 3] in a frame, and the plugins' names ('' the default's)."""

    frame: str
    poses: np.ndarray
    controller: str = ''
    goal_checker: str = ''
    progress_checker: str = ''
    behavior_tree: str = ''


@dataclass(frozen=True)
class NavigationSettings:
    """What the server is: speeds in m/s and rad/s, frames it can transform from."""

    distribution: str = 'kilted'
    linear: float = 0.3
    angular: float = 1.0
    frames: tuple[str, ...] = ('odom', 'map')
    controllers: tuple[str, ...] = ('FollowPath',)

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        if self.distribution not in NAV_DISTRIBUTIONS:
            raise QwenVlaError(
                f'navigation: distribution {self.distribution!r} is not one of '
                f'{", ".join(NAV_DISTRIBUTIONS)}'
            )


@dataclass
class _Run:
    """A goal that runs: its way and the last place from which progress is counted."""

    key: Any
    goal: NavigationGoal
    since_s: float
    start: np.ndarray | None = None
    moved_s: float = 0.0


@dataclass
class Cycle:
    """What one cycle brought: speed (m/s, rad/s; None: not commanded), endings, progress."""

    speed: tuple[float, float] | None = None
    endings: list[Ending] = field(default_factory=list)
    running: Any = None
    left_m: float = 0.0
    since_s: float = 0.0


class Navigation:
    """One action of Nav2: `kind` FOLLOW or NAVIGATE. The owner calls step() at 20 Hz."""

    def __init__(self, kind: str, settings: NavigationSettings | None = None) -> None:
        """Serve goals of a kind."""
        self.kind, self._settings = kind, settings or NavigationSettings()
        self.active = True
        self._run: _Run | None = None
        self._pending: tuple[Any, NavigationGoal] | None = None
        self._cancelled: set[Any] = set()

    @property
    def running(self) -> Any:
        """Return the key of the goal that runs, or None."""
        return None if self._run is None else self._run.key

    def refusal(self) -> str | None:
        """Return why a goal would be rejected at once, or None."""
        return None if self.active else 'the server is not active'

    def take(self, key: Any, goal: NavigationGoal) -> list[Ending]:
        """Take an accepted goal; return what ends by that at once."""
        ended = [] if self._pending is None else [Ending(self._pending[0], ABORTED)]
        self._pending = (key, goal)
        return ended

    def cancel(self, key: Any) -> None:
        """Ask a goal to end, at the next cycle."""
        self._cancelled.add(key)

    def stop(self) -> list[Ending]:
        """End everything, as another action that takes the base does."""
        keys = [self.running, None if self._pending is None else self._pending[0]]
        self._run = self._pending = None
        return [Ending(key, ABORTED) for key in keys if key is not None]

    def step(self, now_s: float, pose: Sequence[float] | None) -> Cycle:
        """Do one cycle with the base at a pose; None: its transform is not known."""
        cycle = Cycle()
        if self._is_cancelled(cycle):
            return cycle
        self._begin_pending(now_s, pose, cycle)
        if self._run is None:
            return cycle
        if pose is None:
            self._give_up(cycle, self._tf_error(), 'the pose of the base is not known')
            return cycle
        at = np.asarray(pose, np.float64)
        self._drive(now_s, at, cycle)
        return cycle

    def _is_cancelled(self, cycle: Cycle) -> bool:
        keys = [self.running, None if self._pending is None else self._pending[0]]
        found = [key for key in keys if key is not None and key in self._cancelled]
        self._cancelled.clear()
        if not found:
            return False
        # terminate_all: what was not asked for ends as aborted.
        for key in keys:
            if key is not None:
                cycle.endings.append(Ending(key, CANCELED if key in found else ABORTED))
        self._run = self._pending = None
        cycle.speed = (0.0, 0.0)
        return True

    def _begin_pending(self, now_s: float, pose: Sequence[float] | None, cycle: Cycle) -> None:
        if self._pending is None:
            return
        (key, goal), self._pending = self._pending, None
        other_tree = self._run is not None and goal.behavior_tree != self._run.goal.behavior_tree
        if other_tree:
            cycle.endings.append(Ending(key, ABORTED))
            return
        if self._run is not None:
            cycle.endings.append(Ending(self._run.key, ABORTED))
        self._run = _Run(key, goal, now_s, moved_s=now_s)
        if problem := self._problem(goal):
            self._give_up(cycle, *problem)

    def _problem(self, goal: NavigationGoal) -> tuple[int, str] | None:
        settings = self._settings
        if self.kind == NAVIGATE and goal.behavior_tree:
            return self._since_kilted(NO_TREE), f'BT file not found: {goal.behavior_tree}'
        if self.kind == FOLLOW and goal.controller not in ('', *settings.controllers):
            return INVALID_CONTROLLER, f'Failed to find controller name: {goal.controller}'
        if goal.goal_checker not in ('', 'general_goal_checker', 'goal_checker'):
            return UNKNOWN, f'Failed to find goal checker name: {goal.goal_checker}'
        if goal.progress_checker not in ('', 'progress_checker'):
            return UNKNOWN, f'Failed to find progress checker name: {goal.progress_checker}'
        if not len(goal.poses):
            return INVALID_PATH, 'Path is empty.'
        if goal.frame not in settings.frames:
            return self._tf_error(), f'no transform from frame {goal.frame!r}'
        if not np.isfinite(goal.poses).all():
            return INVALID_PATH, 'a pose is not finite'
        return None

    def _drive(self, now_s: float, at: np.ndarray, cycle: Cycle) -> None:
        run = self._run
        end = run.goal.poses[-1]
        cycle.left_m = _length_left(at, run.goal.poses)
        near = float(np.hypot(*(end - at)[:2]))
        turn = _wrapped(end[2] - at[2])
        if near <= AT_M and abs(turn) <= AT_RAD:
            cycle.endings.append(Ending(run.key, SUCCEEDED))
            cycle.speed, self._run = (0.0, 0.0), None
            return
        if run.start is None or np.hypot(*(at - run.start)[:2]) >= PROGRESS_M:
            run.start, run.moved_s = at, now_s
        elif now_s - run.moved_s > PROGRESS_S:
            self._give_up(cycle, NO_PROGRESS, 'Failed to make progress')
            return
        cycle.running, cycle.since_s = run.key, now_s - run.since_s
        cycle.speed = self._speed(at, run.goal.poses, near <= AT_M, turn)

    def _speed(
        self, at: np.ndarray, poses: np.ndarray, there: bool, turn: float
    ) -> tuple[float, float]:
        settings = self._settings
        if there:
            return 0.0, float(np.clip(2.0 * turn, -settings.angular, settings.angular))
        aim = _carrot(at, poses)
        bearing = _wrapped(np.arctan2(*(aim - at)[1::-1]) - at[2])
        if abs(bearing) > TURN_FIRST_RAD:
            return 0.0, float(np.clip(2.0 * bearing, -settings.angular, settings.angular))
        ahead = max(float(np.hypot(*(aim - at)[:2])), 0.05)
        left = _length_left(at, poses)
        forward = min(settings.linear, max(0.05, left))
        turning = 2.0 * forward * np.sin(bearing) / ahead
        return forward, float(np.clip(turning, -settings.angular, settings.angular))

    def _give_up(self, cycle: Cycle, code: int, text: str) -> None:
        if self._settings.distribution == 'humble':
            code, text = 0, ''
        cycle.endings.append(Ending(self._run.key, ABORTED, code, text))
        cycle.speed, cycle.running, self._run = (0.0, 0.0), None, None

    def _tf_error(self) -> int:
        return TF_ERROR if self.kind == FOLLOW else self._since_kilted(NAVIGATOR_TF_ERROR)

    def _since_kilted(self, code: int) -> int:
        return code if self._settings.distribution == 'kilted' else 0


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _nearest(at: np.ndarray, poses: np.ndarray) -> int:
    return int(np.argmin(np.hypot(poses[:, 0] - at[0], poses[:, 1] - at[1])))


def _carrot(at: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return the first pose after the nearest that is LOOKAHEAD_M away, or the last one."""
    for pose in poses[_nearest(at, poses) :]:
        if np.hypot(*(pose - at)[:2]) >= LOOKAHEAD_M:
            return pose
    return poses[-1]


def _length_left(at: np.ndarray, poses: np.ndarray) -> float:
    """Return the length of the path from the nearest pose on, m."""
    first = _nearest(at, poses)
    way = np.vstack([at[None], poses[first:]])[:, :2]
    if len(poses) > first + 1:  # the nearest pose itself may lie behind
        way = np.vstack([at[None], poses[first + 1 :]])[:, :2]
    return float(np.hypot(*np.diff(way, axis=0).T).sum())
