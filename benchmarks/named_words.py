"""
Which words of a sentence its prompt still tells where the readout reads it, by a linear layer.

  python -m benchmarks.named_words --checkpoint checkpoints/families --episodes 40

The readout asks for things in terms of words_of() a prompt (model/readout.py), by a linear layer:
what such a layer cannot tell there, it cannot ask for. A layer is fitted to prompts of rendered
episodes, and read on others of the same families.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks import machine
from qwen_vla_ros.train.bundle.frames import HELD_OUT
from qwen_vla_ros.train.bundle.naming import Naming
from qwen_vla_ros.train.bundle.shards import Order, ShardEpisodes, render
from qwen_vla_ros.train.bundle.stages import SIZES, begin
from qwen_vla_ros.train.sources import DataSet

MAKERS = ('tabletop:Tabletop', 'rooms:RoomsMaker')
STEPS, RATE, DECAY, EVERY, SEED = 1500, 1e-2, 1e-2, 5, 0


@torch.no_grad()
def words_of_all(naming: Naming) -> torch.Tensor:
    """Return words_of() every prompt, [N, 2C]."""
    rows = range(len(naming.samples))
    return torch.cat([naming.read(rows[at : at + 128]) for at in range(0, len(rows), 128)])


def fitted(words: torch.Tensor, has: torch.Tensor) -> nn.Linear:
    """Return a linear layer from words to which words there are."""
    torch.manual_seed(SEED)
    layer = nn.Linear(words.shape[1], has.shape[1])
    optimiser = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        loss = functional.binary_cross_entropy_with_logits(layer(words), has)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layer


def main() -> None:
    """Render, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--checkpoint', type=Path, required=True)
    parser.add_argument('--episodes', type=int, default=40, help='of each family (40)')
    parser.add_argument('--out', type=Path, default=Path('out/named_words'))
    args = parser.parse_args()
    print(machine())
    for maker in MAKERS:
        order = Order(maker, SIZES, HELD_OUT, args.episodes)
        paths = render(order, args.out / order.kind, os.cpu_count() or 1)
        episodes = ShardEpisodes.load(order, paths)
        begun = begin(args.checkpoint, [DataSet.of(order.kind, episodes)], False)
        naming = Naming(begun, {order.kind: episodes})
        words = words_of_all(naming)
        chosen = torch.from_numpy(naming.rows[order.kind])
        read, learnt = chosen[::EVERY], chosen[torch.arange(len(chosen)) % EVERY > 0]
        layer = fitted(words[learnt], naming.has[learnt])
        with torch.no_grad():
            right = (layer(words[read]) > 0) == naming.has[read].bool()
        print(
            f'{order.kind}: every word right in {float(right.all(-1).float().mean()):.2f} of '
            f'{len(read)} prompts (fitted to {len(learnt)} others)'
        )


if __name__ == '__main__':
    main()
