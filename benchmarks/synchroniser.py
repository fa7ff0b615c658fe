"""
Time per message: message_filters.ApproximateTimeSynchronizer (Python, queue 50) / ours.

Three cameras at 30 Hz and joints at 500 Hz, with jitter, of small images so that copying pixels
plays no part. The baseline is message_filters itself where ROS is sourced; elsewhere a plain
restatement of its algorithm over rclpy's own Time and Duration, which it spends its time in (and
without rclpy a small class in their place, for which the goal is not meant); the note says which.
Ours is the same job: Aligner, with one match() a frame of the last camera, interpolated joints
included. Beside it stand queues of 10 to 1000, over which ours must stay flat, and the whole path,
ObservationBuffer with the checks of every message and decoding, which the baseline leaves to its
user.
"""

import gc
import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.alignment import Aligner, Match
from qwen_vla_ros.embodiment import StateField, StateSource
from qwen_vla_ros.observation import ObservationBuffer

VIEWS = ('ego', 'cam_left_wrist', 'cam_right_wrist')
SOURCES = (*VIEWS, 'state')
CAMERA_HZ, STATE_HZ, SECONDS, QUEUE, SLOP_S = 30.0, 500.0, 20.0, 50, 0.03
QUEUES, FLAT = (10, 50, 200, 1000), 1.3
JOINTS = tuple(f'joint{index}' for index in range(7))
WIDTH, HEIGHT = 8, 4
ROUNDS = 20
SECOND = 1_000_000_000


def contract() -> SimpleNamespace:
    """Return a robot of three cameras and seven joints, as ObservationBuffer reads it."""
    cameras = tuple(
        SimpleNamespace(
            view=view,
            topic=view,
            encoding='rgb8',
            width=WIDTH,
            height=HEIGHT,
            rate_hz=CAMERA_HZ,
            latency_offset_s=0.0,
            depth_m=None,
        )
        for view in VIEWS
    )
    fields = tuple(StateField(name, 'rad') for name in JOINTS)
    return SimpleNamespace(
        name='benchmark',
        cameras=cameras,
        states=(StateSource('joint_states', STATE_HZ, fields),),
        state_names=JOINTS,
        safety=SimpleNamespace(max_skew_s=SLOP_S, max_age_s=0.2, max_future_s=0.05),
    )


def messages(stamp_class: Callable[..., Any]) -> list[tuple[str, int, Any]]:
    """Return (source, time_ns, message) of all streams in the order of their times."""
    rng = np.random.default_rng(0)
    pixels = bytes(3 * WIDTH * HEIGHT)
    found = []
    for phase, source in enumerate(SOURCES):
        rate = STATE_HZ if source == 'state' else CAMERA_HZ
        for index in range(int(SECONDS * rate)):
            jitter = rng.normal(0, 0.1 / rate)
            at = round((10 + (index + 0.2 * phase) / rate + jitter) * SECOND)
            header = SimpleNamespace(stamp=stamp_class(sec=at // SECOND, nanosec=at % SECOND))
            if source == 'state':
                row = rng.normal(size=len(JOINTS)).tolist()
                message = SimpleNamespace(header=header, name=list(JOINTS), position=row)
            else:
                message = SimpleNamespace(
                    header=header,
                    encoding='rgb8',
                    width=WIDTH,
                    height=HEIGHT,
                    step=3 * WIDTH,
                    data=pixels,
                )
            found.append((source, at, message))
    return sorted(found, key=lambda item: item[1])


class Nanoseconds:
    """Stands for rclpy's Time and Duration: an object a stamp, compared by its number."""

    def __init__(self, *, nanoseconds: int) -> None:
        """Wrap a number, checked as rclpy does."""
        if not isinstance(nanoseconds, int) or not -(2**63) <= nanoseconds < 2**63:
            raise TypeError('nanoseconds must be an integer of 64 bits')
        self.nanoseconds = nanoseconds

    def __lt__(self, other: 'Nanoseconds') -> bool:
        """Compare by number."""
        return isinstance(other, Nanoseconds) and self.nanoseconds < other.nanoseconds

    def __sub__(self, other: 'Nanoseconds') -> 'Nanoseconds':
        """Return the distance."""
        return Nanoseconds(nanoseconds=self.nanoseconds - other.nanoseconds)


class PlainApproximateTime:
    """The algorithm of the baseline: scan all queues at every message, sort, try all products."""

    def __init__(
        self, callback: Callable[..., None], queue: int, time_class: type, duration_class: type
    ) -> None:
        """Call back with one message per source."""
        self._queues: dict[str, dict[int, Any]] = {name: {} for name in SOURCES}
        self._callback, self._queue = callback, queue
        self._time, self._duration = time_class, duration_class
        self._slop = duration_class(nanoseconds=round(SLOP_S * SECOND))
        self._lock = threading.Lock()

    def add(self, source: str, message: Any) -> None:
        """Take a message; emit the nearest set within the slop, if there is one."""
        stamp = message.header.stamp
        now = self._time(nanoseconds=stamp.sec * SECOND + stamp.nanosec)
        with self._lock:
            queue = self._queues[source]
            queue[now.nanoseconds] = message
            while len(queue) > self._queue:
                del queue[min(queue)]
            choices = []
            for name, other in self._queues.items():
                near = [(now, now)] if name == source else self._near(other, now)
                if not near:
                    return
                choices.append([time for time, _ in sorted(near, key=lambda pair: pair[1])])
            for times in itertools.product(*choices):
                if max(times) - min(times) < self._slop:
                    pairs = list(zip(self._queues.values(), times, strict=True))
                    self._callback(*(kept.pop(time.nanoseconds) for kept, time in pairs))
                    return

    def _near(self, queue: dict[int, Any], now: Any) -> list:
        near = []
        for stamp in queue:
            distance = self._duration(nanoseconds=abs(stamp - now.nanoseconds))
            if not self._slop < distance:
                near.append((self._time(nanoseconds=stamp), distance))
        return near


def baseline() -> tuple[str, type, Callable[[Callable[..., None], int], Callable[..., None]]]:
    """Return name, stamp class and factory(callback, queue) -> add(source, message)."""
    try:
        from builtin_interfaces.msg import Time as Stamp
        from rclpy.duration import Duration
        from rclpy.time import Time
    except ImportError:
        name = 'a plain restatement without rclpy (for which the goal is not meant)'
        return (
            name,
            SimpleNamespace,
            lambda callback, queue: (
                PlainApproximateTime(callback, queue, Nanoseconds, Nanoseconds).add
            ),
        )
    try:
        from message_filters import ApproximateTimeSynchronizer, SimpleFilter
    except ImportError:
        name = "a plain restatement over rclpy's Time (message_filters is not installed)"
        return (
            name,
            Stamp,
            lambda callback, queue: PlainApproximateTime(callback, queue, Time, Duration).add,
        )

    def factory(callback: Callable[..., None], queue: int) -> Callable[[str, Any], None]:
        filters = {source: SimpleFilter() for source in SOURCES}
        synchroniser = ApproximateTimeSynchronizer(list(filters.values()), queue, SLOP_S)
        synchroniser.registerCallback(callback)
        return lambda source, message: filters[source].signalMessage(message)

    return 'message_filters', Stamp, factory


def time_baseline(
    factory: Callable[..., Any], stream: list, queue: int = QUEUE
) -> tuple[float, list[float]]:
    """Return s per message and the skew in s of every set."""
    sets: list[tuple[Any, ...]] = []
    add = factory(lambda *found: sets.append(found), queue)
    start = time.process_time()
    for source, _, message in stream:
        add(source, message)
    spent = time.process_time() - start
    stamps = [[message.header.stamp for message in found] for found in sets]
    return spent / len(stream), skews(
        [[stamp.sec * SECOND + stamp.nanosec for stamp in found] for found in stamps]
    )


def time_ours(stream: list, queue: int = QUEUE) -> tuple[float, list[float]]:
    """Return s per message and the skew in s of every set."""
    rates = dict.fromkeys(VIEWS, CAMERA_HZ), {'state': STATE_HZ}
    aligner = Aligner(*rates, SLOP_S, 0.2, keep=queue)
    sets: list[Match] = []
    streams, last = aligner.streams, VIEWS[-1]
    start = time.process_time()
    for source, at, message in stream:
        stamp = message.header.stamp
        item = message.position if source == 'state' else message
        streams[source].add(stamp.sec * SECOND + stamp.nanosec, item)
        if source == last:
            found = aligner.match(at)
            if isinstance(found, Match):
                sets.append(found)
    spent = time.process_time() - start
    return spent / len(stream), skews(
        [[at for at, _ in (*found.frames.values(), *found.states.values())] for found in sets]
    )


def skews(sets: list[list[int]]) -> list[float]:
    """Return the spread in s of each set of times in ns."""
    return [(max(times) - min(times)) * 1e-9 for times in sets]


def time_whole_path(stream: list) -> float:
    """Return s per message of ObservationBuffer: checks, alignment and decoding."""
    buffer = ObservationBuffer(contract())
    start = time.process_time()
    for source, at, message in stream:
        buffer.push(source, message, at)
        if source == VIEWS[-1]:
            buffer.sample(at, '')
    return (time.process_time() - start) / len(stream)


def run() -> Result:
    """Measure both in turns, in processor time; the best round of each counts."""
    name, stamp_class, factory = baseline()
    stream = messages(stamp_class)
    gc.collect()
    gc.freeze()  # 20 s of messages at once are this benchmark's doing: no collection visits them
    theirs, ours, whole = [], [], []
    flat: dict[int, list[float]] = {queue: [] for queue in QUEUES}
    for _ in range(ROUNDS):
        theirs.append(time_baseline(factory, stream))
        ours.append(time_ours(stream))
        whole.append(time_whole_path(stream))
        for queue, found in flat.items():
            found.append(time_ours(stream, queue)[0])
    cost = {queue: min(found) * 1e6 for queue, found in flat.items()}
    short = stream[: len(stream) // 10]
    theirs_long = time_baseline(factory, short, QUEUES[-1])[0] * 1e6
    p99 = {
        side: float(np.percentile(found[0][1], 99))
        for side, found in (('baseline', theirs), ('ours', ours))
    }
    wanted = SECONDS * CAMERA_HZ
    worst = ', '.join(f'{side} {skew * 1e3:.1f} ms' for side, skew in p99.items())
    growth = cost[QUEUES[-1]] / cost[QUEUES[0]]
    return Result(
        'synchroniser',
        min(seconds for seconds, _ in theirs) * 1e6,
        min(seconds for seconds, _ in ours) * 1e6,
        15.0,
        'us/message',
        f'baseline: {name}, queue {QUEUE}; sets: baseline {len(theirs[0][1])}, ours '
        f'{len(ours[0][1])} of {wanted:.0f}; skew p99: {worst}; queues of '
        f'{", ".join(map(str, QUEUES))}: ours '
        f'{", ".join(f"{value:.2f}" for value in cost.values())} us/message (x{growth:.2f}), '
        f'baseline with {QUEUES[-1]} {theirs_long:.0f}; the whole path with checks and decoding '
        f'takes {min(whole) * 1e6:.2f} us/message',
        equal=(
            len(ours[0][1]) >= 0.999 * wanted and p99['ours'] <= p99['baseline'] and growth < FLAT
        ),
    )


if __name__ == '__main__':
    main(run)
