"""
Outputs for joints: whole trajectories for ros2_control, or single positions at a steady rate.

JointTrajectory is what joint_trajectory_controller of Humble, Jazzy and Kilted accepts: all joints
of the group, times that rise, velocities that end at zero (Jazzy and Kilted refuse others). Mode
stream sends the near future at the command rate, chunk all that is left at every inference. A
stamp binds the points to the node's clock; `stamped: false` sends a zero stamp, that is 'start on
receipt', for a controller whose clock is another. `prefix: left_` is what a controller's own joint
names lack: each of two equal arms calls its joints 'waist', in a namespace of its own.

Streamed positions lie on the cubics between the points, on a grid of instants of the clock.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from qwen_vla_ros.output_kinds import (
    CHUNK,
    JOINTS,
    SECOND_NS,
    STREAM,
    CommandRefused,
    JointRows,
    Option,
    Plan,
    Timed,
    grid,
    message_class,
    output,
    set_stamp,
)

RATE = Option('number', 50.0, 1.0, 500.0)
STAMPED = Option('flag', True)
JOINT_ORDER = Option('words', ())
PREFIX = Option('word', '')


@output(
    'JointTrajectory',
    'trajectory_msgs/msg/JointTrajectory',
    JOINTS,
    {
        'mode': Option('choice', STREAM, known=(STREAM, CHUNK)),
        'stamped': STAMPED,
        'prefix': PREFIX,
    },
)
def joint_trajectory_plan(rows: JointRows, options: Mapping[str, Any]) -> Plan:
    """Return one trajectory_msgs/JointTrajectory through all points, sent at once."""
    message = joint_trajectory(rows, options['stamped'], options['prefix'])
    return Plan((Timed(rows.stamp_ns, message),))


@output(
    'FollowJointTrajectory',
    'control_msgs/action/FollowJointTrajectory',
    JOINTS,
    {
        'stamped': STAMPED,
        'goal_time_tolerance_s': Option('number', 0.5, 0.0, 60.0),
        'prefix': PREFIX,
    },
    mode=CHUNK,
)
def follow_joint_trajectory_plan(rows: JointRows, options: Mapping[str, Any]) -> Plan:
    """Return one goal of the action; the controller replaces the goal that runs."""
    goal = message_class('control_msgs/action/FollowJointTrajectory').Goal()
    goal.trajectory = joint_trajectory(rows, options['stamped'], options['prefix'])
    set_stamp(goal.goal_time_tolerance, round(options['goal_time_tolerance_s'] * 1e9))
    return Plan((Timed(rows.stamp_ns, goal),))


@output(
    'JointGroupCommand',
    'interbotix_xs_msgs/msg/JointGroupCommand',
    JOINTS,
    {'group': Option('word'), 'joints': JOINT_ORDER, 'rate_hz': RATE},
)
def joint_group_plan(rows: JointRows, options: Mapping[str, Any]) -> Plan:
    """
    Return Interbotix' positions of a group of motors at a steady rate.

    joints is the order of the driver's motor_config, group its name there; profile velocity and
    acceleration of the motors should be 0, else they filter every position.
    """
    kind = message_class('interbotix_xs_msgs/msg/JointGroupCommand')
    timed = []
    for at_ns, position in _streamed(rows, options):
        timed.append(Timed(at_ns, kind(name=options['group'], cmd=position.tolist())))
    return Plan(tuple(timed))


@output(
    'JointSingleCommand',
    'interbotix_xs_msgs/msg/JointSingleCommand',
    JOINTS,
    {
        'joint': Option('word'),
        'conversion': Option('choice', 'none', known=('none', 'opening', 'crank')),
        'horn_m': Option('number', 0.014, 0.001, 0.2),
        'rod_m': Option('number', 0.024, 0.001, 0.2),
        'rate_hz': RATE,
    },
)
def joint_single_plan(rows: JointRows, options: Mapping[str, Any]) -> Plan:
    """
    Return Interbotix' positions of one motor, the gripper, at a steady rate.

    joint is its name at the driver; conversion says in what the driver wants it: none (as the
    contract), opening (m between the fingers: mode linear_position), or crank (rad of the motor:
    mode position), by the lengths of horn and rod.
    """
    if len(rows.names) != 1:
        raise CommandRefused(
            f'JointSingleCommand: one joint is wanted, the group has {", ".join(rows.names)}'
        )
    kind = message_class('interbotix_xs_msgs/msg/JointSingleCommand')
    timed = []
    for at_ns, position in _streamed(rows, options):
        value = gripper_value(float(position[0]), options)
        timed.append(Timed(at_ns, kind(name=options['joint'], cmd=value)))
    return Plan(tuple(timed))


@output(
    'Float64MultiArray',
    'std_msgs/msg/Float64MultiArray',
    JOINTS,
    {'joints': JOINT_ORDER, 'rate_hz': RATE},
)
def forward_plan(rows: JointRows, options: Mapping[str, Any]) -> Plan:
    """
    Return positions for a forward position controller at a steady rate.

    joints is the controller's own order of joints; the message carries no names.
    """
    kind = message_class('std_msgs/msg/Float64MultiArray')
    timed = []
    for at_ns, position in _streamed(rows, options):
        timed.append(Timed(at_ns, kind(data=position.tolist())))
    return Plan(tuple(timed))


def joint_trajectory(rows: JointRows, stamped: bool = True, prefix: str = '') -> Any:
    """
    Return a trajectory_msgs/JointTrajectory through the points of rows.

    The last velocity is sent as zero. stamped False writes a zero stamp: start on receipt. Joints
    are named without the prefix.
    """
    message = message_class('trajectory_msgs/msg/JointTrajectory')()
    point_class = message_class('trajectory_msgs/msg/JointTrajectoryPoint')
    if stamped:
        set_stamp(message.header.stamp, rows.stamp_ns)
    message.joint_names = [name.removeprefix(prefix) for name in rows.names]
    velocities = None
    if rows.velocities is not None:
        velocities = np.array(rows.velocities, np.float64)
        velocities[-1] = 0.0
    for index, nanoseconds in enumerate(_rising(rows.times_s)):
        point = point_class(positions=np.asarray(rows.positions[index], np.float64).tolist())
        if velocities is not None:
            point.velocities = velocities[index].tolist()
        set_stamp(point.time_from_start, nanoseconds)
        message.points.append(point)
    return message


def gripper_value(finger_m: float, options: Mapping[str, Any]) -> float:
    """Return what the driver wants for a finger at finger_m from the middle."""
    if options['conversion'] == 'none':
        return finger_m
    if options['conversion'] == 'opening':
        return 2.0 * finger_m
    horn, rod = options['horn_m'], options['rod_m']
    if finger_m <= 0.0:
        raise CommandRefused(f'JointSingleCommand: a finger at {finger_m:g} m has no crank angle')
    cosine = (horn**2 + finger_m**2 - rod**2) / (2.0 * horn * finger_m)
    if abs(cosine) > 1.0:
        raise CommandRefused(
            f'JointSingleCommand: horn {horn:g} m and rod {rod:g} m do not reach a finger at '
            f'{finger_m:g} m; check horn_m and rod_m'
        )
    return math.pi / 2 - math.acos(cosine)


def ordered_joints(names: tuple[str, ...], options: Mapping[str, Any]) -> list[int]:
    """Return the columns in the controller's order; CommandRefused when joints differ."""
    order = options.get('joints') or names
    if sorted(order) != sorted(names):
        raise CommandRefused(
            f"output: joints {', '.join(order)} are not the group's {', '.join(names)}"
        )
    return [list(names).index(name) for name in order]


def _streamed(rows: JointRows, options: Mapping[str, Any]) -> list[tuple[int, np.ndarray]]:
    """Return (instant in ns, positions [J] in the controller's order) at the option's rate."""
    columns = ordered_joints(tuple(rows.names), options)
    begin_ns, end_ns = (rows.stamp_ns + round(rows.times_s[end] * 1e9) for end in (0, -1))
    instants = grid(begin_ns, end_ns, options['rate_hz'])
    return [(at_ns, _position(rows, at_ns)[columns]) for at_ns in instants]


def _position(rows: JointRows, at_ns: int) -> np.ndarray:
    """Return positions [J] on the cubics between points, linear where velocities are not known."""
    time_s = min((at_ns - rows.stamp_ns) * 1e-9, rows.times_s[-1])
    after = int(np.searchsorted(rows.times_s, time_s, side='right'))
    if after == len(rows.times_s) or after == 0:
        return np.asarray(rows.positions[after - (after > 0)], np.float64)
    before = after - 1
    span = rows.times_s[after] - rows.times_s[before]
    s = (time_s - rows.times_s[before]) / span
    start, stop = rows.positions[before], rows.positions[after]
    if rows.velocities is None:
        return start + s * (stop - start)
    v0, v1 = rows.velocities[before] * span, rows.velocities[after] * span
    rise = stop - start
    return start + s * (v0 + s * (3 * rise - 2 * v0 - v1 + s * (v0 + v1 - 2 * rise)))


def _rising(times_s: np.ndarray) -> list[int]:
    """Return times in ns, which still rise after rounding."""
    times_ns = [round(float(time_s) * SECOND_NS) for time_s in times_s]
    if any(late <= early for early, late in pairwise(times_ns)):
        raise CommandRefused('command: two points lie within one nanosecond')
    return times_ns
