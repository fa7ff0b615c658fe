"""
ROS messages -> Observation: refuse, file under the true time, align, decode.

Every message is filed under its header stamp minus the latency offset of its stream; alignment.py
finds the set that belongs together. Bad messages raise InputError, are not stored, and are told by
missing() once the source has nothing fresh left. A node clock that jumps back by more than a
second (a bag played again, a simulation reset) empties the buffer. push() looks at headers only;
pictures are decoded in sample(). Nothing missing is ever replaced.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.alignment import STATE, Aligner, Match, Missing
from qwen_vla_ros.image_decoding import InputError, check_image, decode_image
from qwen_vla_ros.types import Observation

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

CLOCK_JUMP_NS = 1_000_000_000
EDGES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass
class Counts:
    """What happened on one source; histograms over EDGES_S, the last bin is open."""

    received: int = 0
    refused: int = 0
    duplicates: int = 0
    age: list[int] = field(default_factory=lambda: [0] * (len(EDGES_S) + 1))
    skew: list[int] = field(default_factory=lambda: [0] * (len(EDGES_S) + 1))


class ObservationBuffer:
    """Collect messages of all sources of a robot; give time-aligned observations. Thread-safe."""

    def __init__(self, embodiment: 'Embodiment') -> None:
        """Listen for the cameras and the state fields of a contract."""
        self._embodiment = embodiment
        safety = embodiment.safety
        self._age_ns = round(safety.max_age_s * 1e9)
        self._future_ns = round(safety.max_future_s * 1e9)
        self._cameras = {camera.view: camera for camera in embodiment.cameras}
        sources = {**self._cameras, STATE: embodiment.state}
        self._topics = {name: source.topic for name, source in sources.items()}
        self._aligner = Aligner(
            {view: camera.rate_hz for view, camera in self._cameras.items()},
            embodiment.state.rate_hz,
            safety.max_skew_s,
            safety.max_age_s,
        )
        self._offsets_ns = {
            name: round(source.latency_offset_s * 1e9) for name, source in sources.items()
        }
        self._lock = threading.Lock()
        self._pick_names: Sequence[str] = ()
        self._pick: Callable[[Sequence[float]], tuple[float, ...]] | None = None
        self._counts = {name: Counts() for name in sources}
        self._samples = 0
        self._clear()

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names that push() takes: the view tags, then 'state'."""
        return tuple(self._topics)

    def push(self, source: str, message: Any, receive_ns: int) -> None:
        """
        Store a message that arrived at receive_ns of the node clock.

        Raises InputError for one that cannot be used; it is not stored.
        """
        if source not in self._topics:
            raise InputError(
                f"observation source '{source}' is unknown; this robot has "
                f'{", ".join(self._topics)}'
            )
        counts = self._counts[source]
        with self._lock:
            self._follow_clock(receive_ns)
            counts.received += 1
            try:
                time_ns = self._time(source, message, receive_ns)
                if source == STATE:
                    item = self._read_state(message)
                else:
                    camera = self._cameras[source]
                    check_image(
                        message,
                        camera.topic,
                        camera.encoding,
                        camera.width,
                        camera.height,
                    )
                    item = message
            except InputError as error:
                counts.refused += 1
                self._refusals[source] = str(error)
                raise
            if self._aligner.streams[source].add(time_ns, item):
                self._refusals.pop(source, None)
            else:
                counts.duplicates += 1

    def sample(self, now_ns: int, instruction: str) -> Observation | None:
        """Return what holds at the newest common instant; None when missing() is not empty."""
        with self._lock:
            match = self._match(now_ns)
            if not isinstance(match, Match):
                return None
            self._count(match, now_ns)
        images = {}
        for view, (time_ns, message) in match.frames.items():
            try:
                images[view] = decode_image(message, self._topics[view])
            except InputError as error:
                self._discard(view, time_ns, str(error))
                return None
        sources = {view: time_ns for view, (time_ns, _) in match.frames.items()}
        return Observation(
            images=images,
            state=match.state.astype(np.float32),
            state_names=self._embodiment.state_names,
            instruction=instruction,
            stamp_ns=match.anchor_ns,
            embodiment=self._embodiment.name,
            sources_ns={**sources, STATE: match.state_ns},
        )

    def missing(self, now_ns: int) -> tuple[Missing, ...]:
        """Return, source by source, why sample(now_ns) gives nothing; empty when it would."""
        with self._lock:
            match = self._match(now_ns)
            return () if isinstance(match, Match) else match

    def statistics(self) -> dict[str, Any]:
        """
        Return counts and histograms, ready for JSON.

        age is now minus the frame's time, skew is the distance from the anchor, both at
        successful samples; bin i counts values under edges_s[i], the last one the rest.
        """
        with self._lock:
            sources = {
                name: {
                    'received': counts.received,
                    'refused': counts.refused,
                    'duplicates': counts.duplicates,
                    'age': list(counts.age),
                    'skew': list(counts.skew),
                }
                for name, counts in self._counts.items()
            }
            return {
                'samples': self._samples,
                'edges_s': list(EDGES_S),
                'sources': sources,
            }

    def clear(self) -> None:
        """Forget all messages; the statistics stay."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._aligner.clear()
        self._refusals: dict[str, str] = {}
        self._clock_ns: int | None = None

    def _follow_clock(self, now_ns: int) -> None:
        if self._clock_ns is not None and now_ns < self._clock_ns - CLOCK_JUMP_NS:
            self._clear()
        self._clock_ns = now_ns

    def _time(self, source: str, message: Any, receive_ns: int) -> int:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        topic = self._topics[source]
        if stamp_ns == 0:
            raise InputError(
                f'topic {topic}: the header stamp is zero; the driver must stamp its messages '
                'with the time of exposure'
            )
        time_ns = stamp_ns - self._offsets_ns[source]
        ahead = time_ns - receive_ns
        if ahead > self._future_ns:
            raise InputError(
                f'topic {topic}: stamped {ahead * 1e-9:.3f} s in the future (limit '
                f'{self._future_ns * 1e-9:g} s); synchronise the clocks, or mend latency_offset_s'
            )
        if -ahead > self._age_ns:
            raise InputError(
                f'topic {topic}: stamped {-ahead * 1e-9:.3f} s in the past (limit '
                f'{self._age_ns * 1e-9:g} s); synchronise the clocks, or look for what delays it'
            )
        return time_ns

    def _read_state(self, message: Any) -> tuple[float, ...]:
        names = message.name
        if names != self._pick_names or self._pick is None:
            self._pick = self._picker(names)
            self._pick_names = list(names)
        if len(message.position) != len(names):
            raise InputError(
                f'topic {self._topics[STATE]}: {len(message.position)} positions for '
                f'{len(names)} joint names'
            )
        row = self._pick(message.position)
        if not isfinite(sum(row)):
            bad = next(
                f'{name} is {value}'
                for name, value in zip(self._embodiment.state_names, row, strict=True)
                if not isfinite(value)
            )
            raise InputError(
                f'topic {self._topics[STATE]}: joint {bad}, not a finite number; look at the '
                "joint's driver"
            )
        return row

    def _picker(self, names: Sequence[str]) -> Callable[[Sequence[float]], tuple[float, ...]]:
        """Return what takes the contract's fields out of a position list, in its own order."""
        names = list(names)
        topic = self._topics[STATE]
        for name in self._embodiment.state_names:
            if name not in names:
                raise InputError(
                    f"topic {topic}: joint '{name}' is missing, the message has "
                    f'{", ".join(names) or "none"}; publish all joints of the contract in one '
                    'message, or mend the names in the contract'
                )
            if names.count(name) > 1:
                raise InputError(f"topic {topic}: joint '{name}' is named twice")
        indices = [names.index(name) for name in self._embodiment.state_names]
        if len(indices) == 1:
            return lambda values: (values[indices[0]],)
        return itemgetter(*indices)

    def _match(self, now_ns: int) -> Match | tuple[Missing, ...]:
        """Return the newest set that fits, or why there is none, refusals included."""
        self._follow_clock(now_ns)
        found = self._aligner.match(now_ns)
        if isinstance(found, Match):
            return found
        return tuple(self._told(problem) for problem in found)

    def _told(self, problem: Missing) -> Missing:
        if problem.source in self._refusals:
            reason = f'last message refused: {self._refusals[problem.source]}'
            return Missing(problem.source, reason)
        if not self._aligner.streams[problem.source].times:
            reason = f'{problem.reason} (topic {self._topics[problem.source]})'
            return Missing(problem.source, reason)
        return problem

    def _discard(self, view: str, time_ns: int, reason: str) -> None:
        """Drop a frame that turned out undecodable, as if it had been refused on arrival."""
        with self._lock:
            self._aligner.streams[view].drop(time_ns)
            self._refusals[view] = reason
            self._counts[view].refused += 1

    def _count(self, match: Match, now_ns: int) -> None:
        self._samples += 1
        times = [(view, time_ns) for view, (time_ns, _) in match.frames.items()]
        for source, time_ns in (*times, (STATE, match.state_ns)):
            counts = self._counts[source]
            counts.age[bisect_right(EDGES_S, (now_ns - time_ns) * 1e-9)] += 1
            counts.skew[bisect_right(EDGES_S, abs(time_ns - match.anchor_ns) * 1e-9)] += 1
