"""
What the robot's topics really say: rates, stamps, sizes, names and positions. No ROS import.

hear() looks at headers only and keeps the last WINDOW_S of each source, so a node can let every
message pass through it.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from qwen_vla_ros.compatibility.training import Pairing
from qwen_vla_ros.embodiment import Embodiment

WINDOW_S = 5.0
LEAST = 5  # messages that tell a rate


@dataclass(frozen=True)
class Heard:
    """
    One message's header: received_ns of the node clock, lag_ns = received - exposure.

    detail is (width, height, encoding) of an image, (names, positions) of joints.
    """

    received_ns: int
    lag_ns: int
    frame_id: str
    detail: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Stream:
    """What was heard of a source; the newest messages last."""

    source: str
    topic: str
    messages: Sequence[Heard]

    @property
    def rate_hz(self) -> float | None:
        """
        Return messages a second by the median interval of their stamps; None of too few.

        By stamps, because a busy machine hands messages over in bursts; a stream that loses half
        of its messages still has twice the interval.
        """
        times = [message.received_ns - message.lag_ns for message in self.messages]
        if len(times) < LEAST:
            return None
        interval = median(b - a for a, b in pairwise(times))
        return 1e9 / interval if interval > 0 else None

    @property
    def lag_s(self) -> float | None:
        """
        Return the least time from exposure to here, s.

        The least, because a busy machine adds to it and an offset of a clock does not.
        """
        return min((m.lag_ns for m in self.messages), default=0) * 1e-9 if self.messages else None


@dataclass(frozen=True)
class Live:
    """
    Everything the live checks look at.

    explained   source -> why nothing can arrive (nobody publishes, type, QoS), from the graph
    infos       view -> (width, height, frame_id) of camera_info; None where nobody listened to it
    frames      frames known to tf; None where nobody listened to it
    """

    pair: Pairing
    streams: Mapping[str, Stream]
    explained: Mapping[str, str] = field(default_factory=dict)
    infos: Mapping[str, tuple[int, int, str]] | None = None
    frames: frozenset[str] | None = None

    @property
    def embodiment(self) -> Embodiment:
        """Return the contract."""
        return self.pair.embodiment

    def joints(self) -> dict[str, float]:
        """Return the newest position of each joint that the contract measures and limits."""
        found: dict[str, float] = {}
        for state in self.embodiment.states:
            stream = self.streams.get(state.name)
            if state.type != 'JointState' or stream is None or not stream.messages:
                continue
            names, positions = stream.messages[-1].detail
            told = dict(zip((state.prefix + name for name in names), positions, strict=False))
            found.update({f.name: told[f.name] for f in state.fields if f.name in told})
        return found


class Listening:
    """Collect what is heard of a contract's sources. Thread-safe."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Know the sources of a contract."""
        sources = {camera.view: camera for camera in embodiment.cameras}
        sources.update({state.name: state for state in embodiment.states})
        self._topics = {name: source.topic for name, source in sources.items()}
        self._offset_ns = {
            name: round(source.latency_offset_s * 1e9) for name, source in sources.items()
        }
        self._heard: dict[str, deque[Heard]] = {name: deque(maxlen=500) for name in sources}
        self._lock = threading.Lock()

    def hear(self, source: str, message: Any, received_ns: int) -> None:
        """Note one message of a source."""
        header = message.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        lag_ns = received_ns - stamp_ns + self._offset_ns[source]
        heard = Heard(received_ns, lag_ns, header.frame_id, _detail(message))
        with self._lock:
            kept = self._heard[source]
            if kept and received_ns < kept[-1].received_ns:
                kept.clear()  # the clock went back: a bag or a simulation began anew
            kept.append(heard)

    def streams(self, now_ns: int) -> dict[str, Stream]:
        """Return what the last WINDOW_S brought."""
        since = now_ns - round(WINDOW_S * 1e9)
        with self._lock:
            recent = {n: [m for m in kept if m.received_ns >= since] for n, kept in self._lists()}
        return {name: Stream(name, self._topics[name], recent[name]) for name in recent}

    def _lists(self) -> list[tuple[str, list[Heard]]]:
        return [(name, list(kept)) for name, kept in self._heard.items()]


def _detail(message: Any) -> tuple[Any, ...]:
    if hasattr(message, 'position') and hasattr(message, 'name'):
        return tuple(message.name), tuple(message.position)
    if hasattr(message, 'width'):
        return message.width, message.height, message.encoding
    return ()
