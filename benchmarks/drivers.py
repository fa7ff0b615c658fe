"""
Tracking error of a joint: the vendor's stock way to drive it / ours; more ways in the note.

A smooth motion of the waist (a swing of 0.4 rad in 4 s and one of 0.1 rad in 1.3 s, at most
1.1 rad/s) goes through the simulated drivers and motors into the simulated arm: root mean square
of what is measured against what was wanted, over 16 s, and the largest acceleration. Baseline:
the vendor's ros2_control bring-up (10 Hz, profile 131/25). Ours: config/controllers (100 Hz, 0/0).
Beside them: JointGroupCommand at 50 Hz in the vendor's default modes (time profile 2000/300) and
in ours. The motors get positions only, as Dynamixel's in mode position do. Deterministic.
"""

from collections.abc import Callable

import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.sim.motor_profile import MotorProfile, ProfileRegisters
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.world import TabletopWorld

MS = 1_000_000
END_MS, SETTLE_MS = 20_000, 4_000
OURS = ProfileRegisters('velocity', 0, 0)
ROS2_CONTROL = ProfileRegisters('velocity', 131, 25)  # interbotix_xsarm_ros_control, modes.yaml
DEFAULT = ProfileRegisters('time', 2000, 300)  # interbotix_xsarm_control, modes.yaml


def wanted(time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the motion's positions and velocities, rad and rad/s."""
    slow, fast = 2 * np.pi / 4.0, 2 * np.pi / 1.3
    position = 0.4 * np.sin(slow * time_s) + 0.1 * np.sin(fast * time_s)
    return position, 0.4 * slow * np.cos(slow * time_s) + 0.1 * fast * np.cos(fast * time_s)


def trajectories(update_ms: int) -> Callable[[int], float]:
    """Return a joint_trajectory_controller that gets the next 0.3 s at 20 Hz, as ours stream."""
    controller = TrajectoryController(('waist',), [0.0])
    ahead = np.arange(1, 7) * 0.05

    def sample(now_ms: int) -> float:
        if now_ms % 50 == 0:
            position, velocity = wanted(now_ms * 1e-3 + ahead)
            velocity[-1] = 0.0
            now_ns = (now_ms + 1) * MS  # 0 would mean: now
            rows = position[:, None], velocity[:, None]
            controller.accept(('waist',), ahead, *rows, now_ns, now_ns)
        held_ms = now_ms - now_ms % update_ms
        return float(controller.sample((held_ms + 1) * MS)[0][0])

    return sample


def stream(now_ms: int) -> float:
    """Return the newest position of a stream at 50 Hz."""
    return float(wanted(np.array((now_ms - now_ms % 20) * 1e-3))[0])


def followed(command: Callable[[int], float], registers: ProfileRegisters) -> tuple[float, float]:
    """Return RMS error in rad, and the largest acceleration in rad/s^2, of the measured waist."""
    profile, last = MotorProfile(0.0, registers), None
    world = TabletopWorld(render=False)
    world.reset(0)
    posture = world.positions()
    posture[0] = 0.0
    world.set_posture(posture)
    found = []
    for now_ms in range(0, END_MS, 10):
        value = command(now_ms)
        if value != last:
            profile.aim(value, now_ms * MS)
            last = value
        found.append((world.positions()[0], world.velocities()[0]))
        posture[0] = profile.sample(now_ms * MS)[0]
        world.set_targets(posture)
        world.step(0.01)
    world.close()
    position, velocity = np.array(found)[SETTLE_MS // 10 :].T
    error = position - wanted(np.arange(SETTLE_MS, END_MS, 10) * 1e-3)[0]
    return float(np.sqrt(np.mean(error**2))), float(np.abs(np.diff(velocity)).max() / 0.01)


WAYS = {
    'trajectories, 10 Hz, 131/25 (stock)': (lambda: trajectories(100), ROS2_CONTROL),
    'trajectories, 10 Hz, 0/0': (lambda: trajectories(100), OURS),
    'trajectories, 100 Hz, 131/25': (lambda: trajectories(10), ROS2_CONTROL),
    'trajectories, 100 Hz, 0/0 (ours)': (lambda: trajectories(10), OURS),
    'JointGroupCommand, 50 Hz, time 2000/300 (stock)': (lambda: stream, DEFAULT),
    'JointGroupCommand, 50 Hz, 131/25': (lambda: stream, ROS2_CONTROL),
    'JointGroupCommand, 50 Hz, 0/0 (ours)': (lambda: stream, OURS),
}


def run() -> Result:
    """Drive the motion through every way."""
    found = {name: followed(make(), registers) for name, (make, registers) in WAYS.items()}
    note = '; '.join(
        f'{name}: {error * 1e3:.0f} mrad, {most:.0f} rad/s^2'
        for name, (error, most) in found.items()
    )
    errors = [error for error, _ in found.values()]
    return Result('drivers', errors[0], errors[3], 2.0, 'rad RMS', note)


if __name__ == '__main__':
    main(run)
