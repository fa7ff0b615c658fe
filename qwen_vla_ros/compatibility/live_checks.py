"""The contract against what the robot's topics say now: see listening.py for what is measured."""

import math
from collections.abc import Iterator

from qwen_vla_ros.compatibility.finding import REFUSE, WARN, Problem
from qwen_vla_ros.compatibility.listening import Live, Stream
from qwen_vla_ros.compatibility.statistics_checks import DEGREE, MILLI, Range

WARN_RATE, REFUSE_RATE = 0.75, 0.5  # share of the contract's rate
MENDED = 0.25  # an exchange that leaves less of what lies outside explains it
APART = 0.25  # share of q01..q99 by which a joint may start outside
FINER = {'rad': (DEGREE, 'degrees'), 'm': (MILLI, 'millimetres')}
ROOM = {'rad': 0.05, 'm': 0.005}  # at least


def topics(live: Live) -> Iterator[Problem]:
    """Say which topic is silent, and why when the graph knows."""
    for stream in live.streams.values():
        if stream.messages:
            continue
        reason = live.explained.get(stream.source, 'nothing arrives')
        yield Problem(REFUSE, f'{stream.source} ({stream.topic}): {reason}')


def rates(live: Live) -> Iterator[Problem]:
    """Compare each stream's rate with the contract's; one that is too fast only wastes."""
    wanted = {camera.view: camera.rate_hz for camera in live.embodiment.cameras}
    wanted.update({state.name: state.rate_hz for state in live.embodiment.states})
    for name, stream in live.streams.items():
        measured = stream.rate_hz
        if measured is None:
            continue
        share = min(measured / wanted[name], wanted[name] / measured)
        if share < WARN_RATE:
            level = REFUSE if measured < REFUSE_RATE * wanted[name] else WARN
            text = f'{measured:.1f} Hz, the contract says {wanted[name]:g} Hz'
            yield Problem(level, f'{name} ({stream.topic}): {text}')


def pictures(live: Live) -> Iterator[Problem]:
    """Compare each picture's size with the contract's."""
    own = {camera.view: (camera.width, camera.height) for camera in live.embodiment.cameras}
    seen = {}
    for view in own:
        detail = _newest(live.streams.get(view))
        if detail:
            seen[view] = (detail[0], detail[1])
    for view, size in seen.items():
        if size == own[view]:
            continue
        text = f'{view}: {size[0]}x{size[1]}, the contract says {own[view][0]}x{own[view][1]}'
        twins = (v for v in seen if v != view and seen[v] == own[view] and own[v] == size)
        if twin := next(twins, ''):
            text += f'; that is the size of {twin}: the two cameras are swapped'
        yield Problem(REFUSE, text)


def joint_names(live: Live) -> Iterator[Problem]:
    """Compare the joints that are published with the contract's."""
    for state in live.embodiment.states:
        detail = _newest(live.streams.get(state.name))
        if state.type != 'JointState' or not detail:
            continue
        told = [state.prefix + name for name in detail[0]]
        lacking = [field.name for field in state.fields if field.name not in told]
        if lacking:
            text = f'{", ".join(lacking)} not among {", ".join(told) or "none"}'
            yield Problem(REFUSE, f'{state.name} ({state.topic}): {text}')
        if len(detail[0]) != len(detail[1]):
            text = f'{len(detail[1])} positions for {len(detail[0])} names'
            yield Problem(REFUSE, f'{state.name} ({state.topic}): {text}')


def joint_units(live: Live) -> Iterator[Problem]:
    """Name joints that lie outside their limits, and those that lie there as degrees or mm."""
    for name, value in live.joints().items():
        bounds = live.pair.limits.get(name)
        if bounds is None:
            continue
        room = 0.05 * (bounds.upper - bounds.lower)
        if bounds.lower - room <= value <= bounds.upper + room:
            continue
        unit = live.pair.units[name]
        text = f'{name} reads {value:.4g}, the limits are '
        text += f'[{bounds.lower:.4g}, {bounds.upper:.4g}] {unit}'
        factor, wrong = FINER.get(unit, (math.inf, ''))
        large = abs(value) > 2.0 * max(abs(bounds.lower), abs(bounds.upper))
        if wrong and large and bounds.lower - room <= value / factor <= bounds.upper + room:
            text += f'; it is published in {wrong}'
        yield Problem(REFUSE, text)


def joint_positions(live: Live) -> Iterator[Problem]:
    """Compare where the joints are with where they were in training: q01..q99 of the state."""
    ranges = live.pair.ranges('state')
    joints = {n: v for n, v in live.joints().items() if n in ranges and math.isfinite(v)}
    outside = [n for n, v in joints.items() if not _near(v, ranges[n], live.pair.units[n])]
    explained: set[str] = set()
    for name in outside:
        twin = _twin(name, joints, ranges, live.pair.units)
        if twin and name not in explained:
            explained |= {name, twin}
            text = f'{name} reads {joints[name]:.4g} and {twin} {joints[twin]:.4g}: each fits '
            text += f"the other's range of training; the names {name} and {twin} are swapped"
            yield Problem(REFUSE, text)
    for name in outside:
        low, high = ranges[name]
        if name not in explained and low <= -joints[name] <= high:
            explained.add(name)
            text = f'{name} reads {joints[name]:.4g}, trained in [{low:.4g}, {high:.4g}]: '
            yield Problem(REFUSE, text + 'with the sign turned it fits; the joint is flipped')
    left = [name for name in outside if name not in explained]
    if not left:
        return
    told = ', '.join(
        f'{n} reads {joints[n]:.4g}, trained in [{ranges[n][0]:.4g}, {ranges[n][1]:.4g}]'
        for n in left
    )
    if len(left) > max(2, len(joints) / 2):
        yield Problem(REFUSE, f'{told}: the statistics are of another robot or another task')
    else:
        remedy = 'bring the arm to where demonstrations began; no sample of training was there'
        yield Problem(WARN, told, remedy)


def clocks(live: Live) -> Iterator[Problem]:
    """Compare stamps with this clock and with each other."""
    safety = live.embodiment.safety
    lags = {n: lag for n, s in live.streams.items() if (lag := s.lag_s) is not None}
    for name, lag in lags.items():
        text = f'{name} ({live.streams[name].topic}): stamped {abs(lag):.3f} s '
        if lag < -safety.max_future_s:
            yield Problem(
                REFUSE, text + f'ahead of this clock (max_future_s {safety.max_future_s})'
            )
        elif lag > safety.max_age_s:
            yield Problem(REFUSE, text + f'ago when it arrives (max_age_s {safety.max_age_s})')
    late = {name: lag for name, lag in lags.items() if abs(lag) <= safety.max_age_s}
    if late and max(late.values()) - min(late.values()) > safety.max_skew_s:
        first, last = min(late, key=late.__getitem__), max(late, key=late.__getitem__)
        apart = late[last] - late[first]
        yield Problem(
            REFUSE,
            f'{last} arrives {apart:.3f} s later after its stamp than {first} '
            f'(max_skew_s {safety.max_skew_s})',
        )


def frames(live: Live) -> Iterator[Problem]:
    """Compare frame_id of pictures with the contract's, and with tf where it is heard."""
    for camera in live.embodiment.cameras:
        stream = live.streams.get(camera.view)
        if stream is None or not stream.messages:
            continue
        told = stream.messages[-1].frame_id
        if told and told != camera.frame_id:
            text = f'frame_id is {told!r}, the contract says {camera.frame_id!r}'
            yield Problem(WARN, f'{camera.view} ({camera.topic}): {text}')
    wanted = {camera.frame_id for camera in live.embodiment.cameras}
    wanted |= {box.frame for box in live.embodiment.workspaces}
    if live.frames and (lacking := sorted(wanted - live.frames)):
        yield Problem(WARN, f'tf knows no {", ".join(lacking)}')


def camera_info(live: Live) -> Iterator[Problem]:
    """Compare camera_info with the contract: size and frame."""
    for camera in live.embodiment.cameras if live.infos is not None else ():
        told = live.infos.get(camera.view)
        if told is None:
            remedy = 'publish it, or pictures of the path cannot be drawn; the policy runs without'
            yield Problem(WARN, f'{camera.view} ({camera.info_topic}): nothing arrives', remedy)
            continue
        if told[:2] != (camera.width, camera.height):
            text = f'{told[0]}x{told[1]}, the contract says {camera.width}x{camera.height}'
            yield Problem(WARN, f'{camera.view} ({camera.info_topic}): {text}')
        if told[2] != camera.frame_id:
            text = f'frame_id is {told[2]!r}, the contract says {camera.frame_id!r}'
            yield Problem(WARN, f'{camera.view} ({camera.info_topic}): {text}')


def _newest(stream: Stream | None) -> tuple:
    return stream.messages[-1].detail if stream is not None and stream.messages else ()


def _near(value: float, told: Range, unit: str) -> bool:
    room = max(APART * (told[1] - told[0]), ROOM.get(unit, 0.05))
    return told[0] - room <= value <= told[1] + room


def _twin(name: str, joints: dict, ranges: dict, units: dict) -> str:
    """Return the joint with which an exchange mends nearly all that lies outside; '' if none."""
    own = joints[name]
    for other, value in joints.items():
        unit = units[name]
        if other == name or units[other] != unit:
            continue
        mended = _beyond(own, ranges[other]) + _beyond(value, ranges[name])
        wrong = _beyond(own, ranges[name]) + _beyond(value, ranges[other])
        fits = _near(own, ranges[other], unit) and _near(value, ranges[name], unit)
        if fits and mended < MENDED * wrong and _beyond(value, ranges[other]) > 0:
            return other
    return ''


def _beyond(value: float, told: Range) -> float:
    """Return how far a value lies outside its range."""
    return max(told[0] - value, value - told[1], 0.0)
