"""
A forward_command_controller without ROS: positions straight to the motors, no names, no checks.

As ros2_controllers does it (forward_command_controller/src/forward_controllers_base.cpp) and what
ros2_control's controller_manager then does with an error (src/controller_manager.cpp, update). A
message of the wrong size never reaches a motor, and nobody tells the sender: on humble the
controller fails at every update and goes on holding, until a good message comes; on jazzy, kilted
and rolling it is deactivated and takes nothing until somebody activates it again. Humble forwards
NaN (here refused: the simulated motors have limits), the others drop it. An empty message is no
command from jazzy on. There is no timeout: without messages the last positions hold for ever.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS


class ForwardController:
    """A controller of some joints that is told positions [J]."""

    def __init__(
        self,
        joint_names: Sequence[str],
        positions: Sequence[float],
        limits: Sequence[tuple[float, float]],
        distribution: str = 'jazzy',
    ) -> None:
        """Hold positions [J]; limits [J] are the motors' (lower, upper)."""
        if distribution not in DISTRIBUTIONS:
            raise QwenVlaError(f'forward controller: {distribution!r}: {", ".join(DISTRIBUTIONS)}')
        self.joint_names, self.distribution = tuple(joint_names), distribution
        self._limits = np.asarray(limits, np.float64).T
        self.active = True
        self.hold(positions)

    def hold(self, positions: Sequence[float]) -> None:
        """Command positions [J] from within, whatever was sent before."""
        held = np.asarray(positions, np.float64)
        if held.shape != (len(self.joint_names),) or not np.isfinite(held).all():
            raise QwenVlaError(f'forward controller: {positions}: {len(self.joint_names)} numbers')
        self._told = deque([(0, held)])

    def activate(self) -> None:
        """Take messages again, as after ros2 control set_controller_state."""
        self.active = True

    def accept(self, values: Sequence[float], now_ns: int = 0) -> str | None:
        """Take a message's data at an instant; return why no motor got it, or None."""
        if not self.active:
            return 'the controller is not active: a message of wrong size deactivated it'
        if self.distribution != 'humble' and not len(values):
            return 'an empty message is no command'
        if self.distribution != 'humble' and not np.isfinite(values).all():
            return 'a value is not finite: dropped'
        if len(values) != len(self.joint_names):
            self.active = self.distribution == 'humble'
            told = '' if self.active else '; the controller is deactivated'
            return f'{len(values)} values for {len(self.joint_names)} joints{told}'
        if not np.isfinite(values).all():
            return 'a value is not finite: on humble it would reach the motor'
        self._told.append((now_ns, np.clip(values, *self._limits)))
        return None

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the positions [J] commanded until an instant, and no velocities: motors get none.

        Instants must not go back: what lies before is forgotten.
        """
        told = self._told
        while len(told) > 1 and told[1][0] <= now_ns:
            told.popleft()
        return told[0][1].copy(), np.zeros(len(self.joint_names))
