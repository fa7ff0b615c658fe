"""
A Picture as visualization_msgs/MarkerArray, for rviz and Foxglove.

A shape's name is the namespace; every marker lives LIFETIMES periods and is deleted as soon as the
picture has it no more. Stamps are zero: a viewer takes the newest transform of the frame.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from qwen_vla_ros.output_kinds import set_stamp
from qwen_vla_ros.seeing.colours import REFUSED, WRITTEN
from qwen_vla_ros.seeing.picture import Caption, Dots, Lines, Picture, Shape, Tube, Words

LIFETIMES = 4.0
RING, RING_ALPHA = 1.5, 0.5  # a ringed dot is a larger ball that lets through
DASH_M = 0.012
LETTERS_M = 0.03


class MarkerWriter:
    """Turns pictures into messages and remembers what a viewer still shows."""

    def __init__(self, period_s: float) -> None:
        """Set the lifetime by how often pictures come."""
        self._lifetime_ns = round(LIFETIMES * period_s * 1e9)
        self._shown: dict[tuple[str, int], str] = {}
        self._begun = False

    def message(self, picture: Picture) -> MarkerArray:
        """Return what brings a viewer from the last picture to this one."""
        markers = [] if self._begun else [Marker(action=Marker.DELETEALL)]
        self._begun = True
        made = list(self._made(picture))
        shown = {(marker.ns, marker.id): marker.header.frame_id for marker in made}
        for (name, number), frame in self._shown.items():
            if (name, number) not in shown:
                gone = Marker(ns=name, id=number, action=Marker.DELETE)
                gone.header.frame_id = frame
                markers.append(gone)
        self._shown = shown
        return MarkerArray(markers=[*markers, *made])

    def forget(self) -> None:
        """Begin anew: the next message deletes everything first."""
        self._shown, self._begun = {}, False

    def _made(self, picture: Picture) -> Iterator[Marker]:
        counts: dict[str, int] = {}
        for shape in (*picture.shapes, *_caption_words(picture)):
            for marker in _markers(shape):
                marker.ns, marker.id = shape.name, counts.get(shape.name, 0)
                counts[shape.name] = marker.id + 1
                marker.header.frame_id = shape.frame
                marker.action, marker.frame_locked = Marker.ADD, True
                set_stamp(marker.lifetime, self._lifetime_ns)
                yield marker


def _markers(shape: Shape) -> list[Marker]:
    if isinstance(shape, Lines):
        return [_lines(shape)]
    if isinstance(shape, Dots):
        return [_dots(shape)]
    return [_words(shape)] if isinstance(shape, Words) else _tube(shape)


def _lines(lines: Lines) -> Marker:
    points, tints, joined = lines.points, lines.colours, lines.joined
    if lines.dashed and joined:
        points, tints, joined = _dashed(points, tints)
    marker = Marker(type=Marker.LINE_STRIP if joined else Marker.LINE_LIST)
    marker.scale.x = lines.width
    return _filled(marker, points, tints)


def _dots(dots: Dots) -> Marker:
    marker, tints = Marker(type=Marker.SPHERE_LIST), np.array(dots.colours)
    size = dots.size * (RING if dots.ringed else 1.0)
    tints[:, 3] *= RING_ALPHA if dots.ringed else 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = float(size)
    return _filled(marker, dots.points, tints)


def _words(words: Words) -> Marker:
    marker = Marker(type=Marker.TEXT_VIEW_FACING, text=words.text, color=_colour(words.colour))
    marker.scale.z = words.height
    marker.pose.position = _point(words.place)
    marker.pose.orientation.w = 1.0
    return marker


def _tube(tube: Tube) -> list[Marker]:
    """Return a cylinder with a ball at both ends."""
    along, width = tube.end - tube.start, 2.0 * tube.radius
    length = float(np.linalg.norm(along))
    balls = _filled(
        Marker(type=Marker.SPHERE_LIST, color=_colour(tube.colour)),
        np.stack([tube.start, tube.end]),
        np.tile(tube.colour, (2, 1)),
    )
    balls.scale.x = balls.scale.y = balls.scale.z = width
    if length < 1e-9:
        return [balls]
    cylinder = Marker(type=Marker.CYLINDER, color=_colour(tube.colour))
    cylinder.scale.x = cylinder.scale.y = width
    cylinder.scale.z = length
    cylinder.pose.position = _point((tube.start + tube.end) / 2.0)
    turn = cylinder.pose.orientation
    turn.x, turn.y, turn.z, turn.w = _from_z_to(along / length)
    return [balls, cylinder]


def _filled(marker: Marker, points: np.ndarray, tints: np.ndarray) -> Marker:
    marker.pose.orientation.w = 1.0
    marker.points = [_point(point) for point in points]
    marker.colors = [_colour(tint) for tint in tints]
    return marker


def _dashed(points: np.ndarray, tints: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return every second piece of DASH_M along a polyline, as segments."""
    far = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    marks = np.arange(0.0, far[-1] + DASH_M, DASH_M)
    marks = np.minimum(marks[: len(marks) // 2 * 2], far[-1])
    if not len(marks):
        return points[[0, 0]], tints[[0, 0]], False
    table = np.hstack([points, tints])
    found = np.stack([np.interp(marks, far, column) for column in table.T], 1)
    return found[:, :3], found[:, 3:], False


def _caption_words(picture: Picture) -> tuple[Words, ...]:
    caption, place = picture.caption, np.array(picture.place)
    if caption == Caption() or not picture.frame:
        return ()
    lines = [f'{caption.badge}  {caption.title}'.strip()]
    lines += [f'{name}: {value}' for name, value in caption.facts]
    told = Words('caption', picture.frame, place, '\n'.join(lines), WRITTEN, LETTERS_M)
    if not caption.alarm:
        return (told,)
    above = place + [0.0, 0.0, LETTERS_M * (1.5 + 0.75 * len(lines))]
    return told, Words('alarm', picture.frame, above, caption.alarm, REFUSED, 1.2 * LETTERS_M)


def _from_z_to(axis: np.ndarray) -> tuple[float, float, float, float]:
    """Return the quaternion (x, y, z, w) that turns the z axis onto a unit axis [3]."""
    if axis[2] < -1.0 + 1e-9:
        return 1.0, 0.0, 0.0, 0.0
    x, y, w = -float(axis[1]), float(axis[0]), 1.0 + float(axis[2])
    norm = float(np.sqrt(x * x + y * y + w * w))
    return x / norm, y / norm, 0.0, w / norm


def _point(place: Any) -> Point:
    return Point(x=float(place[0]), y=float(place[1]), z=float(place[2]))


def _colour(colour: Any) -> ColorRGBA:
    red, green, blue, alpha = (min(1.0, max(0.0, float(part))) for part in colour)
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)
