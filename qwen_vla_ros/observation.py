"""
ROS messages -> Observation: refuse, file under the true time, align, decode.

Every message is filed under its header stamp minus the latency offset of its stream; alignment.py
finds the set that belongs together. Bad messages raise InputError, are not stored, and are told by
missing() once the source has nothing fresh left. A node clock that jumps back by more than
CLOCK_JUMP_NS (a bag played again, a simulation reset) empties the buffer; after smaller steps
what then lies in the future is forgotten. push() looks at headers only; pictures are decoded in
sample(), each once. Nothing missing is ever replaced.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.alignment import Aligner, Match, Missing
from qwen_vla_ros.image_decoding import InputError, check_image, decode_image
from qwen_vla_ros.state_reading import angle_columns, state_reader
from qwen_vla_ros.stream_counts import EDGES_S, Counts
from qwen_vla_ros.types import Observation

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

CLOCK_JUMP_NS = 250_000_000


class ObservationBuffer:
    """Collect messages of all sources of a robot; give time-aligned observations. Thread-safe."""

    def __init__(self, embodiment: 'Embodiment') -> None:
        """Listen for the cameras and the state fields of a contract."""
        self._embodiment = embodiment
        safety = embodiment.safety
        self._age_ns = round(safety.max_age_s * 1e9)
        self._future_ns = round(safety.max_future_s * 1e9)
        self._cameras = {camera.view: camera for camera in embodiment.cameras}
        self._states = {state.name: state for state in embodiment.states}
        self._readers = {name: state_reader(state) for name, state in self._states.items()}
        sources = {**self._cameras, **self._states}
        self._topics = {name: source.topic for name, source in sources.items()}
        self._aligner = Aligner(
            {view: camera.rate_hz for view, camera in self._cameras.items()},
            {name: state.rate_hz for name, state in self._states.items()},
            safety.max_skew_s,
            safety.max_age_s,
            safety.max_future_s,
            {name: angle_columns(state) for name, state in self._states.items()},
        )
        self._offsets_ns = {
            name: round(source.latency_offset_s * 1e9) for name, source in sources.items()
        }
        self._lock = threading.Lock()
        self._counts = {name: Counts() for name in sources}
        self._samples = 0
        self._hints: Mapping[str, str] = {}
        self._clear()

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names that push() takes: the view tags, then 'state' or 'state.<key>'."""
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
                item = self._checked(source, message)
            except InputError as error:
                counts.refused += 1
                self._refusals[source] = str(error)
                raise
            if self._aligner.streams[source].add(time_ns, item):
                if self._refusals:
                    self._refusals.pop(source, None)
            else:
                counts.duplicates += 1
                self._refusals[source] = (
                    f'topic {self._topics[source]}: repeats the stamp of an earlier message; the '
                    'driver hangs, or two publishers share the topic'
                )

    def sample(self, now_ns: int, instruction: str) -> Observation | None:
        """
        Return what holds at the newest common instant; None when missing() is not empty.

        The pictures are read-only: a frame that serves two observations is decoded once.
        """
        with self._lock:
            match = self._match(now_ns)
            if not isinstance(match, Match):
                return None
            self._count(match, now_ns)
            decoded = self._decoded
        images = {}
        for view, (time_ns, message) in match.frames.items():
            known = decoded.get(view)
            if known is not None and known[0] is message:
                images[view] = known[1]
                continue
            try:
                picture = decode_image(message, self._topics[view], self._cameras[view].depth_m)
            except InputError as error:
                self._discard(view, time_ns, str(error))
                return None
            picture.flags.writeable = False
            decoded[view] = message, picture
            images[view] = picture
        frames = {view: time_ns for view, (time_ns, _) in match.frames.items()}
        states = {name: time_ns for name, (time_ns, _) in match.states.items()}
        rows = [value for _, row in match.states.values() for value in row]
        return Observation(
            images=images,
            state=np.array(rows, np.float32),
            state_names=self._embodiment.state_names,
            instruction=instruction,
            stamp_ns=match.anchor_ns,
            embodiment=self._embodiment.name,
            sources_ns={**frames, **states},
        )

    def anchor_ns(self, now_ns: int) -> int | None:
        """Return the stamp that sample(now_ns) would have; None where it gives nothing."""
        with self._lock:
            match = self._match(now_ns)
            return match.anchor_ns if isinstance(match, Match) else None

    def newest_state(self, now_ns: int, names: Sequence[str]) -> np.ndarray | None:
        """Return the newest values [len(names)] of state fields; None when one is lost."""
        found: dict[str, float] = {}
        with self._lock:
            for name, source in self._states.items():
                stream = self._aligner.streams[name]
                if stream.times and stream.times[-1] >= now_ns - self._age_ns:
                    fields = (field.name for field in source.fields)
                    found.update(zip(fields, stream.items[-1], strict=True))
        if not set(names) <= set(found):
            return None
        return np.array([found[name] for name in names], np.float64)

    def missing(self, now_ns: int) -> tuple[Missing, ...]:
        """Return, source by source, why sample(now_ns) gives nothing; empty when it would."""
        with self._lock:
            match = self._match(now_ns)
            return () if isinstance(match, Match) else match

    def explain(self, hints: Mapping[str, str]) -> None:
        """Take what the ROS graph says of sources (who cannot be heard, why), for missing()."""
        with self._lock:
            self._hints = dict(hints)

    def statistics(self) -> dict[str, Any]:
        """
        Return counts, histograms and percentiles, ready for JSON.

        age is now minus the frame's time, skew is the distance from the anchor, both at
        successful samples; bin i counts values under edges_s[i], the last one the rest.
        """
        with self._lock:
            return {
                'samples': self._samples,
                'edges_s': list(EDGES_S),
                'sources': {name: counts.as_dict() for name, counts in self._counts.items()},
            }

    def clear(self) -> None:
        """Forget all messages; the statistics stay."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._aligner.clear()
        self._refusals: dict[str, str] = {}
        self._decoded: dict[str, tuple[Any, np.ndarray]] = {}
        self._clock_ns = 0

    def _follow_clock(self, now_ns: int) -> None:
        if now_ns < self._clock_ns - CLOCK_JUMP_NS:
            self._clear()
        self._clock_ns = now_ns

    def _checked(self, source: str, message: Any) -> Any:
        """Return what is filed of a message: the row of a state, a picture's message itself."""
        if source in self._readers:
            return self._readers[source](message)
        camera = self._cameras[source]
        check_image(message, camera.topic, camera.encoding, camera.width, camera.height)
        return message

    def _time(self, source: str, message: Any, receive_ns: int) -> int:
        """Return the true time of a message; refuse one outside the age limit and the future."""
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        time_ns = stamp_ns - self._offsets_ns[source]
        ahead = time_ns - receive_ns
        if stamp_ns and -self._age_ns <= ahead <= self._future_ns:
            return time_ns
        topic = self._topics[source]
        if stamp_ns == 0:
            raise InputError(
                f'topic {topic}: the header stamp is zero; the driver must stamp its messages '
                'with the time of exposure'
            )
        if receive_ns == 0:
            raise InputError(
                f'topic {topic}: the node clock stands at zero; use_sim_time is set and nobody '
                'publishes /clock'
            )
        if ahead > 0:
            raise InputError(
                f'topic {topic}: stamped {ahead * 1e-9:.3f} s in the future (limit '
                f'{self._future_ns * 1e-9:g} s); synchronise the clocks, or mend latency_offset_s'
            )
        raise InputError(
            f'topic {topic}: stamped {-ahead * 1e-9:.3f} s in the past (limit '
            f'{self._age_ns * 1e-9:g} s); synchronise the clocks, or look for what delays it'
        )

    def _match(self, now_ns: int) -> Match | tuple[Missing, ...]:
        """Return the newest set that fits, or why there is none, refusals included."""
        self._follow_clock(now_ns)
        found = self._aligner.match(now_ns)
        if isinstance(found, Match):
            return found
        return tuple(self._told(problem) for problem in found)

    def _told(self, problem: Missing) -> Missing:
        """Return a problem with the best known cause: refused messages, the graph, silence."""
        source = problem.source
        if source in self._refusals:
            return Missing(source, f'last message refused: {self._refusals[source]}')
        if source in self._hints:
            return Missing(source, f'{problem.reason}; {self._hints[source]}')
        if not self._aligner.streams[source].times:
            return Missing(source, f'{problem.reason} (topic {self._topics[source]})')
        return problem

    def _discard(self, view: str, time_ns: int, reason: str) -> None:
        """Drop a frame that turned out undecodable, as if it had been refused on arrival."""
        with self._lock:
            self._aligner.streams[view].drop(time_ns)
            self._refusals[view] = reason
            self._counts[view].refused += 1

    def _count(self, match: Match, now_ns: int) -> None:
        self._samples += 1
        for found in (match.frames, match.states):
            for source, (time_ns, _) in found.items():
                counts = self._counts[source]
                counts.age.add((now_ns - time_ns) * 1e-9)
                counts.skew.add(abs(time_ns - match.anchor_ns) * 1e-9)
