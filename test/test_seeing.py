"""What the policy intends, as geometry: ways, trails, seams, refusals; projection; frames."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment, config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics, KinematicsError
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.seeing.camera import CameraUnusable, camera_of_info, looking
from qwen_vla_ros.seeing.caption_drawing import FOLDS, SCALE, draw_caption
from qwen_vla_ros.seeing.colours import ahead
from qwen_vla_ros.seeing.drawing import draw_picture
from qwen_vla_ros.seeing.frames import FrameMissing, FrameTree, extrinsics_of, planar_pose, pose_of
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.lettering import folded
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Caption, Dots, Lines, Picture, Words, box_edges
from qwen_vla_ros.seeing.scenery import render
from qwen_vla_ros.seeing.tracks import Trail
from qwen_vla_ros.sim import arm
from qwen_vla_ros.types import ActionChunk

S = 1_000_000_000
WIDOWX = Embodiment.load('widowx')
LINKS = RobotLinks(WIDOWX.description_path)


def status(stage='RUNNING', reason='', missing=()):
    return SimpleNamespace(
        stage=stage,
        reason=reason,
        instruction='touch the red block',
        inference_s=0.066,
        overhead_s=0.0,
        chunk_age_s=float('nan'),
        refusals=0,
        missing=list(missing),
        arming='scaled',
        speed_scale=0.25,
    )


def reach(time_s):
    """Joints [7] with the tip on a straight line along y."""
    return np.append(arm.inverse(np.array([0.25, 0.1 * time_s, 0.2])), 0.03)


def chunk(begin_s, rows=16, step_s=0.1, **changes):
    values = np.array([reach(begin_s + step_s * i) for i in range(rows)])
    for (row, column), value in changes.get('broken', {}).items():
        values[row, column] = value
    start_ns = round(begin_s * 1e9) + 100 * S
    return ActionChunk(values.astype(np.float32), arm.JOINT_NAMES, start_ns, step_s)


def seen(until_s=1.0):
    """An Intention that has watched the arm for a while, and nothing else."""
    intention = Intention(WIDOWX, LINKS)
    for tick in range(round(until_s / 0.02) + 1):
        time_ns = 100 * S + tick * 20_000_000
        joints = dict(zip(arm.JOINT_NAMES, reach(0.02 * tick), strict=True))
        intention.take_joints(joints, time_ns)
    return intention


def only(shapes, kind):
    (found,) = [shape for shape in shapes if isinstance(shape, kind)]
    return found


# Links and tracks --------------------------------------------------------------------------------


def test_links_agree_with_the_kinematics_of_the_arm():
    kinematics = ArmKinematics(WIDOWX.description_path, 'ee_gripper_link')
    rows = np.random.default_rng(0).uniform(-1, 1, (5, 6))
    way = LINKS.way('ee_gripper_link', kinematics.joint_names, rows)
    np.testing.assert_allclose(way, [kinematics.tip_position(row) for row in rows], atol=1e-12)


def test_a_link_without_all_its_joints_has_no_place():
    poses = LINKS.poses({'waist': 0.0})
    assert 'shoulder_link' in poses
    assert 'gripper_link' not in poses
    with pytest.raises(KinematicsError, match='no position of shoulder'):
        LINKS.way('upper_arm_link', ['waist'], np.zeros((1, 1)))


def test_predicted_way_begins_where_the_chunk_is_now_and_ends_with_its_last_row():
    intention, now_ns = seen(1.0), 101 * S
    intention.take_status(status(), now_ns)
    intention.take_chunk(chunk(0.75), now_ns)
    lines = only(intention.picture(now_ns).named('predicted/arm'), Lines)
    np.testing.assert_allclose(lines.points[0], [0.25, 0.1, 0.2], atol=1e-4)
    np.testing.assert_allclose(lines.points[-1], [0.25, 0.225, 0.2], atol=1e-4)
    assert len(lines.points) == 1 + 13
    np.testing.assert_allclose(lines.colours[[0, -1]], ahead(np.array([0.0, 1.0])))


def test_executed_way_lies_where_the_tip_was():
    (lines,) = seen(1.0).picture(101 * S).named('executed/arm')
    np.testing.assert_allclose(lines.points[-1], [0.25, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(lines.points[:, 1], 0.1 * 0.04 * np.arange(26), atol=1e-6)


def test_a_newer_chunk_makes_a_seam_and_leaves_the_rest_of_the_older():
    intention = seen(1.0)
    intention.take_status(status(), round(100.4 * S))
    intention.take_chunk(chunk(0.4), round(100.4 * S))
    intention.take_chunk(chunk(0.8), round(100.8 * S))
    intention.take_status(status(), 101 * S)
    picture = intention.picture(101 * S)
    (seam,) = picture.named('seam/arm')
    np.testing.assert_allclose(seam.points, [[0.25, 0.08, 0.2]], atol=1e-6)
    (left,) = picture.named('left/arm')
    assert left.dashed
    np.testing.assert_allclose(left.points[[0, -1], 1], [0.08, 0.19], atol=1e-5)


def test_the_first_chunk_is_no_seam():
    intention = seen(1.0)
    intention.take_chunk(chunk(0.9), 101 * S)
    intention.take_status(status(), 101 * S)
    picture = intention.picture(101 * S)
    assert not picture.named('seam/arm')
    assert not picture.named('left/arm')


def test_a_hold_ends_the_prediction_and_says_where_and_why():
    intention, now_ns = seen(1.0), 101 * S
    intention.take_chunk(chunk(0.9), now_ns - 1)
    intention.take_status(status('HOLDING', 'ego: silent for 0.2 s', ['ego']), now_ns)
    picture = intention.picture(now_ns)
    assert not picture.named('predicted/arm')
    assert only(picture.named('stopped/arm'), Words).text == 'holds: ego: silent for 0.2 s'
    np.testing.assert_allclose(
        only(picture.named('stopped/arm'), Dots).points, [[0.25, 0.1, 0.2]], atol=1e-6
    )
    assert picture.named('left/arm')
    assert picture.caption.alarm == 'ego: silent for 0.2 s'
    assert picture.caption.facts[0] == ('missing', 'ego')
    assert ('armed', 'scaled, 25 % speed') in picture.caption.facts
    assert ('node beside it', '–') in picture.caption.facts


def test_a_silent_policy_intends_nothing():
    intention = seen(1.0)
    intention.take_status(status(), 100 * S)
    intention.take_chunk(chunk(0.9), 100 * S)
    picture = intention.picture(round(101.5 * S))
    assert {shape.name for shape in picture.shapes} == {'limits/arm', 'executed/arm'}
    assert picture.caption.badge == 'SILENT'
    assert Intention(WIDOWX, LINKS).picture(S).caption.alarm == 'the policy has said nothing yet'


@pytest.mark.parametrize(
    ('broken', 'row'), [({(9, 1): 9.0}, 9), ({(5, 0): float('nan')}, 4), ({(3, 5): 0.9}, 2)]
)
def test_what_the_gate_refuses_is_shown_at_the_row_that_it_names(broken, row):
    intention, now_ns, bad = seen(1.0), 101 * S, chunk(0.9, broken=broken)
    verdict = SafetyGate(WIDOWX).check_chunk(bad, now_ns)
    assert not verdict.ok
    intention.take_status(status('HOLDING', 'safety'), now_ns)
    intention.take_refused(bad, verdict.reason, now_ns)
    shapes = intention.picture(now_ns).named('refused/arm')
    ring = next(s for s in shapes if isinstance(s, Dots) and s.ringed)
    joints = bad.actions[row : row + 1, :6].astype(np.float64)
    np.testing.assert_allclose(ring.points, LINKS.way('ee_gripper_link', arm.ARM_JOINTS, joints))
    assert only(shapes, Words).text == f'refused: {verdict.reason}'
    assert intention.picture(now_ns).caption.alarm == f'refused: {verdict.reason}'


def test_a_refusal_is_forgotten_once_the_robot_goes_on():
    intention = seen(1.0)
    intention.take_refused(chunk(0.9), 'row 2: x', 101 * S)
    for time_ns, shown in ((102 * S, True), (106 * S, False)):
        intention.take_status(status(), time_ns)
        assert bool(intention.picture(time_ns).named('refused/arm')) == shown


def test_the_box_is_red_when_it_was_the_reason():
    intention, now_ns = seen(1.0), 101 * S
    intention.take_status(status(), now_ns)
    (before,) = intention.picture(now_ns).named('limits/arm')
    intention.take_refused(
        chunk(0.9), 'row 3: workspace: ee_gripper_link.z 0.6 m > limit 0.5 m', now_ns
    )
    (after,) = intention.picture(now_ns).named('limits/arm')
    assert after.colours[0, 0] > 0.9 > before.colours[0, 0]
    np.testing.assert_array_equal(after.points.min(0), WIDOWX.workspaces[0].lower)
    np.testing.assert_array_equal(after.points.max(0), WIDOWX.workspaces[0].upper)


def test_rows_near_the_end_of_a_joints_range_are_ringed():
    intention, now_ns = seen(1.0), 101 * S
    upper = WIDOWX.limits['wrist_rotate'].upper
    intention.take_status(status(), now_ns)
    intention.take_chunk(chunk(1.0, broken={(7, 5): upper - 0.05}), now_ns)
    (ring,) = intention.picture(now_ns).named('near_limit/arm')
    np.testing.assert_allclose(ring.points, [[0.25, 0.17, 0.2]], atol=1e-4)


def test_cartesian_rows_begin_at_the_measured_tip():
    intention, now_ns = seen(1.0), 101 * S
    rows = np.zeros((4, 7), np.float32)
    rows[:, 2] = [0.0, -0.01, -0.02, -0.03]
    names = WIDOWX.action_names('delta_eef')
    intention.take_status(status(), now_ns)
    intention.take_chunk(ActionChunk(rows, names, now_ns, 0.2, 'base_link'), now_ns)
    lines = only(intention.picture(now_ns).named('predicted/arm'), Lines)
    np.testing.assert_allclose(lines.points[:, 2], [0.2, 0.19, 0.18, 0.17], atol=1e-6)


def test_a_trail_is_bounded_and_starts_anew_when_the_clock_goes_back():
    trail = Trail(1.0)
    for tick in range(200):
        trail.add(tick * 40_000_000, np.zeros(3))
    assert len(trail.since(0).times_ns) == 26
    trail.add(0, np.ones(3))
    assert trail.since(0) is None
    trail.add(40_000_000, np.ones(3) + 0.1)
    assert len(trail.since(0).times_ns) == 2
    trail.add(80_000_000, np.ones(3))
    trail.add(120_000_000, np.zeros(3))  # nothing moves 1.7 m in 40 ms
    assert trail.since(0) is None
    np.testing.assert_array_equal(trail.newest[0], np.zeros(3))


# Cameras -----------------------------------------------------------------------------------------


def info(distortion, model, size=(640, 480)):
    k = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
    return SimpleNamespace(
        k=k,
        p=[400.0, 0, 320, 0, 0, 400, 240, 0, 0, 0, 1, 0],
        d=distortion,
        distortion_model=model,
        width=size[0],
        height=size[1],
    )


@pytest.mark.parametrize(
    ('distortion', 'model'),
    [
        ([], ''),
        ([-0.3, 0.1, 0.001, -0.002, 0.0], 'plumb_bob'),
        ([0.4, -0.2, 0.001, 0.0, 0.05, 0.5, -0.1, 0.02], 'rational_polynomial'),
    ],
)
def test_projection_equals_opencv(distortion, model):
    pose = looking([0.7, -0.3, 0.5], [0.2, 0.0, 0.1], (640, 480)).pose
    camera = camera_of_info(info(distortion, model), False, (640, 480)).placed(pose)
    points = np.random.default_rng(1).uniform([0.1, -0.1, 0.0], [0.3, 0.1, 0.2], (20, 3))
    turn = pose[:3, :3].T
    wanted = cv2.projectPoints(
        points,
        cv2.Rodrigues(turn)[0],
        -turn @ pose[:3, 3],
        np.array(info([], '').k).reshape(3, 3),
        np.array(distortion or [0.0] * 4),
    )[0]
    np.testing.assert_allclose(camera.project(points), wanted[:, 0], atol=1e-6)


def test_fisheye_projection_equals_opencv():
    distortion = [0.05, -0.01, 0.002, 0.0]
    camera = camera_of_info(info(distortion, 'equidistant'), False, (640, 480))
    points = np.array([[0.1, -0.2, 1.0], [0.3, 0.1, 0.8]])
    wanted = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), camera.matrix, np.array(distortion)
    )[0]
    np.testing.assert_allclose(camera.project(points), wanted[:, 0], atol=1e-9)


def test_rectified_pictures_use_the_projection_matrix():
    camera = camera_of_info(info([-0.3, 0.1, 0, 0, 0], 'plumb_bob'), True, (640, 480))
    np.testing.assert_allclose(camera.project(np.array([[0.1, 0.2, 1.0]])), [[360, 320]])


def test_what_is_behind_the_camera_or_beyond_the_lens_has_no_pixel():
    camera = camera_of_info(info([-0.3, 0.1, 0, 0, 0], 'plumb_bob'), False, (640, 480))
    pixels = camera.project(np.array([[0, 0, -1.0], [5.0, 0, 1.0], [0, 0, 1.0]]))
    assert np.isnan(pixels[:2]).all()
    np.testing.assert_allclose(pixels[2], [320, 240])


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'size': (320, 240)}, '320x240, the picture has 640x480'),
        ({'model': 'thin_prism', 'distortion': [0.1] * 12}, "'thin_prism'"),
        ({'k': [0.0] * 9}, 'not calibrated'),
    ],
)
def test_a_camera_info_that_does_not_fit_is_refused(changes, told):
    message = info(
        changes.get('distortion', []), changes.get('model', ''), changes.get('size', (640, 480))
    )
    message.k = changes.get('k', message.k)
    with pytest.raises(CameraUnusable, match=told):
        camera_of_info(message, False, (640, 480))


# Frames ------------------------------------------------------------------------------------------


def test_poses_go_through_the_common_parent():
    tree = FrameTree()
    tree.put('odom', 'base_link', planar_pose(1.0, 2.0, np.pi / 2), 5 * S)
    tree.put('base_link', 'camera', pose_of([0.1, 0.0, 0.3], [0, 0, 0, 1]))
    pose = tree.pose('odom', 'camera', 5 * S)
    np.testing.assert_allclose(pose[:3, 3], [1.0, 2.1, 0.3], atol=1e-12)
    np.testing.assert_allclose(tree.pose('camera', 'odom', 5 * S) @ pose, np.eye(4), atol=1e-12)


def test_the_pose_nearest_in_time_counts_and_an_old_one_is_refused():
    tree = FrameTree()
    for tick in range(10):
        tree.put('odom', 'base', planar_pose(float(tick), 0, 0), tick * 100_000_000)
    assert tree.pose('odom', 'base', 330_000_000)[0, 3] == 3.0
    with pytest.raises(FrameMissing, match="'base' is known for another instant only, 4.10 s"):
        tree.pose('odom', 'base', 5 * S)


def test_a_missing_frame_is_named():
    tree = FrameTree()
    tree.put('base_link', 'hand', np.eye(4))
    with pytest.raises(FrameMissing, match="frame 'camera' is not known"):
        tree.pose('camera', 'hand', 0)
    tree.put('map', 'camera', np.eye(4))
    with pytest.raises(FrameMissing, match="'base_link' has no parent that leads to 'map'"):
        tree.pose('camera', 'hand', 0)


def test_extrinsics_are_read_as_tf2_writes_them():
    parent, child, pose = extrinsics_of('base_link cam 1 2 3 0 0 1 0')
    assert (parent, child) == ('base_link', 'cam')
    np.testing.assert_allclose(pose @ [1, 0, 0, 1], [0, 2, 3, 1])
    for text in ('base_link cam 1 2 3', 'a b 1 2 3 x 0 0 1', 'a b 0 0 0 0 0 0 2'):
        with pytest.raises(FrameMissing):
            extrinsics_of(text)


# Pixels ------------------------------------------------------------------------------------------


def straight(colour=(1.0, 0.0, 0.0, 1.0), **changes):
    points = np.array([[0.0, -0.1, 0.0], [0.0, 0.1, 0.0]])
    return Lines('predicted/x', 'base', points, np.tile(colour, (2, 1)), 0.01, **changes)


def drawn(*shapes):
    image = np.zeros((480, 640, 3), np.uint8)
    camera = looking([1.0, 0.0, 0.0], [0.0, 0.0, 0.0], (640, 480))
    return draw_picture(image, Picture(0, shapes), camera, lambda frame: np.eye(4)), camera


def test_a_line_is_drawn_where_its_points_project():
    image, camera = drawn(straight())
    red = np.argwhere((image[..., 0] > 200) & (image[..., 1] < 60))
    ends = np.sort(camera.project(straight().points)[:, 0])
    assert abs(red[:, 1].min() - ends[0]) < 6
    assert abs(red[:, 1].max() - ends[1]) < 6
    assert abs(red[:, 0].mean() - 240) < 1


def test_a_line_through_the_camera_is_cut_not_mirrored():
    points = np.array([[0.0, 0.1, 0.0], [2.0, 0.1, 0.0]])  # ends behind the camera at x = 1
    image, camera = drawn(Lines('predicted/x', 'b', points, np.ones((2, 4)), 0.01))
    white = np.argwhere(image.min(2) > 200)
    assert white[:, 1].max() == 639
    assert white[:, 1].min() >= camera.project(points[:1])[0, 0] - 6


def test_dashes_leave_gaps():
    (whole, _), (dashed, _) = drawn(straight()), drawn(straight(dashed=True))
    rows = whole[240, :, 0] > 200, dashed[240, :, 0] > 200
    assert np.diff(rows[0].astype(int)).clip(0).sum() == 1
    assert np.diff(rows[1].astype(int)).clip(0).sum() == 4


def test_nothing_is_drawn_where_a_frame_is_missing():
    image = np.zeros((48, 64, 3), np.uint8)

    def locate(frame):
        raise FrameMissing(frame)

    with pytest.raises(FrameMissing):
        draw_picture(image, Picture(0, (straight(),)), drawn()[1], locate)
    assert not image.any()


def test_a_caption_writes_alarm_and_facts_into_any_size():
    for width, height in ((64, 48), (200, 90), (640, 480)):
        image = np.zeros((height, width, 3), np.uint8)
        facts = tuple((f'fact {i}', 'x' * 90) for i in range(9))
        draw_caption(image, Caption('a ' * 99, 'HOLDING', 'why ' * 99, facts, 1.2))
        assert image.any() == (width >= 200)


def test_a_long_fact_is_folded_and_stays_clear_of_the_scale():
    short, long = (np.zeros((480, 640, 3), np.uint8) for _ in range(2))
    words = ' '.join(['word'] * 45)
    draw_caption(short, Caption(horizon_s=1.0))
    draw_caption(long, Caption(facts=(('not drawn', words),), horizon_s=1.0))
    scale = np.s_[440:, 640 - SCALE * 10 :]
    assert short[scale].any() and (short[scale] == long[scale]).all()
    assert long[:, 200].any(axis=1).sum() > 2 * 14  # several lines, none beyond the scale
    assert '…' not in ' '.join(folded(words, 10, 390, FOLDS))


def test_shapes_that_cannot_be_drawn_are_refused():
    with pytest.raises(QwenVlaError, match='predicted/x: a point is not finite'):
        Lines('predicted/x', 'b', np.full((2, 3), np.nan), np.ones((2, 4)), 0.1)
    with pytest.raises(QwenVlaError, match=r'expected\s+\[N, 3\] and \[N, 4\]'):
        Dots('seam/x', 'b', np.zeros((2, 3)), np.ones((3, 4)), 0.1)
    assert box_edges([0, 0, 0], [1, 1, 1]).shape == (24, 3)


def test_from_afar_the_robot_covers_the_floor():
    intention = Intention(WIDOWX, LINKS, body=True)
    intention.take_joints(dict(zip(arm.JOINT_NAMES, reach(0.0), strict=True)), S)
    picture, camera = intention.picture(S), looking([1.0, -0.8, 0.7], [0.2, 0, 0.1], (320, 240))
    with_body = render(picture, camera, lambda frame: np.eye(4), caption=False)
    kept = tuple(shape for shape in picture.shapes if shape.name != 'body')
    bare = render(Picture(S, kept), camera, lambda frame: np.eye(4), caption=False)
    changed = (with_body.astype(int) - bare).any(2).mean()
    assert 0.03 < changed < 0.3


# Bases and two arms ------------------------------------------------------------------------------

BASE = Embodiment.load('mobile_base')


def driven():
    intention = Intention(BASE, RobotLinks(BASE.description_path), body=True)
    for tick in range(51):
        pose = (1.0 + 0.02 * tick * 0.3, 2.0, np.pi / 2)
        intention.take_pose('odom', pose, 100 * S + tick * 20_000_000)
    return intention


def test_waypoints_go_from_the_pose_at_the_chunks_stamp_into_odom():
    intention, now_ns = driven(), 101 * S
    rows = np.array([[0.1, 0.0, 0.0], [0.2, 0.0, 0.0], [0.3, 0.1, 0.5]], np.float32)
    chunk = ActionChunk(rows, ('dx', 'dy', 'dtheta'), now_ns, 0.5)
    intention.take_status(status(), now_ns)
    intention.take_chunk(chunk, now_ns)
    line = intention.picture(now_ns).named('predicted/base')[0]
    assert (line.frame, line.joined) == ('odom', True)
    wanted = [[1.3, 2.0], [1.3, 2.1], [1.3, 2.2], [1.2, 2.3]]
    np.testing.assert_allclose(line.points[:, :2], wanted, atol=1e-6)
    track = intention.tracks[0]
    way = track.way(chunk, {})
    np.testing.assert_array_equal(way.times_ns - now_ns, np.arange(4) * S // 2)
    np.testing.assert_allclose(way.headings, np.pi / 2 + np.array([0, 0, 0, 0.5]), atol=1e-6)


def test_a_base_without_a_pose_at_the_stamp_has_no_way():
    intention, now_ns = driven(), 101 * S
    chunk = ActionChunk(np.zeros((3, 3), np.float32), ('dx', 'dy', 'dtheta'), 90 * S, 9.0)
    intention.take_status(status(), now_ns)
    intention.take_chunk(chunk, now_ns)
    assert not intention.picture(now_ns).named('predicted/base')


def test_the_footprint_lies_around_the_base():
    (rim,) = driven().picture(101 * S).named('body/base')
    centre = rim.points[0]
    np.testing.assert_allclose(centre[:2], [1.3, 2.0])
    np.testing.assert_allclose(np.linalg.norm(rim.points[1:] - centre, axis=1), 0.17)
    np.testing.assert_allclose(rim.points[1, :2], [1.3, 2.17], atol=1e-9)


ALOHA = Embodiment.load('aloha')


def test_two_arms_have_a_way_each_and_a_refusal_names_one():
    links, now_ns = RobotLinks(ALOHA.description_path), 101 * S
    intention = Intention(ALOHA, links, body=True)
    tips = [(track.name, track.link) for track in intention.tracks]
    assert tips == [('left_arm', 'left_ee_gripper_link'), ('right_arm', 'right_ee_gripper_link')]
    names = ALOHA.action_names()
    rows = np.random.default_rng(2).uniform(-0.5, 0.5, (4, len(names)))
    for tick in range(10):
        for side in ('left_', 'right_'):  # each arm has a topic and stamps of its own
            joints = zip(names, rows[0], strict=True)
            own = {name: value for name, value in joints if name.startswith(side)}
            intention.take_joints(own, now_ns - (9 - tick) * 40_000_000 - (side == 'right_'))
    chunk = ActionChunk(rows.astype(np.float32), names, now_ns, 0.1)
    intention.take_status(status(), now_ns)
    intention.take_chunk(chunk, now_ns)
    picture = intention.picture(now_ns)
    for side in ('left', 'right'):
        kinematics = ArmKinematics(ALOHA.description_path, f'{side}_ee_gripper_link')
        columns = [names.index(name) for name in kinematics.joint_names]
        wanted = [kinematics.tip_position(row) for row in chunk.actions[:, columns]]
        line = only(picture.named(f'predicted/{side}_arm'), Lines)
        np.testing.assert_allclose(line.points, wanted, atol=1e-9)
        assert len(picture.named(f'executed/{side}_arm')[0].points) == 10
    assert len(picture.named('body')) == len(ALOHA.capsules.parts)
    reason = 'row 2: velocity of right_waist 9 rad/s > limit 3 rad/s'
    intention.take_refused(chunk, reason, now_ns)
    picture = intention.picture(now_ns)
    assert picture.named('refused/right_arm')
    assert not picture.named('refused/left_arm')


def test_arms_without_capsules_are_drawn_from_joint_to_joint():
    intention = Intention(
        replace(ALOHA, capsules=None), RobotLinks(ALOHA.description_path), body=True
    )
    intention.take_joints(dict.fromkeys(ALOHA.action_names(), 0.1), S)
    picture = intention.picture(S)
    for side, x in (('left', -0.469), ('right', 0.469)):
        tubes = picture.named(f'body/{side}_arm')
        np.testing.assert_allclose(tubes[0].start, [x, 0, 0], atol=1e-9)
        joints = intention.tracks[side == 'right'].joints
        tip = RobotLinks(ALOHA.description_path).way(
            f'{side}_ee_gripper_link', joints, np.full((1, len(joints)), 0.1)
        )
        np.testing.assert_allclose(tubes[-1].end, tip[0], atol=1e-9)


@pytest.mark.parametrize('path', sorted((config_folder() / 'embodiments').glob('*.yaml')))
def test_every_contract_can_be_watched(path):
    """Without its URDF no arm is drawn, and nothing else suffers."""
    intention = Intention(Embodiment.load(path), None)
    intention.take_status(status(), S)
    assert intention.picture(S).caption.badge == 'RUNNING'
