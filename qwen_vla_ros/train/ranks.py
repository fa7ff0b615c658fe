"""
The processes that torchrun, accelerate or mpirun started: who am I, sums, sharded weights.

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

# How launchers say how many there are, which is this, which here, and how many here: torchrun (and
# accelerate with GPUs), Open MPI, Intel MPI and MPICH (`accelerate launch --cpu` starts those).
LAUNCHERS = (
    ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'),
    (
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_LOCAL_RANK',
        'OMPI_COMM_WORLD_LOCAL_SIZE',
    ),
    ('PMI_SIZE', 'PMI_RANK', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS'),
)


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


def own_place() -> Ranks:
    """Return this process among those that a launcher started, told by os.environ."""
    for size, rank, local, _ in LAUNCHERS:
        if size in os.environ:
            number = int(os.environ.get(rank, '0'))
            return Ranks(number, int(os.environ[size]), int(os.environ.get(local, '0')))
    return Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes that a launcher started; without one, be alone."""
    ranks = own_place()
    if ranks.world == 1:
        yield ranks
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(ranks.local)
    place = {'rank': ranks.rank, 'world_size': ranks.world}
    dist.init_process_group(
        'cpu:gloo,cuda:nccl' if gpu else 'gloo', init_method=_meeting_point(ranks), **place
    )
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _meeting_point(ranks: Ranks) -> str:
    """Return where the processes meet; QwenVlaError when they are on several machines unsaid."""
    if 'WORLD_SIZE' in os.environ:
        return 'env://'
    port = os.environ.get('MASTER_PORT', '29500')
    if 'MASTER_ADDR' in os.environ:
        return f'tcp://{os.environ["MASTER_ADDR"]}:{port}'
    here = next((int(os.environ[size]) for *_, size in LAUNCHERS[1:] if size in os.environ), 0)
    if here != ranks.world:
        raise QwenVlaError(
            f'train: mpirun started {ranks.world} processes, {here} of them here; set MASTER_ADDR '
            'to the machine of the first (accelerate: --main_process_ip)'
        )
    return f'tcp://127.0.0.1:{port}'


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
