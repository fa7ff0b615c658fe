"""Known points of the hand against a camera: planted offsets are found and told in px and mm."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from qwen_vla_ros.checks.hand_eye import compare, marker_centre, read_samples
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.seeing.camera import Camera
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.world import TabletopWorld

ROOT = Path(__file__).parents[1]
POSTURES = [
    [waist, shoulder, 0.7, 0.1, 0.8, 0.2] for waist in (-0.4, 0.0, 0.4) for shoulder in (-0.5, 0.0)
]


@pytest.fixture(scope='module')
def kinematics():
    widowx = Embodiment.load('widowx')
    return ArmKinematics(widowx.description_path, 'ee_gripper_link', arm.ARM_JOINTS)


@pytest.fixture(scope='module')
def scene(kinematics):
    """The simulated scene camera, tips of six postures, and where they are seen."""
    world = TabletopWorld(render=False)
    world.reset(0)
    info, points, pixels = world.camera_info('ego'), [], []
    for posture in POSTURES:
        world.set_posture([*posture, 0.03])
        points.append(kinematics.forward(posture)[0])
        np.testing.assert_allclose(points[-1], world.tip_position(), atol=1e-4)
        pixels.append(world.project('ego', world.tip_position()[None])[0][0])
    world.close()
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = info.rotation, info.position
    camera = Camera(info.matrix, info.width, info.height, pose, np.zeros(4))
    return camera, np.array(points), np.array(pixels)


def test_right_extrinsics_leave_less_than_a_pixel(scene):
    result = compare(*scene)
    assert result.pixels.max() < 0.5 and result.mm.max() < 0.5
    assert result.finding().ok


def test_a_planted_shift_of_the_camera_is_found(scene):
    camera, points, pixels = scene
    planted = camera.pose.copy()
    planted[:3, 3] += 0.03 * planted[:3, 0]  # 30 mm to the right
    result = compare(camera.placed(planted), points, pixels)
    assert result.mm == pytest.approx(np.full(len(points), 30.0), abs=1.0)
    assert result.moved_mm == pytest.approx(30.0, abs=1.0)
    assert result.turned_deg < 0.2 and result.rest_px < 0.5
    finding = result.finding()
    assert not finding.ok and 'calibrate the extrinsics' in finding.remedy


def test_a_planted_turn_of_the_camera_is_found(scene):
    camera, points, pixels = scene
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.radians([0.0, 2.0, 0.0]))[0]
    result = compare(camera.placed(camera.pose @ turn), points, pixels)
    assert result.turned_deg == pytest.approx(2.0, abs=0.1) and result.rest_px < 0.5


def test_an_offset_of_a_joint_is_not_blamed_on_the_camera(scene, kinematics):
    camera, _, pixels = scene
    elbows = [np.array(q) + [0, 0, 0.15 * (-1) ** i, 0, 0, 0] for i, q in enumerate(POSTURES)]
    points = np.array([kinematics.forward(q)[0] for q in elbows])
    finding = compare(camera, points, pixels).finding()
    assert not finding.ok and 'check joints, tip, camera_info' in finding.remedy


def test_four_samples_are_enough_and_three_are_not(scene):
    camera, points, pixels = scene
    result = compare(camera, points[:4], pixels[:4] + [3.0, 4.0])
    assert result.pixels == pytest.approx([5.0] * 4, abs=0.5) and result.moved_mm is not None
    with pytest.raises(QwenVlaError, match='hand-eye: 3 samples, at least 4 are wanted'):
        compare(camera, points[:3], pixels[:3])


@pytest.mark.parametrize(
    ('points', 'pixels', 'words'),
    [
        (np.zeros((0, 3)), np.zeros((0, 2)), '0 samples, at least 4'),
        (np.zeros((2, 3)), np.zeros((3, 2)), 'are wanted for each'),
        (np.full((4, 3), np.nan), np.zeros((4, 2)), 'not finite'),
    ],
)
def test_samples_without_sense_are_refused(scene, points, pixels, words):
    with pytest.raises(QwenVlaError, match=words):
        compare(scene[0], points, pixels)


def picture_with_marker(number, corners):
    """A grey picture with a marker (white rim around it) whose corners are where told."""
    known = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    tile = cv2.copyMakeBorder(
        cv2.aruco.generateImageMarker(known, number, 240),
        *[40] * 4,
        cv2.BORDER_CONSTANT,
        value=255,
    )
    from_ = np.float32([[39.5, 39.5], [279.5, 39.5], [279.5, 279.5], [39.5, 279.5]])
    matrix = cv2.getPerspectiveTransform(from_, np.float32(corners))
    image = np.full((480, 640), 128, np.uint8)
    shown = cv2.warpPerspective(tile, matrix, (640, 480), flags=cv2.INTER_AREA, borderValue=128)
    return np.where(shown == 0, np.minimum(image, shown), shown)


def crossing(corners):
    a, b, c, d = np.array(corners, np.float64)
    return a + (c - a) * np.linalg.solve(np.stack([c - a, b - d], 1), b - a)[0]


def test_a_markers_centre_is_found_under_perspective():
    corners = [[300, 200], [380, 215], [370, 290], [295, 270]]
    found = marker_centre(picture_with_marker(7, corners), 7)
    assert found == pytest.approx(crossing(corners), abs=1.0)


def test_a_marker_that_is_not_there_is_told():
    image = picture_with_marker(7, [[300, 200], [380, 215], [370, 290], [295, 270]])
    with pytest.raises(QwenVlaError, match=r'marker 3 is seen 0 times in the picture: \[7\]'):
        marker_centre(image, 3)
    with pytest.raises(QwenVlaError, match="'DICT_9' is not one of"):
        marker_centre(image, 3, 'DICT_9')


def written(folder, scene, **changes):
    """Write the scene as a file of samples; return its path."""
    camera, _, pixels = scene
    quaternion = _quaternion(camera.pose[:3, :3])
    data = {
        'camera': {
            'width': camera.width,
            'height': camera.height,
            'k': camera.matrix.ravel().tolist(),
        },
        'extrinsics': {'position': camera.pose[:3, 3].tolist(), 'quaternion': quaternion},
        'samples': [
            {'joints': dict(zip(arm.ARM_JOINTS, q, strict=True)), 'pixel': pixel.tolist()}
            for q, pixel in zip(POSTURES, pixels, strict=True)
        ],
        **changes,
    }
    (folder / 'samples.yaml').write_text(yaml.safe_dump(data))
    return folder / 'samples.yaml'


def _quaternion(rotation):
    axis = cv2.Rodrigues(rotation)[0].ravel()
    half = np.linalg.norm(axis) / 2
    return [*(np.sin(half) * axis / (2 * half)).tolist(), float(np.cos(half))]


def run(*words):
    command = [sys.executable, '-m', 'qwen_vla_ros.cli', 'check', 'hand-eye', *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_passes_right_samples_and_refuses_shifted_ones(tmp_path, scene):
    done = run(written(tmp_path, scene))
    assert done.returncode == 0 and done.stdout.startswith('pass   hand-eye  6 samples')
    done = run(written(tmp_path, scene, point=[0.0, 0.0, 0.03]))
    assert done.returncode == 1 and done.stdout.startswith('refuse')


def test_the_command_tells_bad_input_in_one_line(tmp_path, scene):
    done = run(tmp_path / 'nothing.yaml')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    done = run(written(tmp_path, scene, samples=[{'joints': {'waist': 0}, 'pixel': [1, 2]}]))
    assert done.returncode == 2 and 'sample 0' in done.stderr


def test_a_sample_may_be_a_picture_with_a_marker(tmp_path, scene, kinematics):
    u, v = scene[2][0]
    corners = [[u - 30, v - 30], [u + 30, v - 30], [u + 30, v + 30], [u - 30, v + 30]]
    cv2.imwrite(str(tmp_path / 'one.png'), picture_with_marker(7, corners))
    joints = dict(zip(arm.ARM_JOINTS, POSTURES[0], strict=True))
    path = written(tmp_path, scene, samples=[{'joints': joints, 'image': 'one.png', 'marker': 7}])
    camera, points, pixels = read_samples(path, kinematics)
    assert np.linalg.norm(camera.project(points) - pixels, axis=1).max() < 1.0
