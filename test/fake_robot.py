"""A robot that stands still with tiny pictures: what the policy node gets in tests."""

import array
import threading

from sensor_msgs.msg import Image, JointState

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import SENSOR

JOINTS = {
    'left_finger': 0.03,
    'waist': 0.0,
    'shoulder': -0.6,
    'elbow': 0.6,
    'forearm_roll': 0.0,
    'wrist_angle': 0.9,
    'wrist_rotate': 0.0,
}


class FakeRobot:
    """Publish what the contract asks for; `spoil(message)` may change it before."""

    def __init__(self, node):
        self._node, self.spoil = node, lambda message: None
        self._images = [
            node.create_publisher(Image, f'camera/{camera}/image_raw', SENSOR)
            for camera in ('scene', 'wrist')
        ]
        self._joints = node.create_publisher(JointState, 'joint_states', SENSOR)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._end.set()
        self._thread.join()

    def _run(self):
        count = 0
        while not self._end.wait(0.02):
            self._send(self._joints, JointState(name=list(JOINTS), position=[*JOINTS.values()]))
            count += 1
            if count % 3 == 0:
                for publisher in self._images:
                    image = Image(height=48, width=64, encoding='rgb8', step=192)
                    image.data = array.array('B', bytes(48 * 64 * 3))
                    self._send(publisher, image)

    def _send(self, publisher, message):
        now = self._node.get_clock().now().to_msg()
        message.header.stamp.sec, message.header.stamp.nanosec = now.sec, now.nanosec
        self.spoil(message)
        publisher.publish(message)


def small_contract(folder, *changes):
    """Write the WidowX' contract with pictures of 64x48 and other text replaced; its path."""
    widowx = Embodiment.load('widowx')
    text = widowx.text
    for old, new in (
        ('width: 640', 'width: 64'),
        ('height: 480', 'height: 48'),
        (f'description: {widowx.description}', f'description: {widowx.description_path}'),
        *changes,
    ):
        assert old in text, old
        text = text.replace(old, new)
    path = folder / 'small.yaml'
    path.write_text(text)
    return path
