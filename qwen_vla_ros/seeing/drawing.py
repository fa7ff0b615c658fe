"""
A Picture through a camera into pixels: into the robot's own images, and from afar (scenery.py).

Pixels are uint8 [h, w, 3] RGB. Lines are cut where they pass behind the camera, subdivided where a
lens bends them, and drawn over a dark edge, so that they stand out of any image. `locate(frame)`
gives the pose [4, 4] of a shape's frame in the camera's world and may raise FrameMissing.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np

from qwen_vla_ros.seeing.camera import NEAR_M, Camera
from qwen_vla_ros.seeing.caption_drawing import DARK, draw_caption, shade
from qwen_vla_ros.seeing.lettering import folded, lettered, write
from qwen_vla_ros.seeing.picture import Dots, Lines, Picture, Shape, Words

Locate = Callable[[str], np.ndarray]
SHIFT = 4  # cv2 draws at sixteenths of a pixel
FAR_PX = 8192.0
FINE_PX = 4.0
BEND_PX = 24.0  # a longer piece of a line is subdivided
FAINT = {'limits', 'planned'}


def draw_picture(
    image: np.ndarray, picture: Picture, camera: Camera, locate: Locate, caption: bool = True
) -> np.ndarray:
    """
    Draw a picture's shapes, then its caption, into an image; return the image.

    image uint8 [h, w, 3] of the camera's size, changed in place. Tubes belong to the view from
    afar and are left out. Raises what locate raises before anything is drawn.
    """
    poses = {frame: locate(frame) for frame in dict.fromkeys(s.frame for s in picture.shapes)}
    lettering = []
    for shape in sorted(picture.shapes, key=_order):
        pose = poses[shape.frame]
        if isinstance(shape, Lines):
            _draw_lines(image, shape, camera, pose)
        elif isinstance(shape, Dots):
            _draw_dots(image, shape, camera, pose)
        elif isinstance(shape, Words):
            lettering.append((shape, pose))
    for words, pose in lettering:
        _draw_words(image, words.brief if caption else words.text, words, camera, pose)
    if caption:
        draw_caption(image, picture.caption)
    return image


def placed(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return points [N, 3] of a frame in the world in which the frame has a pose [4, 4]."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def _order(shape: Shape) -> int:
    """Return what is drawn first: limits, then what was, what comes, and what is wrong."""
    kinds = (
        'grid',
        'limits',
        'body',
        'executed',
        'planned',
        'left',
        'predicted',
        'near_limit',
        'seam',
    )
    kind = shape.name.partition('/')[0]
    return kinds.index(kind) if kind in kinds else len(kinds)


def _draw_lines(image: np.ndarray, lines: Lines, camera: Camera, pose: np.ndarray) -> None:
    seen, colours = camera.seen(placed(lines.points, pose)), lines.colours
    if lines.joined and len(seen) > 2:
        kept = _thinned(seen, camera.matrix[0, 0])
        seen, colours = seen[kept], colours[kept]
    begins = range(0, len(seen) - 1, 1 if lines.joined else 2)
    pieces, alive = [], 0.0
    thick = 2.0 if lines.name.partition('/')[0] in FAINT else 8.0
    for index in begins:
        cut = _ahead(seen[index], seen[index + 1])
        if cut is None:
            continue
        pixels = _bent(camera, *cut)
        colour = (colours[index] + colours[index + 1]) / 2.0
        width = _pixels_of(lines.width, camera, float(cut[0][2] + cut[1][2]) / 2, 1.0, thick)
        for begin, end in pairwise(pixels):
            piece = _clipped(begin, end)
            if piece is not None:
                pieces += _dashes(*piece, colour, width, lines.dashed, alive)
                alive += float(np.linalg.norm(piece[1] - piece[0]))
    halo = lines.name.partition('/')[0] not in FAINT
    _strokes(image, pieces, halo)


def _thinned(seen: np.ndarray, focal: float) -> list[int]:
    """Return which points of a polyline [N, 3] to draw: none nearer than FINE_PX to the last."""
    flat = focal * seen[:, :2] / np.maximum(seen[:, 2:], NEAR_M)
    kept = [0]
    for index, (x, y) in enumerate(flat.tolist()):
        before = flat[kept[-1]]
        if abs(x - before[0]) + abs(y - before[1]) >= FINE_PX:
            kept.append(index)
    return kept if kept[-1] == len(seen) - 1 else [*kept, len(seen) - 1]


def _strokes(
    image: np.ndarray,
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]],
    halo: bool,
) -> None:
    """Draw pieces (begin, end, colour, width) of one line, mixed into the image only once."""
    if not pieces:
        return
    ends = np.array([(begin, end) for begin, end, _, _ in pieces]).reshape(-1, 2)
    reach = max(width for *_, width in pieces) + 3
    low = np.maximum(np.floor(ends.min(0)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(ends.max(0)).astype(int) + reach, image.shape[1::-1])
    if (low >= high).any():
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    layer, ink = part.copy(), np.zeros(part.shape[:2], np.uint8)
    for edge in (2, 0) if halo else (0,):
        for begin, end, colour, width in pieces:
            a, b = (tuple(int(v) for v in np.rint((p - low) * 2**SHIFT)) for p in (begin, end))
            rgb = DARK if edge else tuple(255.0 * c for c in colour[:3])
            dense = 255.0 * colour[3] * (0.6 if edge else 1.0)
            cv2.line(layer, a, b, rgb, width + edge, cv2.LINE_AA, SHIFT)
            cv2.line(ink, a, b, dense, width + edge, cv2.LINE_AA, SHIFT)
    share = ink[..., None].astype(np.float32) / 255.0
    part[:] = np.rint(part + share * (layer.astype(np.float32) - part)).astype(np.uint8)


def _dashes(
    begin: np.ndarray, end: np.ndarray, colour: np.ndarray, width: int, dashed: bool, after: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Return a piece, or its dashes, which go on after so many pixels; their ends are round."""
    if not dashed:
        return [(begin, end, colour, width)]
    length = float(np.linalg.norm(end - begin))
    if length < 1e-6:
        return []
    found, along = [], (end - begin) / length
    dash, period = 2.0 * width, 5.0 * width + 6.0
    for at in np.arange(-(after % period), length, period):
        low, high = max(at, 0.0), min(at + dash, length)
        if high > low:
            found.append((begin + low * along, begin + high * along, colour, width))
    return found


def _clipped(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the part of a piece in pixels that lies within FAR_PX, which is what cv2 can draw."""
    low, high, along = 0.0, 1.0, end - begin
    if not np.isfinite(along).all():
        return None
    for place, step in zip(begin, along, strict=True):
        if abs(step) < 1e-9:
            if abs(place) > FAR_PX:
                return None
            continue
        ends = sorted(((-FAR_PX - place) / step, (FAR_PX - place) / step))
        low, high = max(low, ends[0]), min(high, ends[1])
    return (begin + low * along, begin + high * along) if low < high else None


def _ahead(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the part of a segment in the optical frame that lies ahead of the camera."""
    if begin[2] < NEAR_M and end[2] < NEAR_M:
        return None
    if begin[2] < NEAR_M or end[2] < NEAR_M:
        share = (NEAR_M - begin[2]) / (end[2] - begin[2])
        cut = begin + share * (end - begin)
        return (cut, end) if begin[2] < NEAR_M else (begin, cut)
    return begin, end


def _bent(camera: Camera, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the pixels along a segment, so many that a lens may bend it."""
    ends = camera.pixels(np.stack([begin, end]))
    if not camera.distortion.any() and np.isfinite(ends).all():
        return ends
    length = np.linalg.norm(ends[1] - ends[0])
    count = int(np.clip(length / BEND_PX, 1, 32)) if np.isfinite(length) else 32
    shares = np.linspace(0.0, 1.0, count + 1)[:, None]
    return camera.pixels(begin + shares * (end - begin))


def _draw_dots(image: np.ndarray, dots: Dots, camera: Camera, pose: np.ndarray) -> None:
    seen = camera.seen(placed(dots.points, pose))
    for place, pixel, colour in zip(seen, camera.pixels(seen), dots.colours, strict=True):
        if not np.isfinite(pixel).all() or np.abs(pixel).max() > FAR_PX:
            continue
        radius = _pixels_of(dots.size / 2, camera, float(place[2]), 2.0, 22.0)
        if dots.ringed:
            radius = max(radius, image.shape[1] // 100)
            _disc(image, pixel, radius + 3, (*np.array(DARK) / 255, 1.0), 5)
            _disc(image, pixel, radius + 3, colour, 3)
        else:
            _disc(image, pixel, radius + 1, (*np.array(DARK) / 255, 1.0), -1)
            _disc(image, pixel, radius, colour, -1)


def _draw_words(
    image: np.ndarray, text: str, words: Words, camera: Camera, pose: np.ndarray
) -> None:
    seen = camera.seen(placed(words.place[None], pose))
    (pixel,) = camera.pixels(seen)
    if not text or not np.isfinite(pixel).all() or np.abs(pixel).max() > FAR_PX:
        return
    high, wide = image.shape[:2]
    size = max(11, wide // 58)
    lines = folded(text, size, round(0.42 * wide), 4, True)
    step, pad = round(1.35 * size), size // 2
    width = max(lettered(line or ' ', size, True).shape[1] for line in lines) + 2 * pad
    height = step * len(lines) + pad
    x = int(np.clip(pixel[0] - width / 2, 2, max(2, wide - width - 2)))
    y = int(np.clip(pixel[1] - height, 5 * size, max(2, high - height - 2)))
    part = image[y : y + height, x : x + width]
    shade(part, 0.78)
    colour = tuple(255 * c for c in words.colour[:3])
    cv2.rectangle(image, (x, y), (x + part.shape[1] - 1, y + part.shape[0] - 1), colour, 1)
    for index, line in enumerate(lines):
        light = tuple(0.35 * 255 + 0.65 * c for c in colour)
        write(image, (x + pad, y + pad // 2 + index * step), line, light, size, True)


def _pixels_of(size_m: float, camera: Camera, depth: float, low: float, high: float) -> int:
    """Return how many pixels a size in m takes at a depth, within what the eye can follow."""
    return round(float(np.clip(camera.matrix[0, 0] * size_m / max(depth, NEAR_M), low, high)))


def _disc(
    image: np.ndarray, at: np.ndarray, radius: int, colour: Sequence[float], width: int
) -> None:
    centre = tuple(int(v) for v in np.rint(at * 2**SHIFT))
    rgb = tuple(255.0 * c for c in colour[:3])
    cv2.circle(image, centre, radius << SHIFT, rgb, width, cv2.LINE_AA, SHIFT)
