"""Which tasks a picture of the tabletop allows, and their sentences."""

from collections.abc import Mapping

import numpy as np

from qwen_vla_ros.sim.scene import AREA_LOWER, AREA_UPPER
from qwen_vla_ros.sim.tasks.goals import (
    PICK,
    PLACE,
    PUSH,
    PUSH_M,
    SIDES,
    STACK,
    TEMPLATES,
    WAYS,
    has_room,
)
from qwen_vla_ros.sim.tasks.reactive import Hand, Task, Thing, goal_of, gripped
from qwen_vla_ros.sim.tasks.scene import WIDTH, height_of
from qwen_vla_ros.sim.tasks.world import TaskWorld

BEYOND_M = 0.03  # outside the area, where things may still be reached
MOVES_M_S = 0.1  # a thing that is not held and moves faster falls or rolls


def hand_of(world: TaskWorld) -> Hand:
    """Return where the hand is."""
    joints = world.positions()
    return Hand(*map(float, world.tip_position()), float(joints[5]), float(joints[6]))


def possible_tasks(world: TaskWorld, things: Mapping[str, Thing]) -> list[Task]:
    """
    Return what can be asked for now; nothing while a thing lies on its side or falls.

    While something is in the hand only what is done with it: else it would be dropped.
    """
    hand, speeds = hand_of(world), world.object_speeds()
    held = [name for name, thing in things.items() if gripped(hand, thing)]
    for name in things:
        if name in held:
            continue
        if not world.object_upright(name) or speeds[name] > MOVES_M_S:
            return []
    found = []
    for thing in things.values():
        if held and thing.name not in held:
            continue
        if not _inside(thing) or any(_on(other, thing) for other in things.values()):
            continue
        found.append(Task(PICK, thing.name))
        found += _moves(thing, things)
        if not held and _on_table(thing):
            found += _pushes(thing, things)
    return found


def drawn(tasks: list[Task], rng: np.random.Generator) -> Task | None:
    """Return one of some tasks, each kind of them as likely as another; None out of none."""
    if not tasks:
        return None
    kind = rng.choice(sorted({task.kind for task in tasks}))
    tasks = [task for task in tasks if task.kind == kind]
    return tasks[int(rng.integers(len(tasks)))]


def sentence_of(task: Task, rng: np.random.Generator) -> str:
    """Return one of the templates' sentences."""
    template = str(rng.choice(TEMPLATES[task.kind]))
    words = {
        'side': next((name for name, where in SIDES.items() if where == task.way), ''),
        'way': next((name for name, where in WAYS.items() if where == task.way), ''),
    }
    return template.format(a=task.target, b=task.reference, **words)


def _moves(thing: Thing, things: Mapping[str, Thing]) -> list[Task]:
    """Return what can be done with a thing and another that stands on the table."""
    places = {name: np.array(other[:2]) for name, other in things.items()}
    found = []
    for other in things.values():
        if other.name == thing.name or not _on_table(other) or not _inside(other):
            continue
        if all(third.name == thing.name or not _on(third, other) for third in things.values()):
            found.append(Task(STACK, thing.name, other.name))
        for way in SIDES.values():
            task = Task(PLACE, thing.name, other.name, way)
            if has_room(PLACE, thing.name, np.array(goal_of(task, other)[:2]), places):
                found.append(task)
    return found


def _pushes(thing: Thing, things: Mapping[str, Thing]) -> list[Task]:
    places = {name: np.array(other[:2]) for name, other in things.items()}
    return [
        Task(PUSH, thing.name, way=way)
        for way in WAYS.values()
        if has_room(PUSH, thing.name, places[thing.name] + PUSH_M * np.array(way), places)
    ]


def _inside(thing: Thing) -> bool:
    place = np.array(thing[:2])
    low, high = np.array(AREA_LOWER) - BEYOND_M, np.array(AREA_UPPER) + BEYOND_M
    return bool((place >= low).all() and (place <= high).all())


def _on_table(thing: Thing) -> bool:
    return abs(thing.z - height_of(thing.name) / 2) < 0.006


def _on(upper: Thing, lower: Thing) -> bool:
    """Tell whether a thing is over another."""
    aside = np.hypot(upper.x - lower.x, upper.y - lower.y)
    return upper.z > lower.z + 0.02 and aside < WIDTH and upper.z < lower.z + 0.05
