"""Parking: a checked way from rest to rest, by a detour when needed, or none at all."""

from dataclasses import replace

import numpy as np
import pytest

from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.interlocks import Interlocks
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.park import SAMPLE_S, ParkRefused, plan_park
from qwen_vla_ros.safety import SafetyGate, capsule_model
from qwen_vla_ros.safety_contract import Capsule, Park
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.world import TabletopWorld

CONTRACT = Embodiment.load('widowx')
TIP = ArmKinematics(CONTRACT.description_path, CONTRACT.workspaces[0].tip).tip_position
MODEL = capsule_model(CONTRACT)
OVER_TABLE = np.array([0.4, 0.1, 0.6, 0.1, 0.9, -0.3, 0.03])


def gate(interlocks=None) -> SafetyGate:
    return SafetyGate(CONTRACT, tip_position=TIP, capsules=MODEL, interlocks=interlocks)


def low_postures() -> tuple[np.ndarray, np.ndarray]:
    """Two postures on both sides, 2 cm over the table: between them something may stand."""
    tips = ((0.30, -0.25, 0.02), (0.30, 0.25, 0.02))
    return tuple(np.append(arm.inverse(np.array(tip)), 0.03) for tip in tips)


def with_park(goal: np.ndarray, *via: dict) -> Embodiment:
    positions = dict(zip(arm.ARM_JOINTS, goal, strict=False))
    return replace(CONTRACT, park=Park(positions, 0.2, via))


def test_the_way_starts_where_the_arm_stands_and_rests_at_both_ends():
    plan = plan_park(gate(), CONTRACT, OVER_TABLE, 7)
    np.testing.assert_array_equal(plan.positions[0], OVER_TABLE)
    for rates in (plan.velocities, plan.accelerations):
        np.testing.assert_allclose(rates[[0, -1]], 0.0, atol=1e-9)
    end = [CONTRACT.park.positions.get(name, 0.03) for name in plan.names]
    np.testing.assert_allclose(plan.positions[-1], end)
    assert (plan.start_ns, plan.via) == (7, 'straight')


def test_the_way_keeps_to_its_share_of_the_limits():
    plan = plan_park(gate(), CONTRACT, OVER_TABLE, 0)
    jerks = np.diff(plan.accelerations, axis=0) / SAMPLE_S
    for found, what in (
        (plan.velocities, 'velocity'),
        (plan.accelerations, 'acceleration'),
        (jerks, 'jerk'),
    ):
        limits = np.array([getattr(CONTRACT.limits[name], what) for name in plan.names])
        assert (np.abs(found) / limits).max() <= CONTRACT.park.scale * (1 + 1e-9), what


def test_the_rates_are_those_of_the_positions():
    plan = plan_park(gate(), CONTRACT, OVER_TABLE, 0)
    velocity = np.gradient(plan.positions, SAMPLE_S, axis=0)
    np.testing.assert_allclose(plan.velocities[2:-2], velocity[2:-2], atol=2e-3)


def test_every_posture_over_the_table_has_a_way():
    rng, found = np.random.default_rng(3), 0
    while found < 40:
        tip = rng.uniform((0.15, -0.25, 0.02), (0.45, 0.25, 0.30))
        posture = np.append(arm.inverse(tip, np.pi / 2 + rng.uniform(-0.3, 0.3)), 0.03)
        if gate().place_problem(posture[None]) is None:
            plan = plan_park(gate(), CONTRACT, posture, 0)
            assert gate().place_problem(plan.positions) is None
            found += 1


def test_a_refused_straight_way_goes_through_a_lifted_posture():
    post = Capsule('post', 'base_link', (0.39, 0.0, -0.1), (0.39, 0.0, 0.1), 0.02)
    volume = replace(CONTRACT.capsules, parts=(*CONTRACT.capsules.parts, post))
    model = capsule_model(replace(CONTRACT, capsules=volume))
    safety = SafetyGate(CONTRACT, tip_position=TIP, capsules=model)
    start, goal = low_postures()
    lifted = {'waist': 0.0, 'shoulder': -0.9, 'elbow': 0.3, 'wrist_angle': 1.0}
    with pytest.raises(ParkRefused, match=r'straight: row \d+: gap of post to \w+ -'):
        plan_park(safety, with_park(goal), start, 0)
    plan = plan_park(safety, with_park(goal, lifted), start, 0)
    assert plan.via == 'via 0'
    np.testing.assert_allclose(plan.positions[-1], goal)
    assert safety.place_problem(plan.positions) is None
    middle = np.abs(plan.positions[:, :5] - [0.0, -0.9, 0.3, 0.0, 1.0]).max(axis=1).argmin()
    np.testing.assert_allclose(plan.velocities[middle], 0.0, atol=1e-9)


def test_without_a_way_the_arm_stays_and_every_reason_is_told():
    goal = np.array([0.0, -1.6, 1.5, 0.0, 0.8, 0.0])
    with pytest.raises(ParkRefused, match='stays where it is; straight: .*via 0: .*') as raised:
        plan_park(gate(), with_park(goal, {'waist': 0.3}), OVER_TABLE, 0)
    assert str(raised.value).count('wrist to shoulder') == 2


def test_a_latched_gate_parks_but_not_against_an_emergency_stop():
    interlocks = Interlocks()
    latched = gate(interlocks)
    latched.latch('policy gone', 0)
    assert plan_park(latched, CONTRACT, OVER_TABLE, 0).via == 'straight'
    interlocks.press('topic estop', 1)
    with pytest.raises(ParkRefused, match=r'emergency stop pressed \(topic estop\)'):
        plan_park(latched, CONTRACT, OVER_TABLE, 2)


@pytest.mark.parametrize(
    ('held', 'velocity', 'reason'),
    [
        (np.full(7, np.nan), None, 'held position of waist is nan'),
        (OVER_TABLE[:6], None, 'values for 7 joints'),
        (OVER_TABLE, np.full(7, 0.1), 'still moves; stop it first'),
    ],
)
def test_it_starts_only_from_a_known_place_at_rest(held, velocity, reason):
    with pytest.raises(ParkRefused, match=reason):
        plan_park(gate(), CONTRACT, held, 0, velocity)


def test_a_contract_without_a_park_posture_is_told():
    with pytest.raises(ParkRefused, match='no park posture; add the key `park`'):
        plan_park(gate(), replace(CONTRACT, park=None), OVER_TABLE, 0)


def test_the_executor_runs_the_chunk_form_within_the_gate():
    names = CONTRACT.action_names()
    accelerations = np.array([CONTRACT.limits[name].acceleration for name in names])
    executor = ChunkExecutor(0.4, names, ('left_finger',), accelerations)
    safety, now = gate(), 10**9
    plan = plan_park(safety, CONTRACT, OVER_TABLE, now)
    executor.hold(OVER_TABLE, now)
    chunk = plan.chunk()
    assert safety.check_chunk(chunk, now, OVER_TABLE).ok
    executor.put(chunk, now, judge=lambda *motion: safety.check_motion(*motion, now).reason)
    for tick in range(int(plan.times_s[-1] / SAMPLE_S)):
        motion = executor.motion(now + round(tick * SAMPLE_S * 1e9))
        np.testing.assert_allclose(motion.position, plan.positions[tick], atol=2e-3)
    last = executor.motion(chunk.end_ns)
    np.testing.assert_allclose(last.velocity, 0.0, atol=1e-3)


def test_the_simulated_arm_parks_without_a_jump_or_a_fall():
    world = TabletopWorld(render=False)
    world.set_posture(OVER_TABLE)
    plan = plan_park(gate(), CONTRACT, world.positions(), 0)
    limits = np.array([CONTRACT.limits[name].velocity for name in plan.names])
    for position, velocity in zip(plan.positions, plan.velocities, strict=True):
        world.set_targets(position, velocity)
        world.step(SAMPLE_S)
        assert (np.abs(world.velocities()) <= 0.5 * limits).all()
        np.testing.assert_allclose(world.positions()[:6], position[:6], atol=0.03)
    world.step(1.0)
    np.testing.assert_allclose(world.positions(), plan.positions[-1], atol=0.01)
    assert gate().place_problem(world.positions()[None]) is None
