"""Pictures of an episode in the rooms: a map with the ways, and the film of camera and map."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from qwen_vla_ros.evaluate.video import SCENE, WRIST, Caption, Film
from qwen_vla_ros.seeing.colours import DONE
from qwen_vla_ros.seeing.colours import ahead as colours_ahead
from qwen_vla_ros.seeing.lettering import font
from qwen_vla_ros.sim.rooms.drive import Pose, inverted, joined
from qwen_vla_ros.sim.rooms.environment import RoomsEnv
from qwen_vla_ros.sim.rooms.free_floor import CELL
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS
from qwen_vla_ros.sim.rooms.tasks import Task
from qwen_vla_ros.sim.rooms.world import VIEW, RoomsWorld

MAP = (720, 960)  # h, w
STRIP = 84
_OWN = tuple(round(255 * value) for value in DONE[:3])
_SHORTEST, _GOAL = (255, 255, 255), (56, 200, 105)
_INK, _PAPER, _DIM = (240, 242, 245), (22, 26, 32), (160, 168, 178)
_GOOD, _BAD = (104, 211, 145), (252, 129, 129)
_FRAME_EVERY = 2  # commands of 20 Hz: the film has 10 pictures a second


def draw_map(world: RoomsWorld, task: Task, size: tuple[int, int] = MAP) -> np.ndarray:
    """Return the house from above uint8 [h, w, 3] with the goal's floor and the shortest way."""
    image = np.array(world.render_above(size, base=False))
    floor, scale = task.floor, _scale(world, size)
    shade = np.zeros(size, np.uint8)
    half = scale * CELL / 2
    corners = np.stack([floor.x[task.region], floor.y[task.region]], 1)
    for u, v in world.above_pixels(corners, size):
        low, high = np.rint([u - half, v - half]), np.rint([u + half, v + half])
        cv2.rectangle(shade, low.astype(int).tolist(), high.astype(int).tolist(), 255, -1)
    tinted = np.rint(0.55 * image + 0.45 * np.array(_GOAL)).astype(np.uint8)
    image[shade > 0] = tinted[shade > 0]
    outline, _ = cv2.findContours(shade, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outline, -1, _GOAL, _thick(size), cv2.LINE_AA)
    _draw_dashes(image, world.above_pixels(task.shortest, size), size)
    return image


def draw_way(
    image: np.ndarray, world: RoomsWorld, track: np.ndarray, pose: Pose, ahead: np.ndarray | None
) -> None:
    """Draw into a map: the way so far [N, 2], the base, and the waypoints [M, 2] ahead of it."""
    size = image.shape[:2]
    thick, scale = _thick(size), _scale(world, size)
    points = _fixed(world.above_pixels(np.asarray(track), size))
    for colour, width in ((_PAPER, 4 * thick), (_OWN, 2 * thick)):
        cv2.polylines(image, [points], False, colour, width, cv2.LINE_AA, shift=4)
    cv2.circle(image, points[0].tolist(), 16 * 3 * thick, _SHORTEST, -1, cv2.LINE_AA, shift=4)
    cv2.circle(image, points[0].tolist(), 16 * 2 * thick, _OWN, -1, cv2.LINE_AA, shift=4)
    if ahead is not None and len(ahead):
        _draw_waypoints(image, world.above_pixels(ahead, size), 2 * thick)
    nose = (pose[0] + 1.6 * RADIUS * np.cos(pose[2]), pose[1] + 1.6 * RADIUS * np.sin(pose[2]))
    middle, tip = _fixed(world.above_pixels(np.array([pose[:2], nose]), size))
    radius = round(16 * scale * RADIUS)
    cv2.circle(image, middle.tolist(), radius + 16 * thick, _SHORTEST, -1, cv2.LINE_AA, shift=4)
    cv2.circle(image, middle.tolist(), radius, _PAPER, -1, cv2.LINE_AA, shift=4)
    cv2.line(image, middle.tolist(), tip.tolist(), _SHORTEST, 2 * thick, cv2.LINE_AA, shift=4)


def write_map(path: Path, env: RoomsEnv, track: np.ndarray, facts: str, success: bool) -> None:
    """Write a PNG: a strip with sentence, outcome and facts over the map with both ways."""
    image = draw_map(env.world, env.task)
    draw_way(image, env.world, track, env.world.base.pose, None)
    picture = Image.new('RGB', (MAP[1], MAP[0] + STRIP), _PAPER)
    picture.paste(Image.fromarray(image), (0, STRIP))
    draw = ImageDraw.Draw(picture)
    draw.text((18, 12), f'“{env.instruction}”', _INK, font(26, bold=True))
    word, colour = ('arrived', _GOOD) if success else ('failed', _BAD)
    draw.text((18, 50), word, colour, font(17, bold=True))
    draw.text((24 + draw.textlength(word, font(17, bold=True)), 50), facts, _DIM, font(17))
    for index, (text, colour) in enumerate(
        (('goal', _GOAL), ('shortest way', _SHORTEST), ('own way', _OWN))
    ):
        x = MAP[1] - 150
        draw.rectangle((x, 14 + 22 * index, x + 16, 26 + 22 * index), fill=colour)
        draw.text((x + 24, 10 + 22 * index), text, _DIM, font(15))
    picture.save(path)


class RoomsFilm:
    """The film of an episode: the camera with the waypoints in it, and the map beside it."""

    def __init__(self, film: Film, env: RoomsEnv, title: str) -> None:
        """Film an environment that was just reset; told() and frame() are its watchers."""
        self._film, self._env, self._title = film, env, title
        self._map = draw_map(env.world, env.task, WRIST)
        self._chunk: np.ndarray | None = None
        self._count = 0

    def told(self, rows: np.ndarray) -> None:
        """Take a chunk [8, 3], given in base_link as it is now."""
        pose = self._env.world.base.pose
        self._chunk = np.array([joined(pose, tuple(row)) for row in rows])

    def frame(self) -> None:
        """Film the present instant, every second time."""
        self._count += 1
        if self._count % _FRAME_EVERY == 0:
            self._film.add(*self.parts('', False), wait=True)

    def end(self, outcome: str, success: bool, frames: int = 15) -> None:
        """Film the last instant with its outcome for a while."""
        for _ in range(frames):
            self._film.add(*self.parts(outcome, success), wait=True)

    def parts(self, outcome: str, success: bool) -> tuple[Any, ...]:
        """Return what compose_frame() takes."""
        world, env = self._env.world, self._env
        ahead = self._chunk[:, :2] if self._chunk is not None else None
        above = self._map.copy()
        draw_way(above, world, np.array(env.track), world.base.pose, ahead)
        base, left = world.base, env.task.distance(*world.base.pose[:2])
        facts = (
            f'to the goal  {left:.2f} m',
            f'speed  {base.linear:.2f} m/s, {base.angular:+.2f} rad/s',
            f'room  {world.room_name()}',
            f'time  {world.time:.1f} s',
        )
        stage = 'HOLDING' if env.stopped else 'RUNNING'
        caption = Caption(self._title, env.instruction, stage, facts, outcome or None, success)
        scene = world.render(VIEW, SCENE)
        if ahead is not None and not env.stopped:
            _draw_waypoints(scene, _in_camera(world, ahead), 6)
        return scene, above, caption


def _in_camera(world: RoomsWorld, points: np.ndarray) -> np.ndarray:
    """Return pixels [N, 2] of points [N, 2] on the map's floor in the camera; NaN behind it."""
    back = inverted(world.base.pose)
    floor = np.array([(*joined(back, (x, y, 0.0))[:2], 0.0) for x, y in points])
    info = world.camera_info(VIEW, SCENE)
    seen = (floor - info.position) @ info.rotation
    depth = np.where(seen[:, 2] > 0.1, seen[:, 2], np.nan)
    return (seen @ info.matrix.T)[:, :2] / depth[:, None]


def _draw_waypoints(image: np.ndarray, points: np.ndarray, radius: int) -> None:
    """Draw waypoints [N, 2] in pixels, joined, in the colours of time ahead; NaN is left out."""
    colours = (255 * colours_ahead(np.linspace(0.0, 1.0, len(points)))[:, :3]).tolist()
    known = np.isfinite(points).all(1) & (np.abs(np.nan_to_num(points)) < 4096).all(1)
    fixed = _fixed(np.nan_to_num(points).clip(-4096, 4096)).tolist()
    for index in range(len(points) - 1, -1, -1):
        if index and known[index] and known[index - 1]:
            start, end = fixed[index - 1], fixed[index]
            cv2.line(image, start, end, colours[index], max(1, radius // 2), cv2.LINE_AA, shift=4)
    for index in range(len(points) - 1, -1, -1):
        if known[index]:
            cv2.circle(image, fixed[index], 16 * radius, colours[index], -1, cv2.LINE_AA, shift=4)


def _draw_dashes(image: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> None:
    fixed = _fixed(points)
    for start, end in zip(fixed[:-1:2], fixed[1::2], strict=False):
        cv2.line(
            image, start.tolist(), end.tolist(), _SHORTEST, 2 * _thick(size), cv2.LINE_AA, shift=4
        )


def _fixed(points: np.ndarray) -> np.ndarray:
    """Return pixels as whole numbers of a sixteenth."""
    return np.rint(np.asarray(points) * 16).astype(np.int32)


def _scale(world: RoomsWorld, size: tuple[int, int]) -> float:
    """Return pixels a metre."""
    a, b = world.above_pixels(np.array([[0.0, 0.0], [1.0, 0.0]]), size)
    return float(b[0] - a[0])


def _thick(size: tuple[int, int]) -> int:
    return max(1, size[1] // 400)
