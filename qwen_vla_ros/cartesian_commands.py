"""
Outputs for the tip of an arm: velocities for MoveIt Servo, which does the kinematics itself.

Displacements are differenced in time: between two rows the tip moves at a constant velocity, along
and about the axes of the frame, as Servo reads a TwistStamped with command_in_type: speed_units.
The last message of every plan is zero. (Through our own kinematics, delta_eef groups become
joints instead: kinematics.py and the outputs of joint_commands.py.)
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from qwen_vla_ros.output_kinds import (
    CHUNK,
    TIP,
    CommandRefused,
    Option,
    Plan,
    Timed,
    TipRows,
    grid,
    message_class,
    output,
    set_stamp,
)
from qwen_vla_ros.rotations import euler_matrix, rotation_vector


@output(
    'ServoTwist',
    'geometry_msgs/msg/TwistStamped',
    TIP,
    {
        'rate_hz': Option('number', 50.0, 1.0, 500.0),
        'max_linear': Option('number', 0.25, 0.001, 2.0),
        'max_angular': Option('number', 1.0, 0.001, 6.3),
    },
    mode=CHUNK,
)
def servo_plan(rows: TipRows, options: Mapping[str, Any]) -> Plan:
    """
    Return the tip's velocity (m/s, rad/s) at a steady rate until the last row, then zero.

    Refuses rows that are faster than max_linear or max_angular.
    """
    twists = tip_twists(rows.times_s, rows.displacements)
    _refuse_fast(twists, options)
    ends_ns = [rows.stamp_ns + round(time_s * 1e9) for time_s in rows.times_s]
    if ends_ns[-1] <= rows.now_ns:
        return Plan((_stamped(rows.frame, rows.now_ns, np.zeros(6)),))
    begin_ns = max(rows.now_ns, ends_ns[0])
    timed = []
    for at_ns in grid(begin_ns, ends_ns[-1], options['rate_hz'])[:-1]:
        segment = int(np.searchsorted(ends_ns, at_ns, side='right')) - 1
        timed.append(_stamped(rows.frame, at_ns, twists[segment]))
    return Plan((*timed, _stamped(rows.frame, ends_ns[-1], np.zeros(6))))


def tip_twists(times_s: np.ndarray, displacements: np.ndarray) -> np.ndarray:
    """
    Return the velocities [N - 1, 6] (m/s and rad/s, axes of the frame) between displacements.

    displacements [N, 6]: dx dy dz and fixed-axis droll dpitch dyaw, from one common pose.
    """
    rows = np.asarray(displacements, np.float64)
    turns = [euler_matrix(*row[3:]) for row in rows]
    spans = np.diff(times_s)[:, None]
    angles = np.array([rotation_vector(after @ before.T) for before, after in pairwise(turns)])
    if (np.linalg.norm(angles.reshape(-1, 3), axis=1) > 3.0).any():
        raise CommandRefused('ServoTwist: two rows differ by about half a turn; its way is open')
    return np.hstack([np.diff(rows[:, :3], axis=0), angles.reshape(-1, 3)]) / spans


def _refuse_fast(twists: np.ndarray, options: Mapping[str, Any]) -> None:
    for name, columns, unit in (
        ('linear', slice(0, 3), 'm/s'),
        ('angular', slice(3, 6), 'rad/s'),
    ):
        speeds = np.linalg.norm(twists[:, columns], axis=1)
        limit = options[f'max_{name}']
        if (speeds > limit).any():
            row = int(np.argmax(speeds > limit)) + 1
            raise CommandRefused(
                f'ServoTwist: the way to row {row} asks for {speeds[row - 1]:.3g} {unit}, more '
                f'than max_{name} {limit:g}'
            )


def _stamped(frame: str, at_ns: int, twist: np.ndarray) -> Timed:
    message = message_class('geometry_msgs/msg/TwistStamped')()
    message.header.frame_id = frame
    set_stamp(message.header.stamp, at_ns)
    for part, values in ((message.twist.linear, twist[:3]), (message.twist.angular, twist[3:])):
        part.x, part.y, part.z = (float(value) for value in values)
    return Timed(at_ns, message)
