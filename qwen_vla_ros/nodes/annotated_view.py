"""One camera's images with what the policy intends drawn in; heard only while somebody looks."""

import array
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.image_decoding import decode_image
from qwen_vla_ros.nodes.qos import SENSOR, VIEW
from qwen_vla_ros.seeing.camera import camera_of_info
from qwen_vla_ros.seeing.caption_drawing import draw_caption
from qwen_vla_ros.seeing.drawing import draw_picture
from qwen_vla_ros.seeing.picture import Picture

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Camera as CameraSource
    from qwen_vla_ros.nodes.seen_frames import SeenFrames

JPEG_QUALITY = 85


class AnnotatedView:
    """The annotated topics of one camera. Not thread-safe: its node has one thread."""

    def __init__(self, node: Node, source: 'CameraSource', policy: str) -> None:
        """Offer the topics of a camera of the contract."""
        self.name, self._node, self._source = source.view, node, source
        topic = f'{policy}/annotated/{source.view}'
        self._raw = node.create_publisher(Image, topic, VIEW)
        self._compressed = node.create_publisher(CompressedImage, f'{topic}/compressed', VIEW)
        self._kind = CompressedImage if 'compressed' in source.topic.lower() else Image
        self._subscriptions: list[Any] = []
        self._image: bytes | None = None
        self._info: CameraInfo | None = None
        self._problem = ''

    @property
    def topic(self) -> str:
        """Return the topic of the camera's pictures, as the contract has it."""
        return self._source.topic

    def forget_problem(self) -> None:
        """Say nothing of the last picture's problem: it was mended, the next one has none."""
        self._problem = ''

    def watch(self, recorded: bool = False) -> bool:
        """Listen while somebody looks, or it is recorded; return whether that is so."""
        watched = recorded or self._raw.get_subscription_count()
        watched = watched or self._compressed.get_subscription_count()
        if watched and not self._subscriptions:
            subscribe, source = self._node.create_subscription, self._source
            self._subscriptions = [
                subscribe(
                    self._kind, source.topic, partial(setattr, self, '_image'), SENSOR, raw=True
                ),
                subscribe(CameraInfo, source.info_topic, partial(setattr, self, '_info'), SENSOR),
            ]
        elif not watched and self._subscriptions:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions, self._image, self._info = [], None, None
        return bool(watched)

    def draw(
        self,
        picture: Picture,
        frames: 'SeenFrames',
        show: Callable[[str, np.ndarray, int], None] | None = None,
    ) -> str:
        """
        Publish the newest image with the picture in it; return why it has no projection.

        show(view, image, stamp_ns) gets it as well.
        """
        data, self._image = self._image, None
        if data is None:
            return self._problem
        message = deserialize_message(data, self._kind)  # only of those that are drawn
        source, stamp = self._source, message.header.stamp
        try:
            image = np.array(decode_image(message, source.topic, source.depth_m))
        except QwenVlaError as error:
            return str(error)
        time_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        time_ns -= round(source.latency_offset_s * 1e9)
        self._problem = self._project(image, picture, frames, message.header.frame_id, time_ns)
        self._publish(message.header, image)
        if show is not None:
            show(self.name, image, time_ns)
        return self._problem

    def _project(
        self,
        image: np.ndarray,
        picture: Picture,
        frames: 'SeenFrames',
        frame_id: str,
        time_ns: int,
    ) -> str:
        """Draw shapes and caption, or the caption alone with the reason; return the reason."""
        source = self._source
        try:
            if self._info is None:
                raise QwenVlaError(f'nothing on {source.info_topic}')
            rectified = '_rect' in source.topic
            camera = camera_of_info(self._info, rectified, (image.shape[1], image.shape[0]))
            frames.place_links(time_ns)
            optical = frame_id or source.frame_id
            draw_picture(image, picture, camera, lambda f: frames.pose(optical, f, time_ns))
        except QwenVlaError as error:
            told = replace(
                picture.caption, facts=(*picture.caption.facts, ('not drawn', str(error)))
            )
            draw_caption(image, told)
            return str(error)
        return ''

    def _publish(self, header: Any, image: np.ndarray) -> None:
        if self._raw.get_subscription_count():
            height, width = image.shape[:2]
            message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
            message.header = header
            message.data = array.array('B', image.tobytes())
            self._raw.publish(message)
        if self._compressed.get_subscription_count():
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            data = cv2.imencode('.jpg', image[:, :, ::-1], quality)[1]
            compressed = CompressedImage(header=header, format='rgb8; jpeg compressed bgr8')
            compressed.data = array.array('B', data.tobytes())
            self._compressed.publish(compressed)
