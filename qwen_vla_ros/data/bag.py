"""
rosbag2 folders (MCAP or SQLite, compressed or not) as episodes, through the live decode path.

One bag is one episode; where its sentence changes on the way, each stretch that has one is
(bag_sentences.py). Frame i is what ObservationBuffer gives at first_ns + i / rate: messages are
pushed at the time at which the recorder heard them, so the tensors are those of the running robot,
to the bit. Actions are the joints that were reached at the chunk's instants, interpolated
linearly, and masked where another sentence holds; a layout whose channels are not measured
(displacements, waypoints) is refused by name. The contract is the one in the bag unless another is
given.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.bag_files import MEND, McapBag, contract_of, open_bag, read
from qwen_vla_ros.data.bag_sentences import NoSentence, Stretch, find_stretches
from qwen_vla_ros.data.episode_notes import read_notes, why_left_out
from qwen_vla_ros.data.joint_tracks import JointTracks
from qwen_vla_ros.data.sample import Place, Sample, SampleError
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.observation import ObservationBuffer
from qwen_vla_ros.types import Observation

KEPT_OPEN = 8  # bags
WARM_NS = 1_000_000_000  # of messages, beyond the age limit, before a frame that is read alone


class BagEpisodes:
    """
    Bags of one robot; skipped counts, after stream(), why frames gave no observation.

    left_out tells, bag by bag, why one of several is not among the episodes: discarded, marked by
    the audit of the recorder (flawed=True takes those), or cut off. QwenVlaError for what is no
    readable bag, names a topic that is missing, and tells the reasons when nothing is left.
    """

    def __init__(
        self,
        bags: Sequence[Path],
        embodiment: Embodiment | None = None,
        instruction: str = '',
        layout: str | None = None,
        flawed: bool = False,
    ) -> None:
        """Open each bag's index: contract, topics and sentence are read, no picture is."""
        self.source = _name(bags)
        self.skipped: Counter[str] = Counter()
        self.left_out: dict[Path, str] = {}
        self._episodes: list[_Episode] = []
        readers = _Readers()
        for path in bags:
            notes = read_notes(path)
            reason = why_left_out(notes, flawed)
            if not reason:
                with readers.open(path) as reader:
                    reason = reader.lost and f'{reader.lost}; {MEND.format(path)}'
            if reason:
                self.left_out[path] = reason
                continue
            said = instruction or (notes.instruction if notes else '')
            try:
                bag = _Bag(path, embodiment, said, layout, readers)
            except NoSentence as error:
                if notes is None:
                    raise
                self.left_out[path] = str(error)
                continue
            self._episodes += [_Episode(bag, *stretch) for stretch in bag.stretches]
        if not self._episodes:
            told = '; '.join(f'{path}: {reason}' for path, reason in self.left_out.items())
            raise QwenVlaError(told or 'no bag was given')

    @property
    def bags(self) -> tuple[Path, ...]:
        """Return the bag of each episode."""
        return tuple(episode.bag.path for episode in self._episodes)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._episodes)

    def frames(self, episode: int) -> int:
        """Return the number of instants, those without an observation included."""
        return self._episodes[episode].count

    def rate_hz(self, episode: int) -> float:
        """Return frames per second, as the contract says."""
        return self._episodes[episode].bag.embodiment.rate_hz

    def success(self, episode: int) -> bool | None:
        """Return the label of the recording; None where nobody gave one."""
        notes = read_notes(self._episodes[episode].bag.path)
        return None if notes is None else notes.success

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and the source that is missing."""
        asked = self._episodes[episode]
        now_ns = asked.time_ns(frame)
        buffer = ObservationBuffer(asked.bag.embodiment)
        for _ in asked.bag.play(buffer, now_ns - asked.bag.warm_ns, (now_ns,)):
            pass
        return self._sample(episode, frame, buffer, now_ns)

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples; a frame without an observation is counted, not yielded."""
        asked = self._episodes[episode]
        buffer = ObservationBuffer(asked.bag.embodiment)
        times = [asked.time_ns(frame) for frame in range(asked.count)]
        start_ns = asked.first_ns - asked.bag.warm_ns
        for frame, now_ns in enumerate(asked.bag.play(buffer, start_ns, times)):
            try:
                yield self._sample(episode, frame, buffer, now_ns)
            except SampleError as error:
                self.skipped[str(error).partition(f'frame {frame}: ')[2]] += 1

    def _sample(self, episode: int, frame: int, buffer: ObservationBuffer, now_ns: int) -> Sample:
        asked = self._episodes[episode]
        place = Place(self.source, episode, frame, asked.bag.path.name)
        seen = buffer.sample(now_ns, asked.sentence)
        if seen is None:
            first = buffer.missing(now_ns)[:1]
            raise place.refuse(*((first[0].source, first[0].reason) if first else ('', 'nothing')))
        actions, mask = asked.bag.actions(seen, asked.last_ns)
        return Sample(
            place,
            seen.images,
            seen.instruction,
            seen.embodiment,
            actions,
            mask,
            asked.bag.action_names,
            seen.stamp_ns,
            seen.state,
            seen.state_names,
            sources_ns=seen.sources_ns,
        )


def _name(bags: Sequence[Path]) -> str:
    """Return the name of a bag, or of the folder in which several lie."""
    folders = {bag.resolve().parent for bag in bags}
    if len(bags) > 1 and len(folders) == 1:
        return folders.pop().name
    return ', '.join(bag.name for bag in bags)


class _Readers:
    """Bags that stay open, the last few: their indices are read once."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, McapBag] = OrderedDict()

    @contextmanager
    def open(self, path: Path) -> Iterator[Any]:
        """Give an open reader; QwenVlaError."""
        if path not in self._open:
            reader = open_bag(path)
            if not isinstance(reader, McapBag):
                with reader as found:
                    yield found
                return
            self._open[path] = reader.__enter__()
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)  # closed once nobody reads in it
        self._open.move_to_end(path)
        yield self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        """Open files do not travel to other processes."""
        return {'_open': OrderedDict()}


class _Bag:
    """One bag: its contract, its topics by source, its joints in time."""

    def __init__(
        self,
        path: Path,
        embodiment: Embodiment | None,
        instruction: str,
        layout: str | None,
        readers: _Readers,
    ) -> None:
        self.path, self._readers = path, readers
        with readers.open(path) as reader:
            if not reader.message_count:
                raise QwenVlaError(f'{path}: there is no message in it; record it again')
            self.embodiment = embodiment or contract_of(path, reader)
            self._sources = self._find_topics(reader)
            self._first_ns, self._last_ns = reader.start_time, reader.end_time
            whole = [Stretch(instruction, self._first_ns, self._last_ns)]
            self.stretches = whole if instruction else find_stretches(path, reader)
            self.action_names = self.embodiment.action_names(layout)
        self._tracks = [
            JointTracks(
                state,
                partial(self._heard, state.name),
                (self._first_ns, self._last_ns),
                self.embodiment.safety.max_age_s,
            )
            for state in self.embodiment.states
        ]
        for state, track in zip(self.embodiment.states, self._tracks, strict=True):
            if track.ends() is None:
                raise QwenVlaError(f'{path}: topic {state.topic}: no usable message in it')
        measured = {name for track in self._tracks for name in track.names}
        lost = [name for name in self.action_names if name not in measured]
        if lost:
            raise QwenVlaError(
                f'{path}: {", ".join(lost)}: no measured joint of that name; choose a layout of '
                'absolute joints'
            )
        self.warm_ns = WARM_NS + round(self.embodiment.safety.max_age_s * 1e9)

    def play(
        self, buffer: ObservationBuffer, start_ns: int, times: Sequence[int]
    ) -> Iterator[int]:
        """Push messages from start_ns on; yield each time once all before it are pushed."""
        due = iter(times)
        now_ns = next(due)
        with self._readers.open(self.path) as reader:
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

    def actions(self, seen: Observation, last_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the joints reached at the chunk's instants [H, A], False behind a stretch."""
        embodiment = self.embodiment
        steps = np.round(np.arange(embodiment.horizon) * embodiment.step_s * 1e9).astype(np.int64)
        columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for track in self._tracks:
            times_ns = steps + seen.stamp_ns
            rows, known = track.at(times_ns)
            if last_ns < self._last_ns:
                known &= times_ns <= last_ns
            columns.update({name: (rows[:, at], known) for at, name in enumerate(track.names)})
        values = np.stack([columns[name][0] for name in self.action_names], 1)
        return values.astype(np.float32), np.stack([columns[n][1] for n in self.action_names], 1)

    def _heard(self, source: str, start_ns: int, stop_ns: int) -> Iterator[Any]:
        """Yield the messages of a source that were heard in [start, stop)."""
        with self._readers.open(self.path) as reader:
            wanted = [c for c in reader.connections if self._sources.get(c.topic) == source]
            for _, _, message in read(self.path, reader, wanted, start_ns, stop_ns):
                yield message

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


@dataclass(frozen=True)
class _Episode:
    """A stretch of a bag with one sentence."""

    bag: _Bag
    sentence: str
    first_ns: int
    last_ns: int

    @property
    def count(self) -> int:
        """Return the number of frames."""
        return int((self.last_ns - self.first_ns) * self.bag.embodiment.rate_hz / 1e9) + 1

    def time_ns(self, frame: int) -> int:
        """Return the instant of a frame."""
        if not 0 <= frame < self.count:
            raise QwenVlaError(f'{self.bag.path}: frame {frame}: there are {self.count}')
        return self.first_ns + round(frame * self.bag.embodiment.step_s * 1e9)
