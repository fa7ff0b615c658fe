"""
The checks of the running robot on a bag, and those that only a record allows.

BagEars hears a bag's inputs once, and asks the live checks every EVERY_S of its time. Beside that
it looks at small thumbnails of raw pictures: when a picture changes against when the joints move
tells how late it is, whatever its stamps say; how much of it changes tells a camera on the wrist
from one that stands. checks of what a policy predicted compare it with where the joints went.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN, Check, Finding, Problem
from qwen_vla_ros.compatibility.listening import Listening, Live
from qwen_vla_ros.compatibility.registry import live_findings
from qwen_vla_ros.compatibility.training import Pairing

EVERY_S = 5.0
GRID = 16, 12  # samples of a picture, across and down
CHANGED = 6.0  # of 255: a sample that differs more has changed
MOVES = 0.15  # rad/s of all joints together
MOST_FRAMES = 6000  # a camera; 200 s at 30 Hz
LAGS_S = np.arange(-0.4, 0.401, 0.01)
SURE, LEAST_S = 0.35, 3.0  # correlation, and s of motion, below which nothing is said
AGAINST = -0.35
SECOND_NS = 1_000_000_000
NEEDS = {'first rows': 'first_row', 'directions': 'agreement'}  # check -> key of the prediction
RAW = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8')


@dataclass
class Seen:
    """What was kept of one camera: instants, how much changed (mean and share of samples)."""

    times: list[int] = field(default_factory=list)
    change: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    last: np.ndarray | None = None


@dataclass(frozen=True)
class Moved:
    """Facts of a record: cameras' changes, joint speed, and what the policy predicted of it."""

    pair: Pairing
    seen: Mapping[str, Seen]
    times: np.ndarray
    speed: np.ndarray
    prediction: Mapping[str, Any] = field(default_factory=dict)


class BagEars:
    """Hear the inputs of a bag in their order; findings() at the end."""

    def __init__(self, pair: Pairing) -> None:
        """Listen for a contract beside what a policy says of itself."""
        self._pair, self._listening = pair, Listening(pair.embodiment)
        robot = pair.embodiment
        self._seen = {camera.view: Seen() for camera in robot.cameras}
        self._offsets = {c.view: round(c.latency_offset_s * SECOND_NS) for c in robot.cameras}
        self._states = {s.name: s for s in robot.states if s.type == 'JointState'}
        self._rows: list[tuple[int, np.ndarray]] = []
        self._due_ns: int | None = None
        self._now_ns = 0
        self._windows = 0
        self._told: dict[tuple[str, str, str], tuple[Finding, int]] = {}
        self._passed: dict[str, Finding] = {}

    def hear(self, source: str, message: Any, time_ns: int) -> None:
        """Take one message."""
        self._listening.hear(source, message, time_ns)
        self._now_ns = max(self._now_ns, time_ns)
        if self._due_ns is None:
            self._due_ns = time_ns + round(EVERY_S * SECOND_NS)
        elif time_ns >= self._due_ns:
            self._due_ns += round(EVERY_S * SECOND_NS)
            self._ask(time_ns)
        stamp = message.header.stamp
        stamp_ns = stamp.sec * SECOND_NS + stamp.nanosec
        if source in self._seen:
            self._look(source, message, stamp_ns - self._offsets[source])
        elif source in self._states and len(self._rows) < 4 * MOST_FRAMES:
            offset = round(self._states[source].latency_offset_s * SECOND_NS)
            row = np.asarray(message.position, float)
            if not self._rows or row.shape == self._rows[-1][1].shape:
                self._rows.append((stamp_ns - offset, row))

    def findings(self, prediction: Mapping[str, Any] | None = None) -> list[Finding]:
        """
        Return the findings; prediction: 'first_row' and 'agreement' of an evaluation.

        A check whose part of the prediction is not there is left out.
        """
        if not self._windows:
            self._ask(self._now_ns)
        found = [
            Finding(
                f.subject, f.level, f'{f.found} (in {count} of {self._windows} looks)', f.remedy
            )
            for f, count in self._told.values()
        ]
        named = {f.subject for f in found}
        found += [f for subject, f in self._passed.items() if subject not in named]
        facts = Moved(self._pair, self._seen, *self._speeds(), prediction or {})
        wanted = [check for check in BAG if NEEDS.get(check.subject) in (None, *facts.prediction)]
        return found + [f for check in wanted for f in check.findings(facts)]

    def _ask(self, now_ns: int) -> None:
        self._windows += 1
        for finding in live_findings(Live(self._pair, self._listening.streams(now_ns))):
            if finding.level == PASS:
                self._passed[finding.subject] = finding
                continue
            shape = re.sub(r'-?\d[\d.]*(e-?\d+)?', '#', finding.found)
            key = finding.subject, finding.level, shape
            first, count = self._told.get(key, (finding, 0))
            self._told[key] = first, count + 1

    def _look(self, view: str, message: Any, time_ns: int) -> None:
        seen = self._seen[view]
        if getattr(message, 'encoding', '') not in RAW or len(seen.times) >= MOST_FRAMES:
            return
        small = _thumbnail(message)
        if seen.last is not None and seen.last.shape == small.shape:
            difference = np.abs(small - seen.last)
            seen.times.append(time_ns)
            seen.change.append(float(difference.mean()))
            seen.share.append(float((difference > CHANGED).mean()))
        seen.last = small

    def _speeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return instants and speed of all joints together, rad/s."""
        rows = sorted(self._rows, key=lambda item: item[0])
        if len(rows) < 3:
            return np.zeros(0, np.int64), np.zeros(0)
        times = np.array([time for time, _ in rows], np.int64)
        steps = np.diff(times) * 1e-9
        kept = steps > 0
        moved = np.linalg.norm(np.diff(np.array([row for _, row in rows]), axis=0), axis=1)
        speed = np.divide(moved, steps, out=np.zeros(len(steps)), where=kept)
        middle = (times[:-1] + times[1:]) // 2
        return middle[kept], np.minimum(speed[kept], 10.0)


def late_pictures(facts: Moved) -> Iterator[Problem]:
    """Compare when each picture changes with when the joints move."""
    skew_s = facts.pair.embodiment.safety.max_skew_s
    for view, seen in facts.seen.items():
        found = _lag(seen, facts)
        # What changed did so at some moment between two pictures.
        if found is None or abs(found) <= skew_s + _period_s(seen):
            continue
        side = 'after' if found > 0 else 'before'
        text = f'{view} shows motion {abs(found):.2f} s {side} the joints make it'
        yield Problem(REFUSE, f'{text} (max_skew_s {skew_s:g}, a picture {_period_s(seen):.2g} s)')


def swapped_cameras(facts: Moved) -> Iterator[Problem]:
    """A camera on the wrist sees everything move, one that stands only the arm."""
    shares = {}
    for view, seen in facts.seen.items():
        if not len(facts.times) or len(seen.times) < 20:
            continue
        speed = np.interp(seen.times, facts.times, facts.speed)
        moving = speed > MOVES
        if moving.sum() >= 20:
            shares[view] = float(np.array(seen.share)[moving].mean())
    wrists = [view for view in shares if 'wrist' in view]
    for view in (view for view in shares if 'wrist' not in view):
        for wrist in wrists:
            if shares[view] > 1.3 * shares[wrist] and shares[view] > 0.05:
                yield Problem(
                    REFUSE,
                    f'{view}: {100 * shares[view]:.0f} % of the picture changes while the arm '
                    f'moves, {wrist}: {100 * shares[wrist]:.0f} %; the two cameras are swapped',
                )


def first_rows(facts: Moved) -> Iterator[Problem]:
    """Where a chunk begins against where the joints were: wrong statistics show here."""
    told = facts.prediction.get('first_row')
    if not told or not told['rms']:
        return
    off = {n: v for n, v in told['rms'].items() if v > 0.5 * told['limit'][n]}
    if not off:
        return
    text = ', '.join(f'{n} {v:.3g} {facts.pair.units.get(n, "")}' for n, v in off.items())
    level = REFUSE if any(v > told['limit'][n] for n, v in off.items()) else WARN
    yield Problem(level, f'chunks begin off the measured joints (RMS): {text}')


def against(facts: Moved) -> Iterator[Problem]:
    """Which way each joint was to go against which way it went."""
    for name, value in facts.prediction.get('agreement', {}).items():
        if value is not None and value < AGAINST:
            yield Problem(
                REFUSE,
                f'{name} goes against what is predicted (correlation {value:.2f}); its sign is '
                'turned',
            )


BAG = (
    Check(
        'cameras in place',
        'how much of each picture changes while the arm moves: wrist against standing cameras',
        (REFUSE,),
        'exchange the topics of the two cameras in the contract or in the launch file',
        swapped_cameras,
    ),
    Check(
        'pictures in time',
        'when each picture changes against when the joints move',
        (REFUSE,),
        "set latency_offset_s of the camera to the driver's delay, or mend its stamps",
        late_pictures,
    ),
    Check(
        'first rows',
        "where chunks begin against where the joints were: half of the contract's jump limit",
        (WARN, REFUSE),
        'the statistics are of another robot or task: use the checkpoint with its own',
        first_rows,
    ),
    Check(
        'directions',
        'which way each joint was to go against which way it went',
        (REFUSE,),
        "turn the sign in the robot's driver, or train on data with this sign",
        against,
    ),
)


def _period_s(seen: Seen) -> float:
    return float(np.median(np.diff(np.sort(seen.times)))) * 1e-9


def _lag(seen: Seen, facts: Moved) -> float | None:
    """Return by how many s the picture follows the joints; None when that cannot be told."""
    if len(seen.times) < 40 or len(facts.times) < 40:
        return None
    times = np.array(seen.times, np.int64)
    order = np.argsort(times)
    times, change = times[order], np.array(seen.change)[order]
    half_ns = int(np.median(np.diff(times))) // 2
    begin = max(times[0], facts.times[0]) + SECOND_NS // 2
    end = min(times[-1], facts.times[-1]) - SECOND_NS // 2
    if end - begin < LEAST_S * SECOND_NS:
        return None
    at = np.arange(begin, end, 10_000_000)
    speed = np.interp(at, facts.times, facts.speed)
    if (speed > MOVES).mean() * (end - begin) * 1e-9 < LEAST_S / 4:
        return None
    # A picture is compared with the one before: what changed lies half a period back.
    changes = np.minimum(change, 4 * np.median(change) + 1e-9 + np.percentile(change, 95))
    found = []
    for lag in LAGS_S:
        shifted = np.interp(at + round(lag * SECOND_NS), times - half_ns, changes)
        if shifted.std() < 1e-9 or speed.std() < 1e-9:
            return None
        found.append(float(np.corrcoef(shifted, speed)[0, 1]))
    best = int(np.argmax(found))
    if found[best] < SURE or best in (0, len(LAGS_S) - 1):
        return None
    return float(LAGS_S[best])


def _thumbnail(message: Any) -> np.ndarray:
    """Return float32 [rows, columns]: samples of a raw picture's first channel."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, np.uint8)
    if data.size < height * step or min(height, width) < 1:
        return np.zeros((0, 0), np.float32)
    rows = data[: height * step].reshape(height, step)
    channels = max(step // width, 1)
    down, across = max(height // GRID[1], 1), max(width // GRID[0], 1) * channels
    return rows[down // 2 :: down, across // 2 // channels * channels :: across].astype(np.float32)
