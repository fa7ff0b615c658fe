"""
Interbotix' xs_sdk driver and its motors, without ROS.

What it does with a command or a call is interbotix_ros_core's (interbotix_xs_sdk/src/
xs_sdk_obj.cpp, branch humble) on interbotix_xs_driver's (src/xs_driver.cpp, branch ros2):

- A group is written in the mode of the group, a motor in its own; they differ once a single motor
  of a group was changed, and the motor ignores what is not for its mode.
- A wrong number of values and an unknown joint are logged and ignored. An unknown *group* in a
  command is looked up with std::map::at: the driver dies, and the motors hold.
- Mode pwm and current truncate to an integer: a position sent to a gripper in mode pwm, the
  vendor's default, is a duty of 0. Services answer an unknown name as if all had gone well.
- A trajectory's points are timed by the nanosec part of time_from_start alone, as uint32: a pair
  of points astride a full second waits 3.5 s. Its first point is never written, the others come
  one step early, and another trajectory is rejected meanwhile.
- set_operating_modes takes the torque off and on again, so a raised arm sags; torque off lets it
  fall. Nothing of ours ever calls either.

A goal beyond a motor's limits is ignored by the motor (ROBOTIS e-manual, "Goal Position"), without
a word from the driver. Positions: rad of the motors, also the gripper's; times int ns of one
clock. Thread-safe.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.interbotix_config import (
    CURRENT_POSITION,
    LINEAR,
    MODES,
    Mode,
    MotorConfig,
)
from qwen_vla_ros.sim.interbotix_motor import MotorState
from qwen_vla_ros.sim.motor_profile import MotorProfile, ProfileRegisters

GROUP, SINGLE = 'group', 'single'
Result = TypeVar('Result')


class DriverDied(QwenVlaError):
    """The real driver would have ended here; the motors hold their last goals."""


@dataclass(frozen=True)
class _Due:
    """A point of a trajectory and when it is written."""

    at_ns: int
    write: Callable[[], Any]


class InterbotixArm:
    """The motors of one arm behind xs_sdk's commands and services."""

    def __init__(
        self,
        config: MotorConfig,
        modes: Mapping[str, Mapping[str, Mode]],
        positions: Mapping[str, float] | None = None,
    ) -> None:
        """Power the motors at positions (rad by joint; sleep where not given)."""
        self.config = config
        self.dead = ''
        self._lock = threading.RLock()
        self._due: list[_Due] = []
        self._ends_ns = 0
        self._joints = {}
        for name in config.joints:
            at = (positions or {}).get(name, config.sleep[name])
            joint = MotorState(config.motors[name], MotorProfile(at), config.sleep[name])
            self._joints[name] = joint
        self._group_modes = {name: Mode() for name in config.groups}
        for kind, found in (
            (GROUP, modes.get('groups', {})),
            (SINGLE, modes.get('singles', {})),
        ):
            for name, mode in found.items():
                profile = mode.profile
                values = (profile.kind, profile.velocity, profile.acceleration)
                self.set_operating_modes(kind, name, mode.mode, *values, now_ns=0)
                self.enable_torque(kind, name, mode.torque, 0)

    # What is measured ----------------------------------------------------------------------------

    def sample(self, now_ns: int) -> tuple[list[float], list[float]]:
        """Return positions (rad) and velocities (rad/s) in the order of joint_states."""
        with self._lock:
            self._write_due(now_ns)
            pairs = [joint.sample(now_ns) for joint in self._joints.values()]
        return [position for position, _ in pairs], [velocity for _, velocity in pairs]

    def joint_states(self, now_ns: int) -> tuple[list[str], list[float], list[float]]:
        """Return names, positions and velocities as published: motors, then the fingers (m)."""
        positions, velocities = self.sample(now_ns)
        names = list(self.config.joints)
        for name in self.config.joints:
            gripper = self.config.grippers.get(name)
            if gripper is not None:
                finger = gripper.finger(positions[names.index(name)])
                names += [gripper.left, gripper.right]
                positions += [finger, -finger]
                velocities += [0.0, 0.0]
        return names, positions, velocities

    def fallen(self) -> list[str]:
        """Return the joints without torque."""
        return [name for name, joint in self._joints.items() if not joint.torque]

    def place(self, positions: Mapping[str, float]) -> None:
        """Put motors to rest at positions (rad), at once: a simulation begins anew."""
        with self._lock:
            for name, position in positions.items():
                self._joints[name].speed = 0.0
                self._joints[name].goals.clear()
                self._joints[name].profile.rest(position)

    # Commands ------------------------------------------------------------------------------------

    def write_group(self, name: str, values: Sequence[float], now_ns: int) -> str | None:
        """Take a JointGroupCommand; return why motors did not get it, or None."""
        with self._lock:
            joints = self._found(self.config.groups, name)
            if len(values) != len(joints):
                return (
                    f'Number of commands ({len(values)}) does not match the number of joints in '
                    f"group '{name}' ({len(joints)}). Will not execute."
                )
            mode = self._group_modes[name].mode
            if mode not in MODES:
                return "Invalid command for argument 'mode' while commanding joint group."
            pairs = zip(joints, values, strict=True)
            said = [self._write(joint, mode, value, now_ns) for joint, value in pairs]
        return '; '.join(text for text in said if text) or None

    def write_single(self, name: str, value: float, now_ns: int) -> str | None:
        """Take a JointSingleCommand; return why the motor did not get it, or None."""
        with self._lock:
            self._alive()
            if name not in self._joints:
                return f"Invalid command for argument 'mode' while commanding joint '{name}'."
            return self._write(name, self._joints[name].mode, value, now_ns)

    def write_trajectory(
        self,
        cmd_type: str,
        name: str,
        times: Sequence[tuple[int, int]],
        rows: Sequence[Sequence[float]],
        now_ns: int,
    ) -> str | None:
        """
        Take a JointTrajectoryCommand; return why it is rejected, or None.

        times [P]: (sec, nanosec) of time_from_start; rows [P, J]: positions, velocities or
        efforts, as the mode wants.
        """
        with self._lock:
            self._write_due(now_ns)
            if now_ns < self._ends_ns:
                return 'Trajectory rejected since joints are still moving.'
            if len(rows) < 2:
                return 'Trajectory has fewer than 2 points. Aborting...'
            if cmd_type == GROUP:
                self._found(self.config.groups, name)
            at_ns = now_ns
            for index in range(1, len(rows)):
                self._due.append(_Due(at_ns, self._point(cmd_type, name, rows[index], at_ns)))
                at_ns += (times[index][1] - times[index - 1][1]) % 2**32
            self._ends_ns = at_ns
        return None

    # Services ------------------------------------------------------------------------------------

    def set_operating_modes(
        self,
        cmd_type: str,
        name: str,
        mode: str,
        profile_type: str,
        profile_velocity: int,
        profile_acceleration: int,
        now_ns: int,
    ) -> str | None:
        """Change mode and profile; the motors are without torque for a moment."""
        profile = ProfileRegisters(profile_type, profile_velocity, profile_acceleration)

        def change(joint: MotorState) -> None:
            joint.stop(now_ns)  # torque off and on: the goal is where the joint is
            joint.torque = True
            if mode not in MODES:
                return
            joint.mode = mode
            if mode != CURRENT_POSITION:  # there the driver leaves the registers as they are
                joint.profile.registers = profile

        reason = self._each(cmd_type, name, change)
        if reason is None and cmd_type == GROUP:
            self._group_modes[name] = Mode(mode, profile)  # also a mode that no motor took
        if reason is None and mode not in MODES:
            reason = "Invalid command for argument 'mode' while setting the operating mode"
        return reason

    def enable_torque(self, cmd_type: str, name: str, on: bool, now_ns: int) -> str | None:
        """Torque motors on or off; without it they fall to their sleep positions."""
        return self._each(cmd_type, name, lambda joint: joint.power(on, now_ns))

    def set_registers(self, cmd_type: str, name: str, register: str, value: int) -> str | None:
        """Write a register; Profile_Velocity and Profile_Acceleration change the filter."""

        def write(joint: MotorState) -> None:
            joint.registers[register] = value
            old = joint.profile.registers
            if register == 'Profile_Velocity':
                joint.profile.registers = ProfileRegisters(old.kind, value, old.acceleration)
            elif register == 'Profile_Acceleration':
                joint.profile.registers = ProfileRegisters(old.kind, old.velocity, value)

        return self._each(cmd_type, name, write)

    def registers(self, cmd_type: str, name: str, register: str) -> list[int]:
        """Return a register of each motor; 0 where it was never written."""
        found: list[int] = []

        def read(joint: MotorState) -> None:
            profile = joint.profile.registers
            known = {
                'Profile_Velocity': profile.velocity,
                'Profile_Acceleration': profile.acceleration,
                'Torque_Enable': int(joint.torque),
            }
            found.append(known.get(register, joint.registers.get(register, 0)))

        self._each(cmd_type, name, read)
        return found

    def info(self, cmd_type: str, name: str) -> dict[str, Any] | str:
        """Return get_robot_info's answer less the limits, or why there is none."""
        reason = self._unknown(cmd_type, name)
        if reason is not None:
            return reason
        with self._lock:
            joints = self.config.groups[name] if cmd_type == GROUP else (name,)
            first = self._joints[name] if cmd_type == SINGLE else None
            group = self._group_modes[name] if first is None else None
            states, _, _ = self.joint_states(0)
            names, sleep = [], []
            for joint in joints:
                gripper = self.config.grippers.get(joint)
                names.append(joint if gripper is None else gripper.left)
                at = self.config.sleep[joint] if gripper is None else gripper.finger(0.0)
                sleep.append(at)
            return {
                'mode': group.mode if first is None else first.mode,
                'profile_type': (group.profile if first is None else first.profile.registers).kind,
                'joint_names': names,
                'joint_ids': [self.config.motors[joint].motor_id for joint in joints],
                'joint_sleep_positions': sleep,
                'joint_state_indices': [states.index(joint) for joint in names],
                'num_joints': len(names),
                'name': list(self.config.groups) if name == 'all' else [name],
            }

    # Within --------------------------------------------------------------------------------------

    def _write(self, name: str, mode: str, value: float, now_ns: int) -> str | None:
        """Write one motor in a mode; return why it has no effect."""
        joint = self._joints[name]
        if not math.isfinite(value):
            return f'{name}: {value} (the real driver does not look: undefined)'
        if mode == LINEAR:
            gripper = self.config.grippers.get(name)
            value = math.nan if gripper is None else gripper.angle(value)
            if math.isnan(value):
                return f'{name}: linear_position out of the reach of its crank'
        return joint.write(mode, value, now_ns)

    def _point(
        self, cmd_type: str, name: str, row: Sequence[float], at_ns: int
    ) -> Callable[[], Any]:
        if cmd_type == GROUP:
            return lambda: self.write_group(name, row, at_ns)
        return lambda: self.write_single(name, row[0], at_ns)

    def _write_due(self, now_ns: int) -> None:
        while self._due and self._due[0].at_ns <= now_ns:
            self._due.pop(0).write()

    def _each(self, cmd_type: str, name: str, work: Callable[[MotorState], None]) -> str | None:
        """Do something with a motor or every one of a group; return why not."""
        reason = self._unknown(cmd_type, name)
        if reason is not None:
            return reason
        with self._lock:
            for joint in self.config.groups[name] if cmd_type == GROUP else (name,):
                work(self._joints[joint])
        return None

    def _unknown(self, cmd_type: str, name: str) -> str | None:
        self._alive()
        if cmd_type not in (GROUP, SINGLE):
            return f"cmd_type was '{cmd_type}'. Choices are 'group' or 'single'."
        if cmd_type == GROUP and name not in self.config.groups:
            return f"Group '{name}' does not exist. Was it added to the motor config file?"
        if cmd_type == SINGLE and name not in self._joints:
            return f"Joint '{name}' does not exist. Was it added to the motor config file?"
        return None

    def _found(self, known: Mapping[str, Result], name: str) -> Result:
        """Return known[name] as std::map::at does: an unknown one ends the driver."""
        self._alive()
        if name not in known:
            self.dead = f'group {name!r} is not in motor_configs: std::out_of_range'
        self._alive()
        return known[name]

    def _alive(self) -> None:
        if self.dead:
            raise DriverDied(f'xs_sdk died: {self.dead}; the motors hold')
