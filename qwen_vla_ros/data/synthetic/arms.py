"""
The six arms of the synthetic text-action set, as data (paper, section 3.2.3).

Chains are in modified Denavit-Hartenberg form (Craig): joint i stands at Rx(alpha) Tx(a)
Rz(offset) Tz(d) of the joint before it and turns about z. The figures are the vendors' own:

  Franka Panda  Franka Control Interface, "Denavit-Hartenberg parameters" and "Limits"
  UR5e, UR10e   Universal Robots, "DH parameters for calculations of kinematics and dynamics"
  Kinova Gen3   Gen3 user guide, "Denavit-Hartenberg parameters" (7 joints) and "Actuator limits"
  TM12          Techman TM12 hardware manual; nominal chain as in tm_description of tmr_ros2
  xArm7         UFACTORY xArm user manual, "Kinematic and dynamic parameters"

Classical tables were rewritten row by row. Joints that turn without end, or by 360 degrees, stop
at 180 here (UR elbows too, as their driver has it): a plan never winds a cable up. Capsules are
ours: segments along the links, radii a little above the housings; where a vendor's arm steps
aside, the capsule does. The tool of every arm is one parallel gripper of 0.15 m and 85 mm.
"""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.safety_contract import Capsule

TOOL_M = 0.15  # flange to the point between the finger tips
OPEN_M = 0.085  # between the fingers
TABLE_CLEARANCE_M = 0.004
HALF, FREE = np.pi / 2, np.pi


@dataclass(frozen=True)
class Joint:
    """One row of the chain: m and rad; lower, upper rad; speed rad/s."""

    a: float
    alpha: float
    d: float
    offset: float
    lower: float
    upper: float
    speed: float


@dataclass(frozen=True)
class Arm:
    """
    One arm on a table whose top is z = 0.

    name     as samples carry it; tag: as the prompt says it
    flange   m along, and rad about x of, the last joint's frame
    capsules on base, and on link1 ... which the joints move
    home     rad, a posture with the hand over the table, free of contact
    reach    m, distances from the base axis between which things are placed
    """

    name: str
    tag: str
    joints: tuple[Joint, ...]
    flange: tuple[float, float]
    capsules: tuple[Capsule, ...]
    home: tuple[float, ...]
    reach: tuple[float, float]


def _ur(name: str, tag: str, d1: float, a2: float, a3: float, wrist: tuple[float, float, float],
        speeds: tuple[float, ...], sides: tuple[float, float], radii: tuple[float, ...],
        home: tuple[float, ...], reach: tuple[float, float]) -> Arm:  # fmt: skip
    """Return a UR arm; sides: m aside of the shoulder axis at which both long links run."""
    d4, d5, d6 = wrist
    upper, fore = sides
    rows = (
        (0.0, 0.0, d1), (0.0, HALF, 0.0), (a2, 0.0, 0.0), (a3, 0.0, d4), (0.0, HALF, d5),
        (0.0, -HALF, d6),
    )  # fmt: skip
    joints = tuple(
        # The base is turned half round, so that the arm at zero lies ahead (REP-103).
        Joint(a, alpha, d, 0.0 if number else np.pi, -FREE, FREE, speed)
        for number, ((a, alpha, d), speed) in enumerate(zip(rows, speeds, strict=True))
    )
    origin = (0.0, 0.0, 0.0)
    capsules = (
        Capsule('base', 'base', origin, (0.0, 0.0, d1), radii[0]),
        Capsule('shoulder', 'link1', origin, (0.0, -upper, 0.0), radii[1]),
        Capsule('upper arm', 'link2', (0.0, 0.0, upper), (a2, 0.0, upper), radii[2]),
        Capsule('forearm', 'link3', (0.0, 0.0, fore), (a3, 0.0, fore), radii[3]),
        Capsule('wrist 1', 'link4', (0.0, 0.0, fore - d4), origin, radii[4]),
        Capsule('wrist 2', 'link5', (0.0, 0.0, -d5), origin, radii[4]),
        Capsule('wrist 3', 'link6', (0.0, 0.0, -d6), origin, radii[4]),
    )
    return Arm(name, tag, joints, (0.0, 0.0), capsules, home, reach)


def _joints(rows: tuple[tuple[float, ...], ...]) -> tuple[Joint, ...]:
    return tuple(Joint(*row) for row in rows)


_DEGREE = np.pi / 180

PANDA = Arm(
    'franka_panda',
    'Franka Panda',
    _joints((
        (0.0, 0.0, 0.333, 0.0, -2.8973, 2.8973, 2.175),
        (0.0, -HALF, 0.0, 0.0, -1.7628, 1.7628, 2.175),
        (0.0, HALF, 0.316, 0.0, -2.8973, 2.8973, 2.175),
        (0.0825, HALF, 0.0, 0.0, -3.0718, -0.0698, 2.175),
        (-0.0825, -HALF, 0.384, 0.0, -2.8973, 2.8973, 2.61),
        (0.0, HALF, 0.0, 0.0, -0.0175, 3.7525, 2.61),
        (0.088, HALF, 0.0, 0.0, -2.8973, 2.8973, 2.61),
    )),
    (0.107, 0.0),
    (
        Capsule('base', 'base', (0.0, 0.0, 0.0), (0.0, 0.0, 0.333), 0.075),
        Capsule('upper arm', 'link2', (0.0, 0.0, 0.0), (0.0, -0.316, 0.0), 0.065),
        Capsule('elbow', 'link3', (0.0, 0.0, 0.0), (0.0825, 0.0, 0.0), 0.06),
        Capsule('forearm', 'link4', (-0.0825, 0.05, 0.0), (-0.0825, 0.384, 0.0), 0.06),
        Capsule('wrist', 'link6', (0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.05),
        Capsule('flange', 'link7', (0.0, 0.0, -0.04), (0.0, 0.0, 0.107), 0.045),
    ),
    (0.0, -0.5, 0.0, -2.3, 0.0, 1.8, 0.7854),
    (0.30, 0.68),
)  # fmt: skip

UR5E = _ur(
    'ur5e', 'UR5e', 0.1625, -0.425, -0.3922, (0.1333, 0.0997, 0.0996), (FREE,) * 6,
    (0.138, 0.007), (0.07, 0.06, 0.058, 0.045, 0.043),
    (0.0, -1.75, 1.9, -1.72, -HALF, 0.0), (0.28, 0.72),
)  # fmt: skip

UR10E = _ur(
    'ur10e', 'UR10e', 0.1807, -0.6127, -0.57155, (0.17415, 0.11985, 0.11655),
    (120 * _DEGREE,) * 2 + (FREE,) * 4, (0.176, 0.049), (0.09, 0.08, 0.075, 0.06, 0.048),
    (0.0, -1.85, 2.2, -1.92, -HALF, 0.0), (0.35, 1.05),
)  # fmt: skip

_BIG, _SMALL = 79.64 * _DEGREE, 69.91 * _DEGREE  # the Gen3's two sizes of actuator
GEN3 = Arm(
    'kinova_gen3',
    'Kinova Gen3',
    _joints((
        (0.0, np.pi, -0.2848, 0.0, -FREE, FREE, _BIG),
        (0.0, HALF, -0.0118, np.pi, -2.24, 2.24, _BIG),
        (0.0, HALF, -0.4208, np.pi, -FREE, FREE, _BIG),
        (0.0, HALF, -0.0128, np.pi, -2.57, 2.57, _BIG),
        (0.0, HALF, -0.3143, np.pi, -FREE, FREE, _SMALL),
        (0.0, HALF, 0.0, np.pi, -2.09, 2.09, _SMALL),
        (0.0, HALF, -0.1674, np.pi, -FREE, FREE, _SMALL),
    )),
    (0.0, np.pi),
    (
        Capsule('base', 'base', (0.0, 0.0, 0.0), (0.0, 0.0, 0.2848), 0.055),
        Capsule('upper arm', 'link2', (0.0, 0.0, 0.0), (0.0, 0.4208, 0.0), 0.05),
        Capsule('forearm', 'link4', (0.0, 0.0, 0.0), (0.0, 0.3143, 0.0), 0.045),
        Capsule('wrist', 'link6', (0.0, 0.0, 0.0), (0.0, 0.09, 0.0), 0.04),
        Capsule('flange', 'link7', (0.0, 0.0, 0.07), (0.0, 0.0, 0.0), 0.04),
    ),
    (0.0, 0.1, 0.0, 1.9, 0.0, np.pi - 2.0, HALF),
    (0.30, 0.70),
)  # fmt: skip

TM12 = Arm(
    'tm12',
    'TM12',
    _joints((
        (0.0, 0.0, 0.1652, 0.0, -FREE, FREE, 120 * _DEGREE),
        (0.0, -HALF, 0.0, -HALF, -FREE, FREE, 120 * _DEGREE),
        (0.6361, 0.0, 0.0, 0.0, -2.8973, 2.8973, FREE),
        (0.5579, 0.0, -0.1563, HALF, -FREE, FREE, FREE),
        (0.0, HALF, 0.106, 0.0, -FREE, FREE, FREE),
        (0.0, HALF, 0.11315, 0.0, -FREE, FREE, FREE),
    )),
    (0.0, 0.0),
    (
        Capsule('base', 'base', (0.0, 0.0, 0.0), (0.0, 0.0, 0.1652), 0.09),
        Capsule('shoulder', 'link1', (0.0, 0.0, 0.0), (0.0, -0.19, 0.0), 0.08),
        Capsule('upper arm', 'link2', (0.0, 0.0, -0.19), (0.6361, 0.0, -0.19), 0.07),
        Capsule('forearm', 'link3', (0.0, 0.0, -0.05), (0.5579, 0.0, -0.05), 0.06),
        Capsule('wrist 1', 'link4', (0.0, 0.0, 0.1063), (0.0, 0.0, 0.0), 0.045),
        Capsule('wrist 2', 'link5', (0.0, 0.0, -0.106), (0.0, 0.0, 0.0), 0.045),
        Capsule('wrist 3', 'link6', (0.0, 0.0, -0.11315), (0.0, 0.0, 0.0), 0.045),
    ),
    (0.0, -0.35, 2.2, -0.28, HALF, 0.0),
    (0.35, 1.02),
)  # fmt: skip

XARM7 = Arm(
    'xarm7',
    'xArm7',
    _joints((
        (0.0, 0.0, 0.267, 0.0, -FREE, FREE, FREE),
        (0.0, -HALF, 0.0, 0.0, -2.059, 2.0944, FREE),
        (0.0, HALF, 0.293, 0.0, -FREE, FREE, FREE),
        (0.0525, HALF, 0.0, 0.0, -0.19198, 3.927, FREE),
        (0.0775, HALF, 0.3425, 0.0, -FREE, FREE, FREE),
        (0.0, HALF, 0.0, 0.0, -1.69297, FREE, FREE),
        (0.076, -HALF, 0.097, 0.0, -FREE, FREE, FREE),
    )),
    (0.0, 0.0),
    (
        Capsule('base', 'base', (0.0, 0.0, 0.0), (0.0, 0.0, 0.267), 0.065),
        Capsule('upper arm', 'link2', (0.0, 0.0, 0.0), (0.0, -0.293, 0.0), 0.055),
        Capsule('elbow', 'link3', (0.0, 0.0, 0.0), (0.0525, 0.0, 0.0), 0.055),
        Capsule('forearm', 'link4', (0.0775, -0.05, 0.0), (0.0775, -0.3425, 0.0), 0.05),
        Capsule('wrist', 'link6', (0.0, 0.0, 0.0), (0.076, 0.05, 0.0), 0.045),
        Capsule('flange', 'link7', (0.0, 0.0, -0.05), (0.0, 0.0, 0.0), 0.042),
    ),
    (0.0, -0.4, 0.0, 1.2, 0.0, 1.6, 0.0),
    (0.28, 0.62),
)  # fmt: skip

ARMS = {arm.name: arm for arm in (PANDA, UR10E, UR5E, GEN3, TM12, XARM7)}
