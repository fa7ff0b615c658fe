"""A bag of a base driven through a house, by the outputs of the node; no ROS graph."""

from dataclasses import replace

import numpy as np
import pytest
from bag_lab import MS, START, Lab, S

pytest.importorskip('geometry_msgs.msg')

from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.navigation_commands import rows_of_chunk
from qwen_vla_ros.nodes.pilot import Pilot
from qwen_vla_ros.output_kinds import BaseRows
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.sim.rooms.drive import DifferentialBase
from qwen_vla_ros.sim.rooms.expert import RoomsExpert
from qwen_vla_ros.sim.rooms.tasks import sample_task
from qwen_vla_ros.timeline import Timeline

BASE = Embodiment.load('mobile_base')
ROBOT = replace(BASE, cameras=tuple(replace(c, width=64, height=48) for c in BASE.cameras))
NAMES = ROBOT.action_names()
TASK = sample_task(21)  # the goal is 2 m away
TICK = 5 * MS


def expert(robot=ROBOT):
    return RoomsExpert(lambda: (TASK.house, TASK.start), describe_policy(robot))


def odometry(lab, time_ns, base):
    geometry = lab.types
    x, y, yaw = base.odometry
    point = geometry['geometry_msgs/msg/Point'](x, y, 0.0)
    turn = geometry['geometry_msgs/msg/Quaternion'](0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))
    pose = geometry['geometry_msgs/msg/Pose'](point, turn)
    vector = geometry['geometry_msgs/msg/Vector3']
    twist = geometry['geometry_msgs/msg/Twist'](
        vector(base.linear, 0.0, 0.0), vector(0.0, 0.0, base.angular)
    )
    return geometry['nav_msgs/msg/Odometry'](
        lab.header(time_ns, 'odom'),
        'base_link',
        geometry['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36)),
        geometry['geometry_msgs/msg/TwistWithCovariance'](twist, np.zeros(36)),
    )


def velocity(lab, sent):
    vector, told = lab.types['geometry_msgs/msg/Vector3'], sent.message.twist
    twist = lab.types['geometry_msgs/msg/Twist'](
        vector(told.linear.x, told.linear.y, 0.0), vector(0.0, 0.0, told.angular.z)
    )
    return lab.types['geometry_msgs/msg/TwistStamped'](lab.header(sent.at_ns, 'base_link'), twist)


def drive(seconds, policy=None, latency_s=0.1, robot=ROBOT):
    """
    Drive in simulated time; return (time, topic, kind, message) in their order.

    Each message is heard one tick after its stamp, a chunk when it is accepted.
    """
    lab, found, clock, base = Lab(), [], [START], DifferentialBase()
    policy = policy or expert(robot)
    pilot = Pilot(
        robot, policy, robot.default_layout, lambda: clock[0], robot.safety.lookahead_s, 0.05,
        replan_s=0.2, stopwatch=lambda: clock[0] * 1e-9,
    )  # fmt: skip
    (group,) = robot.action_groups()
    kind, timeline = output_of(group.output.type), Timeline()
    followed = None
    pilot.instruct(TASK.instruction)
    pilot.activate()
    found.append((START, '/policy/instruction', 'text', TASK.instruction))
    asked, again = policy.infer, START

    def send(rows):
        timeline.put(kind.plan(rows, group.output.options).timed, clock[0])
        publish()

    def publish():
        sent = timeline.take(clock[0])
        if sent is not None:
            base.command(*np.array(sent.speed)[[0, 2]])
            found.append((clock[0], '/cmd_vel', 'velocity', velocity(lab, sent)))

    def step():
        clock[0] += TICK
        now, tick = clock[0], (clock[0] - START) // TICK
        base.step(TICK * 1e-9)
        if tick % 20 == 1:
            camera = robot.cameras[0]
            image = lab.image(camera, now - TICK, np.zeros(3))
            found.append((now, f'/{camera.topic}', 'image', image))
            pilot.push(camera.view, image)
        if tick % 4 == 0:
            message = odometry(lab, now - TICK, base)
            found.append((now, f'/{robot.state.topic}', 'odometry', message))
            pilot.push('state', message)
        if tick % 4 == 2:
            stop = pilot.watch()
            if stop is not None and followed is not None:
                still = np.zeros((1, 3))
                send(BaseRows('odom', followed.pose, np.zeros(1), still, now, now, timeline.speed))
        publish()

    def slow(observation, prefix=None):
        chunk, end = asked(observation, prefix), clock[0] + round(latency_s * S)
        while clock[0] < end:
            step()
        return chunk

    policy.infer = slow
    while clock[0] < START + round(seconds * S):
        step()
        if clock[0] < again:
            continue
        began, chunk = clock[0], pilot.think()
        if chunk is None:
            continue
        followed = pilot.take_follow()
        send(
            rows_of_chunk(
                chunk, group.names, followed.pose, followed.frame, clock[0], timeline.speed
            )
        )
        found.append((clock[0], '/policy/chunk', 'chunk', lab.chunk(chunk)))
        found.append((clock[0], '/policy/status', 'status', lab.status(clock[0], latency_s)))
        again = began + 200 * MS
    policy.infer = asked
    return found
