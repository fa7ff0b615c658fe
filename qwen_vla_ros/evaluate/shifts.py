"""
What changes between training and a test of generalisation: the paper's shifts, one at a time.

    none         as trained: another seed and nothing else
    colour       another shade of the colour that the sentence says
    instance     objects smaller or larger than any in training (WidowX 0.7 .. 0.8, 1.25 .. 1.4;
                 ALOHA 0.75 .. 0.85, 1.15 .. 1.25, so that grippers still fit around them);
                 furniture slimmer (0.75 .. 0.88), and lower or taller (0.75 .. 0.85, 1.12 .. 1.22)
    position     objects beyond the area of training
    background   a coloured table, or floors; in training the table is grey
    lighting     darker or brighter than in training, over a table from the other side
    instruction  sentences that training does not have
    camera       scene camera, or the base's, moved by 2 .. 4 cm and turned by 3 .. 5 degrees
    moving       the target glides at 2 .. 5 cm/s, as in DOMINO; it is lost beyond the table's area

Everything is drawn from the seed, so two policies meet the same worlds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episodes import task_of_seed
from qwen_vla_ros.sim import scene as table
from qwen_vla_ros.sim.aloha import scene as aloha
from qwen_vla_ros.sim.rooms.house import House
from qwen_vla_ros.sim.rooms.tasks import Task, sample_task
from qwen_vla_ros.sim.rooms.world import Look
from qwen_vla_ros.sim.scene import COLOURS, SHAPES, Surroundings

Rgb = tuple[float, float, float]
NONE = 'none'
SURROUNDINGS = ('background', 'lighting', 'camera')
SHIFTS = {
    'widowx': (NONE, 'colour', 'instance', 'position', *SURROUNDINGS, 'instruction', 'moving'),
    'aloha': (NONE, 'colour', 'instance', 'position', *SURROUNDINGS, 'instruction'),
    'mobile_base': (NONE, 'instance', *SURROUNDINGS, 'instruction'),
}
BEYOND = ((0.17, 0.20), (0.40, 0.44))  # m, rows of x before and behind the area of training
LOST = ((0.14, -0.30), (0.50, 0.30))  # m, where a moving target still counts as on the table
TOUCH_WORDS = (
    'please put your fingertips onto the {name}',
    'could you poke the {name}?',
    'make contact with the {name} and with nothing else',
    'the {name} is what i want you to feel',
)
ALOHA_WORDS = {
    aloha.TRANSFER: (
        'let the {taker} arm have the {target} that the {giver} arm picks up',
        'grasp the {target} using the {giver} arm, then pass it on to the {taker} arm',
    ),
    aloha.INSERTION: (
        'the {target} belongs inside the {socket}, please plug it in',
        'join the {target} with the {socket}',
    ),
}
ROOM_WORDS = (
    'i need you over at the {goal}, please',
    'find the {goal} and park there',
    'your destination is the {goal}',
)


@dataclass(frozen=True)
class ShiftedTask:
    """One world and its sentence; further are options of the environment's reset()."""

    shift: str
    seed: int
    instruction: str
    target: str
    scene: Any = None
    further: Mapping[str, Any] = field(default_factory=dict)


def check_shifts(robot: str, names: list[str]) -> list[str]:
    """Return the names, or all of a robot for ['all']; QwenVlaError lists those it has."""
    if robot not in SHIFTS:
        raise QwenVlaError(f'suite: no simulated {robot}; choose from {", ".join(SHIFTS)}')
    known = SHIFTS[robot]
    if names == ['all']:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise QwenVlaError(
            f'--shifts: {robot} has no {", ".join(unknown) or "empty list"}; choose from '
            f'{", ".join(known)}, or all'
        )
    return names


def tabletop_task(shift: str, seed: int) -> ShiftedTask:
    """Return the WidowX's task of a seed under a shift."""
    rng, task, scene = _rng(shift, seed), task_of_seed(seed), table.sample_scene(seed)
    words, further = task.instruction, {}
    if shift in SURROUNDINGS:
        scene = replace(scene, surroundings=shifted_surroundings(scene.surroundings, shift, rng))
    elif shift in ('colour', 'instance', 'position'):
        scene = replace(scene, objects=_objects(scene.objects, shift, rng))
    elif shift == 'instruction':
        words = TOUCH_WORDS[int(rng.integers(len(TOUCH_WORDS)))].format(name=task.target)
    elif shift == 'moving':
        further = {'drift': _drift(scene.named(task.target).position, rng)}
    return ShiftedTask(shift, seed, words, task.target, scene, further)


def aloha_task(task: str, shift: str, seed: int) -> ShiftedTask:
    """Return a task of both arms of a seed under a shift."""
    scene, rng = aloha.sample_scene(seed, task), np.random.default_rng([seed, 7])
    cubes = [item.name for item in scene.objects if item.shape == 'cube']
    target = cubes[int(rng.integers(len(cubes)))] if task == aloha.TRANSFER else scene.target
    words, rng = aloha.instruction_for(scene, target, rng), _rng(shift, seed)
    if shift in SURROUNDINGS:
        scene = replace(scene, surroundings=shifted_surroundings(scene.surroundings, shift, rng))
    elif shift == 'colour':
        objects = tuple(replace(o, rgb=_shade(COLOURS[o.colour], rng)) for o in scene.objects)
        scene = replace(scene, objects=objects)
    elif shift == 'instance':
        scene = replace(scene, objects=_sized(scene, rng))
    elif shift == 'position':
        scene = replace(scene, objects=_further_out(scene, rng))
    elif shift == 'instruction':
        sockets = [item.name for item in scene.objects if item.shape == 'socket']
        choices = ALOHA_WORDS[task]
        words = choices[int(rng.integers(len(choices)))].format(
            target=target, giver=scene.giver, taker=scene.taker, socket=''.join(sockets[:1])
        )
    return ShiftedTask(shift, seed, words, target, scene)


def rooms_task(shift: str, seed: int) -> ShiftedTask:
    """Return the base's task of a seed under a shift."""
    task = sample_task(seed)
    words = task.instruction
    if shift == 'instruction':
        said = ROOM_WORDS[int(_rng(shift, seed).integers(len(ROOM_WORDS)))]
        words = said.format(goal=task.goal.name)
    if shift == 'instance':
        house = _refurnished(task.house, _rng(shift, seed))
        task = Task(house, task.goal, task.start, words)
    further = {'task': task}
    if shift in SURROUNDINGS:
        further['look'] = rooms_look(shift, _rng(shift, seed))
    return ShiftedTask(shift, seed, words, task.goal.name, further=further)


def rooms_look(shift: str, rng: np.random.Generator) -> Look:
    """Return floors, lamps or a camera's mounting that no house of training has."""
    if shift == 'background':
        tints = ((0.5, 0.7, 1.2), (1.2, 0.6, 0.5), (0.6, 1.1, 0.6))
        return Look(floor=tints[int(rng.integers(3))])
    if shift == 'lighting':
        return Look(light=(0.45, 1.6)[int(rng.integers(2))])
    tilt = rng.choice([-1.0, 1.0]) * np.radians(rng.uniform(3.0, 5.0))
    return Look(camera_shift=_floats(_length(rng, 0.02, 0.04)), camera_tilt=float(tilt))


def shifted_surroundings(room: Surroundings, shift: str, rng: np.random.Generator) -> Surroundings:
    """Return light, table or camera outside what sample_surroundings() draws."""
    if shift == 'background':
        hue = np.array([(0.55, 0.32, 0.16), (0.16, 0.38, 0.24), (0.18, 0.26, 0.45)])
        return replace(room, table_rgb=_floats(hue[int(rng.integers(3))]))
    if shift == 'lighting':
        light, ambient = ((0.15, 0.15), (1.0, 0.55))[int(rng.integers(2))]
        x, y, z = room.light_position
        return replace(
            room, light=light, ambient=ambient, light_position=(1.1 - x, -y - 0.3, z - 0.3)
        )
    move = _length(rng, 0.02, 0.04)
    turn = _length(rng, np.radians(3.0), np.radians(5.0))
    return replace(room, camera_shift=_floats(move), camera_turn=_floats(turn))


def is_lost(position: np.ndarray) -> bool:
    """Return whether a moving target has left the table's area."""
    lower, upper = LOST
    return bool((np.asarray(position)[:2] < lower).any() or (position[:2] > upper).any())


def _objects(
    items: tuple[table.SceneObject, ...], shift: str, rng: np.random.Generator
) -> tuple[table.SceneObject, ...]:
    if shift == 'colour':
        return tuple(replace(item, rgb=_shade(COLOURS[item.colour], rng)) for item in items)
    if shift == 'position':
        return _beyond(items, rng)
    found = []
    for item in items:
        scale = _drawn(rng, (0.7, 0.8), (1.25, 1.4))
        x, y, _ = item.position
        found.append(replace(item, scale=scale, position=(x, y, scale * SHAPES[item.shape] / 2)))
    return tuple(found)


def _beyond(
    items: tuple[table.SceneObject, ...], rng: np.random.Generator
) -> tuple[table.SceneObject, ...]:
    """Return the objects in rows before or behind the area of training, apart from each other."""
    low, high = BEYOND[int(rng.integers(2))]
    while True:
        places = np.stack([rng.uniform(low, high, 3), rng.uniform(-0.2, 0.2, 3)], axis=1)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if (gaps[np.triu_indices(3, 1)] >= table.LEAST_DISTANCE).all():
            break
    return tuple(
        replace(item, position=(float(x), float(y), item.position[2]))
        for item, (x, y) in zip(items, places, strict=True)
    )


def _sized(scene: aloha.AlohaScene, rng: np.random.Generator) -> tuple[Any, ...]:
    """Return objects of another size; peg and socket keep fitting into each other."""
    found, scales = [], [_drawn(rng, (0.75, 0.85), (1.15, 1.25)) for _ in scene.objects]
    for item, scale in zip(scene.objects, scales, strict=True):
        scale = scale if item.shape == 'cube' else scales[0]
        x, y, _ = item.position
        z = scale * aloha.HEIGHT[item.shape] / 2
        found.append(replace(item, scale=scale, position=(x, y, z)))
    return tuple(found)


def _refurnished(house: House, rng: np.random.Generator) -> House:
    """Return a house with the same pieces in other sizes; all ways stay as wide at least."""
    scales = [
        (_drawn(rng, (0.75, 0.88)), _drawn(rng, (0.75, 0.85), (1.12, 1.22))) for _ in house.pieces
    ]
    pieces = zip(house.pieces, scales, strict=True)
    return replace(house, pieces=tuple(replace(piece, scale=scale) for piece, scale in pieces))


def _further_out(scene: aloha.AlohaScene, rng: np.random.Generator) -> tuple[Any, ...]:
    """Return cubes, peg and socket beyond where training puts them, still within reach."""
    found = []
    for item, side in zip(scene.objects, rng.permutation([-1.0, 0.0, 1.0]), strict=True):
        x, y, z = item.position
        if item.shape == 'cube' and scene.task == aloha.TRANSFER:
            y = float(side * rng.uniform(0.17, 0.20))
            x = float(np.sign(x) * rng.uniform(0.23, 0.25)) if side == 0.0 else x
        elif item.shape != 'cube':
            x = float(np.sign(x) * rng.uniform(0.16, 0.18))
        found.append(replace(item, position=(x, y, z)))
    return tuple(found)


def _drawn(rng: np.random.Generator, *ranges: tuple[float, float]) -> float:
    """Return a number from one of the ranges."""
    low, high = ranges[int(rng.integers(len(ranges)))]
    return float(rng.uniform(low, high))


def _shade(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Return a darker or paler shade, of the same hue."""
    colour = np.array(rgb)
    if rng.integers(2):
        return _floats(colour * rng.uniform(0.45, 0.6))
    return _floats(colour + (1 - colour) * rng.uniform(0.25, 0.4))


def _drift(position: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Return a velocity in m/s that keeps the target on the table for some seconds."""
    angle, speed = rng.uniform(-np.pi, np.pi), rng.uniform(0.02, 0.05)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    if is_lost(np.array(position[:2]) + 3.0 * velocity):
        velocity = -velocity
    return float(velocity[0]), float(velocity[1])


def _length(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Return a vector [3] in any direction, of a length between low and high."""
    direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction) * rng.uniform(low, high)


def _rng(shift: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *shift.encode()])


def _floats(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
