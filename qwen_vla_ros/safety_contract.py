"""
What a contract says of safety: limits, workspace, the arm's volume, parking, and when to hold.

safety_reader.py reads it; SafetyGate (safety.py) holds to it. SI units; angles in rad.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ON_LIMIT = REJECT, CLAMP = ('reject', 'clamp')


@dataclass(frozen=True)
class JointLimit:
    """
    Position (rad or m), velocity (per s), acceleration (per s^2), jerk (per s^3; None: none).

    Positions and velocities come from the description and may be tightened by the contract.
    """

    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float | None = None


@dataclass(frozen=True)
class WorkspaceBox:
    """Where the tip may be, in m, in frame, and how fast, in m/s (None: joint limits only)."""

    frame: str
    tip: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    speed: float | None = None


@dataclass(frozen=True)
class Capsule:
    """A segment from start to end [3] in m, in the frame of link, with a radius in m."""

    name: str
    link: str
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Plane:
    """All points p in m, in the root link, with normal . p >= offset; normal has length 1."""

    name: str
    normal: tuple[float, float, float]
    offset: float


@dataclass(frozen=True)
class Capsules:
    """
    The volume of an arm, for distances to itself and to planes.

    ignore     pairs of capsules that may touch; neighbours on the chain always may
    clearance  m, the least gap
    """

    parts: tuple[Capsule, ...]
    ignore: tuple[tuple[str, str], ...] = ()
    planes: tuple[Plane, ...] = ()
    clearance: float = 0.0


@dataclass(frozen=True)
class Park:
    """
    Where the arm is put after a stop, and how.

    positions  joint -> rad or m; joints that are left out stay where they are
    scale      share of the velocity, acceleration and jerk limits on the way
    via        postures to go through when the straight way is refused, tried one at a time
    """

    positions: Mapping[str, float]
    scale: float = 0.2
    via: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Safety:
    """
    When the arm holds, and how commands go out.

    max_age_s            s, a stream older than this counts as lost
    max_skew_s           s, spread of the sources of one observation
    max_future_s         s, how far ahead of the clock a stamp may be
    inference_timeout_s  s, a slower model counts as lost
    command_rate_hz      Hz of the command timer
    lookahead_s          s, how far a command reaches; it ends at rest
    blend_s              s, shortest bridge from one chunk into the next
    splice               how chunks are joined: one of splice.MODES
    max_jump_rad, _m     first row of a chunk against the measured joints
    max_refused_chunks   refused chunks in a row that latch the stop
    max_clamped_chunks   clamped chunks in a row that latch the stop
    watchdog_s           s without a further checked row that latch a moving arm
    dead_man_s           s, a dead-man switch must be heard this often; None: there is none
    """

    max_age_s: float = 0.15
    max_skew_s: float = 0.06
    max_future_s: float = 0.05
    inference_timeout_s: float = 1.5
    command_rate_hz: float = 20.0
    lookahead_s: float = 0.3
    blend_s: float = 0.4
    splice: str = 'blend'
    max_jump_rad: float = 0.35
    max_jump_m: float = 0.02
    max_refused_chunks: int = 10
    max_clamped_chunks: int = 10
    watchdog_s: float = 0.2
    dead_man_s: float | None = None
