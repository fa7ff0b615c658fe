"""
What is wrong with an episode, seen while it is recorded: missing, slow, gaps, stuck, skewed.

Each message of a contract's camera or joint topic is looked at as it is written: the time it was
heard, its stamp, and whether what it shows has changed. Findings of severity fault mark the
episode; a note does not. A picture that stays the same is a fault only if joints moved meanwhile,
and joints that stay the same only if pictures changed: a robot that stands still is no fault.
"""

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from qwen_vla_ros.data.episode_notes import FAULT, NOTE, Finding
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.image_decoding import InputError, check_image
from qwen_vla_ros.state_reading import state_reader

SLOW, TOO_SLOW = 0.8, 0.5  # shares of the contract's rate: below them a note, a fault
GAP_S, GAP_PERIODS = 0.5, 5  # a hole of both lengths is a fault
STUCK_S, MOVED = 2.0, 0.02  # unchanged for so long while a joint moved so far (rad or m)
REFUSED = 0.05  # share of messages that cannot be used
RATE_WINDOW_NS = 3_000_000_000
SAMPLED = 7  # every so many 8-byte words of a raw picture are compared


@dataclass
class _Stream:
    """What was seen of one topic; the run is the time since its content last changed."""

    source: str
    rate_hz: float
    picture: bool
    count: int = 0
    refused: int = 0
    reason: str = ''
    last_ns: int = 0
    longest_ns: int = 0
    same_stamps: int = 0
    stamp_ns: int = 0
    ages: array = field(default_factory=lambda: array('d'))
    recent: deque[int] = field(default_factory=deque)
    content: Any = None
    run_ns: int = 0
    run_row: np.ndarray | None = None
    others: float = 0.0  # how far joints went, or how often pictures changed, in this run
    stuck_ns: int = 0
    changes: int = 0


class EpisodeAudit:
    """Take every message of an episode; tell rates meanwhile and findings at its end."""

    def __init__(self, embodiment: Embodiment, topics: Mapping[str, str], start_ns: int) -> None:
        """topics: source of the contract (view or state) -> topic as it is recorded."""
        self._robot, self.start_ns = embodiment, start_ns
        self._cameras = {camera.view: camera for camera in embodiment.cameras}
        self._readers = {state.name: state_reader(state) for state in embodiment.states}
        rates = {camera.view: camera.rate_hz for camera in embodiment.cameras}
        rates |= {state.name: state.rate_hz for state in embodiment.states}
        self._streams = {
            topic: _Stream(source, rates[source], source in self._cameras, last_ns=start_ns)
            for source, topic in topics.items()
        }
        self._rows: dict[str, np.ndarray] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics that are looked at."""
        return tuple(self._streams)

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Look at a message (of rosbags or rclpy) that was heard at time_ns."""
        stream = self._streams[topic]
        stream.count += 1
        stream.longest_ns = max(stream.longest_ns, time_ns - stream.last_ns)
        stream.last_ns = time_ns
        stream.recent.append(time_ns)
        while stream.recent[0] < time_ns - RATE_WINDOW_NS:
            stream.recent.popleft()
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        stream.same_stamps += stamp_ns == stream.stamp_ns
        stream.stamp_ns = stamp_ns
        try:
            content = self._content(stream, message)
        except InputError as error:
            stream.refused, stream.reason = stream.refused + 1, str(error)
            return
        offset = self._offset_s(stream)
        stream.ages.append((time_ns - stamp_ns) * 1e-9 + offset)
        self._follow(stream, content, time_ns)

    def rates(self, now_ns: int) -> dict[str, tuple[float, float]]:
        """Return topic -> rate of the last seconds and the contract's, once there were some."""
        if now_ns - self.start_ns < RATE_WINDOW_NS:
            return {}
        since, seconds = now_ns - RATE_WINDOW_NS, RATE_WINDOW_NS * 1e-9
        return {
            topic: (sum(t > since for t in list(stream.recent)) / seconds, stream.rate_hz)
            for topic, stream in self._streams.items()
        }  # a copy of `recent`: take() runs in the thread of the bag

    def slow(self, now_ns: int) -> dict[str, str]:
        """Return topic -> what is wrong with its rate at present."""
        return {
            topic: f'{rate:.1f} Hz, the contract says {wanted:g}'
            for topic, (rate, wanted) in self.rates(now_ns).items()
            if rate < SLOW * wanted
        }

    def reached(self, end_ns: int) -> dict[str, float]:
        """Return topic -> mean rate in Hz of the episode."""
        seconds = max((end_ns - self.start_ns) * 1e-9, 1e-9)
        return {topic: round(s.count / seconds, 2) for topic, s in self._streams.items()}

    def findings(self, end_ns: int) -> list[Finding]:
        """Return what is wrong with the episode that ended at end_ns."""
        found: list[Finding] = []
        for topic, stream in self._streams.items():
            self._end_run(stream, end_ns)
            if not stream.count:
                found.append(Finding(FAULT, 'missing', topic, 'not one message'))
                continue
            found += self._timing(topic, stream, end_ns)
            found += self._stuck(topic, stream, end_ns)
            if stream.refused:
                severity = FAULT if stream.refused > REFUSED * stream.count else NOTE
                told = f'{stream.refused} of {stream.count} cannot be used: {stream.reason}'
                found.append(Finding(severity, 'refused', topic, told))
        found += self._skewed()
        if not any(stream.changes for stream in self._streams.values()):
            told = 'neither a picture nor a joint changed'
            found.append(Finding(NOTE, 'stuck', 'everything', told))
        return found

    def _offset_s(self, stream: _Stream) -> float:
        sources = (*self._robot.cameras, *self._robot.states)
        named = {getattr(s, 'view', None) or s.name: s.latency_offset_s for s in sources}
        return named[stream.source]

    def _content(self, stream: _Stream, message: Any) -> Any:
        """Return what tells whether a message shows something new: a checksum, or the joints."""
        if not stream.picture:
            return np.array(self._readers[stream.source](message))
        camera = self._cameras[stream.source]
        check_image(message, camera.topic, camera.encoding, camera.width, camera.height)
        data = np.frombuffer(message.data, np.uint8)
        if hasattr(message, 'format'):
            return crc32(data)
        words = data[: len(data) // 8 * 8].view(np.uint64)
        return crc32(np.ascontiguousarray(words[::SAMPLED]))

    def _follow(self, stream: _Stream, content: Any, time_ns: int) -> None:
        """Count how long a stream's content has been the same, and what others did meanwhile."""
        if stream.picture:
            changed = content != stream.content
        else:
            changed = stream.content is None or not np.array_equal(content, stream.content)
            self._rows[stream.source] = content
        if changed:
            if stream.content is not None:
                stream.changes += 1
                self._tell_others(stream)
            self._end_run(stream, time_ns)
            stream.content, stream.run_ns, stream.others = content, time_ns, 0.0
            stream.run_row = self._joints()

    def _joints(self) -> np.ndarray | None:
        return np.concatenate(list(self._rows.values())) if self._rows else None

    def _tell_others(self, stream: _Stream) -> None:
        """Tell streams of the other kind that this one has changed."""
        row = None if stream.picture else self._joints()
        for other in self._streams.values():
            if other.picture == stream.picture:
                continue
            if stream.picture:
                other.others += 1
            elif other.run_row is None or row is None or len(row) != len(other.run_row):
                other.run_row = row  # the first joints of this run
            else:
                other.others = max(other.others, float(np.abs(row - other.run_row).max()))

    def _end_run(self, stream: _Stream, time_ns: int) -> None:
        """Add a run of unchanged content to what counts as stuck, if others changed in it."""
        length = time_ns - stream.run_ns
        enough = stream.others > MOVED if stream.picture else stream.others >= 5
        if stream.content is not None and length >= STUCK_S * 1e9 and enough:
            stream.stuck_ns += length
            stream.others = 0.0

    def _timing(self, topic: str, stream: _Stream, end_ns: int) -> list[Finding]:
        found, seconds = [], max((end_ns - self.start_ns) * 1e-9, 1e-9)
        rate = stream.count / seconds
        if rate < SLOW * stream.rate_hz:
            told = f'{rate:.1f} Hz, the contract says {stream.rate_hz:g}'
            severity = FAULT if rate < TOO_SLOW * stream.rate_hz else NOTE
            found.append(Finding(severity, 'slow', topic, told))
        longest = max(stream.longest_ns, end_ns - stream.last_ns) * 1e-9
        if longest > max(GAP_S, GAP_PERIODS / stream.rate_hz):
            found.append(Finding(FAULT, 'gap', topic, f'nothing for {longest:.2f} s'))
        elif longest > self._robot.safety.max_age_s:
            found.append(Finding(NOTE, 'gap', topic, f'nothing for {longest:.2f} s'))
        return found

    def _stuck(self, topic: str, stream: _Stream, end_ns: int) -> list[Finding]:
        found, length = [], end_ns - self.start_ns
        if stream.same_stamps > REFUSED * stream.count:
            told = f'{stream.same_stamps} of {stream.count} repeat the stamp before'
            found.append(Finding(FAULT, 'stuck', topic, told))
        seconds = stream.stuck_ns * 1e-9
        if stream.picture and stream.stuck_ns:
            told = f'the same picture for {seconds:.1f} s while joints moved'
            found.append(Finding(FAULT, 'stuck', topic, told))
        elif stream.stuck_ns:
            severity = FAULT if stream.stuck_ns > length / 2 else NOTE
            told = f'the same joints for {seconds:.1f} s while pictures changed'
            found.append(Finding(severity, 'stuck', topic, told))
        return found

    def _skewed(self) -> list[Finding]:
        """Compare when messages were heard with their stamps, stream by stream."""
        safety = self._robot.safety
        ages = {t: float(np.median(s.ages)) for t, s in self._streams.items() if len(s.ages)}
        found = []
        for topic, age in ages.items():
            if age > safety.max_age_s or age < -safety.max_future_s:
                told = f'heard {age:.3f} s after its stamp; the contract allows '
                told += f'{-safety.max_future_s:g} to {safety.max_age_s:g} s'
                found.append(Finding(FAULT, 'skewed', topic, told))
        if ages and not found and max(ages.values()) - min(ages.values()) > safety.max_skew_s:
            late, early = max(ages, key=ages.__getitem__), min(ages, key=ages.__getitem__)
            told = f'{ages[late] - ages[early]:.3f} s later than {early}; the contract allows '
            told += f'{safety.max_skew_s:g} s'
            found.append(Finding(FAULT, 'skewed', late, told))
        return found
