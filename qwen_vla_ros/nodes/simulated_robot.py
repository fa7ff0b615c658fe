"""
The simulated robot behind robot_sim_node: arms, their controllers, and their pace. No ROS here.

Pictures are stamped with the instant of the state they show.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.paced_simulation import TICK_NS, PacedSimulation
from qwen_vla_ros.nodes.robot_kinds import RobotKind, WidowxTable
from qwen_vla_ros.sim.arm import ARM_JOINTS, GRIPPER_JOINTS
from qwen_vla_ros.sim.cameras import CameraInfo
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.zero_errors import NO_ERRORS, as_joints

SPREAD_NS = 50_000_000  # the pictures of one moment are taken within this


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


class SimulatedRobot(PacedSimulation):
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
        zero_errors: Mapping[str, float] = NO_ERRORS,
    ) -> None:
        """
        Build the world of a seed and a task; clock returns int ns and never jumps back.

        zero_errors: of one arm's joints, see sim/zero_errors.py
        """
        super().__init__(clock, camera_rate_hz, 'robot_sim')
        self._listener, self._seed, self._task = listener, seed, task
        self._control_ns = 0
        self.kind: RobotKind = kind or WidowxTable()
        if zero_errors and len(self.kind.arms) != 1:
            raise QwenVlaError('robot_sim: zero_errors are those of a robot of one arm')
        self._zeros = np.tile(as_joints(zero_errors), len(self.kind.arms))
        self.target = ''
        geometry = self.kind.model.geometry
        limits = list(zip(geometry.lower, geometry.upper, strict=True))
        self.controllers: list[Controller] = []
        for _ in self.kind.arms:
            self.controllers += [
                TrajectoryController(ARM_JOINTS, np.zeros(6), limits[:6]),
                TrajectoryController(GRIPPER_JOINTS, [geometry.upper[6]], limits[6:]),
            ]

    def control_ns(self) -> int:
        """
        Return the instant of the controllers' last update, at which they take what is new.

        On a busy machine it lags behind the clock: a command that took effect at the clock's time
        would tear the motion.
        """
        return self._control_ns or self.now_ns()

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
        begin, read = 0, np.asarray(self.world.scene.posture) + self._zeros
        for controller in self.controllers:
            end = begin + len(controller.joint_names)
            controller.hold(read[begin:end])
            begin = end
        return sentence, self.target, self.world.scene.names

    def _set_target(self, name: str) -> None:
        self.target = self.kind.aim(self.world, name)

    def _open(self) -> None:
        self.world = self.kind.open()
        self._reset(self._seed, self._task)
        self.world.render(self.world.views[0])

    def _close(self) -> None:
        self.world.close()

    def _views(self, begin_ns: int) -> dict[str, int]:
        views = self.world.views
        apart_ns = min(self._camera_ns, SPREAD_NS) // len(views)
        return {view: begin_ns + index * apart_ns for index, view in enumerate(views)}

    def _tick(self, stamp_ns: int) -> None:
        """Bring the world to an instant: the controllers' desired state of it is the target."""
        self._control_ns = stamp_ns
        wanted = [controller.sample(stamp_ns) for controller in self.controllers]
        positions, velocities = (np.concatenate(part) for part in zip(*wanted, strict=True))
        self.world.set_targets(positions - self._zeros, velocities)
        self.world.step(TICK_NS * 1e-9)
        read = self.world.positions() + self._zeros
        self._listener.on_tick(stamp_ns, read, self.world.velocities())

    def _picture(self, view: str, stamp_ns: int) -> None:
        image = self.world.render(view)
        self._listener.on_image(view, stamp_ns, image, self.world.camera_info(view))
