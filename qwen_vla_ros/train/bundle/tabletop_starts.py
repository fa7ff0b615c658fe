"""Where an episode of the tabletop begins: anywhere on the way of a task, or beside it."""

import math

import numpy as np

from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import AREA_LOWER, AREA_UPPER
from qwen_vla_ros.sim.tasks.environment import TasksEnv
from qwen_vla_ros.sim.tasks.expert import CLOSED, OPEN, TRAVEL_M, grip_height, turn_across
from qwen_vla_ros.sim.tasks.goals import PLACE, PUSH, STACK
from qwen_vla_ros.sim.tasks.reactive import (
    GRIP_M,
    PUSH_FROM_M,
    PUSH_HEIGHT_M,
    PUSH_TO_M,
    Task,
    goal_of,
    things_of,
    turn_for_push,
)
from qwen_vla_ros.sim.tasks.scene import WIDTH, height_of
from qwen_vla_ros.train.demonstrations import start_posture

OWN, ANYWHERE, NEAR = 0.25, 0.45, 0.7  # shares added up: the scene's posture, ..., the rest holds
FREE_M = 0.07  # a low hand's least distance from things


def put_somewhere(env: TasksEnv, task: Task, rng: np.random.Generator) -> None:
    """Put the arm where a way to do a task may begin, or be half done; things it holds too."""
    draw = rng.random()
    if draw < OWN:
        return
    if draw < ANYWHERE:
        _anywhere(env, rng)
    elif draw < NEAR:
        _behind(env, task, rng) if task.kind == PUSH else _over(env, task, rng)
    elif task.kind == PUSH:
        _behind(env, task, rng)
    else:
        _holding(env, task, rng)


def _anywhere(env: TasksEnv, rng: np.random.Generator) -> None:
    """Put the hand somewhere over the table, with any turn and opening, clear of things."""
    places = np.array([place[:2] for place in env.world.object_positions().values()])
    while True:
        posture = start_posture(rng, np.array(env.world.scene.posture))
        tip = arm.forward(posture)[0]
        if tip[2] > 0.09 or np.linalg.norm(places - tip[:2], axis=1).min() > FREE_M:
            break
    if rng.random() < 0.5:
        posture[5] += rng.uniform(-1.2, 1.2)
    posture[6] = rng.choice([CLOSED, OPEN, rng.uniform(arm.LOWER[6], arm.UPPER[6])])
    env.place_arm(posture)


def _over(env: TasksEnv, task: Task, rng: np.random.Generator) -> None:
    """Put the hand over the target, ready to grip it or not."""
    thing = things_of(env.world)[task.target]
    x, y = rng.normal(thing[:2], 0.01)
    turn = turn_across((x, y), thing.yaw) + rng.normal(0, 0.15)
    z = rng.uniform(0.055, TRAVEL_M)
    finger = rng.choice([OPEN, OPEN, OPEN, CLOSED])
    if rng.random() < 0.3:
        x, y, z = *thing[:2], grip_height(thing.name) + rng.uniform(0, 0.01)
        turn, finger = turn_across((x, y), thing.yaw), OPEN
    env.place_arm(posture_at((x, y, z), turn, finger))


def _behind(env: TasksEnv, task: Task, rng: np.random.Generator) -> None:
    """Put the hand behind a thing that is to be pushed, the fingers as far as that push came."""
    thing, (way_x, way_y) = things_of(env.world)[task.target], task.way
    finger = rng.uniform(PUSH_TO_M, PUSH_FROM_M)
    along, aside = -rng.uniform(WIDTH * 0.71 + finger, 0.1), rng.normal(0, 0.005)
    x = thing.x + along * way_x - aside * way_y
    y = thing.y + along * way_y + aside * way_x
    z = PUSH_HEIGHT_M + (0 if rng.random() < 0.8 else rng.uniform(0, 0.08))
    turn = turn_for_push((x, y), task.way) + rng.normal(0, 0.05)
    env.place_arm(posture_at((x, y, z), turn, finger))


def _holding(env: TasksEnv, task: Task, rng: np.random.Generator) -> None:
    """Put the target between the fingers, somewhere over the table or near where it shall be."""
    things = things_of(env.world)
    thing = things[task.target]
    others = np.array([other[:2] for name, other in things.items() if name != task.target])
    if task.kind in (PLACE, STACK) and rng.random() < 0.6:
        goal = goal_of(task, things[task.reference])
        away = rng.normal(0, 0.012, 2) if rng.random() < 0.6 else np.zeros(2)
        place = np.array(goal[:2]) + away
        height = goal[2] + rng.uniform(0.003, 0.1) + min(3 * float(np.linalg.norm(away)), 0.06)
    else:
        while True:
            place = rng.uniform(AREA_LOWER, AREA_UPPER)
            height = height_of(thing.name) / 2 + rng.uniform(0.0, 0.15)
            if height > 0.09 or np.linalg.norm(others - place, axis=1).min() > FREE_M:
                break
    turn = rng.uniform(-0.8, 0.8)
    tip = (*place, height - height_of(thing.name) / 2 + grip_height(thing.name))
    if not arm.reachable(np.array(tip)):
        return
    yaw = math.atan2(tip[1], tip[0]) + math.pi / 2 - turn
    env.place_arm(posture_at(tip, turn, GRIP_M))
    env.world.place_object(thing.name, (*place, height), yaw)
    env.world.set_targets(posture_at(tip, turn, CLOSED))
    env.world.step(0.1)


def posture_at(tip: tuple[float, ...], turn: float, finger: float) -> np.ndarray:
    """Return the joints [7] with the tip at a place [3], the hand straight down."""
    joints = arm.inverse(np.array(tip), arm.STRAIGHT_DOWN)
    joints[5] += turn
    return np.clip([*joints, finger], arm.LOWER, arm.UPPER)
