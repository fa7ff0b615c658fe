"""
ALOHA hands a cube over: pictures on a noisy way, and what sim/aloha/reactive.py would do there.

The arms follow the teacher kinematically, with noise, knocks, fumbled fingers, dropped cubes and
changes of mind; a cube goes with the hand that holds it. With empty hands a picture is taught with
a sentence for each cube, with a held cube with a sentence about that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.reactive import HELD, holds, in_base, transfer_chunk
from qwen_vla_ros.sim.aloha.scene import AlohaScene, instruction_for, other
from qwen_vla_ros.sim.aloha.vx300s import HandPose, joints_for
from qwen_vla_ros.sim.aloha.world import VIEWS, AlohaWorld
from qwen_vla_ros.sim.cameras import SIZE
from qwen_vla_ros.sim.six_axis import rotation_z
from qwen_vla_ros.train.bundle.frames import POINTS, Frame, Points, Taught, inside, values_of
from qwen_vla_ros.transforms import ResizeImages

HORIZON, STEP_S = 50, 0.02
FRAMES, STEPS = 12, 90  # pictures an episode, and at most so many steps between them
CHANGE_MIND, DROP, KNOCK, FUMBLE = 0.015, 0.008, 0.03, 0.02  # chance a step
LIES_M = mjcf.CUBE / 2 + 0.01  # a centre above is of a held cube
_ARM = np.arange(14) % 7 != 6


@dataclass(frozen=True)
class Moment:
    """Joints q [14], poses [3, 4, 4] of the cubes in table; held: which one a hand holds."""

    q: np.ndarray
    poses: np.ndarray
    held: int | None
    weight: float


class AlohaMaker:
    """The family's Maker; see train/bundle/frames.py."""

    embodiment, layout, views = 'aloha', 'abs_joint', VIEWS

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Open a world; sizes are (h, w) of the pictures by view."""
        self._world, self._resize = AlohaWorld(), ResizeImages(sizes)

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed."""
        rng = np.random.default_rng([seed, 14])
        scene = self._world.reset(seed)
        met = walk(rng, scene)
        chance = np.array([moment.weight for moment in met])
        count = min(FRAMES, len(met))
        chosen = np.sort(rng.choice(len(met), count, replace=False, p=chance / chance.sum()))
        moments = [met[index] for index in chosen]
        pictures = []
        for moment in moments:
            self._put(moment)
            pictures.append(self._pictures())
        return self._frames(list(zip(moments, pictures, strict=True)), rng)

    def _frames(
        self, met: Sequence[tuple[Moment, dict[str, np.ndarray]]], rng: np.random.Generator
    ) -> list[Frame]:
        """Return moments and their pictures with what is said of them."""
        scene = self._world.scene
        said = [range(3) if moment.held is None else [moment.held] for moment, _ in met]
        pairs = [(moment, c) for (moment, _), cubes in zip(met, said, strict=True) for c in cubes]
        chunks = transfer_chunk(
            np.stack([moment.q for moment, _ in pairs]),
            np.stack([moment.poses[cube] for moment, cube in pairs]),
            scene.giver,
            HORIZON,
            STEP_S,
        )
        actions = iter(chunks.astype(np.float32))
        frames = []
        for (moment, images), cubes in zip(met, said, strict=True):
            self._put(moment)
            taught = tuple(
                Taught(
                    instruction_for(scene, name, rng),
                    next(actions),
                    cube_points(self._world, name),
                    values=cube_values(self._world, name),
                )
                for name in (scene.names[cube] for cube in cubes)
            )
            frames.append(Frame(images, moment.q.astype(np.float32), taught))
        return frames

    def _put(self, moment: Moment) -> None:
        """Bring a moment about in the world."""
        for name, pose in zip(self._world.scene.names, moment.poses, strict=True):
            self._world.set_object_pose(name, pose)
        self._world.set_posture(moment.q)

    def _pictures(self) -> dict[str, np.ndarray]:
        """Return the pictures of the present moment."""
        images = {
            view: self._world.render(view, _render_size(size))
            for view, size in self._resize.sizes.items()
        }
        return self._resize.forward({'images': images})['images']


def cube_values(world: AlohaWorld, name: str) -> dict[str, float]:
    """Return where a cube and the hands are in table, and a cube's turn where it lies."""
    pose = world.object_poses()[name]
    lies = pose[2, 3] < LIES_M
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0])) if lies else None
    hands = dict(zip(('left', 'right'), world.tip_positions(), strict=True))
    return values_of(pose[:3, 3], yaw, hands=hands)


def cube_points(world: AlohaWorld, name: str) -> Points:
    """Return where a cube and the hands are in the pictures, seen or hidden behind an arm."""
    found: dict[str, tuple[float, float] | None] = dict.fromkeys(POINTS)
    middle = world.object_poses()[name][None, :3, 3]
    for view in VIEWS:
        found[f'{view}/target'] = inside(world.project(view, middle))
    for side, tip in zip(('left', 'right'), world.tip_positions(), strict=True):
        found[f'ego/{side}_hand'] = inside(world.project('ego', tip[None]))
    return found


def _render_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (h, w) to render for a picture of a size: 6 times it averages as finely."""
    six = 6 * size[0], 6 * size[1]
    return six if six[0] < SIZE[0] and six[0] * SIZE[1] == six[1] * SIZE[0] else SIZE


def walk(rng: np.random.Generator, scene: AlohaScene) -> list[Moment]:
    """Return what is met on a noisy way through the handover of one cube, or of another."""
    q, poses = _first_posture(rng, scene), _first_poses(rng, scene)
    target, care, met, after = int(rng.integers(3)), rng.uniform(0.2, 1.0), [], 0
    held = None
    for _ in range(STEPS):
        step_s = rng.choice([0.04, 0.1, 0.12])
        rows = transfer_chunk(q[None], poses[target][None], scene.giver, 2, step_s)
        ahead = np.where(_ARM, rows[0, 1], q + rng.uniform(0.2, 1.0) * (rows[0, 1] - q))
        moved = _disturbed(rng, ahead, care, held is not None)
        q, poses, held = _carried(rng, scene.giver, q, moved, poses, held)
        met.append(Moment(q, poses, held, weight_of(q, poses[target], held is not None)))
        if held is None and rng.random() < CHANGE_MIND:
            target = int(rng.integers(3))
        target = target if held is None else held
        if _handed_over(q, poses[target], scene):
            after += 1
            if after > 5:
                break
    return met


def _first_posture(rng: np.random.Generator, scene: AlohaScene) -> np.ndarray:
    """Return the scene's posture, or arms elsewhere with fingers anywhere."""
    q = np.array(scene.posture)
    if rng.random() < 0.5:
        return q
    for side, arm in (('left', slice(0, 7)), ('right', slice(7, 14))):
        lower, upper = ((0.25, -0.17, 0.04), (0.5, 0.17, 0.30))
        if side != scene.giver:
            lower, upper = ((0.2, -0.04, 0.22), (0.47, 0.04, 0.29))
        x, y, z = rng.uniform(lower, upper)
        pitch, roll = rng.uniform((-0.1, -0.7), (np.pi / 2, 0.7))
        if side != scene.giver:
            pitch, roll = pitch / 4, rng.uniform(0, np.pi / 2)
        sign = 1.0 if side == 'left' else -1.0
        place = (sign * float(x - vx300s.BASE_X), sign * float(y), float(z))
        goal = joints_for(side, HandPose(place, float(np.arctan2(y, x)), float(pitch), roll))
        share = rng.uniform(0, 1)
        q[arm.start : arm.stop - 1] += share * (goal - q[arm.start : arm.stop - 1])
        q[arm.stop - 1] = rng.uniform(vx300s.LOWER[6], vx300s.UPPER[6])
    return np.clip(q, vx300s.LOWER, vx300s.UPPER)


def _first_poses(rng: np.random.Generator, scene: AlohaScene) -> np.ndarray:
    """Return where the scene has its cubes [3, 4, 4]."""
    poses = np.tile(np.eye(4), (3, 1, 1))
    for pose, item in zip(poses, scene.objects, strict=True):
        pose[:3, 3], pose[:3, :3] = item.position, rotation_z(np.float64(item.yaw))
    return poses


def _disturbed(rng: np.random.Generator, q: np.ndarray, care: float, holding: bool) -> np.ndarray:
    """Return a posture beside q; who is careful (0.2) strays less than who is not (1)."""
    noise = np.where(_ARM, 0.010, 0.0004) * rng.normal(size=14) * care * rng.random()
    if rng.random() < KNOCK:
        noise += np.where(_ARM, 0.05, 0.0) * rng.normal(size=14)
    moved = np.clip(q + noise, vx300s.LOWER, vx300s.UPPER)
    if rng.random() < (DROP if holding else FUMBLE):
        moved[6 if rng.random() < 0.5 else 13] = rng.uniform(HELD - 0.006, vx300s.UPPER[6])
    return q if vx300s.tips(moved)[:, 2].min() < 0.009 else moved


def _carried(
    rng: np.random.Generator,
    giver: str,
    before: np.ndarray,
    q: np.ndarray,
    poses: np.ndarray,
    held: int | None,
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Return posture, poses and the held cube after a motion: carried, gripped or dropped."""
    q, poses = q.copy(), poses.copy()
    sides = (giver, other(giver))
    if held is not None:
        holding = [side for side in sides if holds(before[None], poses[held][None], side)[0]]
        if holding:
            old, new = (hand_pose(joints, holding[-1]) for joints in (before, q))
            poses[held] = new @ np.linalg.inv(old) @ poses[held]
    for cube in range(3) if held is None else [held]:
        for side in sides:
            finger = 6 if side == 'left' else 13
            stopped = q.copy()
            stopped[finger] = np.clip(q[finger], HELD - rng.uniform(0, 0.0004), None)
            if q[finger] < HELD and holds(stopped[None], poses[cube][None], side)[0]:
                q = stopped
                if held is None:
                    held, poses[cube] = cube, _aligned(hand_pose(q, side), poses[cube])
    gripped = held is not None and any(holds(q[None], poses[held][None], s)[0] for s in sides)
    if held is not None and not gripped:
        poses[held] = _fallen(rng, giver, poses, held)
    return q, poses, held if gripped else None


def hand_pose(q: np.ndarray, side: str) -> np.ndarray:
    """Return the pose [4, 4] in table of a side's hand at q [14]."""
    pose, start = np.eye(4), 0 if side == 'left' else 7
    turn = np.array([1.0, 1.0, 1.0] if side == 'left' else [-1.0, -1.0, 1.0])
    tip, axes = vx300s.VX300S.forward(q[start : start + 6])
    pose[:3, 3] = (tip - [vx300s.BASE_X, 0, 0]) * turn
    pose[:3, :3] = axes * turn[:, None]
    return pose


def _aligned(hand: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """Return a cube as closing fingers leave it: in their middle, its faces along them."""
    seen = np.linalg.inv(hand) @ cube
    seen[1, 3] = 0.0
    nearest = np.zeros((3, 3))
    left = np.abs(seen[:3, :3])
    for _ in range(3):
        row, column = np.unravel_index(left.argmax(), left.shape)
        nearest[row, column] = np.sign(seen[row, column])
        left[row], left[:, column] = -1.0, -1.0
    seen[:3, :3] = nearest
    return hand @ seen


def _fallen(rng: np.random.Generator, giver: str, poses: np.ndarray, cube: int) -> np.ndarray:
    """Return a dropped cube on the table, beneath where it was, within the giver's reach."""
    sign = -1.0 if giver == 'left' else 1.0
    pose, others = np.eye(4), np.delete(poses, cube, 0)[:, :2, 3]
    spread = 0.015
    while True:
        x, y = poses[cube, :2, 3] + rng.normal(0, spread, 2)
        x, y = sign * np.clip(sign * x, -0.02, 0.22), np.clip(y, -0.17, 0.17)
        if np.linalg.norm(others - [x, y], axis=-1).min() > 0.075:
            break
        spread *= 1.3
    pose[:3, 3] = x, y, mjcf.CUBE / 2
    pose[:3, :3] = rotation_z(np.float64(rng.uniform(-np.pi / 4, np.pi / 4)))
    return pose


def weight_of(q: np.ndarray, cube: np.ndarray, held: bool) -> float:
    """Return how much a moment is wanted: more where a hand grips, and where they meet."""
    gaps = np.linalg.norm(vx300s.tips(q) - cube[:3, 3], axis=-1)
    gripping = cube[2, 3] < 0.05 and gaps.min() < 0.09
    return 3.0 if gripping or gaps.max() < 0.06 else 0.4 if held else 1.0


def _handed_over(q: np.ndarray, cube: np.ndarray, scene: AlohaScene) -> bool:
    """Return whether the taker alone holds the cube, and the giver is away."""
    ahead = in_base(scene.giver, hand_pose(q, scene.giver))[0][0]
    taken = bool(holds(q[None], cube[None], scene.taker)[0])
    return taken and ahead < vx300s.BASE_X - 0.10
