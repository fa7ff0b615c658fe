"""
Scripted demonstrations of the simulated WidowX: rendered frames and what the teacher would do.

The arm follows the teacher kinematically from many postures, with noise and with changes of mind,
so that frames cover what a policy meets after its own errors. Every frame is labelled for each
object of the scene: the same picture with another sentence asks for another motion.

A shard is one .npz (numpy arrays only, read without pickle):
  ego uint8 [F, h, w, 3], cam_right_wrist uint8 [F, h, w, 3]   resized as the model sees them
  state float32 [F, 7]   joints in SI     names str [F, 3]     objects
  xyz float32 [F, 3, 3]  centres (m)      pixel float32 [F, 3, 2]  their place in ego, 0..1
  actions float32 [F, 3, H, 7]            the teacher's chunk for each object
"""

import multiprocessing
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.transforms import ResizeImages

TRAINING_SEEDS = 1_000_000
HELD_OUT_SEEDS = 2_000_000
SCENES_A_SHARD = 250


@dataclass(frozen=True)
class DemonstrationPlan:
    """What to render; two equal plans give equal files."""

    image_sizes: Mapping[str, tuple[int, int]]
    scenes: int
    first_seed: int
    frames: int = 5
    horizon: int = 16
    step_s: float = 0.2


def start_posture(rng: np.random.Generator, scene_posture: np.ndarray) -> np.ndarray:
    """Return a first posture: the scene's own, or anywhere over the table, also low."""
    if rng.random() < 0.4:
        return scene_posture
    while True:
        tip = rng.uniform((0.14, -0.24, 0.035), (0.44, 0.24, 0.27))
        if arm.reachable(tip):
            break
    joints = arm.inverse(tip, arm.STRAIGHT_DOWN + rng.uniform(-0.12, 0.12))
    return np.array([*joints, rng.uniform(arm.LOWER[6] + 0.002, arm.UPPER[6])])


def walk(
    rng: np.random.Generator, start: np.ndarray, targets: np.ndarray, plan: DemonstrationPlan
) -> np.ndarray:
    """Return postures [frames, 7] met on a noisy way to one or two of the targets [3, 3]."""
    steps = 26
    wanted = np.sort(rng.choice(steps, plan.frames, replace=False))
    change = rng.integers(4, steps) if rng.random() < 0.35 else steps
    order = rng.permutation(len(targets))
    posture, seen = start, []
    for step in range(steps):
        if step in wanted:
            seen.append(posture)
        target = targets[order[0] if step < change else order[1]]
        ahead = expert_chunk(posture, target, 2, plan.step_s * rng.uniform(0.5, 1.2))[1]
        noise = rng.normal(0, [0.012] * 3 + [0.01] * 3 + [0.0005])
        posture = np.clip(ahead + noise, arm.LOWER, arm.UPPER)
    return np.stack(seen)


def render_shard(plan: DemonstrationPlan, first: int, count: int, path: Path) -> None:
    """Render `count` scenes from seed `first` into one file (written beside, then renamed)."""
    from qwen_vla_ros.sim.world import TabletopWorld

    world, resize = TabletopWorld(), ResizeImages(plan.image_sizes)
    rows: dict[str, list[np.ndarray]] = {}
    for seed in range(first, first + count):
        rng = np.random.default_rng([seed, 1])
        scene = world.reset(seed)
        xyz = np.array([item.position for item in scene.objects])
        pixel = world.project('ego', xyz)[0] / (640, 480)
        for posture in walk(rng, start_posture(rng, np.array(scene.posture)), xyz, plan):
            world.set_posture(posture)
            images = {view: world.render(view) for view in plan.image_sizes}
            frame = {
                **resize.forward({'images': images})['images'],
                'state': posture.astype(np.float32),
                'names': np.array(scene.names),
                'xyz': xyz.astype(np.float32),
                'pixel': pixel.astype(np.float32),
                'actions': expert_chunk(posture, xyz, plan.horizon, plan.step_s).astype(
                    np.float32
                ),
            }
            for key, value in frame.items():
                rows.setdefault(key, []).append(value)
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    with beside.open('wb') as file:
        np.savez(file, **{key: np.stack(values) for key, values in rows.items()})
    beside.rename(path)


def make_demonstrations(plan: DemonstrationPlan, folder: Path, workers: int) -> list[Path]:
    """Render what is not there yet, in parallel, and return the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    last = plan.first_seed + plan.scenes
    jobs = []
    for first in range(plan.first_seed, last, SCENES_A_SHARD):
        path = folder / f'scenes-{first}.npz'
        jobs.append((plan, first, min(SCENES_A_SHARD, last - first), path))
    todo = [job for job in jobs if not job[3].exists()]
    if todo:
        with multiprocessing.get_context('spawn').Pool(min(workers, len(todo))) as pool:
            results = [pool.apply_async(render_shard, job) for job in todo]
            for result in tqdm(results, desc='demonstrations', unit='shard'):
                result.get()
    return [job[3] for job in jobs]


def load_demonstrations(paths: list[Path]) -> dict[str, np.ndarray]:
    """Return the shards as one set of arrays; a broken shard is named."""
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as shard:
                for key in shard.files:
                    parts.setdefault(key, []).append(shard[key])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise QwenVlaError(
                f'{path}: broken shard ({error}); delete it and run again'
            ) from error
    return {key: np.concatenate(values) for key, values in parts.items()}
