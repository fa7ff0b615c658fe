"""
The scripted teacher of pick, place, push and stack: rows of joints, 0.2 s apart, step by step.

It is told where things are, and looks again whenever a step begins. The tip goes in straight lines
with the hand straight down; the fingers close across a block's sides. Every row belongs to a step
with a text, so an episode can be cut into subtasks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import STEP_S
from qwen_vla_ros.sim.tasks.goals import PICK, PLACE, PUSH, Goal
from qwen_vla_ros.sim.tasks.scene import WIDTH, height_of
from qwen_vla_ros.sim.tasks.world import TaskWorld

REACH, GRASP, LIFT, MOVE, RELEASE = 'reach', 'grasp', 'lift', 'move', 'release'
SPEED, SLOW = 0.16, 0.06  # m/s of the tip
TRAVEL_M = 0.13  # m, height of the tip on the way
TURN_RAD_S = 1.2
FINGER_ROWS = 3  # while the fingers move
OPEN, CLOSED = 0.036, 0.0155  # m, of the left finger
LOWEST_M = 0.008  # m, of the tip: the pads end 3 mm below it
BEHIND_M, TOUCH_M = 0.05, 0.012  # m, from an object's side before a push; the pads' half thickness


@dataclass(frozen=True)
class Row:
    """A command: joints [7], the kind of step it belongs to, and its text."""

    joints: np.ndarray
    step: str
    text: str


class TaskExpert:
    """One task in one world; iterate to get its rows, and do each before asking for the next."""

    def __init__(self, world: TaskWorld, goal: Goal) -> None:
        """Begin at the posture that the arm has."""
        self._world, self._goal = world, goal
        joints = world.positions()
        self._tip = np.array(arm.forward(joints)[0])
        self._turn, self._finger = float(joints[5]), float(joints[6])

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of the whole task."""
        if self._goal.kind == PUSH:
            yield from self._push()
            return
        yield from self._grasp()
        if self._goal.kind == PICK:
            return
        target, reference = self._goal.target, self._goal.reference
        if self._goal.kind == PLACE:
            goal = np.array(self._goal.goal)
            under, where = 0.0, f'beside the {reference}'
        else:
            below = self._world.object_positions()[reference]
            goal, under = below[:2], below[2] + height_of(reference) / 2
            where = f'over the {reference}'
        carried = self._offset()
        over = np.array([*goal, TRAVEL_M + under]) + carried
        down = np.array([*goal, under + grip_height(target) + 0.002]) + carried
        yield from self._go(over, self._turn, SPEED, MOVE, f'move the {target} {where}')
        text = f'release the {target}'
        yield from self._go(down, self._turn, SLOW, RELEASE, text)
        yield from self._fingers(OPEN, RELEASE, text)
        yield from self._go(down + [0, 0, 0.08], self._turn, SPEED, RELEASE, text)

    def _grasp(self) -> Iterator[Row]:
        """Reach over the target, close around it, lift it."""
        target = self._goal.target
        place = self._world.object_positions()[target]
        turn = turn_across(place, self._world.object_yaw(target))
        above = np.array([*place[:2], TRAVEL_M])
        yield from self._go(above, turn, SPEED, REACH, f'reach for the {target}', OPEN)
        place = self._world.object_positions()[target]
        down = np.array([*place[:2], grip_height(target)])
        yield from self._go(down, turn, SLOW * 1.6, GRASP, f'grasp the {target}', OPEN)
        yield from self._fingers(CLOSED, GRASP, f'grasp the {target}')
        yield from self._go(down + [0, 0, 0.10], turn, SPEED, LIFT, f'lift the {target}')

    def _push(self) -> Iterator[Row]:
        """Go down behind the target and push it straight with the flat side of a finger."""
        target, goal = self._goal.target, np.array(self._goal.goal)
        place = self._world.object_positions()[target][:2]
        way = (goal - place) / np.linalg.norm(goal - place)
        behind = place - way * (WIDTH / 2 + BEHIND_M)
        last = goal - way * (WIDTH / 2 + TOUCH_M)
        turn = turn_across(behind, float(np.arctan2(way[1], way[0])), np.pi)
        text = f'push the {target}'
        reach = f'reach behind the {target}'
        yield from self._go(np.array([*behind, TRAVEL_M]), turn, SPEED, REACH, reach, CLOSED)
        yield from self._go(np.array([*behind, 0.02]), turn, SLOW * 1.6, REACH, reach)
        yield from self._go(np.array([*last, 0.02]), turn, SLOW, MOVE, text)
        back = last - 0.03 * way
        yield from self._go(np.array([*back, 0.02]), turn, SLOW, RELEASE, f'leave the {target}')
        yield from self._go(np.array([*back, 0.10]), turn, SPEED, RELEASE, f'leave the {target}')

    def _go(
        self,
        goal: np.ndarray,
        turn: float,
        speed: float,
        step: str,
        text: str,
        finger: float | None = None,
    ) -> Iterator[Row]:
        """Move the tip straight to a goal [3], slower near it, turning the wrist on the way."""
        self._finger = self._finger if finger is None else finger
        while True:
            away = goal - self._tip
            distance = float(np.linalg.norm(away))
            left = turn - self._turn
            if distance < 5e-4 and abs(left) < 1e-3:
                return
            pace = min(speed * STEP_S, max(0.5 * distance, 0.004))
            self._tip = goal.copy() if distance <= pace else self._tip + away * pace / distance
            self._turn += float(np.clip(left, -TURN_RAD_S * STEP_S, TURN_RAD_S * STEP_S))
            yield self._row(step, text)

    def _fingers(self, opening: float, step: str, text: str) -> Iterator[Row]:
        self._finger = opening
        for _ in range(FINGER_ROWS):
            yield self._row(step, text)

    def _row(self, step: str, text: str) -> Row:
        joints = np.array(arm.inverse(self._tip, arm.STRAIGHT_DOWN), np.float64)
        joints[5] += self._turn
        row = np.clip([*joints, self._finger], arm.LOWER, arm.UPPER)
        return Row(row, step, text)

    def _offset(self) -> np.ndarray:
        """Return how far the tip is from over the held object [3] in m, level."""
        place = self._world.object_positions()[self._goal.target]
        return np.array([*(self._tip[:2] - place[:2]), 0.0])


def turn_across(
    place: Sequence[float], yaw: float, period: float = np.pi / 2, near: float = 0.0
) -> float:
    """
    Return the wrist's turn that brings the fingers' way along yaw, of those the one next to near.

    Straight down over a place, the wrist turns against the sense of z; at zero the fingers move
    across the direction in which the arm points. period: how often a thing looks the same.
    """
    turn = float(np.arctan2(place[1], place[0])) + np.pi / 2 - yaw
    return float((turn - near + period / 2) % period - period / 2) + near


def grip_height(name: str) -> float:
    """Return how high over what it stands on an object is held, in m."""
    return max(height_of(name) / 2, LOWEST_M)
