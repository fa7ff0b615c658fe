"""
What lies on the table: a seed gives a scene, a scene gives instructions.

Seeds from 1,000,000 on are for training, 0 .. 99,999 for evaluation and the demo. Besides the
objects a seed varies what a real room varies: light, table, camera mounting and first posture.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm

COLOURS = {
    'red': (0.85, 0.05, 0.05),
    'green': (0.05, 0.60, 0.10),
    'blue': (0.05, 0.20, 0.90),
    'yellow': (0.95, 0.85, 0.05),
    'purple': (0.50, 0.10, 0.70),
    'orange': (1.00, 0.42, 0.00),
}
SHAPES = {'block': 0.045, 'ball': 0.045, 'can': 0.05}  # height in m; all are 4.5 cm wide
WIDTH = 0.045
OBJECTS_PER_SCENE = 3
AREA_LOWER, AREA_UPPER = (0.20, -0.20), (0.40, 0.20)
LEAST_DISTANCE = 0.11
TEMPLATES = (
    'touch the {name}',
    'reach for the {name}',
    'tap the {name}',
    'go to the {name}',
    'move to the {name}',
)


@dataclass(frozen=True)
class SceneObject:
    """
    One object: position is its centre in base_link (m), yaw in rad.

    rgb: a shade in the place of its colour's own; scale: of all its lengths.
    """

    colour: str
    shape: str
    position: tuple[float, float, float]
    yaw: float
    rgb: tuple[float, float, float] | None = None
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Return colour and shape, unique in a scene."""
        return f'{self.colour} {self.shape}'


@dataclass(frozen=True)
class Surroundings:
    """
    What varies besides the objects.

    light_position m, light 0..1 (diffuse), ambient 0..1, table_rgb 0..1, camera_shift m and
    camera_turn rad (rotation vector) move the scene camera from its nominal mounting.
    """

    light_position: tuple[float, float, float] = (0.6, 0.2, 1.4)
    light: float = 0.6
    ambient: float = 0.35
    table_rgb: tuple[float, float, float] = (0.62, 0.58, 0.52)
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """A seeded table: the objects, the surroundings and the arm's first posture q [7]."""

    seed: int
    objects: tuple[SceneObject, ...]
    surroundings: Surroundings
    posture: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the objects' names."""
        return tuple(item.name for item in self.objects)

    def named(self, name: str) -> SceneObject:
        """Return the object of that name; QwenVlaError lists the names there are."""
        for item in self.objects:
            if item.name == name:
                return item
        raise QwenVlaError(f'scene {self.seed}: no object {name!r}; it holds {list(self.names)}')


def sample_scene(seed: int) -> Scene:
    """Return the scene of a seed (any integer >= 0), always the same one."""
    if seed < 0:
        raise QwenVlaError(f'scene seed {seed}: choose an integer from 0 on')
    rng = np.random.default_rng(seed)
    colours = rng.choice(list(COLOURS), OBJECTS_PER_SCENE, replace=False)
    shapes = rng.choice(list(SHAPES), OBJECTS_PER_SCENE)
    places = sample_places(rng)
    objects = tuple(
        SceneObject(
            str(colour),
            str(shape),
            (float(x), float(y), SHAPES[str(shape)] / 2),
            float(rng.uniform(-np.pi, np.pi)),
        )
        for colour, shape, (x, y) in zip(colours, shapes, places, strict=True)
    )
    return Scene(seed, objects, sample_surroundings(rng), _sample_posture(rng))


def instruction_for(item: SceneObject | str, rng: np.random.Generator | None = None) -> str:
    """Return a sentence that names the object; without rng the first template."""
    name = item if isinstance(item, str) else item.name
    index = 0 if rng is None else int(rng.integers(len(TEMPLATES)))
    return TEMPLATES[index].format(name=name)


def parse_target(instruction: str, names: Iterable[str]) -> str | None:
    """Return the one name that the instruction says (or whose colour it says), else None."""
    words = ' ' + ' '.join(re.findall(r'[a-z]+', instruction.lower())) + ' '
    names = tuple(names)
    for key in (lambda name: name, lambda name: name.split()[0]):
        said = [name for name in names if f' {key(name)} ' in words]
        if said:
            return said[0] if len(said) == 1 else None
    return None


def sample_places(rng: np.random.Generator) -> np.ndarray:
    """Return centres [3, 2] in m that keep the least distance from each other."""
    while True:
        places = rng.uniform(AREA_LOWER, AREA_UPPER, (OBJECTS_PER_SCENE, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if (gaps[np.triu_indices(OBJECTS_PER_SCENE, 1)] >= LEAST_DISTANCE).all():
            return places


def sample_surroundings(rng: np.random.Generator) -> Surroundings:
    """Return light, table and camera mounting of one room."""
    grey = rng.uniform(0.40, 0.75)
    return Surroundings(
        light_position=_floats(rng.uniform((0.2, -0.4, 1.2), (0.9, 0.6, 1.6))),
        light=float(rng.uniform(0.45, 0.7)),
        ambient=float(rng.uniform(0.3, 0.42)),
        table_rgb=_floats(grey + rng.uniform(-0.05, 0.05, 3)),
        camera_shift=_floats(rng.uniform(-0.004, 0.004, 3)),
        camera_turn=_floats(rng.uniform(-1, 1, 3) * np.radians(1.0)),
    )


def _sample_posture(rng: np.random.Generator) -> tuple[float, ...]:
    """Return the first posture q [7]: the hand above the near edge of the object area."""
    tip = rng.uniform((0.17, -0.05, 0.18), (0.24, 0.05, 0.24))
    joints = arm.inverse(tip, arm.STRAIGHT_DOWN + rng.uniform(-0.1, 0.1))
    return _floats([*joints, rng.uniform(0.024, 0.036)])


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    """Return plain floats."""
    return tuple(float(value) for value in values)
