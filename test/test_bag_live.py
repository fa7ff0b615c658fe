"""The node in the stage `shadow`, fed with a bag over DDS, says what the evaluation says."""

import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
from bag_lab import NAMES, ROBOT, START, S, drive, write
from fake_robot import small_contract
from qwen_vla_ros.msg import ActionChunk as ChunkMessage
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from sensor_msgs.msg import Image, JointState

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.bag_command import measure
from qwen_vla_ros.evaluate.bag_run import RECORDED, RunOptions
from qwen_vla_ros.evaluate.bag_source import INPUT, BagSource, RecordedChunk, chunk_of
from qwen_vla_ros.nodes.qos import LATCHED, STREAM
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.remote import PolicyServer
from qwen_vla_ros.types import ActionChunk

SPEED = 0.5  # rad/s, more than any joint of the bag makes
TOLERANCE_S = 0.02  # one period of the joints: the node may sample before the next one came


class Looking:
    """A policy of pictures and joints alone: it does not know what time it is."""

    def __init__(self, robot):
        self.metadata = {**describe_policy(robot), 'checkpoint': 'looking'}
        self._step_s = robot.step_s

    def infer(self, observation, prefix=None):
        seen = [observation.images[view].mean() / 255.0 for view in sorted(observation.images)]
        ramp = 0.02 * np.arange(16)[:, None] * np.sin(10 * sum(seen))
        rows = observation.state.astype(np.float64) + ramp * (np.arange(7) < 6)
        return ActionChunk(rows.astype(np.float32), NAMES, observation.stamp_ns, self._step_s)

    def reset(self):
        """Nothing to forget."""


@pytest.fixture
def lab(tmp_path):
    lab = Lab(61, tmp_path)
    yield lab
    lab.close()


def message_of(event, shift_ns):
    """Return a recorded message as ROS has it, stamped for now."""
    told = event.message
    stamp_ns = told.header.stamp.sec * S + told.header.stamp.nanosec + shift_ns
    if hasattr(told, 'position'):
        message = JointState(name=list(told.name), position=told.position.tolist())
    else:
        message = Image(height=48, width=64, encoding='rgb8', step=192)
        message.data = told.data.tobytes()
    message.header.frame_id = told.header.frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, S)
    return message


@pytest.mark.slow
def test_a_played_bag_gives_the_node_the_same_chunks(lab, tmp_path):
    bag = write(tmp_path / 'bag', drive(8.0))
    contract = Embodiment.load(small_contract(tmp_path))
    source, chunks, status = BagSource(bag, ROBOT), [], []
    lab.node.create_subscription(
        ChunkMessage, 'policy/chunk', lambda m: chunks.append((time.time_ns(), m)), STREAM
    )
    lab.node.create_subscription(PolicyStatus, 'policy/status', status.append, LATCHED)
    topics = {c.view: (Image, c.topic) for c in ROBOT.cameras}
    topics['state'] = JointState, ROBOT.state.topic
    publishers = {k: lab.node.create_publisher(t, n, STREAM) for k, (t, n) in topics.items()}
    with PolicyServer(Looking(contract)) as server:
        lab.start_node(
            'policy_node', robot=tmp_path / 'small.yaml', policy='remote', stage='shadow',
            address=server.address, autostart=True, instruction='swing',
        )  # fmt: skip
        wait_for(lambda: status and status[-1].stage == 'WAITING', 20.0, 'an active node')
        wait_for(lambda: all(p.get_subscription_count() for p in publishers.values()))
        shift_ns = time.time_ns() + S // 2 - START
        for event in source.events((INPUT,)):
            time.sleep(max(0, event.time_ns + shift_ns - time.time_ns()) * 1e-9)
            publishers[event.source].publish(message_of(event, shift_ns))
        skill = status[-1].shadow_skill
        lab.stop('policy_node')
    recorded = []
    for heard_ns, message in chunks:
        found = chunk_of(message)
        moved = ActionChunk(found.actions, NAMES, found.start_ns - shift_ns, found.step_s)
        recorded.append(RecordedChunk(moved, heard_ns - shift_ns))
    source.recorded = lambda: recorded
    options = RunOptions('', stage='shadow', instruction='swing')
    result, _ = measure(source, {'looking': Looking(ROBOT)}, [options], RECORDED)
    same = result['runs']['looking']['same_as_recorded']
    assert same['recorded'] >= 5
    assert same['matched'] >= 0.8 * same['recorded']
    assert max(same['max'].values()) <= TOLERANCE_S * SPEED
    assert skill == pytest.approx(result['runs']['looking']['error']['skill'], abs=0.3)
