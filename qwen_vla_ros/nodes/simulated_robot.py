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
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import instruction_for, parse_target
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.world import VIEWS, CameraInfo, Outcome, TabletopWorld

TICK_NS = 10_000_000
SLIP_NS = 200_000_000  # further behind than this, the world stops to catch up

Result = TypeVar('Result')


class Listener(Protocol):
    """Who hears of every instant; called in the simulation's thread."""

    def on_tick(self, stamp_ns: int, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Take joints float64 [7] and their velocities."""

    def on_image(self, view: str, stamp_ns: int, image: np.ndarray, info: CameraInfo) -> None:
        """Take a picture uint8 [h, w, 3] RGB."""


class Controller(Protocol):
    """What moves some joints [J]."""

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return desired positions and velocities, float64 [J] each, at an instant."""

    def hold(self, positions: Sequence[float]) -> None:
        """Be at rest at positions [J], at once."""


class SimulatedRobot:
    """
    The tabletop world, a controller each of arm and gripper, and the thread that drives them.

    Before start() the controllers may be replaced by others that have sample() and hold().
    """

    def __init__(
        self, clock: Callable[[], int], listener: Listener, camera_rate_hz: float, seed: int
    ) -> None:
        """Build the world of a seed; clock returns int ns and never jumps back."""
        self._clock, self._listener = clock, listener
        self._camera_ns = round(1e9 / camera_rate_hz)
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._end = threading.Event()
        self._seed, self.slips = seed, 0
        self.target = ''
        limits = list(zip(arm.LOWER, arm.UPPER, strict=True))
        self.arm: Controller = TrajectoryController(arm.ARM_JOINTS, np.zeros(6), limits[:6])
        self.gripper: Controller = TrajectoryController(
            arm.GRIPPER_JOINTS, [arm.UPPER[6]], limits[6:]
        )
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

    def result(self) -> Outcome:
        """Return how the task stands."""
        return self.call(lambda: self.world.result(self.target))

    def _reset(self, seed: int, task: str) -> tuple[str, str, tuple[str, ...]]:
        scene = self.world.reset(seed)
        posture = np.array(scene.posture)
        self.arm.hold(posture[:6])
        self.gripper.hold(posture[6:])
        if not task:
            target = scene.names[int(np.random.default_rng([seed, 1]).integers(len(scene.names)))]
        else:
            target = parse_target(task, scene.names) or scene.named(task).name
        self.target = target
        return (
            task if ' ' in task and task != target else instruction_for(target),
            target,
            scene.names,
        )

    def _set_target(self, name: str) -> None:
        self.target = self.world.scene.named(name).name

    def _run(self) -> None:
        try:
            self.world = TabletopWorld()
            self._reset(self._seed, '')
            self.world.render(VIEWS[0])
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
        due = {view: next_ns + index * self._camera_ns // 2 for index, view in enumerate(VIEWS)}
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
        arm_position, arm_velocity = self.arm.sample(stamp_ns)
        finger_position, finger_velocity = self.gripper.sample(stamp_ns)
        self.world.set_targets(
            np.concatenate([arm_position, finger_position]),
            np.concatenate([arm_velocity, finger_velocity]),
        )
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
