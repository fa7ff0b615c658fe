"""
A bag as a stream of events: the inputs of a contract, and what was done that day.

Topics are those of the contract, a namespace may stand before them. Messages keep the time at
which the recorder heard them. One pass at a time, nothing is kept: memory does not grow with the
bag. Sentences come from policy/instruction or the recorder, or else from the policy's status.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from qwen_vla_ros.data.bag import contract_of, open_bag, read
from qwen_vla_ros.data.episode_notes import SAID
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk

INPUT, INSTRUCTION, CHUNK, REFUSED, STATUS, COMMAND = (
    'input',
    'instruction',
    'chunk',
    'refused',
    'status',
    'command',
)
SECOND_NS = 1_000_000_000
COMMANDS = (
    'trajectory_msgs/msg/JointTrajectory',
    'geometry_msgs/msg/TwistStamped',
    'geometry_msgs/msg/Twist',
)


class Event(NamedTuple):
    """One message: what it is, the buffer's source or the topic, when it was heard."""

    kind: str
    source: str
    time_ns: int
    message: Any


@dataclass(frozen=True)
class RecordedChunk:
    """A chunk that the policy of that day said, and when; reason: why it was refused."""

    chunk: ActionChunk
    time_ns: int
    inference_s: float | None = None
    reason: str = ''


@dataclass(frozen=True)
class Shifts:
    """
    What is done to the bag on its way, to see what a fault would do.

    delay_s   source -> s by which its messages arrive later (their stamps stay)
    stamp_s   source -> s by which its stamps are set forward (as a driver's wrong clock does)
    swap      source -> the source whose messages it gets instead
    """

    delay_s: Mapping[str, float] = field(default_factory=dict)
    stamp_s: Mapping[str, float] = field(default_factory=dict)
    swap: Mapping[str, str] = field(default_factory=dict)


class BagSource:
    """One bag of one robot. damage tells, after a pass, where the file could not be read on."""

    def __init__(
        self,
        path: Path,
        embodiment: Embodiment | None = None,
        policy: str = 'policy',
        shifts: Shifts | None = None,
    ) -> None:
        """Look which topics are there; QwenVlaError names an input that is missing."""
        self.path, self.damage = path, ''
        self._shifts = shifts or Shifts()
        with open_bag(path) as reader:
            self.damage = reader.lost
            if not reader.message_count:
                raise QwenVlaError(f'{path}: the bag is empty')
            self.embodiment = embodiment or contract_of(path, reader)
            self._refuse_unknown()
            self.topics = self._find(reader, policy)
            self.first_ns, self.last_ns = reader.start_time, reader.end_time
            self.counts = {
                connection.topic: connection.msgcount
                for connection in reader.connections
                if connection.topic in self.topics
            }
            self._said_by_status = not self.has(INSTRUCTION)
        self.seconds = (self.last_ns - self.first_ns) * 1e-9

    def _refuse_unknown(self) -> None:
        robot, shifts = self.embodiment, self._shifts
        known = {*(c.view for c in robot.cameras), *(s.name for s in robot.states)}
        named = {*shifts.delay_s, *shifts.stamp_s, *shifts.swap, *shifts.swap.values()}
        if unknown := sorted(named - known):
            raise QwenVlaError(
                f'{", ".join(unknown)}: no source of {robot.name}; it has '
                f'{", ".join(sorted(known))}'
            )

    def has(self, kind: str) -> bool:
        """Tell whether any message of a kind is in the bag."""
        return any(self.counts.get(t) for t, found in self.topics.items() if found[0] == kind)

    @property
    def has_sentence(self) -> bool:
        """Tell whether anybody told the policy what to do."""
        return any(event.message.data for event in self.events((INSTRUCTION,)))

    def events(self, kinds: tuple[str, ...] | None = None) -> Iterator[Event]:
        """Yield what the bag holds in the order in which it was heard, delays included."""
        delays = {name: round(s * SECOND_NS) for name, s in self._shifts.delay_s.items()}
        if not delays:
            yield from self._read(kinds)
            return
        import heapq

        waiting: list[tuple[int, int, Event]] = []
        for number, event in enumerate(self._read(kinds)):
            late_ns = event.time_ns + delays.get(event.source, 0)
            heapq.heappush(waiting, (late_ns, number, event._replace(time_ns=late_ns)))
            while waiting and waiting[0][0] <= event.time_ns:
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    def recorded(self) -> list[RecordedChunk]:
        """Return every chunk that the policy of that day said, refused ones too, as heard."""
        found: list[RecordedChunk] = []
        kinds = (CHUNK, REFUSED, STATUS)
        for event in self.events(kinds) if self.has(CHUNK) or self.has(REFUSED) else ():
            if event.kind == STATUS:
                inference_s = float(event.message.inference_s)
                if found and found[-1].inference_s is None and inference_s > 0:
                    last = found[-1]
                    found[-1] = RecordedChunk(last.chunk, last.time_ns, inference_s, last.reason)
                continue
            reason = getattr(event.message, 'refused', '')
            found.append(RecordedChunk(chunk_of(event.message), event.time_ns, None, reason))
        unique = {item.chunk.start_ns: item for item in found}
        return sorted(unique.values(), key=lambda item: item.time_ns)

    def _read(self, kinds: tuple[str, ...] | None) -> Iterator[Event]:
        heard = kinds
        if kinds and INSTRUCTION in kinds and self._said_by_status:
            heard = (*kinds, STATUS)
        wanted = {
            topic: found for topic, found in self.topics.items() if not heard or found[0] in heard
        }
        swapped = {given: taken for taken, given in self._shifts.swap.items()}
        with open_bag(self.path) as reader:
            connections = [c for c in reader.connections if c.topic in wanted]
            items = read(self.path, reader, connections)
            while True:
                try:
                    item = next(items, None)
                except QwenVlaError as error:
                    self.damage = str(error)
                    return
                if item is None:
                    return
                kind, source = wanted[item[0]]
                source = swapped.get(source, source)
                message = item[2]
                if kind == STATUS and self._said_by_status and message.instruction:
                    said = SimpleNamespace(data=message.instruction)
                    yield Event(INSTRUCTION, source, item[1], said)
                if kinds and kind not in kinds:
                    continue
                if source in self._shifts.stamp_s:
                    message = _restamped(message, self._shifts.stamp_s[source])
                yield Event(kind, source, item[1], message)

    def _find(self, reader: Any, policy: str) -> dict[str, tuple[str, str]]:
        """Return topic -> (kind, source)."""
        robot = self.embodiment
        topics = {c.topic: c.msgtype for c in reader.connections}
        found: dict[str, tuple[str, str]] = {}
        inputs = {camera.view: camera.topic for camera in robot.cameras}
        inputs |= {state.name: state.topic for state in robot.states}
        for source, topic in inputs.items():
            exact = _ends(topics, topic)
            if len(exact) != 1:
                told = f'several topics end so: {", ".join(exact)}' if exact else 'is not in it'
                raise QwenVlaError(f'{self.path}: topic {topic} ({source}): {told}')
            found[exact[0]] = INPUT, source
        for kind in (INSTRUCTION, CHUNK, REFUSED, STATUS):
            for topic in _ends(topics, f'{policy}/{kind}'):
                found[topic] = kind, topic
        if SAID in topics:  # the sentence of a recorded episode
            found[SAID] = INSTRUCTION, SAID
        for group in robot.action_groups():
            for topic in _ends(topics, group.output.topic or '?'):
                if topics[topic] in COMMANDS:
                    found[topic] = COMMAND, topic
        return found


def _ends(topics: Mapping[str, str], topic: str) -> list[str]:
    """Return the topics of a bag that a contract's topic may be, an exact one alone."""
    end = '/' + topic.lstrip('/')
    return [end] if end in topics else sorted(name for name in topics if name.endswith(end))


class _Stamp:
    """A message with another stamp; everything else is the message's own."""

    def __init__(self, message: Any, header: Any) -> None:
        self._message, self.header = message, header

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def _restamped(message: Any, seconds: float) -> Any:
    from dataclasses import replace

    header = message.header
    at_ns = stamp_ns(header) + round(seconds * SECOND_NS)
    stamp = replace(header.stamp, sec=at_ns // SECOND_NS, nanosec=at_ns % SECOND_NS)
    return _Stamp(message, replace(header, stamp=stamp))


def stamp_ns(header: Any) -> int:
    """Return a header's stamp in ns."""
    return int(header.stamp.sec) * SECOND_NS + int(header.stamp.nanosec)


def chunk_of(message: Any) -> ActionChunk:
    """Return what an ActionChunk message says; QwenVlaError for rows that are no table."""
    names, horizon = tuple(message.names), int(message.horizon)
    rows = np.asarray(message.actions, np.float32)
    if rows.size != horizon * len(names):
        raise QwenVlaError(f'chunk: {rows.size} numbers for {horizon} rows of {len(names)}')
    start_ns = stamp_ns(message.header)
    return ActionChunk(rows.reshape(horizon, -1), names, start_ns, message.step_s, message.frame)
