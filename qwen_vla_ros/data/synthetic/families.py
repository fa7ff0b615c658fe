"""
The six template families: goals in the reachable workspace -> steps of the arm, and their words.

Frame: the base on the table, x ahead, y left, z up. An object is grasped from above with up to
8 degrees of tilt; turns are seen from above, counter-clockwise positive. What a sentence says is
what was drawn: the words are made from the same numbers as the motion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.data.synthetic import wording
from qwen_vla_ros.data.synthetic.arm_model import ArmModel
from qwen_vla_ros.data.synthetic.arms import OPEN_M
from qwen_vla_ros.data.synthetic.motions import (
    FREE,
    GRIP,
    LINE,
    OUTSIDE,
    Rejected,
    Step,
)
from qwen_vla_ros.data.synthetic.turns import about_x, about_z
from qwen_vla_ros.data.synthetic.wording import Thing

ABOVE_M = 0.10  # over the grasp, before and after it
APART_M = 0.12  # between two places
AZIMUTH = np.radians(70)
TILT = np.radians(8)
GRASP_YAW = np.radians(50)


@dataclass(frozen=True)
class Task:
    """What to do, in steps and in words; goals [G, 3] in m are the places that were drawn."""

    steps: tuple[Step, ...]
    instruction: str
    goals: np.ndarray


class Table:
    """Draws places and grasps for one arm; one for each episode."""

    def __init__(self, model: ArmModel, rng: np.random.Generator) -> None:
        """Take the generator that decides everything of the episode."""
        self.model, self.rng = model, rng
        position, self._hand = model.kinematics.forward(model.home)
        self._azimuth = np.arctan2(position[1], position[0])
        self.taken: list[np.ndarray] = []

    def place(self) -> np.ndarray:
        """Return x, y [2] in m where nothing stands yet."""
        near, far = self.model.arm.reach
        for _ in range(50):
            radius = np.sqrt(self.rng.uniform(near**2, far**2))
            angle = self.rng.uniform(-AZIMUTH, AZIMUTH)
            found = self.claimed(radius * np.array([np.cos(angle), np.sin(angle)]))
            if found is not None:
                return found
        raise Rejected(OUTSIDE)

    def claimed(self, place: np.ndarray) -> np.ndarray | None:
        """Return a place and remember it, or None where it is out of reach or taken."""
        near, far = self.model.arm.reach
        inside = near <= np.linalg.norm(place) <= far
        if not inside or any(np.linalg.norm(place - other) < APART_M for other in self.taken):
            return None
        self.taken.append(place)
        return place

    def hand(self, place: np.ndarray, yaw: float | None = None) -> np.ndarray:
        """Return a rotation [3, 3] of the hand that grasps at a place; yaw against the home's."""
        azimuth = np.arctan2(place[1], place[0]) - self._azimuth
        yaw = self.rng.uniform(-GRASP_YAW, GRASP_YAW) if yaw is None else yaw
        lean = about_z(self.rng.uniform(0, 2 * np.pi))
        tilt = lean @ about_x(self.rng.uniform(0, TILT)) @ lean.T
        return tilt @ about_z(azimuth + yaw) @ self._hand


def _at(place: np.ndarray, height: float) -> np.ndarray:
    return np.array([*place, height])


def _grasp(thing: Thing, place: np.ndarray, hand: np.ndarray) -> list[Step]:
    """Return the steps that bring the hand around a thing and close it."""
    return [
        Step(FREE, f'reach for the {thing}', _at(place, thing.grasp + ABOVE_M), hand),
        Step(LINE, f'go down to the {thing}', _at(place, thing.grasp), hand),
        Step(GRIP, f'grasp the {thing}', opening=thing.width),
    ]


def _lifted(thing: Thing, place: np.ndarray, hand: np.ndarray) -> Step:
    return Step(LINE, f'lift the {thing}', _at(place, thing.grasp + ABOVE_M), hand)


def _released(thing: Thing, place: np.ndarray, hand: np.ndarray) -> list[Step]:
    """Return the steps that put a thing down, let go and back away."""
    return [
        Step(LINE, f'lower the {thing}', _at(place, thing.grasp), hand),
        Step(GRIP, f'release the {thing}', opening=OPEN_M),
        Step(LINE, 'back away', _at(place, thing.grasp + ABOVE_M), hand),
    ]


def _carried(
    thing: Thing, start: np.ndarray, end: np.ndarray, hand: np.ndarray, turned: np.ndarray
) -> list[Step]:
    """Return the steps that pick a thing up with one hand rotation and put it down with one."""
    return [
        *_grasp(thing, start, hand),
        _lifted(thing, start, hand),
        Step(FREE, f'carry the {thing}', _at(end, thing.grasp + ABOVE_M), turned),
        *_released(thing, end, turned),
    ]


def _turned(place: np.ndarray, end: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """Return the rotation of the hand after the base turned from one place to another."""
    return about_z(np.arctan2(end[1], end[0]) - np.arctan2(place[1], place[0])) @ hand


def pick_and_place(table: Table) -> Task:
    """Take a thing from one place to another, told absolutely or beside a second thing."""
    rng = table.rng
    thing, mark = wording.things(rng, 2)
    start = table.place()
    if rng.random() < 0.4:
        beside = table.place()
        side, shift = wording.side(rng)
        end = table.claimed(beside + shift)
        if end is None:
            raise Rejected(OUTSIDE)
        target = wording.beside(rng, mark, beside, side, float(np.linalg.norm(shift)))
    else:
        end = table.place()
        target = wording.to_place(rng, end)
    hand = table.hand(start)
    steps = _carried(thing, start, end, hand, _turned(start, end, hand))
    text = wording.pick_and_place(rng, thing, wording.from_place(rng, start), target)
    return Task(tuple(steps), text, np.array([_at(start, thing.grasp), _at(end, thing.grasp)]))


def _straight(table: Table) -> tuple[np.ndarray, np.ndarray, str, float]:
    """Return two places, the direction between them in words, and how far apart they are in m."""
    start = table.place()
    angle, word = wording.direction(table.rng)
    distance = float(table.rng.integers(12, 31)) / 100
    end = table.claimed(start + distance * np.array([np.cos(angle), np.sin(angle)]))
    if end is None:
        raise Rejected(OUTSIDE)
    return start, end, word, distance


def linear_push(table: Table) -> Task:
    """Push a thing straight ahead of closed fingers, which touch it from behind."""
    thing = wording.things(table.rng, 1)[0]
    start, end, word, distance = _straight(table)
    along = (end - start) / distance
    behind, last = (
        start - along * (thing.width / 2 + 0.03),
        end - along * (thing.width / 2 + 0.012),
    )
    height, hand = max(thing.grasp * 0.7, 0.02), table.hand(start)
    steps = (
        Step(GRIP, 'close the gripper', opening=0.0),
        Step(FREE, f'reach behind the {thing}', _at(behind, height + ABOVE_M), hand),
        Step(LINE, f'go down behind the {thing}', _at(behind, height), hand),
        Step(LINE, f'push the {thing} {word}', _at(last, height), hand),
        Step(LINE, 'back away', _at(last - 0.03 * along, height + ABOVE_M), hand),
    )
    text = wording.push(table.rng, thing, wording.from_place(table.rng, start), distance, word)
    return Task(steps, text, np.array([_at(start, height), _at(end, height)]))


def linear_pull(table: Table) -> Task:
    """Grasp a thing and pull it straight over the table."""
    thing = wording.things(table.rng, 1)[0]
    start, end, word, distance = _straight(table)
    if np.linalg.norm(end) > np.linalg.norm(start):  # away from the robot: that would be a push
        start, end, word = end, start, wording.opposite(word)
    hand = table.hand(start)
    steps = (
        *_grasp(thing, start, hand),
        Step(LINE, f'pull the {thing} {word}', _at(end, thing.grasp), hand),
        Step(GRIP, f'release the {thing}', opening=OPEN_M),
        Step(LINE, 'back away', _at(end, thing.grasp + ABOVE_M), hand),
    )
    text = wording.pull(table.rng, thing, wording.from_place(table.rng, start), distance, word)
    return Task(steps, text, np.array([_at(start, thing.grasp), _at(end, thing.grasp)]))


def rotate_and_move(table: Table) -> Task:
    """Carry a thing to another place and turn it by an angle on the way."""
    rng = table.rng
    thing = wording.things(rng, 1)[0]
    start, end = table.place(), table.place()
    degrees = int(rng.integers(3, 13)) * 10 * int(rng.choice([-1, 1]))
    angle = np.radians(degrees)
    # The wrist turns by what the base does not: begin half of it on the other side.
    base = np.arctan2(end[1], end[0]) - np.arctan2(start[1], start[0])
    hand = table.hand(start, -(angle - base) / 2 + rng.uniform(-0.2, 0.2))
    steps = _carried(thing, start, end, hand, about_z(angle) @ hand)
    text = wording.rotate_and_move(
        rng, thing, wording.from_place(rng, start), wording.to_place(rng, end), degrees
    )
    return Task(tuple(steps), text, np.array([_at(start, thing.grasp), _at(end, thing.grasp)]))


def rotate_to_view(table: Table) -> Task:
    """Turn a thing on the spot until its front faces a direction."""
    rng = table.rng
    thing = wording.things(rng, 1)[0]
    place = table.place()
    (before, before_word), (after, after_word) = wording.two_views(rng)
    angle = (after - before + np.pi) % (2 * np.pi) - np.pi
    hand = table.hand(place, -angle / 2 + rng.uniform(-0.2, 0.2))
    turned = about_z(angle) @ hand
    low, high = _at(place, thing.grasp), _at(place, thing.grasp + ABOVE_M / 2)
    steps = (
        *_grasp(thing, place, hand),
        Step(LINE, f'lift the {thing}', high, hand),
        Step(LINE, f'turn the {thing} to face {after_word}', high, turned),
        *_released(thing, place, turned),
    )
    text = wording.rotate_to_view(
        rng, thing, wording.from_place(rng, place), before_word, after_word
    )
    return Task(steps, text, np.array([low, low]))


def swap(table: Table) -> Task:
    """Let two things change places, by way of a third, free place."""
    rng = table.rng
    one, other = wording.things(rng, 2)
    first, second, aside = table.place(), table.place(), table.place()
    hand = table.hand(first)
    waiting = _turned(first, aside, hand)
    across = table.hand(second)
    steps = (
        *_carried(one, first, aside, hand, waiting),
        *_carried(other, second, first, across, _turned(second, first, across)),
        *_carried(one, aside, second, waiting, _turned(aside, second, waiting)),
    )
    text = wording.swap(
        rng, one, wording.from_place(rng, first), other, wording.from_place(rng, second)
    )
    return Task(steps, text, np.array([_at(first, one.grasp), _at(second, other.grasp)]))


FAMILIES: dict[str, Callable[[Table], Task]] = {
    'pick and place': pick_and_place,
    'linear push': linear_push,
    'linear pull': linear_pull,
    'rotate and move': rotate_and_move,
    'rotate to view': rotate_to_view,
    'swap': swap,
}
