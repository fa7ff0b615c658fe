"""
The motion that the executor makes of a chunk is judged before it runs.

Rows of a chunk within the box do not keep the curve through them, or the seam onto them, within
it; refused as a row, that would be a fault that latches and stops the arm.
"""

from functools import partial

import numpy as np
import pytest

from qwen_vla_ros.chunk import ChunkExecutor, ChunkRefused
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.types import ActionChunk

CONTRACT = Embodiment.load('widowx')
TIP = ArmKinematics(CONTRACT.description_path, CONTRACT.workspaces[0].tip).tip_position
NAMES = CONTRACT.action_names()
SECOND = 1_000_000_000
READY = np.array([0.0, -0.6, 0.5, 0.0, 1.2, 0.0, 0.03])


def executor() -> ChunkExecutor:
    accelerations = np.array([CONTRACT.limits[name].acceleration for name in NAMES])
    return ChunkExecutor(CONTRACT.safety.blend_s, NAMES, ('left_finger',), accelerations)


def over(heights, start_ns: int = 0) -> ActionChunk:
    """A chunk whose tip is at these heights in m over one place of the table."""
    tips = np.array([[0.3, 0.0, height] for height in heights])
    joints = arm.inverse(tips)
    rows = np.concatenate([joints, np.full((len(tips), 1), 0.03)], axis=1)
    return ActionChunk(rows.astype(np.float32), NAMES, start_ns, CONTRACT.step_s)


LANDING = [0.13, 0.105, 0.08, 0.055, 0.03, 0.005, 0.005, 0.005, 0.03, 0.055]


def judge(gate: SafetyGate, now_ns: int, *motion: np.ndarray) -> str:
    return gate.check_motion(*motion, now_ns).reason


def first_refused_row(runner: ChunkExecutor, gate: SafetyGate, seconds: float):
    for tick in range(int(seconds * 50)):
        motion = runner.motion(tick * SECOND // 50)
        verdict = gate.check_row(motion.position, motion.velocity, tick * SECOND // 50)
        if not verdict.ok:
            return verdict
    return None


def test_a_curve_through_rows_in_the_box_leaves_it_and_latched_the_gate():
    gate, runner, chunk = SafetyGate(CONTRACT, tip_position=TIP), executor(), over(LANDING)
    assert gate.check_chunk(chunk, 0, chunk.actions[0]).ok
    runner.hold(chunk.actions[0], 0)
    runner.put(chunk, 0)
    refused = first_refused_row(runner, gate, 1.8)
    assert 'workspace: ee_gripper_link.z' in refused.reason
    assert gate.latch_state.cause == 'refused row'


def test_judged_before_it_runs_the_chunk_is_refused_and_nothing_latches():
    gate, runner, chunk = SafetyGate(CONTRACT, tip_position=TIP), executor(), over(LANDING)
    assert gate.check_chunk(chunk, 0, chunk.actions[0]).ok
    runner.hold(chunk.actions[0], 0)
    with pytest.raises(ChunkRefused, match=r'the motion onto the chunk, row \d+: workspace'):
        runner.put(chunk, 0, judge=partial(judge, gate, 0))
    assert (gate.latched, gate.refused_motions) == ('', 1)
    np.testing.assert_allclose(runner.at(SECOND), chunk.actions[0])
    assert first_refused_row(runner, gate, 1.8) is None


def test_refused_motions_in_a_row_latch():
    gate, runner, chunk = SafetyGate(CONTRACT, tip_position=TIP), executor(), over(LANDING)
    runner.hold(chunk.actions[0], 0)
    for _ in range(CONTRACT.safety.max_refused_chunks):
        assert gate.check_chunk(chunk, 0, chunk.actions[0]).ok
        with pytest.raises(ChunkRefused):
            runner.put(chunk, 0, judge=partial(judge, gate, 0))
    assert gate.latch_state.cause == 'refused motions'


def flight(seed: int, judged: bool) -> tuple[str, int, int]:
    """
    A noisy policy with 0.1 to 0.75 s of latency, close over the table, for 6 s.

    Returns the cause of the latch ('' without), accepted chunks and refused motions.
    """
    rng, row = np.random.default_rng(seed), READY
    gate, runner = SafetyGate(CONTRACT, tip_position=TIP), executor()
    target = np.array([rng.uniform(0.2, 0.4), rng.uniform(-0.2, 0.2), -0.004])
    runner.hold(row, 0)
    plan, due, accepted = None, 0, 0
    for tick in range(240):
        now = tick * SECOND // 40
        if plan is None:
            rows = expert_chunk(row, target)
            rows[1:, :6] += rng.normal(0, 0.01, (15, 6))
            plan, observed = ActionChunk(rows.astype(np.float32), NAMES, now, 0.2), row
            due = tick + int(rng.integers(4, 30))
        if tick >= due:
            if gate.check_chunk(plan, now, observed).ok:
                try:
                    runner.put(plan, now, judge=partial(judge, gate, now) if judged else None)
                    accepted += 1
                except ChunkRefused:
                    pass
            plan = None
        motion = runner.motion(now)
        if motion is None:
            break
        row = motion.position
        gate.check_row(row, motion.velocity, now, motion.acceleration)
        if gate.latched:
            break
    cause = '' if gate.latch_state is None else gate.latch_state.cause
    return cause, accepted, gate.refused_motions


def test_a_noisy_policy_close_over_the_table_latches_by_rows_only_when_not_judged():
    plain = [flight(seed, judged=False) for seed in range(12)]
    judged = [flight(seed, judged=True) for seed in range(12)]
    assert sum(cause == 'refused row' for cause, _, _ in plain) >= 1
    assert sum(cause == 'refused row' for cause, _, _ in judged) == 0
    assert sum(refused for _, _, refused in judged) >= 1
    assert sum(accepted for _, accepted, _ in judged) >= 12
