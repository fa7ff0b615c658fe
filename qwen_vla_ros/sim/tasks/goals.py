"""
What is asked for, in words and as a check of the world: pick, place, push, stack.

Frame base_link: x away from the robot, y to its left. A task is done when things lie still where
they should and the hand has let go (pick: while it holds the thing up).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.scene import AREA_LOWER, AREA_UPPER
from qwen_vla_ros.sim.tasks.scene import TaskScene, height_of, sample_task_scene

if TYPE_CHECKING:
    from qwen_vla_ros.sim.tasks.world import TaskWorld

PICK, PLACE, PUSH, STACK = KINDS = ('pick', 'place', 'push', 'stack')
SIDES = {
    'to the left of': (0.0, 1.0),
    'to the right of': (0.0, -1.0),
    'behind': (1.0, 0.0),
    'in front of': (-1.0, 0.0),
}
WAYS = {
    'to the left': (0.0, 1.0),
    'to the right': (0.0, -1.0),
    'away from the robot': (1.0, 0.0),
    'towards the robot': (-1.0, 0.0),
}
BESIDE_M, PUSH_M = 0.085, 0.09  # m, between centres; along the way
CLEAR_M = 0.075  # m, from other objects to where the hand goes down or pushes
TEMPLATES = {
    PICK: ('pick up the {a}', 'lift the {a}', 'take the {a}', 'raise the {a}'),
    PLACE: ('put the {a} {side} the {b}', 'place the {a} {side} the {b}',
            'set the {a} down {side} the {b}', 'move the {a} {side} the {b}'),
    PUSH: ('push the {a} {way}', 'slide the {a} {way}', 'shove the {a} {way}'),
    STACK: ('stack the {a} on the {b}', 'put the {a} on top of the {b}',
            'place the {a} on the {b}'),
}  # fmt: skip
# What must hold at the end, in m and m/s.
LIFTED_M, PLACE_M, PUSHED_M, ASIDE_M, STACK_M, LEVEL_M = 0.05, 0.03, 0.05, 0.03, 0.015, 0.006
LET_GO_M, STILL_M_S, MOVED_M = 0.045, 0.02, 0.02
HELD_ROWS = 3  # of 0.2 s; so long a task has to stay done
TASK_LIMIT_S = 24.0


@dataclass(frozen=True)
class Goal:
    """
    A task: kind of KINDS, the thing that is moved, and the sentence.

    reference of PLACE and STACK; goal x, y [2] in m of PLACE and PUSH
    """

    kind: str
    target: str
    instruction: str
    reference: str = ''
    goal: tuple[float, float] = (0.0, 0.0)


def sample_goal(scene: TaskScene, rng: np.random.Generator, kind: str = '') -> Goal:
    """Return a task that the scene has room for; without a kind any of them."""
    if kind and kind not in KINDS:
        raise QwenVlaError(f'task {kind!r}: choose from {", ".join(KINDS)}')
    places = {item.name: np.array(item.position[:2]) for item in scene.objects}
    while True:
        chosen = kind or str(rng.choice(KINDS))
        target, reference = (str(name) for name in rng.choice(scene.names, 2, replace=False))
        side, way = str(rng.choice(list(SIDES))), str(rng.choice(list(WAYS)))
        goal = {
            PLACE: places[reference] + BESIDE_M * np.array(SIDES[side]),
            PUSH: places[target] + PUSH_M * np.array(WAYS[way]),
        }.get(chosen)
        template = str(rng.choice(TEMPLATES[chosen]))
        if goal is not None and not has_room(chosen, target, goal, places):
            continue
        text = template.format(a=target, b=reference, side=side, way=way)
        named = reference if chosen in (PLACE, STACK) else ''
        where = (0.0, 0.0) if goal is None else (float(goal[0]), float(goal[1]))
        return Goal(chosen, target, text, named, where)


def goal_of_seed(seed: int, kind: str = '') -> Goal:
    """Return the task that TasksEnv draws for a seed, of a kind or of any."""
    return sample_goal(sample_task_scene(seed), np.random.default_rng(seed), kind)


def done(world: 'TaskWorld', goal: Goal, first: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a goal is reached; first are the objects' places [3] at the beginning."""
    now, speeds = world.object_positions(), world.object_speeds()
    place, before = now[goal.target], first[goal.target]
    if goal.kind == PICK:
        return bool(place[2] - before[2] >= LIFTED_M)
    if speeds[goal.target] > STILL_M_S or np.linalg.norm(world.tip_position() - place) < LET_GO_M:
        return False
    if goal.kind == STACK:
        below = now[goal.reference]
        high = (height_of(goal.target) + height_of(goal.reference)) / 2
        aside = np.linalg.norm(place[:2] - below[:2])
        return bool(aside <= STACK_M and abs(place[2] - below[2] - high) <= LEVEL_M)
    if abs(place[2] - before[2]) > LEVEL_M:
        return False
    if goal.kind == PLACE:
        still = np.linalg.norm(now[goal.reference] - first[goal.reference]) <= MOVED_M
        return bool(still and np.linalg.norm(place[:2] - goal.goal) <= PLACE_M)
    wanted = np.array(goal.goal) - before[:2]
    wanted /= np.linalg.norm(wanted)
    moved = place[:2] - before[:2]
    along = float(moved @ wanted)
    return bool(along >= PUSHED_M and np.linalg.norm(moved - along * wanted) <= ASIDE_M)


def has_room(kind: str, target: str, goal: np.ndarray, places: Mapping[str, np.ndarray]) -> bool:
    """
    Tell whether a goal [2] lies in the area, and no other object near it or on a push's way.

    places: x, y [2] of the objects by name, in m.
    """
    if (goal < np.array(AREA_LOWER)).any() or (goal > np.array(AREA_UPPER)).any():
        return False
    start = places[target]
    way = (
        np.linspace(-0.6, 1.0, 9)[:, None] * (goal - start) + start if kind == PUSH else goal[None]
    )
    others = [place for name, place in places.items() if name != target]
    return all(np.linalg.norm(way - other, axis=1).min() >= CLEAR_M for other in others)
