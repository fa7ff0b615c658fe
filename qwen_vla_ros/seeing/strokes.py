"""
The strokes of the picture, each from a track and its way; intention.py decides which there are.

Names of shapes (namespaces), each followed by the arm or base that it belongs to:

    predicted   the running chunk from now on: yellow now, violet at its end; a dot a row
    planned     the part of it that is over, faint, beside
    executed    what was measured
    seam        where one chunk gave over to the next
    left        what was left of a chunk, at the newest seam or at a stop
    refused     a chunk that safety refused: red, the row that broke a limit ringed, and why
    stopped     where and why the robot holds
    near_limit  rows with a joint in the last 2 % of its range
    limits      the workspace box, red when it was the reason of a refusal
    body        the arm's capsules; without any in the contract, tubes from joint to joint
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.seeing import colours
from qwen_vla_ros.seeing.picture import Dots, Lines, Shape, Tube, Words, box_edges
from qwen_vla_ros.seeing.tracks import ArmTrack, BaseTrack, Track, Way
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.safety_contract import Capsules
    from qwen_vla_ros.seeing.links import RobotLinks

NEAR_LIMIT = 0.02
ROW = re.compile(r'\brow (\d+)\b')
WIDTH_M, DOT_M, RING_M = 0.008, 0.011, 0.03
ARROW_M, ARROW_RAD = 0.08, 2.6
SKELETON_M = 0.03
ABOVE = np.array([0.0, 0.0, 0.05])


def predicted(track: Track, way: Way, now_ns: int) -> list[Shape]:
    """Return a chunk's way: what comes, graded by time, and what is over."""
    coming, over = way.after(now_ns), way.before(now_ns)
    span = max(1, int(way.times_ns[-1] - now_ns))
    colour = colours.ahead((coming.times_ns - now_ns) / span)
    name, frame = f'predicted/{track.name}', track.frame
    shapes: list[Shape] = [Lines(name, frame, coming.places, colour, WIDTH_M * track.size)]
    if coming.headings is None:
        apart = _apart(coming.places, 1.5 * DOT_M * track.size)
        shapes.append(Dots(name, frame, coming.places[apart], colour[apart], DOT_M * track.size))
    else:
        shapes.append(_arrows(name, frame, coming, colour))
    shapes.append(
        Dots(name, frame, coming.places[-1:], colour[-1:], 2 * DOT_M * track.size, ringed=True)
    )
    if over is not None:
        faint = colours.plain((*colours.LEFT[:3], 0.45), len(over.places))
        shapes.append(
            Lines(f'planned/{track.name}', frame, over.places, faint, 0.4 * WIDTH_M * track.size)
        )
    return shapes


def near_limits(
    embodiment: 'Embodiment', track: Track, chunk: ActionChunk, way: Way, now_ns: int
) -> list[Shape]:
    """Return rings where a joint of the arm comes into the last part of its range."""
    if isinstance(track, BaseTrack):
        return []
    near = np.zeros(len(way.places), bool)
    for joint in track.joints:
        limit = embodiment.limits.get(joint)
        if limit is None or joint not in chunk.names:
            continue
        values = chunk.actions[: len(near), chunk.names.index(joint)]
        margin = NEAR_LIMIT * (limit.upper - limit.lower)
        near |= (values < limit.lower + margin) | (values > limit.upper - margin)
    places = way.places[near & (way.times_ns >= now_ns)]
    if not len(places):
        return []
    colour = colours.plain(colours.HELD, len(places))
    return [
        Dots(
            f'near_limit/{track.name}',
            track.frame,
            places,
            colour,
            DOT_M * track.size,
            ringed=True,
        )
    ]


def executed(track: Track, now_ns: int, seconds: float, seams: Iterable[int]) -> list[Shape]:
    """Return what was measured in the last seconds, fading, and the seams int ns on it."""
    way = track.trail.since(now_ns - round(seconds * 1e9))
    if way is None:
        return []
    age = (now_ns - way.times_ns) * 1e-9 / seconds
    colour = colours.plain(colours.DONE, len(age))
    colour[:, 3] = np.clip(1.0 - 0.85 * age, 0.0, 1.0)
    name = f'executed/{track.name}'
    shapes: list[Shape] = [
        Lines(name, track.frame, way.places, colour, 0.6 * WIDTH_M * track.size)
    ]
    seams = [time_ns for time_ns in seams if way.times_ns[0] <= time_ns <= way.times_ns[-1]]
    if seams:
        places = np.array([way.at(time_ns) for time_ns in seams])
        colour = colours.plain(colours.SEAM, len(seams))
        shapes.append(Dots(f'seam/{track.name}', track.frame, places, colour, DOT_M * track.size))
    return shapes


def left_over(track: Track, way: Way, since_ns: int) -> list[Shape]:
    """Return what a chunk left undone from an instant on, dashed."""
    places = way.after(since_ns).places
    colour = colours.plain(colours.LEFT, len(places))
    name = f'left/{track.name}'
    return [Lines(name, track.frame, places, colour, 0.5 * WIDTH_M * track.size, dashed=True)]


def refused(track: Track, way: Way, reason: str) -> list[Shape]:
    """Return a refused chunk's way, the row that the reason names ringed, and the reason."""
    name, frame, places = f'refused/{track.name}', track.frame, way.places
    colour = colours.plain(colours.REFUSED, len(places))
    row = _row_of(reason, len(places), way.headings is not None)
    at = places[row : row + 1]
    return [
        Lines(name, frame, places, colour, 0.7 * WIDTH_M * track.size),
        Dots(name, frame, places, colour, 0.8 * DOT_M * track.size),
        Dots(name, frame, at, colour[:1], RING_M * track.size, ringed=True),
        Words(
            name,
            frame,
            at[0] + ABOVE,
            f'refused: {reason}',
            colours.REFUSED,
            brief=named.group() if (named := ROW.search(reason)) else 'refused',
        ),
    ]


def stopped(track: Track, place: np.ndarray, reason: str) -> list[Shape]:
    """Return a ring where the robot holds, and why when there is a reason to tell here."""
    name, colour = f'stopped/{track.name}', colours.plain(colours.HELD, 1)
    ring = Dots(name, track.frame, place[None], colour, RING_M * track.size, ringed=True)
    if not reason:
        return [ring]
    text = f'holds: {reason}'
    return [
        ring,
        Words(name, track.frame, place + ABOVE, text, colours.HELD, brief='holds here'),
    ]


def limits(track: Track, reason: str) -> list[Shape]:
    """Return the workspace box; red when the reason of a refusal is this box."""
    if track.box is None:
        return []
    broken = 'workspace' in reason and concerns(reason, track)
    edges = box_edges(track.box.lower, track.box.upper)
    colour = colours.plain(colours.REFUSED if broken else colours.LIMIT, len(edges))
    name = f'limits/{track.name}'
    return [Lines(name, track.frame, edges, colour, 0.25 * WIDTH_M * track.size, joined=False)]


def capsules(volume: 'Capsules', frame: str, poses: Mapping[str, np.ndarray]) -> list[Shape]:
    """Return the capsules of a contract, by link -> pose [4, 4]."""
    shapes: list[Shape] = []
    for part in volume.parts:
        if part.link in poses:
            ends = np.array([[*part.start, 1.0], [*part.end, 1.0]]) @ poses[part.link].T
            tube = ends[0, :3], ends[1, :3], part.radius, colours.BODY
            shapes.append(Tube('body', frame, *tube))
    return shapes


def skeleton(track: ArmTrack, links: 'RobotLinks', poses: Mapping[str, np.ndarray]) -> list[Shape]:
    """Return tubes from joint to joint of an arm, for a contract without capsules."""
    if track.link not in poses:
        return []
    own = [links.joints_of(link) for link in links.names]
    chain = [
        poses[link][:3, 3]
        for link, joints in zip(links.names, own, strict=True)
        if link in poses and joints and joints == track.joints[: len(joints)]
    ]
    mount = poses[links.mount_of(track.link)][:3, 3]
    stops = [mount, *chain, poses[track.link][:3, 3]]
    return [
        Tube(f'body/{track.name}', track.frame, start, end, SKELETON_M, colours.BODY)
        for start, end in pairwise(stops)
    ]


def footprint(track: BaseTrack, radius: float) -> list[Shape]:
    """Return a circle of a radius in m and a line ahead where the base was measured last."""
    newest = track.trail.newest
    if newest is None:
        return []
    place, heading = newest
    turns = heading + np.linspace(0.0, 2.0 * np.pi, 33)
    rim = place + radius * np.column_stack([np.cos(turns), np.sin(turns), np.zeros(33)])
    points = np.vstack([place, rim])
    colour = colours.plain(colours.BODY, len(points))
    return [Lines(f'body/{track.name}', track.frame, points, colour, WIDTH_M * track.size)]


def concerns(reason: str, track: Track) -> bool:
    """Return whether a refusal names the track's tip or one of its joints."""
    words = set(re.findall(r'\w+', reason))
    return track.link in words or bool(words & set(track.joints))


def _apart(places: np.ndarray, least: float) -> np.ndarray:
    """Return which places after the first [n] are at least so far in m from the one before."""
    kept, last = [], 0
    for index in range(1, len(places)):
        if np.linalg.norm(places[index] - places[last]) >= least:
            kept.append(index)
            last = index
    return np.array(kept, int)


def _arrows(name: str, frame: str, way: Way, colour: np.ndarray) -> Lines:
    """Return arrow heads along the way of a base: where it looks at each row."""
    segments, tints = [], []
    for place, heading, tint in zip(way.places, way.headings, colour, strict=True):
        for side in (-1.0, 1.0):
            turn = heading + side * ARROW_RAD
            barb = place + ARROW_M * np.array([np.cos(turn), np.sin(turn), 0.0])
            segments += [place, barb]
            tints += [tint, tint]
    return Lines(name, frame, np.array(segments), np.array(tints), WIDTH_M, joined=False)


def _row_of(reason: str, count: int, from_pose: bool) -> int:
    """
    Return the place of the row that a refusal names, the last one that can be drawn, or the first.

    from_pose: the way begins with the base's pose, a place before the first row.
    """
    found = ROW.search(reason)
    return min(int(found.group(1)) + from_pose, count - 1) if found else 0
