"""The handover's frames, and the teacher without a memory behind their labels."""

import numpy as np
import pytest

from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.environment import AlohaEnv, run_episode
from qwen_vla_ros.sim.aloha.reactive import (
    CLOSED,
    HELD,
    ReactiveTeacher,
    holds,
    transfer_chunk,
)
from qwen_vla_ros.sim.aloha.scene import sample_scene, target_in
from qwen_vla_ros.sim.aloha.vx300s import HandPose, joints_for
from qwen_vla_ros.train.bundle.aloha import AlohaMaker, hand_pose, walk
from qwen_vla_ros.train.bundle.frames import POINTS, TRAINING

SIZES = {'ego': (96, 128), 'cam_left_wrist': (48, 64), 'cam_right_wrist': (48, 64)}
LEFT_ARM, RIGHT_ARM, FINGERS = slice(0, 6), slice(7, 13), [6, 13]


@pytest.fixture(scope='module')
def frames():
    """The frames of one episode."""
    return AlohaMaker(SIZES).episode(TRAINING)


def posture(left: HandPose, right: HandPose, fingers: tuple[float, float]) -> np.ndarray:
    arms = joints_for('left', left), joints_for('right', right)
    return np.concatenate([arms[0], fingers[:1], arms[1], fingers[1:]])[None]


def cube_at(x: float, y: float, z: float) -> np.ndarray:
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = x, y, z
    return pose


OFFERED = HandPose((0.0, 0.0, 0.25))
MIDAIR = cube_at(0.0, 0.0, 0.25)


def test_the_teacher_told_the_truth_hands_over_in_physics() -> None:
    env = AlohaEnv(images=False)
    outcomes = [run_episode(ReactiveTeacher(env.world), seed, env) for seed in (0, 1)]
    assert [outcome['success'] for outcome in outcomes] == [True, True]
    assert max(outcome['elapsed_s'] for outcome in outcomes) < 9


def test_row_0_is_the_posture_and_rows_keep_limits_and_speeds() -> None:
    scenes = [sample_scene(seed) for seed in range(40)]
    for side in vx300s.SIDES:
        some = [scene for scene in scenes if scene.giver == side]
        q = np.array([scene.posture for scene in some])
        cubes = np.concatenate([cube_at(*scene.objects[0].position) for scene in some])
        rows = transfer_chunk(q, cubes, side)
        assert rows.shape == (len(some), 50, 14)
        assert (rows[:, 0] == q).all()
        assert (rows >= vx300s.LOWER).all() and (rows <= vx300s.UPPER).all()
        assert (np.abs(np.diff(rows, axis=1)) / 0.02 <= vx300s.VELOCITY).all()


def test_a_held_cube_stays_squeezed_and_where_it_lay_is_forgotten() -> None:
    away = HandPose((0.14, 0.0, 0.25), roll=np.pi / 2)
    q = posture(HandPose((-0.1, 0.05, 0.13), 0.1, np.pi / 2), away, (HELD, 0.05))
    held = cube_at(-0.1, 0.05, 0.13)
    assert holds(q, held, 'left').all() and not holds(q, held, 'right').any()
    rows, shifted = (transfer_chunk(q, cube, 'left') for cube in (held, held + 0.002))
    assert (rows[..., 6] == CLOSED).all()
    np.testing.assert_array_equal(rows, shifted)
    assert np.linalg.norm(vx300s.tips(rows[0, -1])[0] - OFFERED.position) < 0.12


def test_fingers_stopped_by_the_cube_are_what_opens_the_giver() -> None:
    takes = HandPose((-0.002, 0.0, 0.25), roll=np.pi / 2)
    before, after = (
        transfer_chunk(posture(OFFERED, takes, (HELD, finger)), MIDAIR, 'left')[0]
        for finger in (0.05, HELD)
    )
    assert before[3, 13] < 0.05 and (before[:5, 6] == CLOSED).all()
    assert after[10, 6] > 0.049 and (after[:, 13] == CLOSED).all()
    assert np.abs(after[2, LEFT_ARM] - after[0, LEFT_ARM]).max() < 1e-3
    assert vx300s.tips(after[-1])[0, 0] < -0.05 and vx300s.tips(after[-1])[1, 0] > 0.01


def test_the_taker_comes_only_to_an_offered_cube() -> None:
    waits = HandPose((0.14, 0.0, 0.25), roll=np.pi / 2)
    far = HandPose((-0.12, 0.0, 0.25))
    ends = [
        vx300s.tips(transfer_chunk(posture(giver, waits, (HELD, 0.05)), cube, 'left')[0, 15])
        for giver, cube in ((OFFERED, MIDAIR), (far, cube_at(-0.12, 0.0, 0.25)))
    ]
    assert ends[0][1, 0] < 0.11
    assert ends[1][1, 0] == pytest.approx(0.14, abs=0.004)


def test_a_dropped_cube_is_fetched_again_with_open_fingers() -> None:
    waits = HandPose((0.14, 0.0, 0.25), roll=np.pi / 2)
    rows = transfer_chunk(
        posture(OFFERED, waits, (CLOSED, 0.05)), cube_at(-0.1, 0.0, 0.02), 'left'
    )
    assert rows[0, 12:, 6] == pytest.approx(0.05)
    assert rows[0, [0, -1]][:, [1, 2, 4]].sum(-1) == pytest.approx([0.0, 0.7], abs=0.3)


def test_both_sides_do_the_same_mirrored() -> None:
    waits, down = HandPose((0.14, 0.0, 0.25), roll=np.pi / 2), HandPose((-0.15, 0.06, 0.2), 0, 1.2)
    q = posture(down, waits, (0.05, 0.05))
    turned = np.concatenate([q[:, 7:], q[:, :7]], 1)
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    cube = cube_at(-0.12, 0.05, 0.02)
    left, right = transfer_chunk(q, cube, 'left'), transfer_chunk(turned, turn @ cube, 'right')
    np.testing.assert_allclose(right, np.concatenate([left[..., 7:], left[..., :7]], -1))


def test_a_walk_grips_hands_over_and_comes_from_its_seed() -> None:
    scene = sample_scene(TRAINING + 1)
    one, two = (walk(np.random.default_rng(5), scene) for _ in range(2))
    assert all((a.q == b.q).all() for a, b in zip(one, two, strict=True))
    assert {moment.held is None for moment in one} == {True, False}
    for moment in one:
        gripped = [
            cube
            for cube in range(3)
            for side in vx300s.SIDES
            if holds(moment.q[None], moment.poses[cube][None], side)[0]
        ]
        assert moment.held is None or moment.held in gripped


def test_frames_hold_pictures_and_what_is_said_of_them(frames) -> None:
    names = sample_scene(TRAINING).names
    for frame in frames:
        assert {view: image.shape for view, image in frame.images.items()} == {
            view: (*size, 3) for view, size in SIZES.items()
        }
        assert frame.state.shape == (14,) and frame.state.dtype == np.float32
        said = [target_in(sample_scene(TRAINING), item.instruction) for item in frame.taught]
        assert tuple(said) == names or (len(said) == 1 and said[0] in names)
        for item in frame.taught:
            assert item.actions.shape == (50, 14) and item.actions.dtype == np.float32
            arms = np.delete(np.arange(14), FINGERS)
            assert (item.actions[0, arms] == frame.state[arms]).all()
            assert set(item.points) == set(POINTS)
            seen = [place for place in item.points.values() if place is not None]
            assert seen and all(0 <= share <= 1 for place in seen for share in place)
    assert any(len(frame.taught) == 3 for frame in frames)


def test_a_hands_pose_is_the_worlds() -> None:
    q = posture(OFFERED, HandPose((0.2, 0.05, 0.2), 0.2, 0.5, 0.1), (0.05, 0.05))[0]
    np.testing.assert_allclose(hand_pose(q, 'left')[:3, 3], OFFERED.position, atol=1e-6)
    np.testing.assert_allclose(hand_pose(q, 'right')[:3, 3], (0.2, 0.05, 0.2), atol=1e-6)
    assert hand_pose(q, 'right')[0, 0] < 0
