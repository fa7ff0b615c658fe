"""
The picture that every view draws: lines, dots, words and tubes in named frames, and a caption.

    intention.py   what a policy says and a robot does  -> Picture
    drawing.py     Picture through a camera             -> pixels (camera images, and from afar)
    nodes/marker_messages.py                            -> visualization_msgs (rviz, Foxglove)
    rerun_view.py                                       -> Rerun

Points are float64 [N, 3] in m in `frame`; colours float [N, 4] (red, green, blue, alpha; 0 to 1).
A shape's name is its namespace, like 'predicted/left_arm'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qwen_vla_ros.errors import QwenVlaError


@dataclass(frozen=True)
class Lines:
    """
    A polyline, or with joined=False segments from each even point to the next odd one.

    colours [N, 4] at the points; width m; dashed lines leave gaps where the view can draw them.
    """

    name: str
    frame: str
    points: np.ndarray
    colours: np.ndarray
    width: float
    joined: bool = True
    dashed: bool = False

    def __post_init__(self) -> None:
        """Refuse points that no view can draw."""
        _checked(self.name, self.points, self.colours)
        if not self.joined and len(self.points) % 2:
            raise QwenVlaError(f'{self.name}: segments come in pairs of points')


@dataclass(frozen=True)
class Dots:
    """Balls of a diameter size in m; a ring around each when ringed."""

    name: str
    frame: str
    points: np.ndarray
    colours: np.ndarray
    size: float
    ringed: bool = False

    def __post_init__(self) -> None:
        """Refuse points that no view can draw."""
        _checked(self.name, self.points, self.colours)


@dataclass(frozen=True)
class Words:
    """
    A text at a place [3], letters of a height in m; colour [4].

    brief is what is left of it where the caption says the rest; '' for nothing.
    """

    name: str
    frame: str
    place: np.ndarray
    text: str
    colour: tuple[float, float, float, float]
    height: float = 0.03
    brief: str = ''


@dataclass(frozen=True)
class Tube:
    """A capsule: from start to end [3], radius in m."""

    name: str
    frame: str
    start: np.ndarray
    end: np.ndarray
    radius: float
    colour: tuple[float, float, float, float]


Shape = Lines | Dots | Words | Tube


@dataclass(frozen=True)
class Caption:
    """
    What a picture says in words.

    title      the instruction
    badge      the stage: RUNNING, HOLDING, ...
    alarm      why the robot stopped or what was refused, '' when all is well
    facts      (name, value) lines
    horizon_s  s that the predicted way reaches ahead: the scale of its colours; 0 without one
    """

    title: str = ''
    badge: str = ''
    alarm: str = ''
    facts: tuple[tuple[str, str], ...] = ()
    horizon_s: float = 0.0


@dataclass(frozen=True)
class Picture:
    """
    Shapes and caption of one instant; stamp_ns: int ns of the node clock.

    Where words have a place in the world, the caption stands at place [3] in m in frame.
    """

    stamp_ns: int
    shapes: tuple[Shape, ...] = ()
    caption: Caption = field(default_factory=Caption)
    frame: str = ''
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def named(self, name: str) -> tuple[Shape, ...]:
        """Return the shapes of a name."""
        return tuple(shape for shape in self.shapes if shape.name == name)


def box_edges(lower: Sequence[float], upper: Sequence[float]) -> np.ndarray:
    """Return the twelve edges of a box as segments [24, 3]."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    pairs = [
        (a, b) for a in range(8) for b in range(a) if np.abs(corners[a] - corners[b]).sum() == 1
    ]
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    return low + corners[np.array(pairs).ravel()] * (high - low)


def _checked(name: str, points: np.ndarray, colours: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != (len(points), 4):
        raise QwenVlaError(
            f'{name}: points {list(points.shape)} with colours {list(colours.shape)}; expected '
            '[N, 3] and [N, 4]'
        )
    if not np.isfinite(points).all():
        raise QwenVlaError(f'{name}: a point is not finite')
