"""FollowJointTrajectory of robot_sim, by distribution, over DDS. Run by test_vendor_drivers.py."""

import pytest
from action_msgs.msg import GoalStatus
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from rclpy.action import ActionClient
from ros_lab import Lab, wait_for
from trajectory_msgs.msg import JointTrajectoryPoint

from qwen_vla_ros.sim.arm import ARM_JOINTS

NAME = 'arm_controller/follow_joint_trajectory'


@pytest.fixture
def robot(tmp_path, request):
    lab = Lab(82, tmp_path)
    try:
        lab.start_node('robot_sim_node', driver=request.param, camera_rate=1.0)
        lab.client = ActionClient(lab.node, FollowJointTrajectory, NAME)
        wait_for(lab.client.server_is_ready, 15.0, 'the server')
        yield lab
        lab.client.destroy()
    finally:
        lab.close()


def goal(seconds, waist=0.2, velocity=0.0):
    row = [waist, -0.6, 0.6, 0.0, 0.9, 0.0]
    point = JointTrajectoryPoint(positions=row, velocities=[velocity, *[0.0] * 5])
    point.time_from_start.sec, rest = divmod(round(seconds * 1e9), 10**9)
    point.time_from_start.nanosec = rest
    found = FollowJointTrajectory.Goal()
    found.trajectory.joint_names, found.trajectory.points = list(ARM_JOINTS), [point]
    return found


def sent(lab, message, feedback=None):
    future = lab.client.send_goal_async(message, feedback_callback=feedback)
    wait_for(future.done, what='an answer')
    return future.result()


def ended(handle, timeout_s=8.0):
    future = handle.get_result_async()
    wait_for(future.done, timeout_s, 'a result')
    return future.result()


@pytest.mark.parametrize('robot', ['jtc-humble', 'jtc-jazzy', 'jtc-kilted'], indirect=True)
def test_goals_end_as_the_distribution_ends_them(robot, request):
    humble = 'humble' in request.node.name
    assert sent(robot, goal(1.0, velocity=0.1)).accepted == humble
    heard = []
    first = sent(robot, goal(3.0), heard.append)
    wait_for(lambda: len(heard) > 2, what='feedback')
    assert list(heard[-1].feedback.joint_names) == list(ARM_JOINTS)
    second = sent(robot, goal(0.5))
    replaced = ended(first)
    wanted = GoalStatus.STATUS_CANCELED if humble else GoalStatus.STATUS_ABORTED
    assert (replaced.status, replaced.result.error_code) == (wanted, -1)
    assert ended(second).status == GoalStatus.STATUS_SUCCEEDED
    third = sent(robot, goal(3.0, -0.2))
    answer = third.cancel_goal_async()
    wait_for(answer.done, what='the cancellation')
    assert ended(third).status == GoalStatus.STATUS_CANCELED


@pytest.mark.parametrize('robot', ['jtc-jazzy'], indirect=True)
def test_a_path_tolerance_is_kept_or_the_goal_is_aborted(robot):
    strict = goal(0.3, 1.5)  # 5 rad/s: the arm lags
    strict.path_tolerance = [JointTolerance(name='waist', position=0.0005)]
    answer = ended(sent(robot, strict))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.error_code == FollowJointTrajectory.Result.PATH_TOLERANCE_VIOLATED
