"""SafetyGate: each limit refuses by joint, value, limit and unit; nothing is clamped."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.safety import SafetyGate, Tolerances, capsule_model
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.types import ActionChunk

SECOND = 1_000_000_000
NAMES = ('waist', 'elbow', 'left_finger')
CONTRACT = Embodiment.load('widowx')


def group(name: str, kind: str, names: tuple[str, ...], unit: str) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, kind=kind, names=names, units=(unit,) * len(names), on_limit='reject'
    )


def robot(kind: str = 'abs_joint') -> SimpleNamespace:
    """A contract of two arm joints within +-1 rad and a gripper of 10..40 mm."""
    arm = SimpleNamespace(lower=-1.0, upper=1.0, velocity=1.0, acceleration=4.0, jerk=None)
    finger = SimpleNamespace(lower=0.01, upper=0.04, velocity=0.1, acceleration=1.0, jerk=None)
    groups = (
        group('arm', kind, NAMES[:2], 'rad'),
        group('gripper', 'gripper', NAMES[2:], 'm'),
    )
    return SimpleNamespace(
        name='stub',
        source='stub.yaml',
        action_groups=lambda layout=None: groups,
        limits={'waist': arm, 'elbow': arm, 'left_finger': finger},
        workspaces=(
            SimpleNamespace(
                frame='base_link',
                tip='tip',
                lower=(-1.0, -1.0, 0.02),
                upper=(1.0, 1.0, 1.0),
                speed=None,
            ),
        ),
        safety=SimpleNamespace(
            inference_timeout_s=1.5,
            max_future_s=0.05,
            max_jump_rad=0.3,
            max_jump_m=0.02,
            max_refused_chunks=3,
            max_clamped_chunks=3,
            watchdog_s=0.2,
            dead_man_s=None,
        ),
    )


def chunk(rows, start_ns: int = 0, names=NAMES) -> ActionChunk:
    return ActionChunk(np.asarray(rows, np.float32), names, start_ns, 0.2)


def still(horizon: int = 8) -> np.ndarray:
    return np.tile([0.0, 0.0, 0.03], (horizon, 1))


def changed(row: int, column: int, value: float) -> ActionChunk:
    rows = still()
    rows[row, column] = value
    return chunk(rows)


def test_a_good_chunk_passes() -> None:
    gate = SafetyGate(robot())
    rows = still()
    rows[:, 0] = 0.1 * np.arange(8)
    assert gate.check_chunk(chunk(rows), SECOND // 5, still()[0]).ok
    assert gate.refused_chunks == 0


@pytest.mark.parametrize(
    ('plan', 'reason'),
    [
        (changed(3, 1, np.nan), 'row 3: position of elbow is nan'),
        (changed(3, 0, 1.5), 'row 3: position of waist 1.5 rad > limit 1 rad'),
        (changed(3, 2, 0.005), 'row 3: position of left_finger 0.005 m < limit 0.01 m'),
        (changed(7, 0, 0.3), 'row 6: velocity of waist 1.5 rad/s > limit 1 rad/s'),
        (
            changed(3, 0, 0.19),
            'row 2: acceleration of waist 9.5 rad/s^2 > limit 4 rad/s^2',
        ),
        (chunk(still(), names=('elbow', 'waist', 'left_finger')), 'the robot takes'),
        (
            chunk(still(), 2 * SECOND),
            'the chunk starts 1.000 s in the future (limit 0.05 s)',
        ),
        (chunk(still(), -SECOND), 'the chunk ended 0.600 s ago'),
        (chunk(still(16), -SECOND), 'the chunk starts 2.000 s old (limit 1.5 s)'),
    ],
)
def test_bad_chunks_are_refused_with_the_reason(plan, reason) -> None:
    gate = SafetyGate(robot())
    verdict = gate.check_chunk(plan, SECOND)
    assert not verdict.ok
    assert reason in verdict.reason
    assert gate.refused_chunks == 1
    assert gate.refusals[-1] == verdict
    assert not gate.latched


def test_verdict_carries_the_numbers() -> None:
    verdict = SafetyGate(robot()).check_chunk(changed(3, 0, 1.5), 7)
    found = (verdict.joint, verdict.value, verdict.limit, verdict.unit, verdict.time_ns)
    assert found == ('waist', 1.5, 1.0, 'rad', 7)


@pytest.mark.parametrize(
    ('observed', 'joint', 'value', 'unit'),
    [
        ([0.5, 0.0, 0.03], 'waist', 0.5, 'rad'),
        ([0.0, 0.0, 0.055], 'left_finger', 0.025, 'm'),
    ],
)
def test_first_row_must_lie_near_the_observed_state(observed, joint, value, unit) -> None:
    verdict = SafetyGate(robot()).check_chunk(chunk(still()), 0, np.array(observed))
    assert (verdict.ok, verdict.joint, verdict.unit) == (False, joint, unit)
    assert verdict.value == pytest.approx(value)
    assert 'jump from the observed position' in verdict.reason


def test_values_within_the_tolerance_pass_and_are_not_changed() -> None:
    plan = changed(3, 0, 0.0)
    plan.actions[:, 0] = 1.0005
    before = plan.actions.copy()
    assert SafetyGate(robot()).check_chunk(plan, 0).ok
    np.testing.assert_array_equal(plan.actions, before)
    strict = SafetyGate(robot(), tolerances=Tolerances(position_rad=1e-5))
    assert not strict.check_chunk(plan, 0).ok


def test_workspace_box_sees_the_arm_only() -> None:
    seen = []

    def tip(arm: np.ndarray) -> np.ndarray:
        seen.append(arm.copy())
        return np.stack([np.full(len(arm), 0.3), np.zeros(len(arm)), 0.1 - arm[:, 1]], axis=1)

    gate = SafetyGate(robot(), tip_position=tip)
    rows = still()
    rows[:, 1] = 0.015 * np.arange(8)
    verdict = gate.check_chunk(chunk(rows), 0)
    assert [arm.shape for arm in seen] == [(8, 2)]
    assert verdict.reason == 'row 7: workspace: tip.z -0.005 m < limit 0.02 m'
    assert (verdict.joint, verdict.unit) == ('tip.z', 'm')


def test_refused_chunks_in_a_row_latch_and_a_good_one_starts_anew() -> None:
    gate = SafetyGate(robot())
    bad, good = changed(3, 0, 1.5), chunk(still())
    for plan in (bad, bad, good, bad, bad):
        gate.check_chunk(plan, 0)
    assert not gate.latched
    gate.check_chunk(bad, 0)
    assert gate.latched.startswith('3 chunks in a row were refused, the last one: row 3')
    assert not gate.check_chunk(good, 0).ok
    gate.reset()
    assert gate.check_chunk(good, 0).ok
    assert gate.refused_chunks == 5


REST = np.zeros(3)
POSE = np.array([0.0, 0.0, 0.03])
WAIST = np.array([1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ('position', 'velocity', 'reason'),
    [
        ([np.inf, 0, 0.03], REST, 'position of waist is inf'),
        ([0, 0, 0.03], [0, np.nan, 0], 'velocity of elbow is nan'),
        ([0, -1.2, 0.03], REST, 'position of elbow -1.2 rad < limit -1 rad'),
        ([0, 0, 0.03], [0, 0, 0.2], 'velocity of left_finger 0.2 m/s > limit 0.1 m/s'),
        ([0, 0], [0, 0], 'values for 3 joints'),
    ],
)
def test_a_refused_row_latches_until_reset(position, velocity, reason) -> None:
    gate = SafetyGate(robot())
    verdict = gate.check_row(np.array(position), np.array(velocity), 0)
    assert not verdict.ok
    assert reason in verdict.reason
    refused = gate.check_row(POSE, REST, 1)
    assert (refused.ok, refused.reason) == (
        False,
        f'latched: row refused: {verdict.reason}',
    )
    assert gate.refused_rows == 1
    gate.reset()
    assert gate.check_row(POSE, REST, 2).ok


def test_rows_are_compared_with_the_row_before() -> None:
    gate = SafetyGate(robot())
    assert gate.check_row(POSE, REST, 0).ok
    verdict = gate.check_row(POSE + 0.1 * WAIST, REST, SECOND // 20)
    assert 'velocity since the last row of waist 2 rad/s > limit 1 rad/s' in verdict.reason


def test_acceleration_between_rows() -> None:
    gate = SafetyGate(robot())
    assert gate.check_row(POSE, np.array([0.0, 0.5, 0.0]), 0).ok
    verdict = gate.check_row(POSE, np.array([0.0, -0.5, 0.0]), SECOND // 20)
    assert 'acceleration since the last row of elbow 20 rad/s^2' in verdict.reason


def test_rows_far_apart_in_time_are_not_compared() -> None:
    gate = SafetyGate(robot())
    assert gate.check_row(POSE, REST, 0).ok
    assert gate.check_row(POSE + 0.9 * WAIST, REST, SECOND).ok


def test_caller_may_latch_for_its_own_reason() -> None:
    gate = SafetyGate(robot())
    gate.latch('emergency stop pressed', 5)
    assert gate.check_row(POSE, REST, 6).reason == 'latched: emergency stop pressed'
    assert gate.refusals[-1].reason == 'emergency stop pressed'


def test_cartesian_layouts_are_refused() -> None:
    with pytest.raises(QwenVlaError, match='delta_eef; turn it into joints'):
        SafetyGate(robot('delta_eef'))


def test_joint_without_limits_is_refused() -> None:
    contract = robot()
    del contract.limits['elbow']
    with pytest.raises(QwenVlaError, match='no limits for elbow; add them to limits in '):
        SafetyGate(contract)


def test_limits_of_the_real_contract() -> None:
    contract = Embodiment.load('widowx')
    gate = SafetyGate(contract)
    assert gate.names == contract.action_names()
    rows = np.zeros((contract.horizon, 7), np.float32)
    rows[:, 6] = 0.037
    plan = ActionChunk(rows, gate.names, 0, contract.step_s)
    assert gate.check_chunk(plan, 0, rows[0]).ok
    rows[5, 2] = 1.7
    assert 'row 5: position of elbow 1.7 rad > limit 1.606 rad' in (
        gate.check_chunk(ActionChunk(rows, gate.names, 0, contract.step_s), 0).reason
    )


@pytest.mark.parametrize('seed', range(4))
def test_rows_of_accepted_chunks_never_latch(seed) -> None:
    """A noisy policy with 0.6 s of latency, on an arm that follows perfectly, for 6 s."""
    contract, rng = Embodiment.load('widowx'), np.random.default_rng(seed)
    names = contract.action_names()

    def tips(rows):
        return np.array([arm.forward(np.append(q, 0.03))[0] for q in rows])

    gate = SafetyGate(contract, tip_position=tips)
    limits = np.array([contract.limits[name].acceleration for name in names])
    executor = ChunkExecutor(contract.safety.blend_s, names, ('left_finger',), limits)
    row = np.array([0.0, -0.6, 0.5, 0.0, 1.2, 0.0, 0.03])
    target = np.array([rng.uniform(0.2, 0.4), rng.uniform(-0.2, 0.2), 0.0225])
    executor.hold(row, 0)
    accepted = 0
    for tick in range(120):
        now = tick * SECOND // 20
        if tick % 12 == 0:
            rows = expert_chunk(row, target)
            rows[1:, :6] += rng.normal(0, 0.02, (15, 6))
            plan, observed = ActionChunk(rows.astype(np.float32), names, now, 0.2), row
        if tick % 12 == 11 and gate.check_chunk(plan, now, observed).ok:
            executor.put(plan, now)
            accepted += 1
        row, velocity = executor.sample(now)
        verdict = gate.check_row(row, velocity, now)
        assert verdict.ok, verdict.reason
    assert accepted >= 8
    tip = arm.forward(row)[0]
    assert np.linalg.norm(tip - target) < 0.04


# Latch, reset and watchdog -----------------------------------------------------------------------


def test_the_latch_tells_cause_and_both_times() -> None:
    gate, before = SafetyGate(robot()), time.time()
    gate.check_row(POSE + 2 * WAIST, REST, 5)
    latch = gate.latch_state
    assert (latch.cause, latch.time_ns) == ('refused row', 5)
    assert before <= latch.wall_s <= time.time()
    gate.reset()
    assert gate.latch_state is None


def test_reset_is_refused_while_the_arm_stands_outside() -> None:
    gate = SafetyGate(robot())
    gate.latch('arm pushed by hand', 5, 'operator')
    refused = gate.reset(6, POSE + 1.02 * WAIST)
    assert not refused.ok
    assert 'reset refused: measured joints: row 0: position of waist 1.02 rad' in refused.reason
    assert gate.latched == 'arm pushed by hand'
    assert 'nan' in gate.reset(7, np.full(3, np.nan)).reason
    assert gate.reset(8, POSE + 1.005 * WAIST).ok


def test_a_moving_arm_without_rows_latches() -> None:
    gate = SafetyGate(robot())
    assert gate.watchdog(9 * SECOND).ok
    gate.check_row(POSE, 0.1 * WAIST, 0)
    assert gate.watchdog(SECOND // 5).ok
    verdict = gate.watchdog(SECOND // 4)
    assert verdict.reason == 'the arm moves, and its last row was due 0.250 s ago (limit 0.2 s)'
    assert gate.latch_state.cause == 'watchdog'


@pytest.mark.parametrize('told', [True, False])
def test_an_arm_at_rest_needs_no_rows(told) -> None:
    gate = SafetyGate(robot())
    gate.check_row(POSE, 0.1 * WAIST, 0)
    if told:
        gate.rest()
    else:
        gate.check_row(POSE, REST, SECOND // 10)
    assert gate.watchdog(SECOND).ok


def test_the_gate_tells_what_it_cannot_check() -> None:
    assert SafetyGate(robot()).unchecked == ('workspace', 'capsules', 'jerk')
    contract = Embodiment.load('widowx')
    assert SafetyGate(contract).unchecked == ('workspace', 'capsules')


def _twins():
    """Return two gates of the WidowX with every check."""
    kinematics = ArmKinematics(CONTRACT.description_path, CONTRACT.workspaces[0].tip)
    model = capsule_model(CONTRACT, CONTRACT.default_layout)
    return [
        SafetyGate(CONTRACT, tip_position=kinematics.tip_position, capsules=model)
        for _ in range(2)
    ]


def test_rows_at_once_are_judged_as_one_by_one():
    """Random walks around every kind of limit, and what is not a number."""
    rng = np.random.default_rng(5)
    posture = np.array([0.0, -0.6, 0.9, 0.0, 0.6, 0.0, 0.02])
    refused = 0
    for trial in range(150):
        together, alone = _twins()
        for start in (0, 300_000_000):
            times = start + 50_000_000 * np.arange(1, 6)
            steps = rng.normal(0.0, 10 ** rng.uniform(-4, -0.5), (5, 7)) * [1, 1, 1, 1, 1, 1, 0.02]
            positions = posture + np.cumsum(steps, axis=0)
            velocities = steps / 0.05 * rng.choice([0.0, 1.0, 3.0])
            if trial % 10 == 0:
                positions[rng.integers(5), rng.integers(7)] = rng.choice([np.nan, np.inf])
            wanted = [
                alone.check_row(*row, now)
                for now, *row in zip(times.tolist(), positions, velocities, strict=True)
            ]
            first = next((verdict for verdict in wanted if not verdict.ok), wanted[-1])
            found = together.check_rows(times, positions, velocities)
            assert (found.ok, found.reason, found.time_ns) == (
                first.ok,
                first.reason,
                first.time_ns,
            )
            assert together.latched == alone.latched
            refused += not first.ok
            if not first.ok:
                break
    assert 20 < refused < 140, 'both outcomes are tried'
