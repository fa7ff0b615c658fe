"""What a policy said in an evaluation, as a bag for rviz: play it beside the evaluated one."""

from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.bag_thread import bag_typestore
from qwen_vla_ros.nodes.marker_messages import MarkerWriter
from qwen_vla_ros.nodes.policy_report import chunk_message
from qwen_vla_ros.seeing.intention import Intention

CHUNKS, REFUSED, MARKERS = '/evaluation/chunk', '/evaluation/refused', '/evaluation/markers'
PERIOD_NS = 100_000_000
KINDS = {
    CHUNKS: 'qwen_vla_ros/msg/ActionChunk',
    REFUSED: 'qwen_vla_ros/msg/ActionChunk',
    MARKERS: 'visualization_msgs/msg/MarkerArray',
}


class PredictionBag:
    """An onlooker that writes chunks and markers; use as a context manager, inside a Strip's."""

    def __init__(self, folder: Path, embodiment: Embodiment, intention: Intention) -> None:
        """Create the bag; QwenVlaError when the folder exists. intention: the strip's picture."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        if folder.exists():
            raise QwenVlaError(f'{folder} exists already; choose a new folder')
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_custom_data('qwen_vla_contract', embodiment.text)
        self._writer.open()
        store = bag_typestore()
        self._topics = {
            topic: self._writer.add_connection(topic, kind, typestore=store)
            for topic, kind in KINDS.items()
        }
        self._intention, self._markers = intention, MarkerWriter(PERIOD_NS * 1e-9)
        self._due_ns = 0

    def __enter__(self) -> 'PredictionBag':
        """Return the bag."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._writer.close()

    def heard(self, event: Any) -> None:
        """Nothing: the bag that is evaluated holds it."""

    def said(self, said: Any) -> None:
        """Write a chunk at the instant at which it came."""
        if said.joints is not None:
            message = chunk_message(said.joints, said.refused)
            self._write(REFUSED if said.refused else CHUNKS, said.arrived_ns, message)

    def commanded(self, now_ns: int, motion: Any, pilot: Any) -> None:
        """Write the markers when they are due."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + PERIOD_NS
            picture = self._intention.picture(now_ns)
            self._write(MARKERS, now_ns, self._markers.message(picture))

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """Nothing: refused chunks bring their reason."""

    def _write(self, topic: str, time_ns: int, message: Any) -> None:
        self._writer.write(self._topics[topic], time_ns, serialize_message(message))
