"""
The grammar of the synthetic sets: verbs, prepositions, things and places -> one sentence.

Frame: the robot's base, x ahead, y left; metres in, centimetres in words. A place is told by its
coordinates, or by them and its part of the table; what is said is exact to the centimetre.
"""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.tasks.goals import SIDES

COLOURS = ('red', 'green', 'blue', 'yellow', 'white', 'black', 'orange', 'purple', 'grey', 'pink')
# noun -> width that the fingers hold and height at which they hold it, in m
NOUNS = {
    'block': (0.045, 0.022), 'cup': (0.070, 0.060), 'mug': (0.075, 0.055), 'can': (0.066, 0.070),
    'bottle': (0.062, 0.100), 'box': (0.060, 0.040), 'sponge': (0.065, 0.018),
    'marker': (0.016, 0.012), 'screwdriver': (0.025, 0.015), 'spoon': (0.015, 0.012),
    'apple': (0.072, 0.040), 'lemon': (0.055, 0.030), 'toy car': (0.035, 0.020),
    'tape roll': (0.030, 0.025), 'battery': (0.020, 0.018), 'jar': (0.068, 0.055),
    'stapler': (0.038, 0.030), 'remote': (0.045, 0.015), 'candle': (0.050, 0.045),
    'pepper mill': (0.055, 0.090),
}  # fmt: skip
# Eight directions, counter-clockwise from straight ahead, 45 degrees apart.
DIRECTIONS = (
    'away from the robot', 'ahead and to the left', 'to the left', 'back and to the left',
    'towards the robot', 'back and to the right', 'to the right', 'ahead and to the right',
)  # fmt: skip
VIEWS = {
    0.0: ('the far side', 'away from the robot'),
    np.pi / 2: ('the left', 'the left side of the table'),
    np.pi: ('the robot', 'back to the base'),
    -np.pi / 2: ('the right', 'the right side of the table'),
    np.pi / 4: ('the far left corner',),
    -np.pi / 4: ('the far right corner',),
    3 * np.pi / 4: ('the near left corner',),
    -3 * np.pi / 4: ('the near right corner',),
}


@dataclass(frozen=True)
class Thing:
    """A noun with its colour; width m between the fingers, grasp m over the table."""

    colour: str
    noun: str
    width: float
    grasp: float

    def __str__(self) -> str:
        return f'{self.colour} {self.noun}'


def things(rng: np.random.Generator, count: int) -> list[Thing]:
    """Return things of which no two share colour or noun; all fit into the gripper."""
    colours = rng.choice(len(COLOURS), count, replace=False)
    nouns = list(NOUNS)
    picked = rng.choice(len(nouns), count, replace=False)
    return [
        Thing(COLOURS[colour], nouns[noun], *NOUNS[nouns[noun]])
        for colour, noun in zip(colours, picked, strict=True)
    ]


def side(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Return a preposition and the way [2] in m from the thing that it names to the place."""
    word = _one(rng, *SIDES)
    return word, np.array(SIDES[word]) * int(rng.integers(13, 26)) / 100


def direction(rng: np.random.Generator) -> tuple[float, str]:
    """Return one of eight directions: its angle in rad from straight ahead, and its words."""
    number = int(rng.integers(8))
    return number * np.pi / 4, DIRECTIONS[number]


def opposite(word: str) -> str:
    """Return the words for the direction opposite to one of direction()."""
    return DIRECTIONS[(DIRECTIONS.index(word) + 4) % 8]


def two_views(rng: np.random.Generator) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return two directions, as angle in rad and words, at most 135 degrees apart."""
    angles = np.array(list(VIEWS))
    while True:
        before, after = rng.choice(angles, 2, replace=False)
        if abs((after - before + np.pi) % (2 * np.pi) - np.pi) < np.pi - 0.1:
            said = [_one(rng, *VIEWS[float(angle)]) for angle in (before, after)]
            return (float(before), said[0]), (float(after), said[1])


def coordinates(place: np.ndarray) -> str:
    """Return 'N cm ahead and M cm to the left' of a place [2] in m."""
    ahead, left = (round(100 * float(value)) for value in place)
    way = f'{ahead} cm ahead' if ahead >= 0 else f'{-ahead} cm behind the base'
    if left == 0:
        return f'{way} in the middle'
    return f'{way} and {abs(left)} cm to the {"left" if left > 0 else "right"}'


def from_place(rng: np.random.Generator, place: np.ndarray) -> str:
    """Return where a thing is."""
    return _one(rng, '{}', 'that stands {}', 'at {}', 'lying {}').format(coordinates(place))


def to_place(rng: np.random.Generator, place: np.ndarray) -> str:
    """Return where a thing shall go, after 'to' or 'at'."""
    return _one(rng, 'the place {}', 'the spot {}', 'a point {}').format(coordinates(place))


def beside(
    rng: np.random.Generator, mark: Thing, place: np.ndarray, word: str, distance: float
) -> str:
    """Return a target told beside another thing."""
    where = from_place(rng, place)
    return f'a point {round(100 * distance)} cm {word} the {mark} {where}'


def pick_and_place(rng: np.random.Generator, thing: Thing, where: str, target: str) -> str:
    """Return a sentence of its family."""
    pick = _one(rng, 'pick up', 'take', 'grasp', 'grab')
    put = _one(rng, 'put it', 'place it', 'set it down', 'leave it')
    return f'{pick} the {thing} {where} and {put} at {target}'


def push(rng: np.random.Generator, thing: Thing, where: str, distance: float, word: str) -> str:
    """Return a sentence of its family."""
    verb = _one(rng, 'push', 'shove', 'nudge', 'slide')
    return f'{verb} the {thing} {where} by {round(100 * distance)} cm {word}'


def pull(rng: np.random.Generator, thing: Thing, where: str, distance: float, word: str) -> str:
    """Return a sentence of its family."""
    verb = _one(rng, 'pull', 'drag', 'draw')
    return f'{verb} the {thing} {where} by {round(100 * distance)} cm {word}'


def rotate_and_move(
    rng: np.random.Generator, thing: Thing, where: str, target: str, degrees: int
) -> str:
    """Return a sentence of its family."""
    sense = 'counter-clockwise' if degrees > 0 else 'clockwise'
    move = _one(rng, 'move', 'bring', 'carry')
    turn = _one(rng, 'turning it', 'rotating it', 'while you turn it', 'with a turn of')
    return f'{move} the {thing} {where} to {target}, {turn} {abs(degrees)} degrees {sense}'


def rotate_to_view(
    rng: np.random.Generator, thing: Thing, where: str, before: str, after: str
) -> str:
    """Return a sentence of its family."""
    verb = _one(rng, 'turn', 'rotate', 'spin')
    until = _one(rng, 'until it faces', 'so that it looks at', 'to face')
    return f'{verb} the {thing} {where}, which faces {before}, {until} {after}'


def swap(rng: np.random.Generator, one: Thing, here: str, other: Thing, there: str) -> str:
    """Return a sentence of its family."""
    verb = _one(rng, 'swap', 'exchange', 'switch the places of')
    return f'{verb} the {one} {here} and the {other} {there}'


def _one(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]
