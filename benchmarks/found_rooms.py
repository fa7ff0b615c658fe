"""
What finding costs a base: its draft in houses that were trained on, and in others.

  python -m benchmarks.found_rooms --checkpoint checkpoints/families --houses 40

Each sentence is drafted twice: told where its goal and its way are, and as the pictures show. What
is lost from one to the other is lost by finding; what is lost from training's houses to others, by
too few houses. No flow: this is what the decoder starts from.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks import machine
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.model.scene import Scene
from qwen_vla_ros.train.bundle.frames import HELD_OUT, POINTS, TRAINING
from qwen_vla_ros.train.bundle.shards import Order, ShardEpisodes, render
from qwen_vla_ros.train.bundle.sight import Sight
from qwen_vla_ros.train.bundle.stages import SIZES, begin
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.sources import DataSet

AT_ONCE = 384  # sentences
TURNS_M = 0.1  # a chunk that goes less far turns
SEEDS = {'trained on': TRAINING, 'others': HELD_OUT}


@torch.no_grad()
def drafts(checkpoint: Path, episodes: ShardEpisodes) -> tuple[dict[str, np.ndarray], str]:
    """Return the waypoints [N, 8, 3] of the drafts, told and found, and a line on the points."""
    begun = begin(checkpoint, [DataSet.of('navigation', episodes)], False)
    model = begun.model.eval()
    sight = Sight(begun, {episodes.source: episodes})
    own = sight.sentences[episodes.source]
    rows = np.arange(len(own.frame))
    parts = np.array_split(rows, -(-len(rows) // AT_ONCE))
    seen = [Scene.found(sight.run(episodes.source, some).found).tensors() for some in parts]
    found = Scene(*map(torch.cat, zip(*seen, strict=True)))
    encoder = Encoder(model.config, begun.tokenizer, begun.robots, images=False)
    statistics = encoder.robot(episodes.sample(0, 0)).statistics['relative']
    _, steps, channels = episodes.arrays['actions'].shape
    told = {}
    for name, scene in (('told', Scene.told(own.points, own.values)), ('found', found)):
        words = sight.words[own.prompt]
        draft = model.decoder.readout.draft_from(scene, own.state, words)
        told[name] = statistics.restore(draft[:, :steps, :channels].float().numpy())
    return told, _pointing(found, own.points)


def _pointing(found: Scene, points_NP2: torch.Tensor) -> str:
    """Return how far off points are found, and how surely, where they show and where not."""
    lines = []
    for index, name in enumerate(POINTS[:2]):
        shows = points_NP2[:, index].isfinite().all(-1)
        away = (found.place_BP2[:, index] - points_NP2[:, index]).norm(dim=-1)[shows]
        sure = found.seen_BP[:, index]
        lines.append(
            f'{name} {float(away.median()):.3f} of the picture off, said to show in '
            f'{float(sure[shows].mean()):.2f} where it does and {float(sure[~shows].mean()):.2f} '
            'where not'
        )
    return '; '.join(lines)


def judged(drafted: np.ndarray, right: np.ndarray, output: Mapping[str, float]) -> str:
    """Return a line: STOPs, turns and ways of drafts [N, 8, 3] beside the teacher's."""
    far = np.linalg.norm(drafted[..., :2], axis=-1).max(1)
    stop = (far < output['stop_m']) & (np.abs(drafted[..., 2]).max(1) < output['stop_rad'])
    rest = ~right.any((1, 2))
    turns = ~rest & (np.linalg.norm(right[..., :2], axis=-1).max(1) < TURNS_M)
    goes = ~rest & ~turns
    side = np.sign(drafted[turns, -1, 2]) == np.sign(right[turns, -1, 2])
    off = np.linalg.norm(drafted[goes, -1, :2] - right[goes, -1, :2], axis=-1)
    return (
        f'STOP in {stop[rest].mean():.3f} of {rest.sum()} places to stop and in '
        f'{stop[~rest].mean():.4f} of {(~rest).sum()} others; turns to the right side '
        f'{side.mean():.2f}; ways end {np.median(off):.2f} m off'
    )


def main() -> None:
    """Render, draft, print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--checkpoint', type=Path, required=True)
    parser.add_argument('--houses', type=int, default=40, help='of each kind (40)')
    parser.add_argument(
        '--out', type=Path, default=Path('out/found_rooms'), help='rendered houses'
    )
    args = parser.parse_args()
    print(machine())
    output = Embodiment.load('mobile_base').action_groups()[0].output.options
    for name, first in SEEDS.items():
        order = Order('rooms:RoomsMaker', SIZES, first, args.houses)
        paths = render(order, args.out / f'{first}', os.cpu_count() or 1)
        episodes = ShardEpisodes.load(order, paths)
        found, pointing = drafts(args.checkpoint, episodes)
        print(f'{args.houses} houses, {name}: {pointing}')
        for how, rows in found.items():
            print(f'  {how}: {judged(rows, episodes.arrays["actions"], output)}')


if __name__ == '__main__':
    main()
