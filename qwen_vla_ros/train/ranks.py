"""
The processes that torchrun or accelerate started: who am I, sums over all, sharded weights.

Alone, everything here does nothing and no process group is opened.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwen_vla_ros.errors import QwenVlaError


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Return whether this process writes and tells."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """Return the device of this process: each its own GPU."""
        several = self.world > 1 and wanted in ('auto', 'cuda') and torch.cuda.is_available()
        return f'cuda:{self.local}' if several else wanted

    def sums(self, numbers: list[float], device: torch.device) -> list[float]:
        """Return the sums over all processes, float64."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def gathered(self, thing: Any) -> list[Any]:
        """Return every process's thing, in the order of ranks."""
        if self.world == 1:
            return [thing]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, thing)
        return found

    def agree(self, error: Exception | None) -> Exception | None:
        """Return an error of any process, so that all stop together."""
        told = [None if error is None else str(error)] if self.world > 1 else [None]
        told = self.gathered(told[0])
        if error is not None:
            return error
        found = next(((rank, text) for rank, text in enumerate(told) if text), None)
        return found and QwenVlaError(f'process {found[0]}: {found[1]}')


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started; without it, be alone."""
    world = int(os.environ.get('WORLD_SIZE', '1'))
    if world == 1:
        yield Ranks()
        return
    gpu = torch.cuda.is_available()
    ranks = Ranks(int(os.environ['RANK']), world, int(os.environ.get('LOCAL_RANK', '0')))
    if gpu:
        torch.cuda.set_device(ranks.local)
    dist.init_process_group('cpu:gloo,cuda:nccl' if gpu else 'gloo')
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def shard(module: nn.Module, layers: list[nn.Module], ranks: Ranks, dtype: torch.dtype) -> None:
    """
    Spread the weights over all processes (FSDP2); each layer is gathered when it is its turn.

    What is in no layer is gathered for the whole pass. The weights' own dtype is what is trained;
    dtype is what is computed in, sums of gradients are float32.
    """
    if ranks.world == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(module.parameters()).device.type
    mesh = dist.init_device_mesh(device, (ranks.world,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def own_rows(value: Tensor) -> Tensor:
    """Return this process's part of a tensor, itself where it is not spread."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Return the tensor with every process's part; all of them must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value
