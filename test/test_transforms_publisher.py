"""The frames for /tf: those of the kinematics and of the cameras, in base_link."""

import numpy as np
import pytest

pytest.importorskip('geometry_msgs')
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.nodes import transforms_publisher as publisher
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.sim.world import TabletopWorld

WIDOWX = Embodiment.load('widowx')


@pytest.fixture(scope='module')
def world():
    world = TabletopWorld(render=False)
    world.set_posture([0.3, -0.5, 0.7, 0.2, 0.6, -0.1, 0.03])
    return world


def matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize(
    'name',
    [
        'shoulder_link',
        'upper_arm_link',
        'upper_forearm_link',
        'lower_forearm_link',
        'wrist_link',
        'gripper_link',
        'ee_gripper_link',
    ],
)
def test_a_link_stands_where_the_kinematics_has_it(world, name):
    cameras = {camera.view: camera.frame_id for camera in WIDOWX.cameras}
    frames = {name: pose for name, *pose in publisher._frames(world, cameras)}
    arm = ArmKinematics(WIDOWX.description_path, name)
    position, rotation = arm.forward(world.positions()[: len(arm.joint_names)])
    np.testing.assert_allclose(frames[name][0], position, atol=1e-4)
    np.testing.assert_allclose(matrix(frames[name][1]), rotation, atol=1e-3)


def test_the_cameras_look_along_their_optical_axes(world):
    frames = {camera.view: camera.frame_id for camera in WIDOWX.cameras}
    found = publisher._cameras(world, frames)
    assert [name for name, _, _ in found] == list(frames.values())
    for view, (_, position, quaternion) in zip(frames, found, strict=True):
        info = world.camera_info(view)
        np.testing.assert_allclose(position, info.position)
        np.testing.assert_allclose(matrix(quaternion), info.rotation, atol=1e-9)


def test_a_transform_is_stamped_and_hangs_on_base_link():
    message = publisher._transform(
        1_234_567_890_123,
        'base_link',
        'hand',
        np.array([1.0, 2.0, 3.0]),
        np.array([0.5, -0.5, 0.5, -0.5]),
    )
    assert (message.header.frame_id, message.child_frame_id) == ('base_link', 'hand')
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1234, 567_890_123)
    place, turn = message.transform.translation, message.transform.rotation
    assert (place.x, place.y, place.z) == (1.0, 2.0, 3.0)
    assert (turn.w, turn.x, turn.y, turn.z) == (0.5, -0.5, 0.5, -0.5)


def test_both_arms_of_aloha_hang_on_the_table():
    aloha, world = Embodiment.load('aloha'), AlohaWorld(render=False)
    cameras = {camera.view: camera.frame_id for camera in aloha.cameras}
    frames = {name: pose for name, *pose in publisher._frames(world, cameras)}
    assert {*cameras.values(), 'left_base_link', 'right_base_link'} < set(frames)
    for side, first in (('left', 0), ('right', 7)):
        name = f'{side}_ee_gripper_link'
        arm = ArmKinematics(aloha.description_path, name)
        position, rotation = arm.forward(world.positions()[first : first + 6])
        np.testing.assert_allclose(frames[name][0], position, atol=1e-4)
        np.testing.assert_allclose(matrix(frames[name][1]), rotation, atol=1e-3)
