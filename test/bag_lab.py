"""A bag of a robot that follows its commands exactly, driven by the pilot itself; no ROS."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rosbags')
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.arm_models import capsules_of, kinematics_of
from qwen_vla_ros.nodes.pilot import Pilot
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.types import ActionChunk

S, MS = 1_000_000_000, 1_000_000
START = 100 * S
WIDOWX = Embodiment.load('widowx')
ROBOT = replace(WIDOWX, cameras=tuple(replace(c, width=64, height=48) for c in WIDOWX.cameras))
NAMES = ROBOT.action_names()
HOME = np.array([0.0, -1.0, 0.9, 0.0, -0.3, 0.0, 0.03])
CONNECTIONS = {
    'image': 'sensor_msgs/msg/Image',
    'joints': 'sensor_msgs/msg/JointState',
    'odometry': 'nav_msgs/msg/Odometry',
    'velocity': 'geometry_msgs/msg/TwistStamped',
}
CHUNK, STATUS = 'qwen_vla_ros/msg/ActionChunk', 'qwen_vla_ros/msg/PolicyStatus'
TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'


class Wave:
    """A policy that swings about HOME, by the stamp alone, plus noise that each call draws."""

    def __init__(self, robot=ROBOT, noise=0.0):
        self.metadata = {**describe_policy(robot), 'checkpoint': 'wave'}
        self._robot, self._noise = robot, noise
        self.reset()

    def reset(self):
        self._rng = np.random.default_rng(0)

    def infer(self, observation, prefix=None):
        robot, steps = self._robot, np.arange(self._robot.horizon) * self._robot.step_s
        times = (observation.stamp_ns - START) * 1e-9 + steps
        rows = HOME + np.outer(np.sin(1.3 * times), [0.3, 0.1, 0.1, 0, 0.1, 0.1, 0])
        # A start where the joints are: what is swung towards is reached within the chunk.
        order = [observation.state_names.index(name) for name in NAMES]
        share = np.minimum(steps / 0.8, 1.0)[:, None]
        rows = (1 - share) * observation.state[order] + share * rows
        rows = rows + self._noise * self._rng.standard_normal(len(NAMES)) * share
        rows[:, -1] = np.clip(rows[:, -1], 0.016, 0.036)
        return ActionChunk(rows.astype(np.float32), NAMES, observation.stamp_ns, robot.step_s)


def picture(view, joints):
    """The wrist's whole picture moves with the arm, the other camera sees a patch of it move."""
    rows, columns = np.mgrid[0:48, 0:64]
    phase = 40.0 * joints[:3].sum()
    image = 128 + 90 * np.sin(rows / 3.0 + columns / 4.0 + phase)
    if 'wrist' not in view:
        still = 128 + 90 * np.sin(rows / 3.0 + columns / 4.0)
        image = np.where((rows > 30) & (columns > 40), image, still)
    return np.repeat(image.astype(np.uint8)[..., None], 3, 2)


class Lab:
    """Makes messages and writes them."""

    def __init__(self):
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.types = self.store.types
        import qwen_vla_ros

        folder = __import__('pathlib').Path(qwen_vla_ros.__file__).parents[1]
        for kind in (CHUNK, STATUS):
            text = (folder / 'msg' / f'{kind.rpartition("/")[2]}.msg').read_text()
            self.store.register(get_types_from_msg(text, kind))

    def header(self, time_ns, frame=''):
        stamp = self.types['builtin_interfaces/msg/Time'](time_ns // S, time_ns % S)
        return self.types['std_msgs/msg/Header'](stamp, frame)

    def image(self, camera, time_ns, joints):
        kind = self.types[CONNECTIONS['image']]
        data = picture(camera.view, joints).ravel()
        frame = self.header(time_ns, camera.frame_id)
        return kind(frame, 48, 64, 'rgb8', 0, 192, data)

    def joints(self, time_ns, row):
        empty = np.zeros(0)
        kind = self.types[CONNECTIONS['joints']]
        return kind(self.header(time_ns), list(NAMES), np.asarray(row, float), empty, empty)

    def chunk(self, chunk, refused=''):
        rows = chunk.actions.astype(np.float64).ravel()
        kind = self.types[CHUNK]
        head = self.header(chunk.start_ns)
        return kind(head, list(chunk.names), chunk.step_s, chunk.horizon, rows, '', refused)

    def status(self, time_ns, inference_s):
        kind = self.types[STATUS]
        empty = {'str': '', 'bool': False, 'float': 0.0, 'int': 0}
        values = {
            name: next((v for word, v in empty.items() if word in str(told)), [])
            for name, told in kind.__annotations__.items()
            if not name.isupper() and name != '__msgtype__'
        }
        values |= {'header': self.header(time_ns), 'inference_s': inference_s, 'missing': []}
        return kind(**values)

    def trajectory(self, motion):
        duration = self.types['builtin_interfaces/msg/Duration']
        point = self.types['trajectory_msgs/msg/JointTrajectoryPoint']
        empty = np.zeros(0)
        points = [
            point(row, empty, empty, empty, duration(0, round(seconds * S)))
            for seconds, row in zip(motion.times_s[:1], motion.positions, strict=False)
        ]
        return self.types[TRAJECTORY](self.header(motion.now_ns), list(NAMES), points)


def drive(seconds=6.0, policy=None, latency_s=0.1, robot=ROBOT, sentence='swing', home=HOME):
    """
    Drive the robot in simulated time; return (time, topic, kind, message) in their order.

    Each message is heard 2 ms after its stamp, a chunk when it is accepted.
    """
    lab, found, clock = Lab(), [], [START]
    policy = policy or Wave(robot)
    layout = robot.default_layout
    pilot = Pilot(
        robot, policy, layout, lambda: clock[0], robot.safety.lookahead_s, 0.05,
        *kinematics_of(robot, layout), replan_s=0.2, capsules=capsules_of(robot, layout),
        stopwatch=lambda: clock[0] * 1e-9,
    )  # fmt: skip
    pilot.instruct(sentence)
    pilot.activate()
    joints, plan = home.copy(), None
    again, asked = START, policy.infer
    found.append((START, '/policy/instruction', 'text', sentence))

    def step():
        nonlocal joints
        clock[0] += 2 * MS
        now = clock[0]
        if plan is not None:
            since = (now - plan.now_ns) * 1e-9
            times = np.concatenate([[0.0], plan.times_s])
            rows = np.vstack([base, plan.positions])
            joints = np.array([np.interp(since, times, column) for column in rows.T])
        tick = (now - START) // (2 * MS)
        for camera in robot.cameras:
            if tick % 25 == 1:
                message = lab.image(camera, now - 2 * MS, joints)
                found.append((now, f'/{camera.topic}', 'image', message))
                pilot.push(camera.view, message)
        if tick % 10 == 1:
            message = lab.joints(now - 2 * MS, joints)
            found.append((now, f'/{robot.state.topic}', 'joints', message))
            pilot.push('state', message)
        if tick % 10 == 0:
            sent(pilot.watch())
        if tick % 25 == 0:
            sent(pilot.command())

    base = joints.copy()

    def sent(motion):
        nonlocal plan, base
        if motion is not None and len(motion.times_s):
            base, plan = joints.copy(), motion
            message = lab.trajectory(motion)
            found.append((clock[0], '/arm_controller/joint_trajectory', 'command', message))

    def slow(observation, prefix=None):
        chunk = asked(observation, prefix)
        end = clock[0] + round(latency_s * S)
        while clock[0] < end:
            step()
        return chunk

    policy.infer = slow
    while clock[0] < START + round(seconds * S):
        step()
        if clock[0] >= again and (clock[0] // (2 * MS)) % 3 == 0:
            began = clock[0]
            chunk = pilot.think()
            refused = pilot.take_refused()
            if refused is not None:
                found.append((clock[0], '/policy/refused', 'chunk', lab.chunk(*refused)))
            if chunk is not None:
                sent(pilot.command())
                found.append((clock[0], '/policy/chunk', 'chunk', lab.chunk(chunk)))
                found.append(
                    (clock[0], '/policy/status', 'status', lab.status(clock[0], latency_s))
                )
                again = began + 200 * MS
    policy.infer = asked
    return found


def write(folder, messages, plugin=StoragePlugin.MCAP, mode=None, robot=ROBOT):
    """Write what drive() returned, the contract beside it."""
    from rosbags.rosbag2 import CompressionFormat

    lab = Lab()
    kinds = {
        **CONNECTIONS,
        'chunk': CHUNK,
        'status': STATUS,
        'command': TRAJECTORY,
        'text': 'std_msgs/msg/String',
    }
    writer = Writer(folder, version=9, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        topics = {}
        for time_ns, topic, kind, message in messages:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kinds[kind], typestore=lab.store)
            if kind == 'text':
                message = lab.types[kinds[kind]](message)
            data = lab.store.serialize_cdr(message, kinds[kind])
            writer.write(topics[topic], time_ns, data)
    return folder
