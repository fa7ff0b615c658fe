"""The scripted teacher."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import (
    FINGER_CLOSED,
    TOP_SPEED,
    TOUCH_ABOVE_CENTRE,
    ExpertPolicy,
    expert_chunk,
)
from qwen_vla_ros.sim.scene import Scene, sample_scene
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.world import TabletopWorld
from qwen_vla_ros.types import Observation

START_LOWER, START_UPPER = (0.16, -0.22, 0.04), (0.42, 0.22, 0.25)


def random_posture(rng: np.random.Generator, scene: Scene | None = None) -> np.ndarray:
    """Return a posture q [7] whose hand is roughly upright and inside no object."""
    while True:
        tip = rng.uniform(START_LOWER, START_UPPER)
        pitch = arm.STRAIGHT_DOWN + rng.uniform(-0.25, 0.25)
        places = [] if scene is None else [item.position[:2] for item in scene.objects]
        inside = tip[2] < 0.10 and any(np.hypot(*(tip[:2] - place)) < 0.075 for place in places)
        if arm.reachable(tip, pitch) and not inside:
            q = np.array([*arm.inverse(tip, pitch), rng.uniform(0.018, 0.036)])
            return q + rng.uniform(-1, 1, 7) * [0, 0, 0, 0.1, 0, 0.3, 0]


def many(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return postures [count, 7] and targets [count, 3]."""
    rng = np.random.default_rng(0)
    postures = np.stack([random_posture(rng) for _ in range(count)])
    return postures, rng.uniform((0.2, -0.2, 0.022), (0.4, 0.2, 0.026), (count, 3))


def drive(world: TabletopWorld, target: str) -> None:
    """Follow the teacher, asked anew every 0.4 s, until something is touched."""
    controller = TrajectoryController(arm.JOINT_NAMES, world.positions())
    while world.time < 12 and not world.touched():
        rows = expert_chunk(world.positions(), world.object_positions()[target])
        now_ns = round(world.time * 1e9)
        times = 0.2 * np.arange(1, len(rows))
        assert controller.accept(arm.JOINT_NAMES, times, rows[1:], None, now_ns, now_ns) is None
        for _ in range(40):
            world.set_targets(*controller.sample(round((world.time + 0.01) * 1e9)))
            world.step(0.01)
            if world.touched():
                return


def test_row_0_is_the_posture_and_the_last_row_is_on_the_object() -> None:
    q = np.array(sample_scene(0).posture)
    target = np.array([0.3, 0.05, 0.0225])
    rows = expert_chunk(q, target)
    assert rows.shape == (16, 7) and rows.dtype == np.float64
    assert (rows[0] == q).all()
    end = arm.forward(rows[-1])[0]
    assert end == pytest.approx(target + [0, 0, TOUCH_ABOVE_CENTRE], abs=2e-3)
    assert rows[-1, 6] == pytest.approx(FINGER_CLOSED, abs=1e-3)


def test_rows_keep_joint_limits_and_speeds() -> None:
    q, targets = many(500)
    rows = expert_chunk(q, targets)
    assert rows[:, 0] == pytest.approx(q, abs=1e-12)
    speeds = np.abs(np.diff(rows, axis=1)) / 0.2
    assert (rows[:, 1:] >= arm.LOWER).all() and (rows[:, 1:] <= arm.UPPER).all()
    assert (speeds <= arm.VELOCITY).all()


def test_the_tip_stays_under_its_top_speed_from_upright_postures() -> None:
    rng = np.random.default_rng(1)
    tips = rng.uniform((0.18, -0.2, 0.05), (0.38, 0.2, 0.16), (300, 3))
    q = np.concatenate([arm.inverse(tips), np.full((300, 1), 0.03)], -1)
    rows = expert_chunk(q, rng.uniform((0.2, -0.2, 0.022), (0.4, 0.2, 0.025), (300, 3)))
    steps = np.linalg.norm(np.diff(arm.forward(rows)[0], axis=1), axis=-1) / 0.2
    assert steps.max() <= TOP_SPEED + 1e-3


def test_a_low_hand_rises_over_the_objects_before_it_travels() -> None:
    q = np.array([*arm.inverse(np.array([0.3, -0.15, 0.03])), 0.03])
    tips = arm.forward(expert_chunk(q, np.array([0.3, 0.15, 0.0225]), 80, 0.05))[0]
    low = tips[:, 2] < 0.07
    to_target = np.abs(tips[:, 1] - 0.15)
    assert not (low & (np.abs(tips[:, 1] + 0.15) > 0.015) & (to_target > 0.04)).any()


def test_labels_change_smoothly_with_the_posture() -> None:
    q, target = many(300)
    step = 1e-3 * np.random.default_rng(2).normal(size=q.shape) * [1, 1, 1, 1, 1, 1, 0]
    change = np.linalg.norm(expert_chunk(q + step, target) - expert_chunk(q, target), axis=-1)
    assert (change.max(1) / np.linalg.norm(step, axis=1)).max() < 6


def test_one_call_for_many_targets_equals_many_calls() -> None:
    q, targets = many(5)
    together = expert_chunk(q[0], targets)
    assert together.shape == (5, 16, 7)
    for rows, target in zip(together, targets, strict=True):
        assert rows == pytest.approx(expert_chunk(q[0], target), abs=1e-12)


def test_the_teacher_touches_the_named_object_first_in_200_scenes() -> None:
    world, rng = TabletopWorld(render=False), np.random.default_rng(5)
    failed = []
    for seed in range(200):
        scene = world.reset(seed)
        if seed % 2:
            world.set_posture(random_posture(rng, scene))
        target = scene.names[int(rng.integers(3))]
        drive(world, target)
        if not world.result(target).success:
            failed.append((seed, target, world.first_touched))
    assert len(failed) <= 2, failed
    assert all(touched is None for _, _, touched in failed)


def seen(q: np.ndarray, names: tuple[str, ...], instruction: str) -> Observation:
    """Return an observation without images."""
    return Observation({}, q.astype(np.float32), names, instruction, 7, 'widowx')


def test_the_policy_goes_where_the_sentence_says_in_any_order_of_the_state() -> None:
    q, place = np.array(sample_scene(0).posture), np.array([0.3, 0.1, 0.0225])
    policy = ExpertPolicy(lambda: {'red ball': place, 'blue can': place * [1, -1, 1]})
    observation = seen(q[::-1], arm.JOINT_NAMES[::-1], 'tap the red ball')
    chunk = policy.infer(observation)
    assert chunk.start_ns == 7 and chunk.names == arm.JOINT_NAMES and chunk.step_s == 0.2
    assert chunk.actions == pytest.approx(expert_chunk(q, place), abs=1e-5)


def test_the_policy_holds_still_when_the_sentence_names_nothing() -> None:
    q = np.array(sample_scene(0).posture)
    policy = ExpertPolicy(lambda: {'red ball': np.array([0.3, 0.1, 0.0225])})
    actions = policy.infer(seen(q, arm.JOINT_NAMES, 'wait')).actions
    assert actions == pytest.approx(np.tile(q, (16, 1)), abs=1e-6)


def test_the_policy_names_a_missing_joint() -> None:
    policy = ExpertPolicy(lambda: {'red ball': np.zeros(3)})
    with pytest.raises(QwenVlaError, match='left_finger'):
        policy.infer(seen(np.zeros(6), arm.JOINT_NAMES[:6], 'tap the red ball'))
