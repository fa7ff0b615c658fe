"""The noise of a chunk: it goes by the observation's stamp, so that a call can be repeated."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SEED = 0


def seed_of(stamp_ns: int) -> int:
    """
    Return the seed of the noise for an observation's stamp, in [0, 2**63).

    A call that was discarded or lost so changes nothing for those after it: whoever asks again
    for an observation of that day gets its chunk again.
    """
    told = f'{SEED} {stamp_ns}'.encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), 'big') >> 1


def noise_of(sample: Mapping[str, Any], seed: int, draw: int = 1) -> Tensor:
    """Return the draw-th noise [1, H, K] of a seed: as many rows as the sample's robot has."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draw):
        noise = torch.randn(1, *sample['action_mask'].shape, generator=generator)
    return noise
