"""
Time per message: message_filters.ApproximateTimeSynchronizer (Python, queue 50) / ours.

Three cameras at 30 Hz and joints at 500 Hz, with jitter, of small images so that copying pixels
plays no part. The baseline is message_filters itself where ROS is sourced; elsewhere a plain
restatement of its algorithm, with a small class in the place of rclpy's Time and Duration; the
note says which (the goal is meant for the former). Ours is the same job: Aligner, with one match()
a frame of the last camera, interpolated joints included. Beside it stands the whole path,
ObservationBuffer with the checks of every message and decoding, which the baseline leaves to its
user.
"""

import itertools
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
CAMERA_HZ, STATE_HZ, SECONDS, QUEUE, SLOP_S = 30.0, 500.0, 20.0, 50, 0.03
JOINTS = tuple(f'joint{index}' for index in range(7))
WIDTH, HEIGHT = 8, 4
ROUNDS = 8
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
    for phase, source in enumerate((*VIEWS, 'state')):
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

    def __init__(self, callback: Callable[..., None]) -> None:
        """Call back with one time per source."""
        self._queues: dict[str, dict[int, Any]] = {name: {} for name in (*VIEWS, 'state')}
        self._callback = callback
        self._slop = Nanoseconds(nanoseconds=round(SLOP_S * SECOND))

    def add(self, source: str, message: Any) -> None:
        """Take a message; emit the nearest set within the slop, if there is one."""
        stamp = message.header.stamp
        now = Nanoseconds(nanoseconds=stamp.sec * SECOND + stamp.nanosec)
        queue = self._queues[source]
        queue[now.nanoseconds] = message
        while len(queue) > QUEUE:
            del queue[min(queue)]
        choices = []
        for name, other in self._queues.items():
            near = [(now, now)] if name == source else self._near(other, now)
            if not near:
                return
            choices.append([time for time, _ in sorted(near, key=lambda pair: pair[1])])
        for times in itertools.product(*choices):
            if max(times) - min(times) < self._slop:
                found = [time.nanoseconds for time in times]
                for name, taken in zip(self._queues, found, strict=True):
                    del self._queues[name][taken]
                self._callback(found)
                return

    def _near(self, queue: dict[int, Any], now: Nanoseconds) -> list:
        near = []
        for stamp in queue:
            distance = Nanoseconds(nanoseconds=abs(stamp - now.nanoseconds))
            if not self._slop < distance:
                near.append((Nanoseconds(nanoseconds=stamp), distance))
        return near


def baseline() -> tuple[str, Callable[..., Any], Callable[[Callable[..., None]], Any]]:
    """Return name, stamp class and factory(callback) -> add(source, message)."""
    try:
        from builtin_interfaces.msg import Time
        from message_filters import ApproximateTimeSynchronizer, SimpleFilter
    except ImportError:
        name = (
            'a plain restatement (message_filters, for which the goal is meant, is not installed)'
        )
        return name, SimpleNamespace, lambda callback: PlainApproximateTime(callback).add

    def factory(callback: Callable[..., None]) -> Callable[[str, Any], None]:
        filters = {source: SimpleFilter() for source in (*VIEWS, 'state')}
        synchroniser = ApproximateTimeSynchronizer(list(filters.values()), QUEUE, SLOP_S)

        def emit(*found: Any) -> None:
            stamps = [message.header.stamp for message in found]
            callback([stamp.sec * SECOND + stamp.nanosec for stamp in stamps])

        synchroniser.registerCallback(emit)
        return lambda source, message: filters[source].signalMessage(message)

    return 'message_filters', Time, factory


def time_baseline(factory: Callable[..., Any], stream: list) -> tuple[float, list[float]]:
    """Return s per message and the skew in s of every set."""
    skews: list[float] = []
    add = factory(lambda times: skews.append((max(times) - min(times)) * 1e-9))
    start = time.process_time()
    for source, _, message in stream:
        add(source, message)
    return (time.process_time() - start) / len(stream), skews


def time_ours(stream: list) -> tuple[float, list[float]]:
    """Return s per message and the skew in s of every set."""
    aligner = Aligner(dict.fromkeys(VIEWS, CAMERA_HZ), {'state': STATE_HZ}, SLOP_S, 0.2)
    skews = []
    start = time.process_time()
    for source, at, message in stream:
        stamp = message.header.stamp
        item = message.position if source == 'state' else message
        aligner.streams[source].add(stamp.sec * SECOND + stamp.nanosec, item)
        if source == VIEWS[-1]:
            found = aligner.match(at)
            if isinstance(found, Match):
                times = [at for at, _ in (*found.frames.values(), *found.states.values())]
                skews.append((max(times) - min(times)) * 1e-9)
    return (time.process_time() - start) / len(stream), skews


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
    theirs, ours, whole = [], [], []
    for _ in range(ROUNDS):
        theirs.append(time_baseline(factory, stream))
        ours.append(time_ours(stream))
        whole.append(time_whole_path(stream))
    skews = {'baseline': theirs[0][1], 'ours': ours[0][1]}
    wanted = SECONDS * CAMERA_HZ
    p99 = {side: float(np.percentile(found, 99)) for side, found in skews.items()}
    share = len(skews['ours']) / wanted
    worst = ', '.join(f'{side} {skew * 1e3:.1f} ms' for side, skew in p99.items())
    return Result(
        'synchroniser',
        min(seconds for seconds, _ in theirs) * 1e6,
        min(seconds for seconds, _ in ours) * 1e6,
        15.0,
        'us/message',
        f'baseline: {name}, queue {QUEUE}; sets: baseline {len(skews["baseline"])}, ours '
        f'{len(skews["ours"])} of {wanted:.0f}; skew p99: {worst}; '
        f'the whole path with checks and decoding takes '
        f'{min(whole) * 1e6:.2f} us/message',
        equal=share >= 0.999 and p99['ours'] <= p99['baseline'],
    )


if __name__ == '__main__':
    main(run)
