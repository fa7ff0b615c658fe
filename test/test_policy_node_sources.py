"""Two arms, odometry, compressed and depth pictures over DDS: one observation, each blocks."""

import array

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy')
from diagnostic_msgs.msg import DiagnosticArray
from fake_robot import JOINTS, small_contract
from nav_msgs.msg import Odometry
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from sensor_msgs.msg import CompressedImage, Image, JointState

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer

FIELDS = ''.join(f'        {name}: {"m" if "finger" in name else "rad"}\n' for name in JOINTS)
STATES = f"""state:
  sources:
    arm:
      topic: joint_states
      rate_hz: 50.0
      fields:
{FIELDS}    right:
      topic: right/joint_states
      rate_hz: 50.0
      prefix: right_
      fields: {{right_waist: rad}}
    base:
      type: Odometry
      topic: odom
      rate_hz: 50.0
      fields: {{x: m, yaw: rad, linear_x: m/s}}

"""


class Remember(ConstantPolicy):
    """Keep the last observation."""

    seen = None

    def infer(self, observation, prefix=None):
        self.seen = observation
        return super().infer(observation, prefix)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(12, tmp_path)
    yield lab
    lab.close()


def contract(folder):
    text = Embodiment.load('widowx').text
    state = text[text.index('state:\n') : text.index('# What a policy may command')]
    wrist = 'frame_id: camera_wrist_optical_frame\n    encoding: '
    return small_contract(
        folder,
        (f'{wrist}rgb8', f'{wrist}16UC1\n    depth_m: [0.2, 2.2]'),
        (state, STATES),
        ('camera/scene/image_raw', 'camera/scene/image_raw/compressed'),
        ('camera/wrist/image_raw', 'camera/wrist/depth'),
    )


def test_all_kinds_of_sources_make_one_observation_and_a_silent_arm_blocks_by_name(lab, tmp_path):
    topics = {
        'camera/scene/image_raw/compressed': CompressedImage,
        'camera/wrist/depth': Image,
        'joint_states': JointState,
        'right/joint_states': JointState,
        'odom': Odometry,
    }
    publishers = {
        topic: lab.node.create_publisher(kind, topic, SENSOR) for topic, kind in topics.items()
    }
    png = cv2.imencode('.png', np.full((48, 64, 3), [30, 20, 10], np.uint8))[1].tobytes()
    depth = np.full((48, 64), 1200, '<u2').tobytes()
    silent = set()

    def publish():
        now = lab.node.get_clock().now().to_msg()
        odometry = Odometry()
        odometry.pose.pose.position.x, odometry.pose.pose.orientation.w = 3.0, 1.0
        odometry.twist.twist.linear.x = 0.25
        messages = {
            'camera/scene/image_raw/compressed': CompressedImage(
                format='rgb8; png compressed bgr8', data=array.array('B', png)
            ),
            'camera/wrist/depth': Image(
                height=48, width=64, encoding='16UC1', step=128, data=array.array('B', depth)
            ),
            'joint_states': JointState(name=list(JOINTS), position=[*JOINTS.values()]),
            'right/joint_states': JointState(name=['elbow', 'waist'], position=[9.0, 0.5]),
            'odom': odometry,
        }
        for topic, message in messages.items():
            message.header.stamp = now
            if topic not in silent:
                publishers[topic].publish(message)

    lab.node.create_timer(0.02, publish)
    lab.status, lab.facts = PolicyStatus(), {}
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    lab.node.create_subscription(
        DiagnosticArray,
        '/diagnostics',
        lambda m: lab.facts.update({item.key: item.value for item in m.status[0].values}),
        STREAM,
    )
    robot = contract(tmp_path)
    policy = Remember(Embodiment.load(robot))
    with PolicyServer(policy, port=0) as server:
        address = server.address.removeprefix('ws://')
        lab.start_node(
            'policy_node', autostart=True, robot=robot, address=address, instruction='hold'
        )
        wait_for(lambda: lab.status.stage == 'RUNNING', 20.0, f'RUNNING, not {lab.status}')
        seen = policy.seen
        np.testing.assert_array_equal(seen.images['ego'][0, 0], [10, 20, 30])
        np.testing.assert_array_equal(seen.images['cam_right_wrist'][0, 0], [128, 128, 128])
        np.testing.assert_allclose(seen.state, [*JOINTS.values(), 0.5, 3.0, 0.0, 0.25], atol=1e-6)
        wait_for(lambda: 'state.base.age_p95_ms' in lab.facts, 3.0, 'diagnostics of every source')
        assert 0.0 <= float(lab.facts['ego.skew_p50_ms']) < 60.0
        assert lab.facts['state.right.age_histogram'].endswith(' ms')
        assert int(lab.facts['observations']) > 0
        assert lab.facts['policy_transport'] == 'shared memory'

        silent.add('right/joint_states')
        wait_for(lambda: lab.status.stage == 'HOLDING', 2.0, 'HOLDING')
        wait_for(
            lambda: (
                [text.split(':')[0] for text in lab.status.missing]
                == ['state.right (right/joint_states)']
            ),
            1.0,
            f'the right arm by name, not {lab.status.missing}',
        )
        silent.clear()
        wait_for(lambda: lab.status.stage == 'RUNNING', 5.0, 'RUNNING again')
        assert lab.stop('policy_node') == 0
