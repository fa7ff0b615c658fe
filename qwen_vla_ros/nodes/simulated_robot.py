"""
The simulated robot behind robot_sim_node: one thread owns physics and OpenGL. No ROS here.

The thread keeps the world at the clock's pace in ticks of 10 ms. Pictures are taken one at a
time, only when the physics have caught up, and stamped with the instant of the state they show.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # in 3.10 its own
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.robot_kinds import RobotKind, WidowxTable
from qwen_vla_ros.sim.arm import ARM_JOINTS, GRIPPER_JOINTS
from qwen_vla_ros.sim.cameras import CameraInfo
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController

TICK_NS = 10_000_000
SLIP_NS = 200_000_000  # further behind than this, the world stops to catch up
SPREAD_NS = 50_000_000  # the pictures of one moment are taken within this

Result = TypeVar('Result')


class Listener(Protocol):
    """Who hears of every instant; called in the simulation's thread."""

    def on_tick(self, stamp_ns: int, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take joints float64 [7 a arm] and their velocities."""

    def on_image(self, view: str, stamp_ns: int, image: np.ndarray, info: CameraInfo) -> None:
        """Take a picture uint8 [h, w, 3] RGB."""


class Controller(Protocol):
    """What moves some joints [J]."""

    joint_names: tuple[str, ...]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return desired positions and velocities, float64 [J] each, at an instant."""

    def hold(self, positions: Sequence[float]) -> None:
        """Be at rest at positions [J], at once."""


class SimulatedRobot:
    """
    A world, controllers of each arm's six joints and of its gripper, and the thread of all that.

    Before start() the controllers, in the order of the joints, may be replaced by others that have
    sample() and hold().
    """

    def __init__(
        self,
        clock: Callable[[], int],
        listener: Listener,
        camera_rate_hz: float,
        seed: int,
        kind: RobotKind | None = None,
        task: str = '',
    ) -> None:
        """Build the world of a seed and a task; clock returns int ns and never jumps back."""
        self._clock, self._listener = clock, listener
        self._camera_ns = round(1e9 / camera_rate_hz)
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._end = threading.Event()
        self._seed, self._task, self.slips = seed, task, 0
        self._control_ns = 0
        self.kind: RobotKind = kind or WidowxTable()
        self.target = ''
        geometry = self.kind.model.geometry
        limits = list(zip(geometry.lower, geometry.upper, strict=True))
        self.controllers: list[Controller] = []
        for _ in self.kind.arms:
            self.controllers += [
                TrajectoryController(ARM_JOINTS, np.zeros(6), limits[:6]),
                TrajectoryController(GRIPPER_JOINTS, [geometry.upper[6]], limits[6:]),
            ]
        self._thread = threading.Thread(target=self._run, name='simulation', daemon=True)
        self._built: Future[None] = Future()

    def start(self) -> None:
        """Start the thread; raises what building the world or its first picture raised."""
        self._thread.start()
        self._built.result()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()

    def now_ns(self) -> int:
        """Return the clock's time."""
        return self._clock()

    def control_ns(self) -> int:
        """
        Return the instant of the controllers' last update, at which they take what is new.

        On a busy machine it lags behind the clock: a command that took effect at the clock's time
        would tear the motion.
        """
        return self._control_ns or self.now_ns()

    def call(self, work: Callable[[], Result], timeout_s: float = 5.0) -> Result:
        """Do something with the world in its thread and return the result."""
        future: Future[Result] = Future()
        self._jobs.put((work, future))
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            raise QwenVlaError(
                f'the simulation does not answer within {timeout_s:g} s; restart robot_sim'
            ) from error

    def reset(self, seed: int, task: str = '') -> tuple[str, str, tuple[str, ...]]:
        """
        Lay out the scene of a seed; return instruction, target and the objects' names.

        task is a sentence or an object's name; '' draws the target from the seed.
        """
        return self.call(lambda: self._reset(seed, task))

    def set_target(self, name: str) -> None:
        """Change which object the task is about; QwenVlaError for a name not on the table."""
        self.call(lambda: self._set_target(name))

    def result(self) -> Any:
        """Return how the task stands."""
        return self.call(lambda: self.kind.result(self.world, self.target))

    def _reset(self, seed: int, task: str) -> tuple[str, str, tuple[str, ...]]:
        sentence, self.target = self.kind.reset(self.world, seed, task)
        begin = 0
        for controller in self.controllers:
            end = begin + len(controller.joint_names)
            controller.hold(self.world.scene.posture[begin:end])
            begin = end
        return sentence, self.target, self.world.scene.names

    def _set_target(self, name: str) -> None:
        self.target = self.kind.aim(self.world, name)

    def _run(self) -> None:
        try:
            self.world = self.kind.open()
            self._reset(self._seed, self._task)
            self.world.render(self.world.views[0])
        except BaseException as error:
            self._built.set_exception(error)
            return
        self._built.set_result(None)
        try:
            self._drive()
        finally:
            self.world.close()

    def _drive(self) -> None:
        next_ns = self.now_ns()
        views = self.world.views
        apart_ns = min(self._camera_ns, SPREAD_NS) // len(views)
        due = {view: next_ns + index * apart_ns for index, view in enumerate(views)}
        while not self._end.is_set():
            self._work_off()
            now_ns = self.now_ns()
            if now_ns - next_ns > SLIP_NS:
                self.slips += 1
                next_ns = now_ns
            if now_ns < next_ns:
                self._end.wait(min((next_ns - now_ns) * 1e-9, 0.01))
                continue
            self._tick(next_ns)
            if now_ns - next_ns < TICK_NS:
                self._take_picture(next_ns, due)
            next_ns += TICK_NS

    def _tick(self, stamp_ns: int) -> None:
        """Bring the world to an instant: the controllers' desired state of it is the target."""
        self._control_ns = stamp_ns
        wanted = [controller.sample(stamp_ns) for controller in self.controllers]
        positions, velocities = (np.concatenate(part) for part in zip(*wanted, strict=True))
        self.world.set_targets(positions, velocities)
        self.world.step(TICK_NS * 1e-9)
        self._listener.on_tick(stamp_ns, self.world.positions(), self.world.velocities())

    def _take_picture(self, stamp_ns: int, due: dict[str, int]) -> None:
        """Render the view that waits longest, if one is due."""
        view = min(due, key=lambda name: due[name])
        if stamp_ns < due[view]:
            return
        due[view] = max(due[view] + self._camera_ns, stamp_ns + self._camera_ns // 2)
        image = self.world.render(view)
        self._listener.on_image(view, stamp_ns, image, self.world.camera_info(view))

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
