"""robot_sim behind Interbotix' driver, over DDS. Run by test_vendor_drivers.py."""

import pytest
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
from interbotix_xs_msgs.srv import (
    MotorGains,
    OperatingModes,
    RegisterValues,
    RobotInfo,
    TorqueEnable,
)
from ros_lab import Lab, wait_for
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qwen_vla_ros.nodes.qos import SENSOR

ARM = {'cmd_type': 'group', 'name': 'arm'}


@pytest.fixture
def robot(tmp_path):
    lab = Lab(81, tmp_path)
    try:
        lab.joints = {}
        lab.node.create_subscription(JointState, 'joint_states', lambda m: hear(lab, m), SENSOR)
        lab.start_node('robot_sim_node', driver='interbotix', camera_rate=1.0)
        wait_for(lambda: lab.joints, 15.0, 'joint states')
        yield lab
    finally:
        lab.close()


def hear(lab, message):
    lab.joints = dict(zip(message.name, message.position, strict=True))


def sender(lab, kind, name):
    publisher = lab.node.create_publisher(kind, f'commands/{name}', 10)
    wait_for(publisher.get_subscription_count, what=f'a subscription of {name}')
    return publisher


def reaches(lab, joint, value, within=0.02, timeout_s=8.0):
    wait_for(lambda: abs(lab.joints[joint] - value) < within, timeout_s, f'{joint} at {value}')


def test_commands_move_arm_and_gripper(robot):
    group, single = sender(robot, JointGroupCommand, 'joint_group'), None
    group.publish(JointGroupCommand(name='arm', cmd=[0.3, -0.6, 0.6, 0.0, 0.9, 0.0]))
    reaches(robot, 'waist', 0.3)
    single = sender(robot, JointSingleCommand, 'joint_single')
    single.publish(JointSingleCommand(name='gripper', cmd=0.05))
    reaches(robot, 'left_finger', 0.025, 0.002)
    group.publish(JointGroupCommand(name='arm', cmd=[0.1] * 7))
    wait_for(lambda: 'Will not execute' in robot.log('robot_sim_node'), what='the reason')
    group.publish(JointGroupCommand(name='left_arm', cmd=[0.0] * 6))
    wait_for(lambda: 'out_of_range' in robot.log('robot_sim_node'), what="the driver's death")
    group.publish(JointGroupCommand(name='arm', cmd=[0.0, -0.6, 0.6, 0.0, 0.9, 0.0]))
    wait_for(lambda: robot.log('robot_sim_node').count('out_of_range') == 2, what='silence')
    assert abs(robot.joints['waist'] - 0.3) < 0.02


def test_services_change_modes_registers_and_torque(robot):
    info = robot.call(RobotInfo, 'get_robot_info', RobotInfo.Request(**ARM))
    assert info.mode == 'position' and info.num_joints == 6 and list(info.joint_ids)[:2] == [1, 2]
    assert info.joint_upper_limits[1] == pytest.approx(1.98967, abs=1e-4)
    robot.call(
        OperatingModes,
        'set_operating_modes',
        OperatingModes.Request(
            **ARM,
            mode='position',
            profile_type='time',
            profile_velocity=2000,
            profile_acceleration=300,
        ),
    )
    request = RegisterValues.Request(**ARM, reg='Profile_Velocity')
    assert list(robot.call(RegisterValues, 'get_motor_registers', request).values) == [2000] * 6
    group = sender(robot, JointGroupCommand, 'joint_group')
    start = robot.joints['waist']
    group.publish(JointGroupCommand(name='arm', cmd=[0.5, -0.6, 0.6, 0.0, 0.9, 0.0]))
    wait_for(lambda: robot.joints['waist'] > start + 0.03, what='a start')
    assert robot.joints['waist'] < 0.3  # two seconds are not over
    reaches(robot, 'waist', 0.5)
    robot.call(MotorGains, 'set_motor_pid_gains', MotorGains.Request(**ARM, kp_pos=900))
    request.reg = 'Position_P_Gain'
    assert list(robot.call(RegisterValues, 'get_motor_registers', request).values) == [900] * 6
    nobody = TorqueEnable.Request(cmd_type='group', name='legs', enable=False)
    robot.call(TorqueEnable, 'torque_enable', nobody)  # answers as if it had been done
    assert "Group 'legs' does not exist" in robot.log('robot_sim_node')
    robot.call(TorqueEnable, 'torque_enable', TorqueEnable.Request(**ARM, enable=False))
    reaches(robot, 'shoulder', -1.80, 0.1)  # it fell


def test_a_trajectory_is_followed(robot):
    start, points = robot.joints['waist'], []
    for index in range(4):
        row = [start + 0.1 * index, -0.6, 0.6, 0.0, 0.9, 0.0]
        point = JointTrajectoryPoint(positions=row)
        point.time_from_start.nanosec = index * 200_000_000
        points.append(point)
    command = JointTrajectoryCommand(**ARM, traj=JointTrajectory(points=points))
    sender(robot, JointTrajectoryCommand, 'joint_trajectory').publish(command)
    reaches(robot, 'waist', start + 0.3)
