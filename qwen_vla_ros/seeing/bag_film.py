"""
A recorded run as a film: `python -m qwen_vla_ros.seeing.bag_film BAG --out out/run.mp4`.

Reads what recorder_node wrote (rosbags; no ROS) and draws it from afar with the same code as rviz
and the annotated images: where the robot meant to go, where it went, what was refused, why it
stopped. The contract is the one in the bag. Frames lie 1 / rate apart in the bag's own time.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment, StateField, StateSource
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.seeing.camera import Camera, looking
from qwen_vla_ros.seeing.film import Film
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Picture
from qwen_vla_ros.seeing.scenery import render
from qwen_vla_ros.seeing.tracks import BaseTrack
from qwen_vla_ros.state_reading import state_reader
from qwen_vla_ros.types import ActionChunk

CONTRACT = '/qwen_vla/contract'
SIZE = (960, 640)
SECOND_NS = 1_000_000_000
POSE = tuple(StateField(name, unit) for name, unit in (('x', 'm'), ('y', 'm'), ('yaw', 'rad')))


def film_of_bag(bag: Path, out: Path, policy: str = 'policy', rate_hz: int = 10) -> int:
    """Write the film of a bag; return the number of frames. QwenVlaError says what is wrong."""
    shown = moments(bag, policy, rate_hz)
    first = next(shown, None)  # a bag that is none of ours is told before a film is begun
    if first is None:
        raise QwenVlaError(f'{bag}: nothing of {policy}/status is in it')
    out.parent.mkdir(parents=True, exist_ok=True)
    camera = None
    with Film(out, SIZE, _draw, rate_hz) as film:
        for intention, now_ns in chain([first], shown):
            camera = viewpoint(intention, camera)
            film.add(intention.picture(now_ns), camera, wait=True)
    return film.frames


def moments(bag: Path, policy: str, rate_hz: int) -> Iterator[tuple[Intention, int]]:
    """Yield the state of the run at every frame, from the first status on."""
    with _reader(bag) as reader:
        watched = _Watched(_contract(bag, reader), policy)
        due_ns: int | None = None
        for connection, time_ns, data in reader.messages():
            kind = watched.kind(connection.topic)
            if kind is None:
                continue
            while due_ns is not None and time_ns >= due_ns:
                yield watched.intention, due_ns
                due_ns += SECOND_NS // rate_hz
            if kind == 'status' and due_ns is None:
                due_ns = time_ns
            watched.take(
                kind, connection.topic, reader.deserialize(data, connection.msgtype), time_ns
            )


class _Watched:
    """The topics of one robot in a bag, and the Intention that hears them."""

    def __init__(self, embodiment: Embodiment, policy: str) -> None:
        try:
            links = RobotLinks(embodiment.description_path)
        except QwenVlaError:  # a robot without a URDF has no arms to draw
            links = None
        self.intention = Intention(embodiment, links, body=True)
        self._ends = {f'/{policy}/{kind}': kind for kind in ('status', 'chunk', 'refused')}
        self._readers = {}
        for source in embodiment.states:
            self._ends[f'/{source.topic.lstrip("/")}'] = source.type
            self._readers[f'/{source.topic.lstrip("/")}'] = _reader_of(source)

    def kind(self, topic: str) -> str | None:
        """Return what a topic brings; a namespace may stand before it."""
        return next((kind for end, kind in self._ends.items() if topic.endswith(end)), None)

    def take(self, kind: str, topic: str, message: Any, time_ns: int) -> None:
        """Hear a message."""
        if kind == 'status':
            self.intention.take_status(message, time_ns)
        elif kind == 'chunk':
            self.intention.take_chunk(_chunk(message), time_ns)
        elif kind == 'refused':
            self.intention.take_refused(_chunk(message), getattr(message, 'refused', ''), time_ns)
        else:
            end = next(end for end in self._readers if topic.endswith(end))
            names, read = self._readers[end]
            stamp_ns = _stamp_ns(message) or time_ns
            if kind == 'Odometry':
                self.intention.take_pose(message.header.frame_id, read(message), stamp_ns)
            else:
                row = dict(zip(names, read(message), strict=True))
                self.intention.take_joints(row, stamp_ns)


def viewpoint(
    intention: Intention, before: Camera | None = None, size: tuple[int, int] = SIZE
) -> Camera:
    """Return a camera that sees the whole robot: a base is followed, arms are seen from before."""
    base = next((track for track in intention.tracks if isinstance(track, BaseTrack)), None)
    if base is not None:
        newest = base.trail.newest
        place = np.zeros(3) if newest is None else newest[0]
        return looking(place + [-1.6, -1.4, 1.7], place + [0.3, 0.2, 0.0], size)
    places = intention.places()
    if before is not None or not len(places):
        return before or looking(np.array([1.0, -1.0, 0.8]), np.zeros(3), size)
    low, high = places.min(0), places.max(0)
    away = 0.7 + 0.8 * float(np.linalg.norm(high - low))
    centre = (low + high) / 2.0
    return looking(centre + away * np.array([0.62, -0.62, 0.48]), centre, size)


def _draw(picture: Picture, camera: Camera) -> np.ndarray:
    wide = picture.frame == 'odom'
    return render(picture, camera, lambda frame: np.eye(4), floor=6.0 if wide else 0.7)


def _contract(bag: Path, reader: Any) -> Embodiment:
    """Return the contract that the recorder put into the bag."""
    for connection in reader.connections:
        if connection.topic == CONTRACT:
            _, _, data = next(reader.messages([connection]))
            text = reader.deserialize(data, connection.msgtype).data
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / 'contract.yaml'
                path.write_text(text, encoding='utf-8')
                return Embodiment.load(path)
    raise QwenVlaError(f'{bag}: no {CONTRACT} in it; record with recorder_node')


def _reader(bag: Path) -> Any:
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
    except ImportError as error:
        raise QwenVlaError(f'bag_film: {error}; pip install rosbags') from error
    if not bag.exists():
        raise QwenVlaError(f'{bag}: there is no such bag')
    try:
        return AnyReader([bag])
    except AnyReaderError as error:
        raise QwenVlaError(f'{bag}: cannot be read ({error})') from error


def _reader_of(source: StateSource) -> tuple[list[str], Any]:
    if source.type == 'Odometry':
        return [], state_reader(replace(source, prefix='', fields=POSE))
    return [field.name for field in source.fields], state_reader(source)


def _chunk(message: Any) -> ActionChunk:
    shape = int(message.horizon), len(message.names)
    rows = np.array(message.actions, np.float32).reshape(shape)
    return ActionChunk(rows, tuple(message.names), _stamp_ns(message), message.step_s)


def _stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * SECOND_NS + message.header.stamp.nanosec


def main(arguments: list[str] | None = None) -> int:
    """Write the film; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('bag', type=Path, help='folder that recorder_node wrote')
    parser.add_argument(
        '--out', type=Path, default=Path('out/run.mp4'), help='the film (default: out/run.mp4)'
    )
    parser.add_argument('--policy', default='policy', help='name of the policy node')
    parser.add_argument('--rate', type=int, default=10, help='frames a second')
    args = parser.parse_args(arguments)
    try:
        if not 1 <= args.rate <= 60:
            raise QwenVlaError(f'--rate {args.rate}: choose one from 1 to 60')
        print(f'{args.out}  {film_of_bag(args.bag, args.out, args.policy, args.rate)} frames')
    except QwenVlaError as error:
        print(f'bag_film: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
