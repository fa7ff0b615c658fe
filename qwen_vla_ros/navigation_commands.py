"""
Outputs for a mobile base: waypoints as paths and goals for Nav2, or as velocities for a bare base.

A waypoint is dx, dy in m and dtheta in rad on the ground plane, x forward and y left. Option
`relative_to`: `previous` (each from the one before, in its axes) or `first` (each from the pose of
the base at the observation, in its axes). Frames are REP-105's: the pose's own, odom or map.

With option `recovery` a base that is held up gets off by itself (recovery.py).

A chunk that moves less than stop_m and turns less than stop_rad in all, from the first pose to
every waypoint, is STOP: zero velocity, and the running goal is cancelled.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from qwen_vla_ros.output_kinds import (
    BASE,
    CHUNK,
    BaseRows,
    CommandRefused,
    Option,
    Plan,
    Timed,
    grid,
    message_class,
    output,
    set_stamp,
)
from qwen_vla_ros.types import ActionChunk

Pose = tuple[float, float, float]
LOOK_AHEAD_M, MOST_AIM = 0.3, 0.5  # rad of an arc
STOP = 'STOP: the policy asks the base to stand'
WAYPOINTS = {
    'relative_to': Option('choice', 'previous', known=('previous', 'first')),
    'stop_m': Option('number', 0.02, 0.0, 1.0),
    'stop_rad': Option('number', 0.05, 0.0, 1.0),
}
VELOCITIES = {
    **WAYPOINTS,
    'rate_hz': Option('number', 20.0, 1.0, 200.0),
    'max_linear': Option('number', 0.5, 0.01, 5.0),
    'max_angular': Option('number', 1.0, 0.01, 6.3),
    'max_linear_acceleration': Option('number', 0.5, 0.01, 10.0),
    'max_angular_acceleration': Option('number', 1.5, 0.01, 20.0),
    'holonomic': Option('flag', False),
    'max_sideways_m': Option('number', 0.3, 0.0, 1.0),
    'frame': Option('word', 'base_link'),
    'recovery': Option('flag', False),
}


@output('Path', 'nav_msgs/msg/Path', BASE, WAYPOINTS, mode=CHUNK)
def path_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return a nav_msgs/Path through the waypoints; a STOP is the path of the pose alone."""
    poses = waypoint_poses(rows, options['relative_to'])
    stop = is_stop(rows, poses, options)
    message = _path(rows, np.array([rows.pose]) if stop else poses)
    return Plan((Timed(rows.now_ns, message),), said=STOP if stop else '')


@output('PoseStamped', 'geometry_msgs/msg/PoseStamped', BASE, WAYPOINTS, mode=CHUNK)
def pose_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return the last waypoint as goal; a STOP is the pose of the base."""
    poses = waypoint_poses(rows, options['relative_to'])
    stop = is_stop(rows, poses, options)
    message = _pose_stamped(rows, rows.pose if stop else poses[-1])
    return Plan((Timed(rows.now_ns, message),), said=STOP if stop else '')


@output('NavigateToPose', 'nav2_msgs/action/NavigateToPose', BASE, WAYPOINTS, mode=CHUNK)
def navigate_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return the last waypoint as goal of Nav2's navigator, which plans around obstacles."""
    poses = waypoint_poses(rows, options['relative_to'])
    if is_stop(rows, poses, options):
        return Plan((), cancel=True, said=STOP)
    goal = message_class('nav2_msgs/action/NavigateToPose').Goal()
    goal.pose = _pose_stamped(rows, poses[-1])
    return Plan((Timed(rows.now_ns, goal),))


@output(
    'FollowPath',
    'nav2_msgs/action/FollowPath',
    BASE,
    {**WAYPOINTS, 'controller': Option('word', 'FollowPath')},
    mode=CHUNK,
)
def follow_path_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return the waypoints as goal of Nav2's controller server (controller: its plugin)."""
    poses = waypoint_poses(rows, options['relative_to'])
    if is_stop(rows, poses, options):
        return Plan((), cancel=True, said=STOP)
    goal = message_class('nav2_msgs/action/FollowPath').Goal()
    goal.path = _path(rows, poses)
    goal.controller_id = options['controller']
    return Plan((Timed(rows.now_ns, goal),))


@output('TwistStamped', 'geometry_msgs/msg/TwistStamped', BASE, VELOCITIES, mode=CHUNK)
def twist_stamped_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return velocities of the base as TwistStamped (diff_drive_controller, Nav2 on Jazzy)."""
    kind = message_class('geometry_msgs/msg/TwistStamped')

    def made(at_ns: int, speed: np.ndarray) -> Any:
        message = kind()
        message.header.frame_id = options['frame']
        set_stamp(message.header.stamp, at_ns)
        _set_speed(message.twist, speed)
        return message

    return velocities(rows, options, made)


@output('Twist', 'geometry_msgs/msg/Twist', BASE, VELOCITIES, mode=CHUNK)
def twist_plan(rows: BaseRows, options: Mapping[str, Any]) -> Plan:
    """Return velocities of the base as Twist, as bases on Humble listen to."""
    kind = message_class('geometry_msgs/msg/Twist')

    def made(at_ns: int, speed: np.ndarray) -> Any:
        message = kind()
        _set_speed(message, speed)
        return message

    return velocities(rows, options, made)


def rows_of_chunk(
    chunk: ActionChunk,
    names: Sequence[str],
    pose: Pose,
    frame: str,
    now_ns: int,
    speed: Pose = (0.0, 0.0, 0.0),
) -> BaseRows:
    """Return a chunk's waypoints: the first is reached a step after the pose was observed."""
    values = chunk.actions[:, [chunk.names.index(name) for name in names]].astype(np.float64)
    times = chunk.step_s * np.arange(1, len(values) + 1)
    return BaseRows(frame, pose, times, values, chunk.start_ns, now_ns, speed)


def waypoint_poses(rows: BaseRows, relative_to: str) -> np.ndarray:
    """Return the poses [N, 3] (x, y in m, theta in rad) of waypoints in the pose's frame."""
    poses, at = [], np.asarray(rows.pose, np.float64)
    for step in np.asarray(rows.waypoints, np.float64):
        pose = _moved(at, step)
        poses.append(pose)
        if relative_to == 'previous':
            at = pose
    return np.array(poses)


def is_stop(rows: BaseRows, poses: np.ndarray, options: Mapping[str, Any]) -> bool:
    """Return whether no waypoint is further from the first pose than stop_m and stop_rad."""
    way = poses - np.asarray(rows.pose)
    far = np.linalg.norm(way[:, :2], axis=1).max()
    return bool(far <= options['stop_m'] and np.abs(way[:, 2]).max() <= options['stop_rad'])


def base_speeds(rows: BaseRows, poses: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """
    Return the speeds [N, 3] (vx, vy, wz in the base's axes) from the pose over the waypoints.

    Constant on the way to each waypoint: the arc that joins two poses in its time. A base that
    cannot go sideways drives beside them as near as it can, for a policy's waypoints are never
    quite such arcs; it is refused those that it would pass by more than max_sideways_m.
    """
    spans = np.diff(np.concatenate([[0.0], rows.times_s]))
    stops = np.vstack([rows.pose, poses])
    if options['holonomic']:
        arcs = np.array([_arc(before, after) for before, after in pairwise(stops)])
    else:
        arcs = _driven_beside(stops, options['max_sideways_m'])
    return arcs / spans[:, None]


def _driven_beside(stops: np.ndarray, most: float) -> np.ndarray:
    """
    Return the arcs [N, 3] of a base that cannot go sideways, along poses [N + 1, 3].

    Each begins where the one before has led. Headings are followed, and what lies aside is turned
    to as a pursuit does that looks LOOK_AHEAD_M ahead (Coulter, CMU-RI-TR-92-01).
    """
    at, arcs, aside = stops[0], [], 0.0
    for pose in stops[1:]:
        forward, left, turn = _arc(at, pose)
        aim = 2 * left * forward / LOOK_AHEAD_M**2
        arcs.append((forward, 0.0, turn + np.clip(aim, -MOST_AIM, MOST_AIM)))
        at = _along(at, *arcs[-1][::2])
        aside = max(aside, float(np.linalg.norm(pose[:2] - at[:2])))
    if aside > most:
        raise CommandRefused(
            f'waypoints: {aside:.2f} m sideways (max_sideways_m {most:g}), which this base cannot '
            'do; set holonomic: true if it can, or let Nav2 drive (FollowPath, NavigateToPose)'
        )
    return np.array(arcs)


def limited_speeds(
    wanted: np.ndarray, now: np.ndarray, period_s: float, options: Mapping[str, Any]
) -> np.ndarray:
    """
    Return speeds [M, 3] within the limits, from the speed now [3] to zero at the end.

    wanted [N, 3] at the rate's instants. A speed above its limit is scaled with all its parts, so
    that the curvature stays; accelerations are held forwards, and backwards from the end; rows
    are appended while the base still moves.
    """
    linear = options['max_linear_acceleration'] * period_s
    angular = options['max_angular_acceleration'] * period_s
    speeds = np.vstack([_scaled(row, options) for row in wanted])
    after = np.zeros(3)
    for index in range(len(speeds) - 1, -1, -1):
        after = speeds[index] = _towards(after, speeds[index], linear, angular)
    found, before = [], np.asarray(now, np.float64)
    for row in speeds:
        before = _towards(before, row, linear, angular)
        found.append(before)
    while before.any():
        before = _towards(before, np.zeros(3), linear, angular)
        found.append(before)
    return np.array(found)


def _towards(start: np.ndarray, goal: np.ndarray, linear: float, angular: float) -> np.ndarray:
    """Return the speed [3] on the straight way to a goal that one period's changes allow."""
    change = goal - start
    share = max(np.hypot(change[0], change[1]) / linear, abs(change[2]) / angular)
    return goal.copy() if share <= 1.0 + 1e-9 else start + change / share


def velocities(rows: BaseRows, options: Mapping[str, Any], made: Any) -> Plan:
    """
    Return the speeds over the waypoints that are still ahead, ending with zero.

    made(at_ns, speed [3]) builds the message of one instant.
    """
    poses = waypoint_poses(rows, options['relative_to'])
    stop = is_stop(rows, poses, options)
    period_s = 1.0 / options['rate_hz']
    end_ns = rows.now_ns if stop else rows.stamp_ns + round(rows.times_s[-1] * 1e9)
    if end_ns <= rows.now_ns:
        instants, wanted = [rows.now_ns], np.zeros((1, 3))
    else:
        instants = grid(rows.now_ns, end_ns, options['rate_hz'])[:-1] or [rows.now_ns]
        speeds = base_speeds(rows, poses, options)
        at_s = [(at_ns - rows.stamp_ns) * 1e-9 for at_ns in instants]
        wanted = speeds[np.searchsorted(rows.times_s, at_s, side='right').clip(0, len(speeds) - 1)]
    found = limited_speeds(wanted, np.asarray(rows.speed), period_s, options)
    period_ns = round(period_s * 1e9)
    more = range(1, len(found) - len(instants) + 1)
    instants = [*instants, *(instants[-1] + period_ns * count for count in more)]
    timed = []
    for at_ns, speed in zip(instants, found, strict=True):
        asked = (float(speed[0]), float(speed[1]), float(speed[2]))
        timed.append(Timed(at_ns, made(at_ns, speed), asked))
    return Plan(tuple(timed), said=STOP if stop else '')


def _scaled(speed: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    linear = float(np.hypot(speed[0], speed[1])) / options['max_linear']
    angular = abs(float(speed[2])) / options['max_angular']
    return speed / max(1.0, linear, angular)


def _moved(pose: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the pose after a step in the pose's own axes; theta is not wrapped."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    dx, dy, dtheta = step
    return pose + np.array([cosine * dx - sine * dy, sine * dx + cosine * dy, dtheta])


def _arc(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (forward, left, turn) [3] of the arc between poses, in the first's axes."""
    cosine, sine = np.cos(before[2]), np.sin(before[2])
    dx, dy, turn = after - before
    forward, left = cosine * dx + sine * dy, cosine * dy - sine * dx
    half = turn / 2.0
    shrink = 1.0 if abs(half) < 1e-9 else half / np.tan(half)
    return np.array([shrink * forward + half * left, shrink * left - half * forward, turn])


def _along(at: np.ndarray, length: float, turn: float) -> np.ndarray:
    """Return the pose after an arc of a length that turns by so much."""
    half = turn / 2.0
    chord = length * float(np.sinc(half / np.pi))
    return _moved(at, np.array([chord * np.cos(half), chord * np.sin(half), turn]))


def _path(rows: BaseRows, poses: np.ndarray) -> Any:
    message = message_class('nav_msgs/msg/Path')()
    message.header.frame_id = rows.frame
    set_stamp(message.header.stamp, rows.stamp_ns)
    message.poses = [_pose_stamped(rows, pose) for pose in poses]
    return message


def _pose_stamped(rows: BaseRows, pose: np.ndarray) -> Any:
    message = message_class('geometry_msgs/msg/PoseStamped')()
    message.header.frame_id = rows.frame
    set_stamp(message.header.stamp, rows.stamp_ns)
    message.pose.position.x, message.pose.position.y = float(pose[0]), float(pose[1])
    message.pose.orientation.z = float(np.sin(pose[2] / 2.0))
    message.pose.orientation.w = float(np.cos(pose[2] / 2.0))
    return message


def _set_speed(twist: Any, speed: np.ndarray) -> None:
    twist.linear.x, twist.linear.y = float(speed[0]), float(speed[1])
    twist.angular.z = float(speed[2])
