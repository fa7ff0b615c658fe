"""
The teacher without a memory: from any state of arm and objects, what to do next.

chunk() rolls its own decisions forward: one row, 0.2 s, at a time, each decided from where tip,
wrist, fingers and objects are. So the answer is a function of what pictures and joints show, and
asking again on the way goes on with the same motion. Frame base_link, SI units, hand downwards.

  not held     over it with open fingers, down when above it and turned right, close around it
  held         pick: up; place, stack: over the goal, down, open when it stands there
  where it should be, and not held (place, stack): open, up, wait

How far a push has come cannot be seen: nothing marks where the thing was. The fingers carry it:
they close a little with every step of a push, from PUSH_FROM_M to PUSH_TO_M on PUSH_WAY_M of the
tip's way, then the hand draws back and up. High up they open again: a push that was not the last
one is followed by another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import STEP_S
from qwen_vla_ros.sim.expert import SETTLE_S, joints_of, within_limits
from qwen_vla_ros.sim.tasks.expert import (
    BEHIND_M,
    CLOSED,
    OPEN,
    SLOW,
    SPEED,
    TRAVEL_M,
    TURN_RAD_S,
    grip_height,
    turn_across,
)
from qwen_vla_ros.sim.tasks.goals import BESIDE_M, PICK, PLACE, PUSH, STACK, Goal
from qwen_vla_ros.sim.tasks.scene import WIDTH, height_of
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.sim.tasks.environment import TasksEnv
    from qwen_vla_ros.sim.tasks.world import TaskWorld

GRIP_M = 0.0293  # the left finger around an object
GRIPPED = (0.024, 0.0325)  # it holds something
PUSH_FROM_M, PUSH_TO_M, PUSH_WAY_M = 0.031, 0.016, 0.155
PUSH_HEIGHT_M, LOW_M = 0.02, 0.037
BACK_M = 0.058  # the tip's distance from a pushed object's centre before it goes up
PAD_FACE_M = -0.003  # a pad's outer face from its finger
LET_GO_AT_M = {PLACE: 0.008, STACK: 0.005}  # from the goal, with the thing between the fingers
STANDS_AT_M = {PLACE: 0.022, STACK: 0.012}  # from the goal, let go
FUNNEL_M = {PICK: 0.010, PUSH: 0.020, PLACE: 0.020, STACK: 0.012}  # how wide the ways down are
CLEAR_M = 0.08  # the tip rises so far over what it let go
_MOST, _UP, _DOWN, _PUSH = SPEED * STEP_S, SPEED * STEP_S, 1.6 * SLOW * STEP_S, SLOW * STEP_S
_TURN = TURN_RAD_S * STEP_S


class Hand(NamedTuple):
    """Where the hand is or shall be: tip in m, wrist_rotate in rad, left_finger in m."""

    x: float
    y: float
    z: float
    turn: float
    finger: float


class Thing(NamedTuple):
    """An object: its centre in m, its yaw in rad, its name (colour and shape)."""

    x: float
    y: float
    z: float
    yaw: float
    name: str


@dataclass(frozen=True)
class Task:
    """What is asked for: kind of goals.KINDS; way: PUSH's, or PLACE's side of the reference."""

    kind: str
    target: str
    reference: str = ''
    way: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, goal: Goal, places: Mapping[str, np.ndarray]) -> 'Task':
        """Return a goal's task; places are the objects' [3] when it was drawn."""
        way = (0.0, 0.0)
        if goal.kind in (PLACE, PUSH):
            from_ = places[goal.reference if goal.kind == PLACE else goal.target]
            along = np.array(goal.goal) - from_[:2]
            along = np.round(along / np.linalg.norm(along))
            way = (float(along[0]), float(along[1]))
        return cls(goal.kind, goal.target, goal.reference, way)


def chunk(q: np.ndarray, things: Mapping[str, Thing], task: Task, horizon: int = 16) -> np.ndarray:
    """
    Return the joints float64 [horizon, 7], 0.2 s apart, that go on with a task from q [7].

    Row 0 is q. What differs from a hand straight down fades away.
    """
    q = np.asarray(q, np.float64)
    tip = arm.forward(q)[0]
    hand = Hand(*map(float, tip), float(q[5]), float(q[6]))
    thing, reference = things[task.target], things.get(task.reference)
    hands = [hand]
    for _ in range(horizon - 1):
        wanted = command(hand, thing, task, reference)
        hand, thing = _response(hand, wanted, thing, task)
        hands.append(wanted)
    ways = np.array(hands)
    decay = np.exp(-np.arange(horizon) * STEP_S / SETTLE_S)
    pitch = arm.STRAIGHT_DOWN + (arm.pitch_of(q) - arm.STRAIGHT_DOWN) * decay
    joints = arm.inverse(ways[:, :3], pitch)
    joints[:, 5] += ways[:, 3]
    joints += (q[:6] - joints[0]) * decay[:, None]
    return within_limits(np.concatenate([joints, ways[:, 4:]], 1), STEP_S)


def command(hand: Hand, thing: Thing, task: Task, reference: Thing | None = None) -> Hand:
    """Return where the hand shall be 0.2 s later."""
    if task.kind == PUSH:
        return _push(hand, thing, task.way)
    held = gripped(hand, thing)
    if task.kind == PICK:
        if held:
            return hand._replace(z=hand.z + min(_UP, max(TRAVEL_M - hand.z, 0.0)), finger=CLOSED)
        return _grasp(hand, thing)
    goal = goal_of(task, reference)
    off, high = math.dist(thing[:2], goal[:2]), abs(thing.z - goal[2])
    if held:
        if off < LET_GO_AT_M[task.kind] and high < 0.006:
            return hand._replace(finger=OPEN)
        return _carry(hand, thing, goal, task.kind)
    if off < STANDS_AT_M[task.kind] and high < 0.006:
        if hand.finger < 0.034 and _around(hand, thing, 0.012, 0.015, 0.018):
            return hand._replace(finger=OPEN)
        top = max(goal[2] + CLEAR_M, hand.z)
        return hand._replace(z=hand.z + min(_UP, top - hand.z), finger=OPEN)
    return _grasp(hand, thing)


def goal_of(task: Task, reference: Thing) -> tuple[float, float, float]:
    """Return where the target's centre shall be: beside the reference, or on it."""
    if task.kind == STACK:
        top = reference.z + height_of(reference.name) / 2
        return reference.x, reference.y, top + height_of(task.target) / 2
    beside = (reference.x + BESIDE_M * task.way[0], reference.y + BESIDE_M * task.way[1])
    return (*beside, height_of(task.target) / 2)


def gripped(hand: Hand, thing: Thing) -> bool:
    """Tell whether a thing is between closed fingers."""
    least, most = GRIPPED
    return least < hand.finger < most and _around(hand, thing, 0.012, 0.015, 0.018)


def _around(hand: Hand, thing: Thing, across: float, beside: float, high: float) -> bool:
    """Tell whether a thing is where the fingers grip: nearer than this along their way, ..."""
    way = math.atan2(hand.y, hand.x) + math.pi / 2 - hand.turn
    dx, dy = thing.x - hand.x, thing.y - hand.y
    along = dx * math.cos(way) + dy * math.sin(way)
    aside = dy * math.cos(way) - dx * math.sin(way)
    up = hand.z - _grip_z(thing)
    return abs(along) < across and abs(aside) < beside and abs(up) < high


def _grip_z(thing: Thing) -> float:
    """Return the tip's height around a thing."""
    return thing.z - height_of(thing.name) / 2 + grip_height(thing.name)


def _grasp(hand: Hand, thing: Thing) -> Hand:
    """Go over the thing with open fingers, down, and close around it."""
    if hand.finger > GRIPPED[0] and _around(hand, thing, 0.006, 0.008, 0.006):
        return hand._replace(finger=CLOSED)
    if thing.name.endswith('can'):
        turn, crooked = 0.0, 0.0
    else:
        near = min(max(hand.turn, -1.0), 1.0)
        turn = turn_across(thing[:2], thing.yaw, near=near)
        crooked = 0.03 * max(abs(turn - hand.turn) - 0.05, 0.0)
    closed = 0.02 if hand.finger < 0.034 else 0.0
    bottom = _grip_z(thing)
    return _funnel(hand, thing[:2], bottom, PICK, turn, OPEN, crooked + closed)


def _carry(hand: Hand, thing: Thing, goal: tuple[float, float, float], kind: str) -> Hand:
    """Bring a held thing over its goal and down."""
    place = (goal[0] + hand.x - thing.x, goal[1] + hand.y - thing.y)
    bottom = goal[2] + hand.z - thing.z + 0.002
    under = goal[2] - height_of(thing.name) / 2
    return _funnel(hand, place, bottom, kind, hand.turn, CLOSED, top=TRAVEL_M + under)


def _push(hand: Hand, thing: Thing, way: tuple[float, float]) -> Hand:
    """Go down behind the thing, push it straight while the fingers close, draw back."""
    dx, dy = hand.x - thing.x, hand.y - thing.y
    along, aside = dx * way[0] + dy * way[1], dy * way[0] - dx * way[1]
    if hand.z > LOW_M or not -0.11 < along < -0.008 or abs(aside) > 0.016:
        place = (
            thing.x - way[0] * (WIDTH / 2 + BEHIND_M),
            thing.y - way[1] * (WIDTH / 2 + BEHIND_M),
        )
        turn = turn_for_push(place, way)
        crooked = 0.02 * max(abs(turn - hand.turn) - 0.1, 0.0)
        wrong = 0.02 if abs(hand.finger - PUSH_FROM_M) > 0.002 else 0.0
        return _funnel(hand, place, PUSH_HEIGHT_M, PUSH, turn, PUSH_FROM_M, crooked + wrong)
    turn = hand.turn + _bounded(turn_for_push(hand[:2], way) - hand.turn, _TURN)
    if hand.finger > PUSH_TO_M + 0.0005:
        steer = -_bounded(0.5 * aside, 0.004)
        x, y = (hand.x + way[0] * _PUSH - way[1] * steer, hand.y + way[1] * _PUSH + way[0] * steer)
        z = hand.z + _bounded(PUSH_HEIGHT_M - hand.z, 0.01)
        closer = (PUSH_FROM_M - PUSH_TO_M) * _PUSH / PUSH_WAY_M
        return Hand(x, y, z, turn, max(min(hand.finger, PUSH_FROM_M) - closer, CLOSED))
    if along > -BACK_M:
        return Hand(hand.x - way[0] * _PUSH, hand.y - way[1] * _PUSH, hand.z, turn, CLOSED)
    return Hand(hand.x, hand.y, hand.z + _UP, turn, CLOSED)


def turn_for_push(place: Sequence[float], way: tuple[float, float]) -> float:
    """Return the wrist's turn over a place [2] with a finger's flat side along a push's way."""
    return math.atan2(place[1], place[0]) + (math.pi / 2 if way[0] else 0.0)


def _funnel(
    hand: Hand,
    place: tuple[float, float],
    bottom: float,
    kind: str,
    turn: float,
    finger: float,
    wrong: float = 0.0,
    top: float = TRAVEL_M,
) -> Hand:
    """
    Return a step over a place [2] and down to bottom, up first where the tip is low beside it.

    wrong: m of distance to add, for a hand that is not ready to go down
    """
    dx, dy = place[0] - hand.x, place[1] - hand.y
    distance = math.hypot(dx, dy)
    slack = max(distance + wrong - 0.003, 0.0) / FUNNEL_M[kind]
    below = bottom + (top - bottom) * (1.0 - math.exp(-slack * slack)) - hand.z
    free = 1.0 / (1.0 + math.exp(min((below - 0.03) / 0.008, 30.0)))
    pace = min(_MOST, max(0.5 * distance, 0.004), distance) * free
    share = pace / max(distance, 1e-9)
    up = max(-_DOWN, min(_UP, 0.7 * below if abs(below) > 0.004 else below))
    turned = hand.turn + _bounded(turn - hand.turn, _TURN)
    return Hand(hand.x + share * dx, hand.y + share * dy, hand.z + up, turned, finger)


def _bounded(value: float, most: float) -> float:
    return max(-most, min(most, value))


def _response(hand: Hand, wanted: Hand, thing: Thing, task: Task) -> tuple[Hand, Thing]:
    """Return hand and thing 0.2 s later: what is held comes along, what is pushed gives way."""
    held = gripped(hand, thing)
    if held and wanted.finger < GRIP_M:
        moved = (thing.x + wanted.x - hand.x, thing.y + wanted.y - hand.y)
        thing = thing._replace(x=moved[0], y=moved[1], z=thing.z + wanted.z - hand.z)
        return wanted._replace(finger=hand.finger), thing
    if wanted.finger < GRIP_M and _around(wanted, thing, 0.012, 0.015, 0.018):
        return wanted._replace(finger=GRIP_M), thing
    if task.kind == PUSH and wanted.z < LOW_M:
        thing = _pushed(wanted, thing, task.way)
    return wanted, thing


def _pushed(hand: Hand, thing: Thing, way: tuple[float, float]) -> Thing:
    """Return the thing before the hand's pads."""
    ahead = (thing.x - hand.x) * way[0] + (thing.y - hand.y) * way[1]
    short = hand.finger + PAD_FACE_M + WIDTH / 2 - ahead
    if ahead < 0 or short < 0:
        return thing
    return thing._replace(x=thing.x + short * way[0], y=thing.y + short * way[1])


class ReactivePolicy:
    """The teacher as a policy of an environment, whose true state it is told."""

    def __init__(self, env: 'TasksEnv', horizon: int = 16) -> None:
        """Take the environment; its present goal is what is done."""
        self._env, self._horizon = env, horizon

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return who this is."""
        return {'checkpoint': 'reactive teacher'}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return how to go on with the task from the observed joints."""
        task = Task.of(self._env.goal, self._env.first)
        rows = chunk(joints_of(observation), self.things(), task, self._horizon)
        return ActionChunk(rows.astype(np.float32), arm.JOINT_NAMES, observation.stamp_ns, STEP_S)

    def things(self) -> dict[str, Thing]:
        """Return what it is told of the objects."""
        return things_of(self._env.world)

    def reset(self) -> None:
        """Nothing to forget."""


def things_of(world: 'TaskWorld') -> dict[str, Thing]:
    """Return the objects as they lie, by name."""
    return {
        name: Thing(*map(float, place), world.object_yaw(name), name)
        for name, place in world.object_positions().items()
    }
