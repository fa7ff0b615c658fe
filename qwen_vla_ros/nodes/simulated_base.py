"""
The simulated base behind base_sim_node: one thread owns the rooms and OpenGL. No ROS here.

The thread keeps the world at the clock's pace in ticks of 10 ms. A picture is taken only when the
world has caught up, and stamped with the instant of the pose from which it is seen.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # in 3.10 its own
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.cameras import CameraInfo
from qwen_vla_ros.sim.rooms.drive import Drift, Pose
from qwen_vla_ros.sim.rooms.environment import TIME_LIMIT_S
from qwen_vla_ros.sim.rooms.tasks import Task, sample_task
from qwen_vla_ros.sim.rooms.world import SIZE, TICK_S, VIEW, RoomsWorld

TICK_NS = round(TICK_S * 1e9)
SLIP_NS = 200_000_000  # further behind than this, the world stops to catch up
STANDS_S, GIVES_UP_S = 1.0, 3.0  # s at rest: arrived, if it is there; else the end

Result = TypeVar('Result')


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


class SimulatedBase:
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
        self._clock, self._listener = clock, listener
        self._camera_ns = round(1e9 / camera_rate_hz)
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._end = threading.Event()
        self._seed, self._drift, self.slips = seed, drift, 0
        self._wanted: tuple[float, float] | None = None
        self._thread = threading.Thread(target=self._run, name='simulation', daemon=True)
        self._built: Future[None] = Future()

    def start(self) -> None:
        """Start the thread; raises what building the house or its first picture raised."""
        self._thread.start()
        self._built.result()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()

    def command(self, linear: float, angular: float) -> None:
        """Take the newest velocities in m/s and rad/s; QwenVlaError when they are not finite."""
        if not np.isfinite([linear, angular]).all():
            raise QwenVlaError(f'velocities {linear}, {angular} are not finite; the base goes on')
        self._wanted = (linear, angular)

    def call(self, work: Callable[[], Result], timeout_s: float = 10.0) -> Result:
        """Do something with the world in its thread and return the result."""
        future: Future[Result] = Future()
        self._jobs.put((work, future))
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            raise QwenVlaError(
                f'the simulation does not answer within {timeout_s:g} s; restart base_sim'
            ) from error

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

    def _run(self) -> None:
        try:
            self.world = RoomsWorld(self._seed)
            self._reset(self._seed, '')
            self.world.render()
        except BaseException as error:
            self._built.set_exception(error)
            return
        self._built.set_result(None)
        try:
            self._drive()
        finally:
            self.world.close()

    def _drive(self) -> None:
        next_ns = self._clock()
        picture_ns = next_ns
        while not self._end.is_set():
            self._work_off()
            now_ns = self._clock()
            if now_ns - next_ns > SLIP_NS:
                self.slips += 1
                next_ns = now_ns
            if now_ns < next_ns:
                self._end.wait(min((next_ns - now_ns) * 1e-9, 0.01))
                continue
            self._tick(next_ns)
            if now_ns - next_ns < TICK_NS and next_ns >= picture_ns:
                picture_ns = max(picture_ns + self._camera_ns, next_ns + self._camera_ns // 2)
                self._listener.on_image(
                    next_ns, self.world.render(VIEW, SIZE), self.world.camera_info(VIEW, SIZE)
                )
            next_ns += TICK_NS

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

    def _work_off(self) -> None:
        """Do what other threads have asked for."""
        while True:
            try:
                work, future = self._jobs.get_nowait()
            except Empty:
                return
            try:
                future.set_result(work())
            except Exception as error:  # belongs to the caller
                future.set_exception(error)
