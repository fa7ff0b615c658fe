"""
Scenes to handle things in: blocks and cans that fit between the fingers, and a room that varies.

What the touching task varies (objects, light, table, camera, first posture) varies more here, and
there are a texture on the table and things on it that no sentence names. Seeds as in sim/scene.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.scene import (
    COLOURS,
    OBJECTS_PER_SCENE,
    Scene,
    SceneObject,
    Surroundings,
    sample_places,
    sample_scene,
)

WIDTH = 0.034  # m; the fingers open 48 mm
HEIGHTS = {'block': 0.034, 'can': 0.044}  # m
TEXTURES = ('plain', 'checks', 'stripes', 'grain', 'blotches')
DISTRACTORS = 3  # at most
KINDS = ('box', 'cylinder', 'ellipsoid')


@dataclass(frozen=True)
class Distractor:
    """A thing that stands fast: kind of KINDS, place [3] and half sizes [3] in m, yaw, colour."""

    kind: str
    position: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class TaskScene(Scene):
    """A scene with distractors and a texture of TEXTURES in two shades 0..1, size in pixels."""

    distractors: tuple[Distractor, ...] = ()
    texture: str = 'plain'
    shades: tuple[float, float] = (1.0, 0.86)
    grain: int = 16


def sample_task_scene(seed: int) -> TaskScene:
    """Return the scene of a seed (any integer >= 0), always the same one."""
    if seed < 0:
        raise QwenVlaError(f'scene seed {seed}: choose an integer from 0 on')
    rng = np.random.default_rng((seed, 7))
    colours = rng.choice(list(COLOURS), OBJECTS_PER_SCENE, replace=False)
    shapes = rng.choice(list(HEIGHTS), OBJECTS_PER_SCENE)
    objects = tuple(
        SceneObject(
            str(colour),
            str(shape),
            (float(x), float(y), HEIGHTS[str(shape)] / 2),
            float(rng.uniform(-np.pi, np.pi)),
        )
        for colour, shape, (x, y) in zip(colours, shapes, sample_places(rng), strict=True)
    )
    return TaskScene(
        seed,
        objects,
        _surroundings(rng),
        sample_scene(seed).posture,
        tuple(_distractor(rng) for _ in range(int(rng.integers(DISTRACTORS + 1)))),
        str(rng.choice(TEXTURES)),
        _floats(rng.uniform(0.7, 1.0, 2)),
        int(rng.integers(8, 65)),
    )


def height_of(name: str) -> float:
    """Return the height in m of an object by its name: colour and shape."""
    return HEIGHTS[name.rpartition(' ')[2]]


def texture_pixels(scene: TaskScene, size: int) -> np.ndarray:
    """Return the table's texture uint8 [size, size, 3], grey: the table's colour multiplies it."""
    rng = np.random.default_rng((scene.seed, 8))
    y, x = np.mgrid[:size, :size]
    if scene.texture == 'checks':
        share = ((x // scene.grain + y // scene.grain) % 2).astype(float)
    elif scene.texture == 'stripes':
        share = ((x + y * int(rng.integers(3))) // scene.grain % 2).astype(float)
    elif scene.texture == 'grain':
        waves = np.cumsum(rng.normal(0, 1, size)) / scene.grain
        share = 0.5 + 0.5 * np.sin(x / scene.grain * 2 + waves[y])
    elif scene.texture == 'blotches':
        coarse = rng.random((size // scene.grain + 1,) * 2)
        share = coarse[y // scene.grain, x // scene.grain]
    else:
        share = (rng.random((size, size)) < 0.04).astype(float)
    one, other = scene.shades
    grey = 255 * (one + (other - one) * share)
    return np.repeat(grey[:, :, None], 3, 2).astype(np.uint8)


def _surroundings(rng: np.random.Generator) -> Surroundings:
    return Surroundings(
        light_position=_floats(rng.uniform((0.0, -0.8, 1.0), (1.2, 0.8, 1.8))),
        light=float(rng.uniform(0.35, 0.75)),
        ambient=float(rng.uniform(0.22, 0.45)),
        table_rgb=_floats(rng.uniform(0.25, 0.85, 3)),
        camera_shift=_floats(rng.uniform(-0.03, 0.03, 3)),
        camera_turn=_floats(rng.uniform(-1, 1, 3) * np.radians(2.5)),
    )


def _distractor(rng: np.random.Generator) -> Distractor:
    """Return a thing beside or beyond the area where objects lie."""
    half = rng.uniform((0.015, 0.015, 0.01), (0.035, 0.035, 0.05))
    side = float(rng.choice([-1.0, 1.0]))
    place = (
        (rng.uniform(0.10, 0.45), side * rng.uniform(0.265, 0.31))
        if rng.random() < 0.6
        else (rng.uniform(0.47, 0.53), rng.uniform(-0.3, 0.3))
    )
    brown = rng.uniform(0.15, 0.7) * np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.5, 1.0)])
    return Distractor(
        str(rng.choice(KINDS)),
        (float(place[0]), float(place[1]), float(half[2])),
        _floats(half),
        float(rng.uniform(-np.pi, np.pi)),
        _floats(brown),
    )


def _floats(values: Iterable[float]) -> tuple:
    return tuple(float(value) for value in values)
