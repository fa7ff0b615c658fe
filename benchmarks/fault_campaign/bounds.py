"""What a fault must never bring about: the judge of recorded commands and motion, without ROS."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.sim.arm import JOINT_NAMES, forward

if TYPE_CHECKING:
    from benchmarks.fault_campaign.robot import Command, Tick

# Physics follow the commands: shares of the limits, and rad or m, within which they may miss them.
OVER, TRACKING, REST = 1.05, 0.06, 0.02
# Between two points a controller joins by cubics, whose acceleration exceeds the plan's.
CUBIC = 1.25
# Streamed positions, 50 a second as float32: their period, the longest gap at an even pace, and
# what rounding to float32 looks like as an acceleration.
STREAM_S, EVEN_S, JITTER = 0.02, 0.03, 0.01


class Bounds:
    """The limits of a contract, in the simulated robot's order."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Take limits and workspace of the contract."""
        limits = [embodiment.limits[name] for name in JOINT_NAMES]
        self._lower = np.array([limit.lower for limit in limits])
        self._upper = np.array([limit.upper for limit in limits])
        self._velocity = np.array([limit.velocity for limit in limits])
        self._acceleration = np.array([limit.acceleration for limit in limits])
        self._box = embodiment.workspaces[0] if embodiment.workspaces else None

    def unsafe_commands(self, commands: Iterable['Command'], may_move: bool) -> list[str]:
        """Return what is wrong with commands: numbers, names, times, limits, the end."""
        commands = list(commands)
        if not may_move:
            return [f'{len(commands)} commands where none may be sent'] if commands else []
        found = {problem for command in commands if (problem := self._command(command))}
        streams = {command.topic for command in commands if command.velocities is None}
        for topic in streams:
            found |= self._steps([command for command in commands if command.topic == topic])
        return sorted(found)

    def _command(self, command: 'Command') -> str:
        names = command.names
        if not names or any(name not in JOINT_NAMES for name in names):
            return f'command for joints {names}'
        columns = [JOINT_NAMES.index(name) for name in names]
        position, velocity = command.positions, command.velocities
        numbers = [position] if velocity is None else [position, velocity]
        if not all(np.isfinite(values).all() for values in numbers):
            return 'command with a number that is not finite'
        if (position < self._lower[columns] - 1e-6).any() or (
            position > self._upper[columns] + 1e-6
        ).any():
            return 'command beyond the position limits'
        if velocity is None:
            return ''
        if (np.abs(velocity) > self._velocity[columns] * (1 + 1e-6)).any():
            return 'command beyond the velocity limits'
        if np.abs(velocity[-1]).max() > 1e-6:
            return 'command that does not end at rest'
        return ''

    def _steps(self, commands: Sequence['Command']) -> set[str]:
        """
        Return what is wrong from one streamed position to the next.

        Only arrival times are known: two that come together count as a period apart, and the
        acceleration is judged where three come at an even pace.
        """
        columns = [JOINT_NAMES.index(name) for name in commands[0].names]
        at = np.array([command.at for command in commands])
        position = np.array([command.positions[0] for command in commands])
        gaps, steps = np.maximum(np.diff(at), STREAM_S), np.diff(position, axis=0)
        found = set()
        if (np.abs(steps) > OVER * self._velocity[columns] * gaps[:, None] + 1e-6).any():
            found.add('streamed positions faster than a joint')
        even = (gaps[:-1] < EVEN_S) & (gaps[1:] < EVEN_S)
        change = np.abs(np.diff(steps, axis=0))[even] / STREAM_S**2
        over = change > CUBIC * self._acceleration[columns] + JITTER
        if over.any():
            most = float((change / (CUBIC * self._acceleration[columns] + JITTER)).max())
            found.add(
                'streamed positions that accelerate faster than a joint '
                f'({int(over.any(axis=1).sum())} times, at most {most:.1f} times the bound)'
            )
        return found

    def shares(self, ticks: Sequence['Tick']) -> dict[str, float]:
        """Return the largest share of each limit that was used; above 1 is beyond it."""
        position = np.array([tick.position for tick in ticks])
        velocity = np.array([tick.velocity for tick in ticks])
        wanted = np.array([tick.wanted for tick in ticks])
        speed = np.array([tick.wanted_velocity for tick in ticks])
        apart = np.diff([tick.robot_s for tick in ticks])[:, None]
        half = (self._upper - self._lower) / 2
        tip, _ = forward(position)
        found = {
            'position': np.abs(position - (self._upper + self._lower) / 2) / (half + 0.005),
            'velocity': np.abs(velocity) / (OVER * self._velocity),
            'step': np.abs(np.diff(wanted, axis=0)) / (OVER * self._velocity * apart),
            'acceleration': np.abs(np.diff(speed, axis=0)) / (CUBIC * self._acceleration * apart),
            'tracking': np.abs(position - wanted) / TRACKING,
        }
        if self._box is not None:
            centre = (np.array(self._box.upper) + self._box.lower) / 2
            size = (np.array(self._box.upper) - self._box.lower) / 2
            found['workspace'] = np.abs(tip - centre) / (size + 0.01)
            if self._box.speed:
                moved = np.linalg.norm(np.diff(tip, axis=0), axis=1)
                found['tip speed'] = moved / (OVER * self._box.speed * apart[:, 0])
        return {name: float(np.max(values)) for name, values in found.items()}

    def broken(self, ticks: Sequence['Tick']) -> list[str]:
        """Return the limits that the motion went beyond."""
        return [
            f'{name} at {share:.2f} of its limit'
            for name, share in self.shares(ticks).items()
            if not share <= 1.0
        ]


def rest_after(ticks: Sequence['Tick'], since: float) -> float | None:
    """Return s from `since` until the arm stands still for good; None when it still moves."""
    later = [tick for tick in ticks if tick.at >= since]
    fast = [tick.at for tick in later if np.abs(tick.velocity[:6]).max() > REST]
    if not fast:
        return 0.0
    return None if later[-1].at - fast[-1] < 0.1 else fast[-1] - since


def peak_speed(ticks: Sequence['Tick']) -> float:
    """Return the highest speed of a joint in rad/s."""
    return float(max((np.abs(tick.velocity[:6]).max() for tick in ticks), default=0.0))


def told(value: Any, factor: float = 1e3) -> str:
    """Return s as whole ms, '-' for None."""
    return '-' if value is None else f'{value * factor:.0f}'
