"""
What lies on ALOHA's table, and what both arms shall do with it: a seed and a task give a scene.

Tasks: 'transfer', one arm picks the named one of three cubes and hands it to the other arm;
'insertion', the right arm brings the named peg into the socket that the left arm holds. Seeds from
1,000,000 on are for training, as on the WidowX's table. Frame table, SI units.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.vx300s import HandPose, joints_for
from qwen_vla_ros.sim.scene import COLOURS, Surroundings, parse_target, sample_surroundings

TRANSFER, INSERTION = TASKS = ('transfer', 'insertion')
LEAST_DISTANCE = 0.12  # m, between centres: an open gripper fits around each cube
START_FINGER = 0.045  # m
CAMERA_SHAKE = 0.3  # share of what the WidowX's camera is shaken
HEIGHT = {'cube': mjcf.CUBE, 'peg': mjcf.PEG[2], 'socket': mjcf.SOCKET_OUTSIDE}
SIDES_IN_WORDS = re.compile(r'\b(left|right) arm\b')
_SENTENCES = {
    TRANSFER: (
        'pick up the {target} with the {giver} arm and hand it to the {taker} arm',
        'hand the {target} over from the {giver} arm to the {taker} arm',
        'transfer the {target} to the {taker} arm',
    ),
    INSERTION: (
        'insert the {target} into the {socket}',
        'put the {target} into the {socket}',
        'pick up the {target} and the {socket} and put them together',
    ),
}


@dataclass(frozen=True)
class AlohaObject:
    """
    One object: the body of the model, its colour, its centre in table (m), its yaw in rad.

    rgb: a shade in the place of its colour's own; scale: of all its lengths.
    """

    body: str
    colour: str
    position: tuple[float, float, float]
    yaw: float
    rgb: tuple[float, float, float] | None = None
    scale: float = 1.0

    @property
    def shape(self) -> str:
        """Return cube, peg or socket."""
        return self.body.rstrip('0123456789')

    @property
    def name(self) -> str:
        """Return colour and shape, unique in a scene."""
        return f'{self.colour} {self.shape}'


@dataclass(frozen=True)
class AlohaScene:
    """A seeded table; giver is the side that lifts the target, posture [14] the first one."""

    seed: int
    task: str
    objects: tuple[AlohaObject, ...]
    target: str
    giver: str
    surroundings: Surroundings
    posture: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the objects' names."""
        return tuple(item.name for item in self.objects)

    @property
    def taker(self) -> str:
        """Return the other side."""
        return other(self.giver)

    def named(self, name: str) -> AlohaObject:
        """Return the object of that name; QwenVlaError lists the names there are."""
        for item in self.objects:
            if item.name == name:
                return item
        raise QwenVlaError(f'scene {self.seed}: no object {name!r}; it holds {list(self.names)}')


def other(side: str) -> str:
    """Return the side that is not this one."""
    return 'right' if side == 'left' else 'left'


def sample_scene(seed: int, task: str = TRANSFER) -> AlohaScene:
    """Return the scene of a seed (any integer >= 0) and a task, always the same one."""
    if seed < 0:
        raise QwenVlaError(f'scene seed {seed}: choose an integer from 0 on')
    if task not in TASKS:
        raise QwenVlaError(f'ALOHA: no task {task!r}; choose from {list(TASKS)}')
    rng = np.random.default_rng([seed, TASKS.index(task), 14])
    colours = [str(colour) for colour in rng.choice(list(COLOURS), 3, replace=False)]
    giver = vx300s.SIDES[int(rng.integers(2))] if task == TRANSFER else 'right'
    objects = _cubes(rng, colours, giver) if task == TRANSFER else _peg_and_socket(rng, colours)
    return AlohaScene(
        seed, task, objects, objects[0].name, giver, _calibrated(rng), _sample_posture(rng)
    )


def instruction_for(scene: AlohaScene, target: str, rng: np.random.Generator | None = None) -> str:
    """Return a sentence that names the target; without rng the first template."""
    sentences = _SENTENCES[scene.task]
    index = 0 if rng is None else int(rng.integers(len(sentences)))
    socket = next((item.name for item in scene.objects if item.shape == 'socket'), '')
    words = {'target': target, 'giver': scene.giver, 'taker': scene.taker, 'socket': socket}
    return sentences[index].format(**words)


def parse_task(instruction: str) -> str | None:
    """Return which task a sentence is about: a peg is inserted, a cube handed over, else None."""
    words = set(re.findall(r'[a-z]+', instruction.lower()))
    if 'peg' in words:
        return INSERTION
    return TRANSFER if 'cube' in words else None


def target_in(scene: AlohaScene, instruction: str) -> str | None:
    """Return the cube or peg that a sentence names, else None."""
    wanted = 'peg' if scene.task == INSERTION else 'cube'
    return parse_target(instruction, [o.name for o in scene.objects if o.shape == wanted])


def _calibrated(rng: np.random.Generator) -> Surroundings:
    """Return a room; the camera of a cell with two arms is shaken less than a tripod."""
    room = sample_surroundings(rng)
    turn = tuple(CAMERA_SHAKE * angle for angle in room.camera_turn)
    shift = tuple(CAMERA_SHAKE * length for length in room.camera_shift)
    return replace(room, camera_turn=turn, camera_shift=shift)


def _cubes(rng: np.random.Generator, colours: list[str], giver: str) -> tuple[AlohaObject, ...]:
    """Return three cubes within the giver's reach; the first is the one to be handed over."""
    sign = -1.0 if giver == 'left' else 1.0
    while True:
        places = rng.uniform((0.03, -0.16), (0.22, 0.16), (3, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if (gaps[np.triu_indices(3, 1)] >= LEAST_DISTANCE).all():
            break
    return tuple(
        AlohaObject(
            f'cube{i}',
            colour,
            (sign * float(x), float(y), mjcf.CUBE / 2),
            float(rng.uniform(-np.pi / 4, np.pi / 4)),
        )
        for i, (colour, (x, y)) in enumerate(zip(colours, places, strict=True))
    )


def _peg_and_socket(rng: np.random.Generator, colours: list[str]) -> tuple[AlohaObject, ...]:
    """Return a peg on the right, a socket on the left, and a cube behind or before them."""
    peg, socket = rng.uniform((0.08, -0.08), (0.15, 0.08), (2, 2))
    cube = rng.uniform((-0.2, 0.19), (0.2, 0.22)) * [1.0, rng.choice([-1.0, 1.0])]
    places = {'peg': peg, 'socket': socket * [-1.0, 1.0], 'cube0': cube}
    turns = rng.uniform(-0.35, 0.35, 3)
    return tuple(
        AlohaObject(
            body,
            colour,
            (float(place[0]), float(place[1]), HEIGHT[body.rstrip('0')] / 2),
            float(turn),
        )
        for (body, place), colour, turn in zip(places.items(), colours, turns, strict=True)
    )


def _sample_posture(rng: np.random.Generator) -> tuple[float, ...]:
    """Return the first posture q [14]: both hands before their bases, out of the camera's way."""
    q: list[float] = []
    for side, sign in (('left', -1.0), ('right', 1.0)):
        x, y, z = rng.uniform((0.23, -0.03, 0.26), (0.27, 0.03, 0.30))
        place = (sign * float(x), float(y), float(z))
        yaw = np.arctan2(-sign * y, vx300s.BASE_X - x)
        pitch = rng.uniform(0.2, 0.4)
        q += [*joints_for(side, HandPose(place, float(yaw), float(pitch))), START_FINGER]
    return tuple(float(value) for value in q)
