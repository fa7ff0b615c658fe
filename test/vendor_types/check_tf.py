"""Frames on tf, over DDS: the viewer and the simulated robot. Run by test_vendor_drivers.py."""

import time

import numpy as np
import pytest
from fake_robot import FakeRobot
from geometry_msgs.msg import TransformStamped
from ros_lab import Lab, wait_for
from sensor_msgs.msg import Image
from test_viz_node import LOOK, OPTICAL, Speaker, astray, enlarge, yellow
from tf2_msgs.msg import TFMessage

from qwen_vla_ros.nodes.qos import STATIC, STREAM
from qwen_vla_ros.seeing.frames import pose_of_transform


@pytest.fixture
def lab(tmp_path):
    lab = Lab(62, tmp_path)
    yield lab
    lab.close()


@pytest.mark.parametrize(('topic', 'qos'), [('/tf', STREAM), ('/tf_static', STATIC)])
def test_a_camera_on_tf_gets_its_projection(lab, topic, qos):
    frames = lab.node.create_publisher(TFMessage, topic, qos)
    robot, speaker = FakeRobot(lab.node), Speaker(lab)
    robot.spoil = enlarge
    parent, child, *numbers = LOOK.split()
    transform = TransformStamped(child_frame_id=child)
    transform.header.frame_id = parent
    place, turn = transform.transform.translation, transform.transform.rotation
    place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = (float(n) for n in numbers)

    def drawn(picture):
        frames.publish(TFMessage(transforms=[speaker.stamp(transform)]))
        speaker.chunks.publish(speaker.stamp(chunk))
        return len(yellow(picture)) > 50

    try:
        lab.start_node('viz_node', rate=20.0)
        speaker.look(Image, 'policy/annotated/ego')
        chunk = speaker.chunk(turn=0.1)
        found = speaker.until(drawn, 'the way in the image')
        assert astray(found, chunk) < 14.0
        assert lab.stop('viz_node') == 0
    finally:
        robot.stop()


def test_the_simulated_robot_tells_where_its_cameras_are(lab):
    heard = {}

    def hear(message):
        heard.update({item.child_frame_id: item for item in message.transforms})

    lab.node.create_subscription(TFMessage, '/tf', hear, STREAM)
    lab.start_node('robot_sim_node')
    speaker = Speaker(lab)
    wait_for(lambda: OPTICAL in heard and 'ee_gripper_link' in heard, 20.0, 'the frames')
    np.testing.assert_allclose(
        pose_of_transform(heard[OPTICAL].transform)[:3, 3], [0.86, 0.0, 0.62], atol=0.03
    )
    lab.start_node('viz_node')
    speaker.look(Image, 'policy/annotated/ego')
    wait_for(lambda: len(speaker.seen) > 5, 15.0, 'annotated images')
    time.sleep(0.5)
    said = lab.log('viz_node')  # nothing, or that a projection is drawn after the first image
    assert not said or said.splitlines()[-1].endswith('ego: drawn'), said
