"""
A teacher of the handover without a memory: from any posture, what both arms do next.

Which part of the task it is in it reads from the posture and from what the hands hold, so that a
policy that sees one instant can learn it: nothing waits for a time to pass. Fingers close as far
as the cube lets them; that they stopped on it is what lifts the hand, and what opens the other.
Arrays have a leading batch B. An arm's poses are in the frame of its own base, in which both arms
look the same: x ahead, z up, the meeting place at x = BASE_X. SI units.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.expert import joints_of
from qwen_vla_ros.sim.aloha.scene import other, target_in
from qwen_vla_ros.sim.aloha.tasks import MEETING_Z, OPEN, SQUEEZE
from qwen_vla_ros.sim.aloha.vx300s import BASE_X, HandPose, joints_for
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.sim.six_axis import rotation_x, rotation_y, rotation_z
from qwen_vla_ros.types import ActionChunk, Observation

ARM = vx300s.VX300S
HELD = mjcf.CUBE / 2 + vx300s.FINGER_PAD  # m, where a finger meets a cube
CLOSED = HELD - SQUEEZE
STOPPED = HELD + 0.0012  # m, up to here a finger counts as stopped by the cube
LET_GO = HELD + 0.0025  # m, from here on it no longer holds
GRIP_Z, CLOSING_Z = 0.018, 0.027  # m, where a hand grips, and below where its fingers close
HOVER, WAITING = 0.10, 0.14  # m, longest way above and before the grips
NEAR, STILL_NEAR = 0.009, 0.016  # m beside the grip: fingers begin to close, go on closing
OFFERED, STILL_OFFERED = 0.015, 0.022  # m from the meeting place, for the fingers of the taker
TAKEN_X = BASE_X + 0.002
ASKEW = 0.3  # rad, a hand turned further off than this does not close
MOST_TURN = np.radians(62.0)
SPEED, SLOWEST, GAIN = 0.9, 0.08, 3.0  # rad/s, rad/s, 1/s
FINGER_SPEED = 0.12  # m/s
CARROT = 0.035  # m, how far ahead a hand is led along a line
_SMOOTH_S = 0.06
_MEETING = np.array([BASE_X, 0.0, MEETING_Z])
_LEVEL, _UPRIGHT = np.eye(3), rotation_x(np.float64(np.pi / 2))


def _at(x: float, roll: float = 0.0) -> np.ndarray:
    """Return the arm joints [6] of a level hand at meeting height, its tip at x of its base."""
    return joints_for('left', HandPose((x - BASE_X, 0.0, MEETING_Z), roll=roll))


@dataclass(frozen=True)
class Hand:
    """Arm joints [B, 6], finger [B], and the tip's place [B, 3] and rotation [B, 3, 3]."""

    joints: np.ndarray
    finger: np.ndarray
    tip: np.ndarray
    turned: np.ndarray


_OFFER, _LEAVE, _KEEP = _at(BASE_X), _at(BASE_X - 0.12), _at(BASE_X - 0.06, np.pi / 2)


def transfer_chunk(
    q: np.ndarray, cube: np.ndarray, giver: str, horizon: int = 50, step_s: float = 0.02
) -> np.ndarray:
    """
    Return rows float64 [B, horizon, 14] that hand the cube over from here on.

    q [B, 14] is the measured posture, cube [B, 4, 4] the cube's pose in table, giver the side that
    lifts it. Row 0 is q, except for fingers that hold: they go on squeezing.
    """
    sides = (giver, other(giver))
    arms = [slice(0, 7) if side == 'left' else slice(7, 14) for side in sides]
    hands = np.stack([q[:, arm] for arm in arms])
    grips = np.stack([holds(q, cube, side) for side in sides])
    place, axes = in_base(giver, cube)
    rows, velocity = np.empty((len(q), horizon, 14)), None
    for step in range(horizon):
        giver_hand, taker_hand = _hands(hands)
        wanted, fingers = _intent(giver_hand, taker_hand, grips, place, axes)
        commanded = hands.copy()
        commanded[..., 6] = np.where(grips & (fingers < HELD), CLOSED, hands[..., 6])
        for arm, hand in zip(arms, commanded, strict=True):
            rows[:, step, arm] = hand
        share = min(1.0, step_s / _SMOOTH_S)
        velocity = wanted if velocity is None else velocity + share * (wanted - velocity)
        touch = _touch(giver_hand, taker_hand, grips, place)
        moved, grips = _fingers_moved(hands[..., 6], fingers, touch, grips, step_s)
        hands = np.concatenate([hands[..., :6] + step_s * velocity, moved[..., None]], -1)
        hands = np.clip(hands, ARM.lower, ARM.upper)
    return rows


def holds(q: np.ndarray, cube: np.ndarray, side: str) -> np.ndarray:
    """Return bool [B]: the cube, pose [B, 4, 4] in table, stopped the side's fingers at q."""
    hand = q[:, :7] if side == 'left' else q[:, 7:]
    stopped = (hand[:, 6] > HELD - 0.004) & (hand[:, 6] <= STOPPED)
    return stopped & _around(*ARM.forward(hand), in_base(side, cube)[0])


def in_base(side: str, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position [..., 3] and rotation [..., 3, 3] of poses [..., 4, 4] in a side's base."""
    turn = np.array([1.0, 1.0, 1.0]) if side == 'left' else np.array([-1.0, -1.0, 1.0])
    return pose[..., :3, 3] * turn + [BASE_X, 0, 0], pose[..., :3, :3] * turn[:, None]


def _hands(hands: np.ndarray) -> tuple[Hand, Hand]:
    """Return giver and taker from their joints [2, B, 7]."""
    tips, turns = ARM.forward(hands)
    giver, taker = (
        Hand(h[:, :6], h[:, 6], t, r) for h, t, r in zip(hands, tips, turns, strict=True)
    )
    return giver, taker


def _fingers_moved(
    now: np.ndarray, wanted: np.ndarray, touch: np.ndarray, grips: np.ndarray, step_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return fingers [2, B] a step later, stopped by a cube between them, and what they hold."""
    most = FINGER_SPEED * step_s
    moved = now + np.clip(wanted - now, -most, most)
    stopped = touch & (wanted < HELD) & (now > HELD - 0.004)
    moved = np.where(stopped, np.maximum(moved, np.minimum(now, HELD)), moved)
    return moved, np.where(grips, moved < LET_GO, touch & stopped & (moved <= STOPPED))


def _touch(giver: Hand, taker: Hand, grips: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return bool [2, B]: closing fingers meet the cube, where it lies or where it is offered."""
    gives, takes = grips
    apart = np.abs(taker.tip * [-1.0, -1.0, 1.0] + [2 * BASE_X, 0, 0] - giver.tip).max(-1)
    lying = ~takes & _around(giver.tip, giver.turned, place)
    return np.stack([gives | lying, takes | (gives & (apart < 0.018))])


def _around(tip: np.ndarray, turned: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return bool [B]: a cube at place [B, 3] is between the fingers of a hand."""
    seen = np.abs(((place - tip)[:, None] @ turned)[:, 0])
    return (seen < [0.024, 0.013, 0.022]).all(-1)


# What both arms want ---------------------------------------------------------------------------


def _intent(
    giver: Hand, taker: Hand, grips: np.ndarray, place: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return joint velocities [2, B, 6], giver first, and where the fingers [2, B] shall be."""
    gives, takes = grips
    fetch, finger = _fetch(giver, place, axes)
    meet, closing = _meet(taker, giver, gives)
    free = np.maximum(_ramp(giver.finger, 0.044, 0.048), _ramp(_from_meeting(giver), 0.05, 0.10))[
        :, None
    ]
    held = np.where(gives[:, None], _carry(giver), fetch)
    rates = np.stack(
        [
            np.where(takes[:, None], free * _toward(giver, _LEAVE), held),
            np.where(takes[:, None], free * _toward(taker, _KEEP), meet),
        ]
    )
    fingers = np.stack(
        [
            np.where(takes, OPEN, np.where(gives, CLOSED, finger)),
            np.where(takes, CLOSED, closing),
        ]
    )
    return rates, fingers


def _fetch(hand: Hand, place: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Go over the cube, fingers open, and down a funnel onto it; close there."""
    tip, turned, finger = hand.tip, hand.turned, hand.finger
    radial = np.arctan2(place[:, 1], place[:, 0])
    turn = _turn(radial - np.arctan2(axes[:, 1, 0], axes[:, 0, 0]), hand.joints[:, 5])
    down = rotation_z(radial) @ rotation_y(np.full_like(radial, np.pi / 2)) @ rotation_x(turn)
    aside = np.hypot(*(tip - place)[:, :2].T)
    askew = _angle(turned, down)
    closing = _closes(finger, aside, askew) & (tip[:, 2] < CLOSING_Z)
    rise = np.clip(_off_line(aside, askew) + _narrow(finger, closing), 0.0, HOVER)
    low = GRIP_Z + rise - tip[:, 2]
    height = tip[:, 2] + np.maximum(low, -CARROT - 2 * rise)
    over = 1.0 / (1.0 + np.exp(np.clip((low - 0.03) / 0.008, -30.0, 30.0)))
    ahead = tip[:, :2] + over[:, None] * (place - tip)[:, :2]
    goal = ARM.inverse_pose(np.concatenate([ahead, height[:, None]], -1), down)
    return _toward(hand, goal), np.where(closing, CLOSED, OPEN)


def _carry(hand: Hand) -> np.ndarray:
    """Lift what the hand holds straight up, then swing it to the meeting place."""
    up = ARM.inverse_pose(hand.tip + [0, 0, CARROT], hand.turned)
    share = _ramp(hand.tip[:, 2], 0.05, 0.10)[:, None]
    return (1 - share) * _toward(hand, up) + share * _toward(hand, _OFFER)


def _meet(hand: Hand, giver: Hand, gives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wait before the meeting place, fingers upright; come as the cube comes; close around it."""
    tip, turned, finger = hand.tip, hand.turned, hand.finger
    away = _from_meeting(giver)
    aside = np.hypot(*(tip - _MEETING)[:, 1:].T)
    askew = _angle(turned, _UPRIGHT)
    offered = away < np.where(_begun(finger), STILL_OFFERED, OFFERED)
    closing = _closes(finger, aside, askew) & (tip[:, 0] > TAKEN_X - 0.010)
    closing = closing & gives & offered
    back = _off_line(aside, askew) + _narrow(finger, closing)
    back = back + 3.0 * np.maximum(away - 0.010, 0.0)
    back = np.clip(np.where(gives, back, WAITING), 0.0, WAITING)
    ahead = np.minimum(TAKEN_X - back, tip[:, 0] + CARROT + 2 * back)
    place = np.stack([ahead, 0 * ahead, 0 * ahead + MEETING_Z], -1)
    goal = ARM.inverse_pose(place, np.broadcast_to(_UPRIGHT, turned.shape))
    return _toward(hand, goal), np.where(closing, CLOSED, OPEN)


def _toward(hand: Hand, goal: np.ndarray) -> np.ndarray:
    """Return velocities [B, 6] straight to joints [..., 6], slower near them."""
    gap = goal - hand.joints
    far = np.abs(gap).max(-1, keepdims=True) + 1e-9
    return gap * np.minimum(SPEED / far, GAIN + SLOWEST / (far + 0.008))


def _turn(offset: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the turn [B] that puts fingers along a cube's faces, the nearest in reach."""
    quarter = np.pi / 2
    least = (offset + quarter / 2) % quarter - quarter / 2
    turns = least[:, None] + quarter * np.array([-1.0, 0.0, 1.0])
    cost = np.abs(turns - now[:, None]) + 10.0 * (np.abs(turns) > MOST_TURN)
    return np.take_along_axis(turns, cost.argmin(-1)[:, None], -1)[:, 0]


def _begun(finger: np.ndarray) -> np.ndarray:
    return finger < OPEN - 0.006


def _closes(finger: np.ndarray, aside: np.ndarray, askew: np.ndarray) -> np.ndarray:
    """Return bool [B]: a hand is in line with its grip; more is forgiven to one that closes."""
    return (aside < np.where(_begun(finger), STILL_NEAR, NEAR)) & (askew < ASKEW)


def _off_line(aside: np.ndarray, askew: np.ndarray) -> np.ndarray:
    """Return how far in m from its grip a hand has to stay that is not in line with it."""
    return 1.2 * np.maximum(aside - 0.008, 0.0) + 0.12 * np.maximum(askew - 0.12, 0.0)


def _narrow(finger: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Return how far in m from its grip a hand has to stay until it is open."""
    return np.where(closing, 0.0, 6.0 * np.maximum(OPEN - 0.004 - finger, 0.0))


def _from_meeting(giver: Hand) -> np.ndarray:
    """Return how far in m a hand is from where the cube is offered, its turn counted in."""
    return np.linalg.norm(giver.tip - _MEETING, axis=-1) + 0.05 * _angle(giver.turned, _LEVEL)


def _angle(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the angle [B] in rad between rotations."""
    return np.arccos(np.clip(((one * two).sum((-2, -1)) - 1) / 2, -1.0, 1.0))


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below low, 1 above high, smooth between."""
    share = np.clip((value - low) / (high - low), 0.0, 1.0)
    return share * share * (3 - 2 * share)


class ReactiveTeacher:
    """The teacher as a policy that is told where a world has its cubes."""

    def __init__(self, world: AlohaWorld, metadata: Mapping[str, Any] | None = None) -> None:
        """Teach in a world of the transfer."""
        self._world, self._metadata = world, {**(metadata or {}), 'checkpoint': 'reactive'}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the given facts."""
        return self._metadata

    def reset(self) -> None:
        """Nothing is kept."""

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return the next second; a sentence that names no cube of the scene holds the arms."""
        q, scene = joints_of(observation), self._world.scene
        name = target_in(scene, observation.instruction)
        rows = (
            np.tile(q, (50, 1))
            if name is None
            else transfer_chunk(q[None], self._world.object_poses()[name][None], scene.giver)[0]
        )
        return ActionChunk(rows.astype(np.float32), vx300s.JOINT_NAMES, observation.stamp_ns, 0.02)
