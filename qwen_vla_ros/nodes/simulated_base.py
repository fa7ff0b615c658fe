"""
The simulated base behind base_sim_node: the rooms, the running task, and their pace. No ROS here.

A picture is stamped with the instant of the pose from which it is seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.paced_simulation import PacedSimulation
from qwen_vla_ros.sim.cameras import CameraInfo
from qwen_vla_ros.sim.rooms.drive import Drift, Pose
from qwen_vla_ros.sim.rooms.environment import TIME_LIMIT_S
from qwen_vla_ros.sim.rooms.tasks import Task, sample_task
from qwen_vla_ros.sim.rooms.world import SIZE, TICK_S, VIEW, RoomsWorld

STANDS_S, GIVES_UP_S = 1.0, 3.0  # s at rest: arrived, if it is there; else the end


@dataclass(frozen=True)
class Arrival:
    """How a task stands: done when the base has stopped for good, or its time is over."""

    success: bool
    done: bool
    goal: str
    bumped: tuple[str, ...]
    elapsed_s: float
    distance_m: float


class Listener(Protocol):
    """Who hears of every instant; called in the simulation's thread."""

    def on_tick(self, stamp_ns: int, odometry: Pose, linear: float, angular: float) -> None:
        """Take the odometry (x, y in m, yaw in rad) and the speeds in m/s and rad/s."""

    def on_image(self, stamp_ns: int, image: np.ndarray, info: CameraInfo) -> None:
        """Take a picture uint8 [h, w, 3] RGB."""


class SimulatedBase(PacedSimulation):
    """The rooms, the running task, and the thread that drives them."""

    def __init__(
        self,
        clock: Callable[[], int],
        listener: Listener,
        camera_rate_hz: float,
        seed: int,
        drift: float = 0.0,
    ) -> None:
        """Build the house of a seed; clock returns int ns and never jumps back."""
        super().__init__(clock, camera_rate_hz, 'base_sim')
        self._listener, self._seed, self._drift = listener, seed, drift
        self._wanted: tuple[float, float] | None = None

    def command(self, linear: float, angular: float) -> None:
        """Take the newest velocities in m/s and rad/s; QwenVlaError when they are not finite."""
        if not np.isfinite([linear, angular]).all():
            raise QwenVlaError(f'velocities {linear}, {angular} are not finite; the base goes on')
        self._wanted = (linear, angular)

    def reset(self, seed: int, words: str = '') -> Task:
        """Build the house of a seed and begin its task, or that which the words name."""
        return self.call(lambda: self._reset(seed, words))

    def result(self) -> Arrival:
        """Return how the task stands."""
        return self.call(self._result)

    def _reset(self, seed: int, words: str) -> Task:
        task = sample_task(seed, words)
        self.world.reset(task.house, task.start, Drift.sample(self._drift, seed))
        self.task, self._wanted = task, None
        self._moved, self._still_s = False, 0.0
        return task

    def _result(self) -> Arrival:
        x, y, _ = self.world.base.pose
        arrived = self._moved and self._still_s >= STANDS_S and self.task.reached(x, y)
        ended = self._moved and self._still_s >= GIVES_UP_S
        done = arrived or ended or self.world.time >= TIME_LIMIT_S
        distance = self.task.distance(x, y)
        bumped = tuple(self.world.bumped)
        return Arrival(arrived, done, self.task.goal.name, bumped, self.world.time, distance)

    def _open(self) -> None:
        self.world = RoomsWorld(self._seed)
        self._reset(self._seed, '')
        self.world.render()

    def _close(self) -> None:
        self.world.close()

    def _views(self, begin_ns: int) -> dict[str, int]:
        return {VIEW: begin_ns}

    def _tick(self, stamp_ns: int) -> None:
        wanted, self._wanted = self._wanted, None
        base = self.world.base
        if wanted is not None:
            base.command(*wanted)
        self.world.step(TICK_S)
        moves = bool(base.linear or base.angular)
        self._moved = self._moved or moves
        self._still_s = 0.0 if moves else self._still_s + TICK_S
        self._listener.on_tick(stamp_ns, base.odometry, base.linear, base.angular)

    def _picture(self, view: str, stamp_ns: int) -> None:
        image, info = self.world.render(view, SIZE), self.world.camera_info(view, SIZE)
        self._listener.on_image(stamp_ns, image, info)
