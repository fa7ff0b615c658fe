"""Whatever comes in, nothing accepted is over a limit by more than the stated tolerance."""

from dataclasses import replace

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.limits import Clamp, Tolerances
from qwen_vla_ros.safety import SafetyGate, capsule_model
from qwen_vla_ros.types import ActionChunk

LOADED = Embodiment.load('widowx')
# Chunks of 5 Hz under this acceleration limit never reach 200 rad/s^3, so the jerk limit is lower.
CONTRACT = replace(
    LOADED, limits={name: replace(limit, jerk=40.0) for name, limit in LOADED.limits.items()}
)
TIP = ArmKinematics(CONTRACT.description_path, CONTRACT.workspaces[0].tip).tip_position
MODEL = capsule_model(CONTRACT)
NAMES = CONTRACT.action_names()
STEP = CONTRACT.step_s
SECOND = 1_000_000_000
POSE = np.array([0.0, -0.6, 0.5, 0.0, 1.2, 0.0, 0.026])
SPAN = np.array([1, 1, 1, 1, 1, 1, 0.01])


def gate(contract=CONTRACT) -> SafetyGate:
    return SafetyGate(contract, tip_position=TIP, capsules=MODEL)


def chunk(rows: np.ndarray) -> ActionChunk:
    return ActionChunk(np.asarray(rows, np.float32), NAMES, 0, STEP)


def of_limits(what: str) -> np.ndarray:
    return np.array([getattr(CONTRACT.limits[name], what) for name in NAMES])


def random_rows(rng: np.random.Generator) -> np.ndarray:
    """Smooth or rough, short or long, now and then not finite."""
    steps = rng.normal(0, rng.choice([0.003, 0.03, 0.3]), (16, 7)) * SPAN
    if rng.random() < 0.5:
        steps = np.cumsum(steps, axis=0) * 0.3
    rows = POSE + np.cumsum(steps, axis=0)
    if rng.random() < 0.05:
        rows[rng.integers(16), rng.integers(7)] = rng.choice([np.nan, np.inf, 1e30])
    return rows


def assert_within(rows: np.ndarray, tolerances: Tolerances) -> None:
    beyond = np.full(7, tolerances.position_rad)
    beyond[6] = tolerances.position_m
    assert (rows >= of_limits('lower') - beyond).all()
    assert (rows <= of_limits('upper') + beyond).all()
    rates = rows
    for what in ('velocity', 'acceleration', 'jerk'):
        rates = np.diff(rates, axis=0) / STEP
        share = 1 + getattr(tolerances, f'chunk_{what}') + 1e-9
        assert (np.abs(rates) <= share * of_limits(what)).all(), what
    tips = np.array([TIP(row[:6]) for row in rows])
    box = CONTRACT.workspaces[0]
    assert (tips >= np.array(box.lower) - tolerances.position_m).all()
    assert (tips <= np.array(box.upper) + tolerances.position_m).all()
    speeds = np.linalg.norm(np.diff(tips, axis=0), axis=1) / STEP
    assert (speeds <= box.speed * (1 + tolerances.chunk_velocity)).all()
    assert MODEL.pair_gaps(rows[:, :6]).min() >= -tolerances.position_m
    assert MODEL.plane_gaps(rows[:, :6]).min() >= -tolerances.position_m


def test_accepted_chunks_are_within_every_limit():
    rng, safety, accepted = np.random.default_rng(0), gate(), 0
    for _ in range(400):
        plan = chunk(random_rows(rng))
        if safety.check_chunk(plan, 0).ok:
            assert_within(plan.actions.astype(np.float64), Tolerances())
            accepted += 1
        safety.reset()
    assert 50 < accepted < 350


def test_accepted_rows_are_within_every_limit():
    rng, tolerances, accepted = np.random.default_rng(1), Tolerances(), 0
    for _ in range(300):
        safety, position, now = gate(), POSE, 0
        before = None
        for _ in range(4):
            velocity = rng.normal(0, 2.0, 7) * SPAN
            acceleration = rng.normal(0, 10.0, 7) * SPAN
            if not safety.check_row(position, velocity, now, acceleration).ok:
                break
            accepted += 1
            for found, what in ((velocity, 'velocity'), (acceleration, 'acceleration')):
                share = 1 + getattr(tolerances, f'row_{what}')
                assert (np.abs(found) <= share * of_limits(what)).all()
            if before is not None:
                speed = np.abs(position - before) / 0.02
                assert (
                    speed <= (1 + tolerances.row_velocity) * of_limits('velocity') + 1e-9
                ).all()
            assert safety.place_problem(position[None]) is None
            before = position
            position, now = position + rng.normal(0, 0.03, 7) * SPAN, now + SECOND // 50
    assert accepted > 100


def smooth(column: int, way: float) -> np.ndarray:
    """Rows that move one joint by a way, at first and last slowly."""
    rows = np.tile(POSE, (16, 1))
    rows[:, column] += way * (1 - np.cos(np.linspace(0, np.pi, 16))) / 2
    return rows


def planted(column: int, row: int, way: float) -> np.ndarray:
    rows = np.tile(POSE, (16, 1))
    rows[row:, column] += way
    return rows


@pytest.mark.parametrize(
    ('rows', 'joint', 'unit', 'what'),
    [
        (smooth(6, 0.013), 'left_finger', 'm', 'position of left_finger 0.039 m > limit 0.037 m'),
        (planted(6, 9, -0.0105), 'left_finger', 'm/s^3', 'jerk of left_finger'),
        (
            planted(5, 9, 0.9),
            'wrist_rotate',
            'rad/s',
            'velocity of wrist_rotate 4.5 rad/s > limit',
        ),
        (planted(5, 9, 0.5), 'wrist_rotate', 'rad/s^2', 'acceleration of wrist_rotate 12.5 rad/s'),
        (planted(5, 9, 0.3), 'wrist_rotate', 'rad/s^3', 'jerk of wrist_rotate'),
        (smooth(0, 1.9), 'ee_gripper_link.x', 'm', 'workspace: ee_gripper_link.x'),
    ],
)
def test_planted_violations_of_a_chunk_are_named(rows, joint, unit, what):
    contract = CONTRACT
    if 'left_finger' in what and 'jerk' in what:
        limits = {
            **CONTRACT.limits,
            'left_finger': replace(CONTRACT.limits['left_finger'], jerk=1),
        }
        contract = replace(CONTRACT, limits=limits)
    verdict = gate(contract).check_chunk(chunk(rows), 0)
    assert what in verdict.reason
    assert (verdict.joint, verdict.unit) == (joint, unit)
    assert verdict.value is not None
    assert verdict.limit is not None


def test_a_tip_that_is_too_fast_is_named():
    slow = replace(CONTRACT, workspaces=(replace(CONTRACT.workspaces[0], speed=0.05),))
    rows = smooth(0, 0.9)
    assert gate().check_chunk(chunk(rows), 0).ok
    verdict = gate(slow).check_chunk(chunk(rows), 0)
    assert 'speed of ee_gripper_link' in verdict.reason
    assert (verdict.limit, verdict.unit) == (0.05, 'm/s')
    row = gate(slow)
    assert row.check_row(POSE, None, 0).ok
    turned = POSE + 0.02 * np.eye(7)[0]
    assert 'speed of ee_gripper_link' in row.check_row(turned, None, SECOND // 50).reason


def test_a_chunk_into_the_arm_itself_is_named():
    rows = np.linspace(POSE, [0, -1.6, 1.5, 0, 0.8, 0, 0.026], 16)
    rows = POSE + (rows - POSE) * np.linspace(0, 1, 16)[:, None] ** 2
    free = replace(CONTRACT, workspaces=())
    verdict = SafetyGate(free, capsules=MODEL).check_chunk(chunk(rows[:14]), 0)
    assert verdict.ok, verdict
    verdict = SafetyGate(free, capsules=MODEL).check_chunk(chunk(rows), 0)
    assert 'gap of ' in verdict.reason
    assert verdict.unit == 'm'


def test_jerk_between_rows_is_named():
    safety, rest = gate(), np.zeros(7)
    assert safety.check_row(POSE, rest, 0, rest).ok
    verdict = safety.check_row(POSE, rest, SECOND // 50, 6.0 * np.eye(7)[2])
    assert 'jerk since the last row of elbow 300 rad/s^3 > limit 40 rad/s^3' in verdict.reason


# Clamping ----------------------------------------------------------------------------------------


def clamping(*groups: str) -> Embodiment:
    layouts = {
        name: tuple(
            replace(group, on_limit='clamp') if group.name in groups else group for group in layout
        )
        for name, layout in CONTRACT.layouts.items()
    }
    return replace(CONTRACT, layouts=layouts)


def test_nothing_is_clamped_unless_the_contract_says_so():
    plan = chunk(smooth(6, 0.013))
    for contract in (CONTRACT, clamping('arm')):
        verdict = gate(contract).admit(plan, 0)
        assert not verdict.ok
        assert verdict.chunk is None
    assert not gate(clamping('gripper')).check_chunk(plan, 0).ok


def test_a_clamped_chunk_is_told_by_joint_and_amount():
    safety, plan = gate(clamping('gripper')), chunk(smooth(6, 0.013))
    verdict = safety.admit(plan, 0)
    assert verdict.ok
    assert verdict.clamped == (
        Clamp('left_finger', 'position', pytest.approx(0.002, abs=1e-6), 'm', 4),
    )
    assert verdict.reason == 'clamped: position of left_finger by 0.002 m in 4 rows'
    assert verdict.chunk.actions[:, 6].max() == np.float32(0.037)
    np.testing.assert_array_equal(verdict.chunk.actions[:, :6], plan.actions[:, :6])
    assert plan.actions[:, 6].max() > 0.038
    assert safety.clamped_chunks == 1


def test_clamped_chunks_in_a_row_latch_and_an_unclamped_one_starts_anew():
    safety = gate(clamping('gripper'))
    for _ in range(9):
        assert safety.admit(chunk(smooth(6, 0.013)), 0).ok
    assert safety.admit(chunk(smooth(6, 0.0)), 0).clamped == ()
    for _ in range(9):
        assert safety.admit(chunk(smooth(6, 0.013)), 0).ok
    assert not safety.admit(chunk(smooth(6, 0.013)), 0).ok
    assert safety.latch_state.cause == 'clamped'
    assert '10 chunks in a row were clamped' in safety.latched


@pytest.mark.parametrize(
    ('rows', 'now_ns', 'observed', 'reason'),
    [
        (planted(6, 3, np.nan), 0, None, 'position of left_finger is nan'),
        (smooth(6, 0.013), 9 * SECOND, None, 'the chunk ended'),
        (smooth(6, 0.013), 0, POSE + 0.5 * np.eye(7)[0], 'jump from the observed position'),
        (planted(6, 0, 0.05), 0, POSE, 'jump from the observed position of left_finger 0.05 m'),
        (smooth(0, 1.9), 0, None, 'workspace'),
        (planted(5, 9, 0.5), 0, None, 'acceleration of wrist_rotate'),
    ],
)
def test_what_cannot_be_clamped_is_refused(rows, now_ns, observed, reason):
    verdict = gate(clamping('arm', 'gripper')).admit(chunk(rows), now_ns, observed)
    assert not verdict.ok
    assert reason in verdict.reason


def test_admitted_chunks_are_within_every_limit():
    rng, safety, clamped = np.random.default_rng(4), gate(clamping('arm', 'gripper')), 0
    for _ in range(200):
        rows = smooth(6, rng.uniform(0.0, 0.02)) + smooth(5, rng.uniform(-4.0, 4.0)) - POSE
        verdict = safety.admit(chunk(rows), 0)
        if verdict.ok:
            assert_within(verdict.chunk.actions.astype(np.float64), Tolerances())
            clamped += bool(verdict.clamped)
        safety.reset()
    assert clamped > 50
