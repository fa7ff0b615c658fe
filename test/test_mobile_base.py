"""The contract of the mobile base: its prompt, its outputs, and waypoints that become speeds."""

import numpy as np
import pytest

from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import ContractError, Embodiment
from qwen_vla_ros.kinematics import load_pinocchio
from qwen_vla_ros.navigation_commands import base_speeds, is_stop, limited_speeds, waypoint_poses
from qwen_vla_ros.output_kinds import BaseRows
from qwen_vla_ros.seeing.links import RobotLinks

BASE = Embodiment.load('mobile_base')


def test_eight_waypoints_at_two_hertz_from_one_camera_and_odometry():
    assert (BASE.rate_hz, BASE.horizon) == (2.0, 8)
    assert [camera.view for camera in BASE.cameras] == ['ego']
    assert BASE.state.type == 'Odometry'
    assert BASE.state_names == ('x', 'y', 'yaw', 'linear_x', 'angular_z')
    for layout in BASE.layouts:
        assert BASE.action_names(layout) == ('dx', 'dy', 'dtheta')
        (group,) = BASE.action_groups(layout)
        assert group.output.options['relative_to'] == 'first'
    kinds = [BASE.action_groups(layout)[0].output.type for layout in BASE.layouts]
    assert kinds == ['TwistStamped', 'Twist', 'Path', 'FollowPath', 'NavigateToPose']


def test_the_prompt_speaks_of_a_base_and_of_waypoints():
    assert BASE.prompt('go to the red chair') == (
        'The robot is LoCoBot with mobile base. The control frequency is 2 Hz. Please predict the '
        'next 8 waypoints to execute the following task: go to the red chair.'
    )


def test_a_robot_without_arms_and_without_a_base_is_refused(tmp_path):
    path = tmp_path / 'robot.yaml'
    path.write_text(BASE.text.replace('mobile_base: true', 'mobile_base: false'))
    with pytest.raises(ContractError, match=r'prompt\.arms: a robot without arms needs'):
        Embodiment.load(path)


def rows(waypoints, speed=(0.0, 0.0, 0.0)):
    times = 0.5 * np.arange(1, len(waypoints) + 1)
    return BaseRows('odom', (1.0, 2.0, np.pi / 2), times, np.array(waypoints), 0, 0, speed)


def test_waypoints_lie_in_the_base_at_the_observation_and_zero_is_stop():
    (group,) = BASE.action_groups()
    options = output_of(group.output.type).filled(group.output.options)
    ahead = rows([[0.1, 0.0, 0.0], [0.2, 0.0, 0.0]])
    poses = waypoint_poses(ahead, options['relative_to'])
    np.testing.assert_allclose(poses, [[1.0, 2.1, np.pi / 2], [1.0, 2.2, np.pi / 2]])
    np.testing.assert_allclose(base_speeds(ahead, poses, options), [[0.2, 0, 0]] * 2, atol=1e-12)
    still = rows(np.zeros((8, 3)))
    assert is_stop(still, waypoint_poses(still, options['relative_to']), options)


def test_speeds_stay_within_those_of_the_create_3():
    (group,) = BASE.action_groups()
    options = output_of(group.output.type).filled(group.output.options)
    found = limited_speeds(np.full((20, 3), [2.0, 0.0, 0.0]), np.zeros(3), 0.05, options)
    assert found[:, 0].max() == pytest.approx(0.306)
    assert np.abs(np.diff(found[:, 0], prepend=0.0)).max() <= 0.9 * 0.05 + 1e-9
    assert not found[-1].any()


def test_the_description_has_the_cameras_frame():
    load_pinocchio()
    pose = RobotLinks(BASE.description_path).poses({})['camera_color_optical_frame']
    np.testing.assert_allclose(pose[:3, 3], [0.0888, 0.0, 0.5662], atol=1e-4)
    ahead, down = [np.cos(0.3), 0, -np.sin(0.3)], [-np.sin(0.3), 0, -np.cos(0.3)]
    np.testing.assert_allclose(pose[:3, 2], ahead, atol=1e-6)
    np.testing.assert_allclose(pose[:3, 1], down, atol=1e-6)
