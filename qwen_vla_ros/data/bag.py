"""
rosbag2 folders (MCAP or SQLite, compressed or not) as episodes, through the live decode path.

One bag is one episode. Frame i is what ObservationBuffer gives at first_ns + i / rate: messages
are pushed at the time at which the recorder heard them, so the tensors are those of the running
robot, to the bit. Actions are the joints that were reached at the chunk's instants, interpolated
linearly; a layout whose channels are not measured (displacements, waypoints) is refused by name.
The contract is the one in the bag unless another is given.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Place, Sample, SampleError
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.observation import ObservationBuffer
from qwen_vla_ros.state_reading import state_reader
from qwen_vla_ros.types import Observation

CONTRACT = '/qwen_vla/contract'
WARM_NS = 1_000_000_000  # of messages, beyond the age limit, before a frame that is read alone


class BagEpisodes:
    """
    Bags of one robot; skipped counts, after stream(), why frames gave no observation.

    Raises QwenVlaError for what is no readable bag, and names a topic that is missing.
    """

    def __init__(
        self,
        bags: Sequence[Path],
        embodiment: Embodiment | None = None,
        instruction: str = '',
        layout: str | None = None,
    ) -> None:
        """Open each bag once: contract, topics, joints and sentence are read, no picture is."""
        self.source = ', '.join(bag.name for bag in bags)
        self.skipped: Counter[str] = Counter()
        self._bags = [_Bag(bag, embodiment, instruction, layout) for bag in bags]

    def __len__(self) -> int:
        """Return the number of bags."""
        return len(self._bags)

    def frames(self, episode: int) -> int:
        """Return the number of instants, those without an observation included."""
        return self._bags[episode].count

    def rate_hz(self, episode: int) -> float:
        """Return frames per second, as the contract says."""
        return self._bags[episode].embodiment.rate_hz

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and the source that is missing."""
        bag = self._bags[episode]
        now_ns = bag.time_ns(frame)
        buffer = ObservationBuffer(bag.embodiment)
        warm_ns = WARM_NS + round(bag.embodiment.safety.max_age_s * 1e9)
        for _ in bag.play(buffer, now_ns - warm_ns, (now_ns,)):
            pass
        return self._sample(episode, frame, buffer, now_ns)

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield every sample of a bag; a frame without an observation is counted, not yielded."""
        bag = self._bags[episode]
        buffer = ObservationBuffer(bag.embodiment)
        times = [bag.time_ns(frame) for frame in range(bag.count)]
        for frame, now_ns in enumerate(bag.play(buffer, bag.first_ns, times)):
            try:
                yield self._sample(episode, frame, buffer, now_ns)
            except SampleError as error:
                self.skipped[str(error).partition(f'frame {frame}: ')[2]] += 1

    def _sample(self, episode: int, frame: int, buffer: ObservationBuffer, now_ns: int) -> Sample:
        bag = self._bags[episode]
        place = Place(bag.path.name, episode, frame)
        seen = buffer.sample(now_ns, bag.instruction)
        if seen is None:
            first = buffer.missing(now_ns)[:1]
            raise place.refuse(*((first[0].source, first[0].reason) if first else ('', 'nothing')))
        actions, mask = bag.actions(seen)
        return Sample(
            place,
            seen.images,
            seen.instruction,
            seen.embodiment,
            actions,
            mask,
            bag.action_names,
            seen.stamp_ns,
            seen.state,
            seen.state_names,
            sources_ns=seen.sources_ns,
        )


class _Bag:
    """One bag: its contract, its topics by source, its joints in time."""

    def __init__(
        self, path: Path, embodiment: Embodiment | None, instruction: str, layout: str | None
    ) -> None:
        self.path = path
        with open_bag(path) as reader:
            self.embodiment = embodiment or contract_of(path, reader)
            self._sources = self._find_topics(reader)
            self.instruction = instruction or _instruction(path, reader)
            self.first_ns, self._last_ns = reader.start_time, reader.end_time
            self.action_names = self.embodiment.action_names(layout)
            self._series = self._read_states(reader)
        lost = [name for name in self.action_names if name not in self._series]
        if lost:
            raise QwenVlaError(
                f'{path}: {", ".join(lost)}: no measured joint of that name; choose a layout of '
                'absolute joints'
            )
        self.count = int((self._last_ns - self.first_ns) * self.embodiment.rate_hz / 1e9) + 1

    def time_ns(self, frame: int) -> int:
        """Return the instant of a frame."""
        if not 0 <= frame < self.count:
            raise QwenVlaError(f'{self.path}: frame {frame}: there are {self.count}')
        return self.first_ns + round(frame * self.embodiment.step_s * 1e9)

    def play(
        self, buffer: ObservationBuffer, start_ns: int, times: Sequence[int]
    ) -> Iterator[int]:
        """Push messages from start_ns on; yield each time once all before it are pushed."""
        due = iter(times)
        now_ns = next(due)
        with open_bag(self.path) as reader:
            wanted = [c for c in reader.connections if c.topic in self._sources]
            stop = times[-1] + 1
            for topic, time_ns, message in read(self.path, reader, wanted, start_ns, stop):
                while time_ns > now_ns:
                    yield now_ns
                    now_ns = next(due)
                try:
                    buffer.push(self._sources[topic], message, time_ns)
                except InputError:
                    continue  # missing() tells it where nothing good is left
        yield now_ns
        yield from due

    def actions(self, seen: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Return the joints reached at the chunk's instants [H, A], False after the last one."""
        embodiment = self.embodiment
        steps = np.round(np.arange(embodiment.horizon) * embodiment.step_s * 1e9).astype(np.int64)
        ahead = steps + (seen.stamp_ns - self.first_ns)
        columns, masks = [], []
        for name in self.action_names:
            times, values = self._series[name]
            columns.append(np.interp(ahead, times, values))
            masks.append((ahead >= times[0]) & (ahead <= times[-1]))
        return np.stack(columns, 1).astype(np.float32), np.stack(masks, 1)

    def _find_topics(self, reader: Any) -> dict[str, str]:
        """Return topic -> source of the buffer; a namespace may stand before the topic."""
        robot, found = self.embodiment, {}
        wanted = {camera.view: camera.topic for camera in robot.cameras}
        wanted |= {state.name: state.topic for state in robot.states}
        topics = {connection.topic for connection in reader.connections}
        for source, topic in wanted.items():
            end = '/' + topic.lstrip('/')
            exact = [end] if end in topics else sorted(t for t in topics if t.endswith(end))
            if len(exact) != 1:
                told = f'several topics end so: {", ".join(exact)}' if exact else 'is not in it'
                raise QwenVlaError(f'{self.path}: topic {topic} ({source}): {told}')
            found[exact[0]] = source
        return found

    def _read_states(self, reader: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return joint -> (ns after first_ns, values), in true time, increasing."""
        series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for state in self.embodiment.states:
            row_of = state_reader(state)
            offset = round(state.latency_offset_s * 1e9) + self.first_ns
            rows: dict[int, Any] = {}
            wanted = [c for c in reader.connections if self._sources.get(c.topic) == state.name]
            for _, _, message in read(self.path, reader, wanted):
                stamp = message.header.stamp
                try:
                    rows[stamp.sec * 1_000_000_000 + stamp.nanosec - offset] = row_of(message)
                except InputError:
                    continue
            if not rows:
                raise QwenVlaError(f'{self.path}: topic {state.topic}: no usable message in it')
            times = np.array(sorted(rows), np.int64)
            values = np.array([rows[time] for time in times.tolist()], np.float64)
            for column, field in enumerate(state.fields):
                series[field.name] = times, values[:, column]
        return series


def open_bag(path: Path) -> Any:
    """Return a rosbags reader (a context manager); QwenVlaError says what cannot be read."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    if not path.exists():
        raise QwenVlaError(f'{path}: there is no such bag')
    return _Opened(path, AnyReader, get_typestore(Stores.ROS2_JAZZY))


class _Opened:
    """AnyReader whose failures at opening are told in one line."""

    def __init__(self, path: Path, kind: Any, store: Any) -> None:
        self._path, self._kind, self._store = path, kind, store

    def __enter__(self) -> Any:
        try:
            self._reader = self._kind([self._path], default_typestore=self._store)
            self._reader.open()
        except Exception as error:  # rosbags lets struct, sqlite3 and yaml errors through
            raise QwenVlaError(
                f'{self._path}: cannot be read ({type(error).__name__}: {error}); a recording '
                "that was cut is mended by 'mcap recover' and 'ros2 bag reindex'"
            ) from error
        return self._reader

    def __exit__(self, *error: object) -> None:
        self._reader.close()


def read(
    path: Path,
    reader: Any,
    connections: list[Any],
    start: int | None = None,
    stop: int | None = None,
) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, time in ns and message; QwenVlaError where the file is damaged inside."""
    found = reader.messages(connections, start, stop) if connections else iter(())
    while True:
        try:
            item = next(found, None)
            message = item and reader.deserialize(item[2], item[0].msgtype)
        except Exception as error:  # whatever decompression, sqlite3 or CDR raise
            raise QwenVlaError(
                f'{path}: damaged inside ({type(error).__name__}: {error}); copy it again, or '
                "mend it by 'mcap recover'"
            ) from error
        if item is None:
            return
        yield item[0].topic, item[1], message


def contract_of(path: Path, reader: Any) -> Embodiment:
    """Return the contract that the recorder put into an open bag."""
    for connection in reader.connections:
        if connection.topic == CONTRACT:
            text = next(read(path, reader, [connection]))[2].data
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / 'contract.yaml'
                file.write_text(text, encoding='utf-8')
                return Embodiment.load(file)
    raise QwenVlaError(f'{path}: no {CONTRACT} in it; say which robot it is')


def _instruction(path: Path, reader: Any) -> str:
    """Return the sentence that was published; several different ones are refused."""
    wanted = [c for c in reader.connections if c.topic.endswith('/instruction')]
    said = {message.data for _, _, message in read(path, reader, wanted)} - {''}
    if len(said) != 1:
        told = f'{len(said)} different instructions' if said else 'no instruction'
        raise QwenVlaError(f'{path}: {told} in it; give one')
    return said.pop()
