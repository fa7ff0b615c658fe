"""
A robot's topics over real DDS, for benchmarks: `python -m benchmarks.traffic cameras|small`.

cameras: three 640x480 rgb8 images at 30 Hz and seven joints at 500 Hz; small: 39 topics of joint
states and one of 64x48 images, together 1,500 messages a second. Messages are serialised once and
only their stamps are written anew, so that this process takes little of the machine that is
measured.
"""

import struct
import sys
import time
from collections.abc import Callable
from typing import Any

VIEWS = ('ego', 'cam_left_wrist', 'cam_right_wrist')
IMAGE_HZ, JOINT_HZ = 30.0, 500.0
SMALL_TOPICS, SMALL_HZ, SMALL_SIZE = 40, 37.5, (64, 48)
JOINTS = (
    *('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate'),
    'left_finger',
)
POSITIONS = (0.0, -0.6, 0.6, 0.0, 0.9, 0.0, 0.03)


def image_topic(view: str) -> str:
    """Return the topic of a view."""
    return f'camera/{view}/image_raw'


def small_topic(index: int) -> str:
    """Return one of the 39 topics of joint states."""
    return f'small/t{index}'


def stamped(cdr: bytes) -> Callable[[int], bytes]:
    """Return what writes a stamp in ns into serialised bytes that begin with a header."""
    head, tail = cdr[:4], cdr[12:]
    return lambda at: b''.join((head, struct.pack('<iI', *divmod(at, 1_000_000_000)), tail))


def plan(node: Any, kind: str) -> list[tuple[float, float, Callable[[int], None]]]:
    """Return (period in s, phase in s, publish(stamp in ns)) of every topic."""
    import array

    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image, JointState

    from qwen_vla_ros.nodes.qos import SENSOR

    def publisher(message: Any, topic: str) -> Callable[[int], None]:
        made = node.create_publisher(type(message), topic, SENSOR)
        stamp = stamped(serialize_message(message))
        return lambda at: made.publish(stamp(at))

    def picture(width: int, height: int) -> Image:
        made = Image(height=height, width=width, encoding='rgb8', step=3 * width)
        made.data = array.array('B', bytes(range(256)) * (3 * width * height // 256))
        return made

    joints = JointState(name=list(JOINTS), position=list(POSITIONS))
    if kind == 'small':
        period = 1.0 / SMALL_HZ
        topics = [(joints, small_topic(index)) for index in range(SMALL_TOPICS - 1)]
        topics.append((picture(*SMALL_SIZE), image_topic(VIEWS[0])))
        return [
            (period, period * index / SMALL_TOPICS, publisher(message, topic))
            for index, (message, topic) in enumerate(topics)
        ]
    image = picture(640, 480)
    cameras = [
        (1.0 / IMAGE_HZ, 0.2 * index / IMAGE_HZ, publisher(image, image_topic(view)))
        for index, view in enumerate(VIEWS)
    ]
    return [*cameras, (1.0 / JOINT_HZ, 0.0, publisher(joints, 'joint_states'))]


def main() -> None:
    """Publish until standard input ends."""
    import threading

    import rclpy

    rclpy.init()
    node = rclpy.create_node('traffic')
    topics = plan(node, sys.argv[1])
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    start = time.monotonic()
    due = [start + phase for _, phase, _ in topics]
    while not end.is_set():
        now = time.monotonic()
        for index, (period, _, publish) in enumerate(topics):
            if due[index] <= now:
                publish(time.time_ns())
                due[index] = max(due[index] + period, now - period)
        time.sleep(max(0.0, min(due) - time.monotonic()))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == '__main__':
    main()
