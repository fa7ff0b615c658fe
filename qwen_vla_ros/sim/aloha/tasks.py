"""
How both arms do a task, from where things lie: rows of absolute joints from the first posture on.

A cube is picked straight from above, turned with the hand until it is level, and taken from the
other side by fingers that stand upright. Peg and socket are picked with hands that lean, so that
hands and cameras keep clear of each other when the one is brought into the other.
"""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.motion import Motion
from qwen_vla_ros.sim.aloha.scene import other
from qwen_vla_ros.sim.aloha.vx300s import HandPose

OPEN, WIDE = 0.050, 0.056  # m, finger
SQUEEZE = 0.008  # m, further closed than the object is wide
MEETING_Z = 0.25  # m
CLEAR = 0.10  # m, above or before an object
LEAN = np.radians(66.0)
GRIP_BACK = 0.020  # m, how far from the middle of peg and socket the hands hold them
INSERTED = 0.042  # m


@dataclass(frozen=True)
class Place:
    """Where an object lies: the middle of its foot (m, table) and its yaw in rad."""

    x: float
    y: float
    yaw: float


def transfer_rows(q: np.ndarray, cube: Place, giver: str, step_s: float) -> np.ndarray:
    """Return rows [N, 14] from q [14]: giver lifts the cube, the other arm takes it."""
    taker, motion = other(giver), Motion(q, step_s)
    inward = 1.0 if giver == 'left' else -1.0  # x direction in which the giver's hand points
    closed = _closed_on(mjcf.CUBE)
    radial = float(np.arctan2(inward * cube.y, vx300s.BASE_X + inward * cube.x))
    turn = _nearest(radial - cube.yaw, np.pi / 2)
    at = [HandPose((cube.x, cube.y, z), radial, np.pi / 2, turn) for z in (CLEAR + 0.03, 0.019)]
    apart = [-inward * d for d in (CLEAR + 0.04, -0.002)]
    waits, takes = (HandPose((-x, 0.0, MEETING_Z), roll=np.pi / 2) for x in apart)
    offered = HandPose((0.0, 0.0, MEETING_Z))
    motion.swing({giver: at[0]}, {giver: OPEN})
    motion.line({giver: at[1]})
    motion.grip({giver: closed})
    motion.line({giver: at[0]})
    motion.swing({giver: offered, taker: waits}, {taker: OPEN})
    motion.line({taker: takes})
    motion.grip({taker: closed})
    motion.grip({giver: OPEN})
    motion.line({giver: HandPose((-inward * (CLEAR + 0.02), 0.0, MEETING_Z))})
    motion.line({taker: HandPose((inward * 0.06, 0.0, MEETING_Z), roll=np.pi / 2)})
    motion.wait(0.6)
    return motion.rows


def insertion_rows(q: np.ndarray, peg: Place, socket: Place, step_s: float) -> np.ndarray:
    """Return rows [N, 14] from q [14]: right lifts the peg, left the socket, peg into socket."""
    motion = Motion(q, step_s)
    motion.swing(_above(peg, socket, CLEAR), {'left': WIDE, 'right': OPEN})
    motion.line(_above(peg, socket, 0.0))
    motion.grip({'left': _closed_on(mjcf.SOCKET_OUTSIDE), 'right': _closed_on(mjcf.PEG[1])})
    motion.line(_above(peg, socket, CLEAR))
    middle = -0.05
    mouth = middle + mjcf.SOCKET_LENGTH / 2 + mjcf.PEG[0] / 2 + GRIP_BACK
    height = MEETING_Z + 0.02
    motion.swing(
        {
            'left': HandPose((middle - GRIP_BACK, 0.0, height), pitch=LEAN),
            'right': HandPose((mouth + 0.04, 0.0, height), pitch=LEAN),
        }
    )
    motion.line({'right': HandPose((mouth - INSERTED, 0.0, height), pitch=LEAN)})
    motion.wait(0.8)
    return motion.rows


def _above(peg: Place, socket: Place, clear: float) -> dict[str, HandPose]:
    """Return both hands at their grips on the lying peg and socket, clear m above them."""
    return {
        'left': _lean(socket, -GRIP_BACK, mjcf.SOCKET_OUTSIDE / 2 + clear),
        'right': _lean(peg, GRIP_BACK, mjcf.PEG[2] / 2 + clear),
    }


def _lean(place: Place, along: float, height: float) -> HandPose:
    """Return a leaning hand along an object's axis."""
    yaw = _nearest(place.yaw, np.pi)
    x, y = place.x + along * np.cos(yaw), place.y + along * np.sin(yaw)
    return HandPose((float(x), float(y), height), yaw, float(LEAN))


def _closed_on(width: float) -> float:
    """Return the finger joint that squeezes an object of a width."""
    return max(float(vx300s.VX300S.lower[6]), width / 2 + vx300s.FINGER_PAD - SQUEEZE)


def _nearest(angle: float, symmetry: float) -> float:
    """Return the angle nearest to zero that looks the same after turns by symmetry."""
    return float((angle + symmetry / 2) % symmetry - symmetry / 2)
