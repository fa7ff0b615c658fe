"""The arm's volume: exact gaps on small cases, and the WidowX's against MuJoCo's geometry."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from qwen_vla_ros.capsules import CapsuleModel
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import KinematicsError
from qwen_vla_ros.safety import SafetyGate, capsule_model
from qwen_vla_ros.safety_contract import Capsule, Capsules, Plane
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.world import TabletopWorld

CONTRACT = Embodiment.load('widowx')
MODEL = capsule_model(CONTRACT)
LINKS = ('base', 'shoulder', 'upper_arm', 'upper_forearm', 'lower_forearm', 'wrist', 'gripper')
LEFT_OUT = (LINKS.index('upper_arm'), LINKS.index('base'))  # as the contract's ignore does
DEEP = 0.004  # m; a capsule may cut the corner of a box by less


def free(start, end, radius=0.1) -> CapsuleModel:
    """A fixed capsule along x from 0 to 1, and one between two points in a joint's frame."""
    parts = (
        Capsule('fixed', 'a', (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.1),
        Capsule('moving', 'c', tuple(start), tuple(end), radius),
    )
    still = np.tile(np.eye(4)[:3], (3, 1, 1))
    kinematics = SimpleNamespace(
        link_place=lambda link: ({'a': 0, 'c': 2}[link], np.eye(4)),
        joint_transforms=lambda rows: np.stack([still] * len(rows)),
    )
    floor = Plane('floor', (0.0, 0.0, 1.0), -1.0)
    return CapsuleModel(Capsules(parts, (), (floor,)), kinematics)


@pytest.mark.parametrize(
    ('start', 'end', 'distance'),
    [
        ((0.0, 0.5, 0.0), (1.0, 0.5, 0.0), 0.5),
        ((0.5, -1.0, 0.3), (0.5, 1.0, 0.3), 0.3),
        ((2.0, 0.0, 0.0), (3.0, 0.0, 0.0), 1.0),
        ((-1.0, 1.0, 0.0), (-1.0, 1.0, 0.0), 2**0.5),
        ((0.2, 0.4, 0.0), (0.2, 0.9, 0.0), 0.4),
        ((0.5, -1.0, 0.0), (0.5, 1.0, 0.0), 0.0),
    ],
    ids=['parallel', 'crossed', 'in line', 'point', 'end to side', 'through'],
)
def test_gaps_of_two_segments(start, end, distance):
    assert free(start, end).pair_gaps(np.zeros(1))[0, 0] == pytest.approx(distance - 0.2)


def test_gaps_are_the_least_of_many_points():
    rng = np.random.default_rng(0)
    along = np.linspace(0, 1, 201)[:, None]
    for _ in range(50):
        start, end = rng.uniform(-1, 2, (2, 3))
        one, other = along * [1.0, 0, 0], start + along * (end - start)
        found = np.linalg.norm(one[:, None] - other[None], axis=-1).min()
        gap = free(start, end).pair_gaps(np.zeros(1))[0, 0] + 0.2
        assert found - 0.01 <= gap <= found + 1e-9


def test_a_capsule_on_a_plane_is_told_by_its_end():
    model = free((5.0, 0.0, 0.0), (5.0, 0.0, -0.95))
    assert model.plane_gaps(np.zeros(1))[0, 0, 0] == pytest.approx(-0.05)
    verdict = model.problem(np.zeros((3, 1)), 0.001)
    assert verdict.reason == 'row 0: gap of moving to floor -0.05 m < limit 0 m'
    assert (verdict.joint, verdict.unit) == ('moving to floor', 'm')


def test_neighbours_and_ignored_pairs_are_left_out():
    pairs = {frozenset(MODEL.names[part] for part in pair) for pair in MODEL.pairs}
    assert frozenset(('column', 'upper_arm')) not in pairs
    assert frozenset(('upper_arm', 'forearm')) not in pairs
    assert frozenset(('hand', 'camera')) not in pairs
    assert frozenset(('upper_arm', 'wrist')) in pairs


def test_an_unknown_link_is_refused():
    capsules = Capsules((Capsule('x', 'tail_link', (0, 0, 0), (0, 0, 1), 0.1),))
    from qwen_vla_ros.kinematics import ArmKinematics

    with pytest.raises(KinematicsError, match="no link 'tail_link' in the description; it has"):
        CapsuleModel(capsules, ArmKinematics(CONTRACT.description_path, 'ee_gripper_link'))


class Geometry:
    """MuJoCo's own shapes of the arm: distances of links that are no neighbours, and to table."""

    def __init__(self) -> None:
        self.world = TabletopWorld(render=False)
        model = self.world.model
        self.geoms = [g for g in range(model.ngeom) if self.world._is_arm[g]]
        self.order = {g: self._link(model.body(model.geom_bodyid[g]).name) for g in self.geoms}
        self.pairs = [
            (a, b)
            for a in self.geoms
            for b in self.geoms
            if self.order[a] > self.order[b] + 1 and (self.order[a], self.order[b]) != LEFT_OUT
        ]
        self.table = model.geom('table').id

    @staticmethod
    def _link(name: str) -> int:
        name = name.removesuffix('_link')
        return LINKS.index(name) if name in LINKS else len(LINKS) - 1

    def gaps(self, q) -> tuple[float, float]:
        """Return the least distance to itself and to the table, 5 cm at most."""
        self.world.set_posture(q)
        model, data = self.world.model, self.world.data
        own = min(mujoco.mj_geomDistance(model, data, a, b, 0.05, None) for a, b in self.pairs)
        moving = [g for g in self.geoms if self.order[g] > 0]
        table = min(mujoco.mj_geomDistance(model, data, g, self.table, 0.05, None) for g in moving)
        return own, table


def task_postures(count: int) -> np.ndarray:
    """Random postures over the objects' area and where episodes begin."""
    rng, found = np.random.default_rng(1), []
    while len(found) < count:
        tip = rng.uniform((0.15, -0.25, 0.03), (0.45, 0.25, 0.30))
        pitch = np.pi / 2 + rng.uniform(-0.4, 0.4)
        if arm.reachable(tip, pitch):
            q = arm.inverse(tip, pitch)
            q[[3, 5]] += rng.uniform((-0.3, -1.5), (0.3, 1.5))
            found.append([*q, rng.uniform(0.015, 0.037)])
    return np.array(found)


def test_no_posture_of_the_task_is_refused():
    geometry = Geometry()
    postures = [q for q in task_postures(2000) if min(geometry.gaps(q)) > 0]
    assert len(postures) > 1900
    refused = MODEL.problem(np.array(postures)[:, :6], 0.001)
    assert refused is None, refused


def test_what_touches_in_mujoco_is_refused():
    geometry, rng = Geometry(), np.random.default_rng(2)
    postures = rng.uniform(arm.LOWER, arm.UPPER, (1200, 7))
    gaps = np.array([geometry.gaps(q) for q in postures])
    own, table = MODEL.pair_gaps(postures[:, :6]), MODEL.plane_gaps(postures[:, :6])
    deep = gaps < -DEEP
    assert deep.sum(axis=0).min() >= 50
    assert (own.min(axis=1)[deep[:, 0]] < 0).all()
    assert (table.min(axis=(1, 2))[deep[:, 1]] < 0).all()


def test_the_gate_refuses_a_row_that_meets_the_arm_itself():
    gate = SafetyGate(CONTRACT, capsules=MODEL)
    verdict = gate.check_row(np.array([0.0, -1.6, 1.5, 0.0, 0.8, 0.0, 0.03]), np.zeros(7), 5)
    assert verdict.reason.startswith('row 0: gap of wrist to shoulder -0.026')
    assert gate.latch_state.cause == 'refused row'
