"""`qwen-vla check home` on a live simulated robot, over DDS."""

import os
import subprocess
import sys

import pytest

pytest.importorskip('rclpy')
from ros_lab import ROOT, Lab, wait_for
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.nodes.qos import COMMAND, SENSOR


@pytest.fixture(scope='module')
def robot(tmp_path_factory):
    lab = Lab(72, tmp_path_factory.mktemp('check'))
    try:
        lab.joints = {}
        lab.node.create_subscription(JointState, 'joint_states', lambda m: hear(lab, m), SENSOR)
        lab.start_node('robot_sim_node', camera_rate=1.0)
        wait_for(lambda: lab.joints, 15.0, 'joint states')
        yield lab
    finally:
        lab.close()


def hear(lab, message):
    lab.joints = dict(zip(message.name, message.position, strict=True))


def check(lab, *words):
    return subprocess.run(
        [sys.executable, '-m', 'qwen_vla_ros.cli', 'check', 'home', *map(str, words)],
        env={**os.environ, **lab.environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def home(folder, lab, **changed):
    lines = {name: lab.joints[name] for name in ('waist', 'shoulder', 'elbow', 'wrist_angle')}
    path = folder / 'home.yaml'
    path.write_text('\n'.join(f'{name}: {value}' for name, value in {**lines, **changed}.items()))
    return path


def test_it_reads_and_moves_nothing_unless_told(robot, tmp_path):
    done = check(robot, '--home', home(tmp_path, robot))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('pass') == 4 and 'asked' not in done.stdout
    done = check(robot, '--home', home(tmp_path, robot, elbow=robot.joints['elbow'] + 1.5708))
    assert done.returncode == 1 and 'off by a quarter turn' in done.stdout


def test_after_a_refused_pose_nothing_moves(robot, tmp_path):
    before = dict(robot.joints)
    wrong = home(tmp_path, robot, elbow=robot.joints['elbow'] + 1.25)
    done = check(robot, '--home', wrong, '--move')
    assert done.returncode == 1 and 'asked' not in done.stdout
    assert 'nothing was moved: elbow refused at home' in done.stderr
    assert '--move-anyway' in done.stderr
    assert all(abs(robot.joints[name] - before[name]) < 0.002 for name in before)


def test_a_nudge_is_refused_while_somebody_else_commands(robot, tmp_path):
    topic = 'gripper_controller/joint_trajectory'
    other = robot.node.create_publisher(JointTrajectory, topic, COMMAND)
    wait_for(other.get_subscription_count, what='a match')
    done = check(robot, '--home', home(tmp_path, robot), '--move')
    robot.node.destroy_publisher(other)
    assert done.returncode == 2 and 'publishes there' in done.stderr


@pytest.mark.slow
def test_every_joint_is_nudged_and_put_back(robot, tmp_path):
    before = dict(robot.joints)
    done = check(robot, '--home', home(tmp_path, robot), '--move')
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('asked') == 7 and 'refuse' not in done.stdout
    assert all(abs(robot.joints[name] - before[name]) < 0.01 for name in before)


@pytest.mark.slow
def test_after_a_refused_pose_it_moves_when_that_is_asked_for(robot, tmp_path):
    wrong = home(tmp_path, robot, elbow=robot.joints['elbow'] + 1.25)
    done = check(robot, '--home', wrong, '--move-anyway')
    assert done.returncode == 1 and done.stdout.count('asked') == 7


def test_without_a_driver_it_says_so(robot):
    environment = {**robot.environment, 'ROS_DOMAIN_ID': '231'}
    done = subprocess.run(
        [sys.executable, '-m', 'qwen_vla_ros.cli', 'check', 'home'],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and 'no joint states on joint_states within 5 s' in done.stderr
