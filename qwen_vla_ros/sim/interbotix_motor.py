"""
One Dynamixel motor as it runs: mode, torque, profile, registers. See interbotix_arm.py.

In a mode with goals its profile moves it; in the modes velocity, pwm and current it runs at a
constant speed, in proportion to the command, up to its limits.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from qwen_vla_ros.sim.interbotix_config import (
    CURRENT,
    GOAL_MODES,
    LINEAR,
    POSITION,
    PWM,
    VELOCITY,
    Motor,
)
from qwen_vla_ros.sim.motor_profile import MotorProfile, ProfileRegisters

# XM430-W350 at 12 V: 46 rev/min without load, at 885 units of PWM; 1193 units of 2.69 mA.
NO_LOAD, FULL_PWM, FULL_CURRENT = 4.8, 885.0, 3209.0
FALL = ProfileRegisters('velocity', 1023, 10)  # 3.7 rad/s^2: our choice, an outstretched arm's


@dataclass
class MotorState:
    """A motor as it runs: in a goal mode the profile moves it, else a constant speed."""

    motor: Motor
    profile: MotorProfile
    sleep: float
    mode: str = POSITION
    torque: bool = True
    speed: float = 0.0
    since_ns: int = 0
    registers: dict[str, int] = field(default_factory=dict)
    goals: deque[tuple[int, float]] = field(default_factory=deque)  # instant, not begun yet

    def sample(self, now_ns: int) -> tuple[float, float]:
        """Return position (rad) and velocity (rad/s) by the goals until an instant."""
        while self.goals and self.goals[0][0] <= now_ns:
            at_ns, goal = self.goals.popleft()
            self.profile.aim(goal, at_ns)
        position, velocity = self.profile.sample(now_ns)
        if not self.speed or not self.torque:
            return position, velocity
        moved = position + self.speed * max(0, now_ns - self.since_ns) * 1e-9
        stopped = min(max(moved, self.motor.lower), self.motor.upper)
        return stopped, self.speed if stopped == moved else 0.0

    def stop(self, now_ns: int) -> None:
        """Be at rest where it is."""
        position, _ = self.sample(now_ns)
        self.speed = 0.0
        self.profile.rest(position)

    def power(self, on: bool, now_ns: int) -> None:
        """Take the torque off or on; on holds what is."""
        if on == self.torque:
            return
        self.stop(now_ns)
        self.torque = on
        kept = self.profile.registers
        if not on:
            self.profile.registers = FALL
            self.profile.aim(self.sleep, now_ns)
        self.profile.registers = kept

    def write(self, mode: str, value: float, now_ns: int) -> str | None:
        """Take a finite command that was made for a mode; return why it has no effect."""
        name, written = self.motor.name, POSITION if mode == LINEAR else mode
        own = POSITION if self.mode == LINEAR else self.mode
        if written != own and not (written in GOAL_MODES and own in GOAL_MODES):
            return f'{name}: the motor is in mode {self.mode} and ignores {mode} commands'
        if not self.torque:
            return f'{name}: the motor is without torque'
        if own not in GOAL_MODES:
            full = {VELOCITY: NO_LOAD, PWM: FULL_PWM, CURRENT: FULL_CURRENT}[own]
            share = (value if own == VELOCITY else math.trunc(value)) / full
            self._drive(NO_LOAD * min(1.0, max(-1.0, share)), now_ns)
            return None
        low, high = self.motor.lower, self.motor.upper
        if own == POSITION and not low <= value <= high:
            return f'{name}: goal {value:.3f} rad outside {low:.3f} .. {high:.3f}: ignored'
        self.goals.append((now_ns, value))
        return None

    def _drive(self, speed: float, now_ns: int) -> None:
        self.stop(now_ns)
        self.speed, self.since_ns = speed, now_ns
