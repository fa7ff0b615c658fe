"""
Share of a training step that waits for data: 1 % allowed / what one loader worker leaves.

The tiny preset takes real optimiser steps on a LeRobot set of 128 px films (two views, decoded
frame by frame at random), read, resized and tokenised by the robot's own pipeline in one worker
process. The note has the share when the training process does that itself. Both take the same
samples, and their losses are compared first. Few steps: long films would only add to the disk's
cache; the first steps of each side, in which a worker starts, are left out.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import torch
from pyarrow import parquet

from benchmarks import Result, main
from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.data.mixture import Mixture, Source
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.train.runs import tiny
from qwen_vla_ros.train.supervised import build_model, compute_statistics

BATCH, WARM, STEPS, EPISODES, FRAMES, SIZE = 24, 2, 8, 6, 40, 128
KEYS = {'ego': 'observation.images.ego', 'cam_right_wrist': 'observation.images.wrist'}


def write_set(folder: Path) -> None:
    """Write a LeRobot v3.0 set of EPISODES films a view, one file each."""
    robot, rng = Embodiment.load('widowx'), np.random.default_rng(0)
    names = list(robot.state_names)
    count = EPISODES * FRAMES
    rows = rng.uniform(-0.5, 0.5, (count, len(names))).astype(np.float32)
    columns: dict[str, Any] = {
        'action': rows.tolist(),
        'observation.state': rows.tolist(),
        'timestamp': np.tile(np.arange(FRAMES) / 5, EPISODES).astype(np.float32),
        'frame_index': np.tile(np.arange(FRAMES), EPISODES),
        'episode_index': np.repeat(np.arange(EPISODES), FRAMES),
        'index': np.arange(count),
        'task_index': np.zeros(count, int),
    }
    places = {f'{kind}/{part}_index': [0] * EPISODES
              for kind in ('data', *(f'videos/{key}' for key in KEYS.values()))
              for part in ('chunk', 'file')}  # fmt: skip
    starts = [episode * FRAMES / 5 for episode in range(EPISODES)]
    episodes = {'episode_index': list(range(EPISODES)), 'length': [FRAMES] * EPISODES, **places}
    episodes |= {f'videos/{key}/from_timestamp': starts for key in KEYS.values()}
    tasks = {'task': ['touch the red block'], 'task_index': [0]}
    for name, table in (
        ('data/chunk-000/file-000.parquet', columns),
        ('meta/episodes/chunk-000/file-000.parquet', episodes),
        ('meta/tasks.parquet', tasks),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table(table), folder / name)
    vector = {'dtype': 'float32', 'shape': [len(names)], 'names': names}
    video = {'dtype': 'video', 'shape': [SIZE, SIZE, 3], 'names': None}
    info = {
        'codebase_version': 'v3.0', 'robot_type': 'widowx', 'fps': 5,
        'data_path': 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        'video_path': '{video_key}/{chunk_index}-{file_index}.mp4',
        'features': {'action': vector, 'observation.state': vector,
                     **dict.fromkeys(KEYS.values(), video)},
    }  # fmt: skip
    (folder / 'meta/info.json').write_text(json.dumps(info))
    for key in KEYS.values():
        (folder / key).mkdir()
        _film(folder / key / '0-0.mp4', rng)


def _film(path: Path, rng: np.random.Generator) -> None:
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=5, options={'g': '10', 'preset': 'ultrafast'})
        stream.width = stream.height = SIZE
        stream.pix_fmt = 'yuv420p'
        for _ in range(EPISODES * FRAMES):
            blocks = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(SIZE // 8, 0)
            picture = blocks.repeat(SIZE // 8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def mixture(folder: Path) -> Mixture:
    """Return the draws of the benchmark."""
    horizon = Embodiment.load('widowx').horizon
    return Mixture([Source(LeRobotEpisodes(folder, horizon, KEYS), 'robot manipulation')], 0)


@lru_cache(maxsize=1)
def parts() -> tuple[Any, Any, Any]:
    """Return the robot, the tiny model and the robot's pipeline."""
    from qwen_vla_ros.model.checkpoint import build_pipeline
    from qwen_vla_ros.model.processor import Processor

    run, robot = tiny(), Embodiment.load('widowx')
    model, tokenizer = build_model(run, robot)
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (50, len(robot.state_names)))
    statistics = compute_statistics({'actions': rows[:, None], 'state': rows}, robot, run.layout)
    processor = Processor(tokenizer, model.config)
    return robot, model, build_pipeline(model.config, processor, robot, run.layout, statistics)


def encoded(sample: Sample) -> dict[str, Any]:
    """Return what the model takes of a sample."""
    torch.set_num_threads(1)
    fields = {'images': dict(sample.images), 'state': sample.state, 'actions': sample.actions}
    return parts()[2].forward({**fields, 'instruction': sample.instruction})


def inline(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield encoded samples made in this process."""
    return map(encoded, iter(mixture(folder)))


def train(samples: Iterator[dict[str, Any]]) -> tuple[float, float, list[float]]:
    """Take steps of a fresh tiny model; return s waited, s in all, and the losses."""
    parts.cache_clear()
    _, model, _ = parts()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    waited = spent = 0.0
    losses = []
    for step in range(WARM + STEPS):
        begin = time.perf_counter()
        batch = list(islice(samples, BATCH))
        taken = time.perf_counter() - begin
        inputs = model.collate(batch)
        loss = model.loss(inputs, torch.Generator().manual_seed(step), 4).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if step >= WARM:
            waited, spent = waited + taken, spent + time.perf_counter() - begin
    return waited, spent, losses


def run() -> Result:
    """Train with the data made in the process, then by one worker."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'set'
        folder.mkdir()
        write_set(folder)
        own_wait, own_time, own_losses = train(inline(folder))
        with Loader(partial(mixture, folder), 1, 2 * BATCH, encoded) as loader:
            wait, spent, losses = train(iter(loader))
    return Result(
        'loader_wait',
        0.01,
        wait / spent,
        1.0,
        'of a step',
        f'{wait / spent:.2%} of a step with one worker, {own_wait / own_time:.1%} without; a step '
        f'takes {spent / STEPS:.2f} s (batch {BATCH}, 2 views of {SIZE} px, 1 thread)',
        equal=losses == own_losses,
    )


if __name__ == '__main__':
    main(run)
