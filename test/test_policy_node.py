"""The policy node over DDS: it moves the arm, and holds within 200 ms with the cause by name."""

import signal
import socket
import time
from collections import deque

import numpy as np
import pytest

pytest.importorskip('rclpy')
from lifecycle_msgs.srv import ChangeState, GetState
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from ros_lab import Lab, SwingPolicy, wait_for
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import COMMAND, LATCHED, SENSOR, STREAM
from qwen_vla_ros.remote import PolicyServer

HOLD_S = 0.2  # from the loss of an input to the hold command
REST_S = 0.35  # ... to joints at rest: the arm decelerates within its limits
STILL = 0.02  # rad/s


class Watch:
    """What the outside sees of robot and policy node; times in s of the monotonic clock."""

    def __init__(self, lab):
        self.joints, self.commands, self.statuses = deque(maxlen=500), deque(maxlen=500), []
        self.chunks = []
        node = lab.node
        node.create_subscription(JointState, 'joint_states', self._on_joints, SENSOR)
        node.create_subscription(
            JointTrajectory, 'arm_controller/joint_trajectory', self._on_command, COMMAND
        )
        node.create_subscription(PolicyStatus, 'policy/status', self._on_status, LATCHED)
        node.create_subscription(ActionChunk, 'policy/chunk', self.chunks.append, STREAM)
        self.instruction = node.create_publisher(String, 'policy/instruction', LATCHED)

    def _on_joints(self, message):
        row = dict(zip(message.name, message.velocity, strict=True))
        self.joints.append((time.monotonic(), row['waist'], message.position[0]))

    def _on_command(self, message):
        self.commands.append((time.monotonic(), message))

    def _on_status(self, message):
        self.statuses.append((time.monotonic(), message))

    @property
    def status(self):
        return self.statuses[-1][1] if self.statuses else PolicyStatus()

    def running(self, timeout_s=12.0):
        wait_for(lambda: self.status.stage == 'RUNNING', timeout_s, f'RUNNING ({self.status})')

    def moving(self):
        """Wait until the waist is fast, so that stopping means something."""
        self.running()
        wait_for(lambda: self.joints and abs(self.joints[-1][1]) > 0.15, 10.0, 'motion')

    def holding(self, since, cause, timeout_s=3.0):
        """Return s from `since` to the status HOLDING that names the cause."""

        def told():
            for at, status in list(self.statuses):
                if at > since and status.stage == 'HOLDING' and cause in status.reason:
                    return at
            return None

        return wait_for(told, timeout_s, f'HOLDING because of {cause} ({self.status})') - since

    def last_command(self, since):
        """Return s from `since` to the last command (the hold), once none comes any more."""
        time.sleep(0.4)
        at = self.commands[-1][0]
        assert time.monotonic() - at > 0.2, 'commands still come'
        return at - since

    def at_rest(self, since):
        """Return s from `since` to the first of the joint states that all stand still."""
        time.sleep(0.1)
        fast = [at for at, speed, _ in list(self.joints) if at > since and abs(speed) > STILL]
        return max(fast, default=since) - since


@pytest.fixture(scope='module')
def port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory, port):
    lab = Lab(1, tmp_path_factory.mktemp('policy'))
    lab.start_node('robot_sim_node', seed=1)
    lab.start('server', 'test/ros_lab.py', str(port))
    lab.start_node('policy_node', autostart=True, address=f'127.0.0.1:{port}', instruction='swing')
    lab.watch = Watch(lab)
    lab.watch.running(15.0)
    yield lab
    lab.close()


@pytest.mark.parametrize(
    ('fault', 'topic'),
    [
        ('mute_camera_scene', 'camera/scene/image_raw'),
        ('mute_camera_wrist', 'camera/wrist/image_raw'),
        ('mute_joint_states', 'joint_states'),
    ],
)
def test_a_lost_stream_holds_the_arm_names_the_topic_and_resumes(lab, fault, topic):
    lab.watch.moving()
    lab.set_parameter('robot_sim', fault, True)
    since = time.monotonic()
    told = lab.watch.holding(since, topic)
    commanded = lab.watch.last_command(since)
    print(f'{fault}: status {told:.3f} s, command {commanded:.3f} s', end=' ')
    assert told < HOLD_S
    assert commanded < HOLD_S
    if fault != 'mute_joint_states':
        rest = lab.watch.at_rest(since)
        print(f'rest {rest:.3f} s')
        assert rest < REST_S
    assert any(topic in text for text in lab.watch.status.missing)
    assert lab.watch.status.holding
    lab.set_parameter('robot_sim', fault, False)
    lab.watch.moving()


def test_joints_that_read_nan_hold_the_arm(lab):
    lab.watch.moving()
    lab.set_parameter('robot_sim', 'nan_joints', True)
    since = time.monotonic()
    told = lab.watch.holding(since, 'elbow is nan')
    assert told < HOLD_S
    assert lab.watch.last_command(since) < HOLD_S
    assert lab.watch.at_rest(since) < REST_S
    lab.set_parameter('robot_sim', 'nan_joints', False)
    lab.watch.moving()


def test_a_killed_model_process_holds_the_arm_at_once_and_is_found_again(lab, port):
    lab.watch.moving()
    since = time.monotonic()
    lab.stop('server', signal.SIGKILL)
    told = lab.watch.holding(since, f'model process: ws://127.0.0.1:{port}')
    rest = lab.watch.at_rest(since)
    print(f'model killed: status {told:.3f} s, rest {rest:.3f} s')
    assert told < HOLD_S
    assert lab.watch.last_command(since) < HOLD_S
    assert rest < REST_S
    lab.start('server', 'test/ros_lab.py', str(port))
    lab.watch.moving()


def test_the_hold_decelerates_within_the_acceleration_limit(lab):
    holds = [m for _, m in lab.watch.commands if m.points[0].time_from_start.nanosec == 20_000_000]
    assert holds, 'no hold command so far'
    limit = Embodiment.load('widowx').limits['waist'].acceleration
    for message in holds:
        speed = np.array([point.velocities[0] for point in message.points])
        assert speed[-1] == 0.0
        assert np.abs(np.diff(speed) / 0.02).max() < 1.25 * limit


def test_an_instruction_takes_effect_while_it_runs(lab):
    lab.watch.moving()
    lab.watch.instruction.publish(String(data='swing left'))
    since = time.monotonic()
    wait_for(lambda: lab.watch.status.instruction == 'swing left', 1.0, 'instruction')
    wait_for(lambda: lab.watch.joints[-1][2] > 0.3, 8.0, 'the arm on the left')
    assert time.monotonic() - since < 8.0
    lab.watch.instruction.publish(String(data='swing right'))
    wait_for(lambda: lab.watch.joints[-1][2] < -0.3, 8.0, 'the arm on the right')


def test_an_empty_instruction_stops_the_arm(lab):
    lab.watch.moving()
    lab.watch.instruction.publish(String(data=''))
    wait_for(lambda: lab.watch.status.stage == 'WAITING', 1.0, 'WAITING')
    assert 'no instruction' in lab.watch.status.reason
    lab.watch.instruction.publish(String(data='swing'))
    lab.watch.moving()


def test_commands_reach_ahead_and_end_at_rest(lab):
    lab.watch.moving()

    def in_motion():
        _, message = lab.watch.commands[-1]
        end = message.points[-1].time_from_start
        return message if 0.3 <= end.sec + end.nanosec * 1e-9 < 0.6 else None

    message = wait_for(in_motion, 2.0, 'a command of 0.3 s and a way to rest')
    last = message.points[-1]
    assert list(last.velocities) == [0.0] * 6
    assert message.joint_names[0] == 'waist'
    assert message.header.stamp.sec > 0


def test_chunks_and_figures_are_published(lab):
    chunk = lab.watch.chunks[-1]
    assert chunk.horizon == 16
    assert len(chunk.actions) == 16 * len(chunk.names) == 112
    assert chunk.step_s == 0.2
    status = lab.watch.status
    assert 0 < status.inference_s < 0.5
    assert 0 < status.overhead_s < 0.2
    assert status.observation_age_s < 1.0
    print(f'inference {status.inference_s * 1e3:.1f} ms, overhead {status.overhead_s * 1e3:.1f}')


def test_deactivate_stops_and_activate_goes_on(lab):
    lab.watch.moving()
    change = ChangeState.Request()
    change.transition.id = 4  # deactivate
    since = time.monotonic()
    assert lab.call(ChangeState, 'policy/change_state', change).success
    assert lab.watch.last_command(since) < HOLD_S
    assert lab.watch.status.stage == 'INACTIVE'
    change.transition.id = 3  # activate
    assert lab.call(ChangeState, 'policy/change_state', change).success
    lab.watch.moving()


def test_a_killed_node_leaves_an_arm_that_stops_within_its_lookahead(lab, port):
    lab.watch.moving()
    since = time.monotonic()
    lab.stop('policy_node', signal.SIGKILL)
    time.sleep(0.5)
    assert lab.watch.at_rest(since) < 0.3 + 0.15
    lab.start_node('policy_node', autostart=True, address=f'127.0.0.1:{port}')
    wait_for(lambda: lab.watch.status.stage == 'WAITING', 10.0, 'a new node')


def test_interrupt_ends_it_with_code_0_and_no_traceback(lab):
    assert lab.stop('policy_node', signal.SIGINT) == 0
    assert 'Traceback' not in lab.log('policy_node')


def test_a_checkpoint_of_another_embodiment_is_refused_at_configure(lab):
    policy = SwingPolicy(Embodiment.load('widowx'))
    policy.metadata |= {'embodiment': 'aloha', 'rate_hz': 50.0}
    with PolicyServer(policy, port=0) as server:
        lab.start_node('policy_node', address=server.address.removeprefix('ws://'))
        lab.watch.statuses.clear()
        wait_for(lambda: lab.watch.status.stage == 'INACTIVE', 8.0, 'the new node')
        time.sleep(1.0)  # the killed node's services are still announced, so wait says nothing
        change = ChangeState.Request()
        change.transition.id = 1  # configure
        assert not lab.call(ChangeState, 'policy/change_state', change).success
        wait_for(lambda: 'does not fit robot widowx' in lab.watch.status.reason, 2.0, 'reason')
        assert "embodiment: the policy has 'aloha'" in lab.watch.status.reason
        assert 'rate_hz: the policy has 50.0, the robot 5.0' in lab.watch.status.reason
        assert lab.call(GetState, 'policy/get_state').current_state.label == 'unconfigured'
        assert lab.stop('policy_node') == 0
