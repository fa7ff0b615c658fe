"""
The second trajectory filter: the profile that a Dynamixel motor lays over every goal position.

From the registers Profile_Velocity and Profile_Acceleration (ROBOTIS e-manual of the XM430-W350,
"Profile Velocity", "Profile Acceleration", "Drive Mode"): velocity 0 is no profile, each goal goes
straight to the position loop. With a velocity-based profile they limit speed (0.229 rev/min a
unit) and acceleration (214.577 rev/min^2; 0: at once); with a time-based one they are ms: how long
the motion takes, and how long it accelerates (at most half of that). A new goal begins a new
profile at the present speed, so goals that come at 50 Hz and would take 2 s each are followed
more than a second late. The manual's jerk control, which rounds the corners, is not modelled.

Times are int nanoseconds; positions rad.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

VELOCITY_UNIT = 0.229 * 2 * math.pi / 60  # rad/s: 131 units are 3.14 rad/s
ACCELERATION_UNIT = 214.577 * 2 * math.pi / 3600  # rad/s^2: 25 units are 9.4 rad/s^2
VELOCITY_BASED, TIME_BASED = 'velocity', 'time'


@dataclass(frozen=True)
class ProfileRegisters:
    """What the registers hold: kind 'velocity' or 'time', both values as integers."""

    kind: str = VELOCITY_BASED
    velocity: int = 0
    acceleration: int = 0


@dataclass(frozen=True)
class _Piece:
    """A stretch of constant acceleration: s since the goal, rad, rad/s, rad/s^2."""

    begin_s: float
    position: float
    velocity: float
    acceleration: float

    def at(self, time_s: float) -> tuple[float, float]:
        """Return position and velocity."""
        t = time_s - self.begin_s
        position = self.position + self.velocity * t + 0.5 * self.acceleration * t * t
        return position, self.velocity + self.acceleration * t


class MotorProfile:
    """The trajectory inside one motor."""

    def __init__(self, position: float, registers: ProfileRegisters | None = None) -> None:
        """Rest at a position."""
        self.registers = registers or ProfileRegisters()
        self.rest(position)

    def rest(self, position: float) -> None:
        """Be at rest at a position, at once."""
        self.goal = float(position)
        self._begin_ns, self._pieces = 0, [_Piece(0.0, self.goal, 0.0, 0.0)]

    def aim(self, goal: float, now_ns: int) -> None:
        """Begin the motion to a goal."""
        position, velocity = self.sample(now_ns)
        self.goal, self._begin_ns = float(goal), now_ns
        registers = self.registers
        if registers.kind == TIME_BASED:
            whole, ramp = registers.velocity * 1e-3, registers.acceleration * 1e-3
            steps = _timed(self.goal - position, velocity, whole, min(ramp, whole / 2))
        else:
            speed = registers.velocity * VELOCITY_UNIT
            rate = registers.acceleration * ACCELERATION_UNIT
            steps = _limited(self.goal - position, velocity, speed, rate)
        self._pieces = _joined(position, steps, self.goal)

    def sample(self, now_ns: int) -> tuple[float, float]:
        """Return the position (rad) and velocity (rad/s) that the motor's loop is given."""
        time_s = max(0.0, (now_ns - self._begin_ns) * 1e-9)
        piece = next(piece for piece in reversed(self._pieces) if piece.begin_s <= time_s)
        return piece.at(time_s)


def _timed(
    way: float, speed: float, whole_s: float, ramp_s: float
) -> list[tuple[float, float, float]]:
    """Return (s, rad/s, rad/s^2) of each piece of a motion over way that takes whole_s."""
    if whole_s <= 0.0:
        return []
    if ramp_s <= 0.0:
        return [(whole_s, way / whole_s, 0.0)]
    peak = (way - 0.5 * speed * ramp_s) / (whole_s - ramp_s)
    return [
        (ramp_s, speed, (peak - speed) / ramp_s),
        (whole_s - 2 * ramp_s, peak, 0.0),
        (ramp_s, peak, -peak / ramp_s),
    ]


def _limited(
    way: float, speed: float, most: float, rate: float
) -> list[tuple[float, float, float]]:
    """Return (s, rad/s, rad/s^2) of each piece of the quickest motion over way within limits."""
    if most <= 0.0 or not (way or speed):
        return []
    if rate <= 0.0:
        return [(abs(way) / most, math.copysign(most, way), 0.0)]
    sign = math.copysign(1.0, way - speed * abs(speed) / (2 * rate))
    way, speed = way * sign, speed * sign  # from here on the peak is positive
    peak = min(most, math.sqrt(max(0.0, rate * way + 0.5 * speed * speed)))
    rise = math.copysign(rate, peak - speed)
    first_s = (peak - speed) / rise
    last_s = peak / rate
    rest = way - 0.5 * (speed + peak) * first_s - 0.5 * peak * last_s
    cruise_s = max(0.0, rest / peak) if peak > 0.0 else 0.0
    pieces = [(first_s, speed, rise), (cruise_s, peak, 0.0), (last_s, peak, -rate)]
    return [(span, sign * v, sign * a) for span, v, a in pieces]


def _joined(start: float, steps: list[tuple[float, float, float]], goal: float) -> list[_Piece]:
    """Return the pieces one after the other, and rest at the goal."""
    found, begin_s = [], 0.0
    for span_s, velocity, acceleration in steps:
        piece = _Piece(begin_s, start, velocity, acceleration)
        start, begin_s = piece.at(begin_s + span_s)[0], begin_s + span_s
        found.append(piece)
    found.append(_Piece(begin_s, goal, 0.0, 0.0))
    return [piece for piece, after in pairwise(found) if after.begin_s > piece.begin_s] + found[
        -1:
    ]
