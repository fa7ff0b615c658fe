"""
A world of tasks that watches its own goal as time goes on, whoever drives the arm.

The gymnasium environment judges once a row, 0.2 s; so does this, by the world's time, so the same
motion has the same outcome.
"""

from qwen_vla_ros.sim.environment import STEP_S
from qwen_vla_ros.sim.tasks.goals import HELD_ROWS, TASK_LIMIT_S, Goal, done, goal_of_seed
from qwen_vla_ros.sim.tasks.world import TaskWorld
from qwen_vla_ros.sim.world import Outcome


class WatchedTasks(TaskWorld):
    """Pick, place, push or stack; once done it stays done until the next begin()."""

    goal: Goal | None = None

    def begin(self, seed: int, kind: str = '') -> Goal:
        """Lay out the scene and the task of a seed, those of TasksEnv; kind '': any."""
        goal = goal_of_seed(seed, kind)
        self.reset(seed)
        self.goal, self._first = goal, self.object_positions()
        self._held, self._looked = 0, 0
        return goal

    def step(self, duration_s: float) -> None:
        """Advance the physics, and look whenever a row has passed."""
        super().step(duration_s)
        if self.goal is None or self._held >= HELD_ROWS:
            return
        rows = int((self.time + 1e-9) / STEP_S)
        if rows > self._looked:
            self._looked = rows
            self._held = self._held + 1 if done(self, self.goal, self._first) else 0

    def outcome(self) -> Outcome:
        """Return how the task stands."""
        touched = tuple(touch.name for touch in self.touched())
        success = self._held >= HELD_ROWS
        return Outcome(
            success,
            success or self.time >= TASK_LIMIT_S - 1e-9,
            self.goal.target,
            touched[0] if touched else None,
            touched,
            self.time,
        )
