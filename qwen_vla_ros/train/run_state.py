"""
The state of a run on disk: written beside, then renamed; the last good one stays until then.

OUT/state/step-00000200/
  rank-00000-of-00002.safetensors   this process's rows of each tensor (FSDP splits along rows)
  state.json                        step, settings, rows of each tensor, running sums

Any number of processes reads what any number wrote: rows are taken from the files that have them.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.ranks import Ranks, own_rows

FACTS = 'state.json'


def save_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], ranks: Ranks
) -> None:
    """
    Write the state of a step, then take the older ones away.

    QwenVlaError, in every process, when the disk is full or refuses; the state before is intact.
    """
    target = folder / f'step-{step:08d}'
    beside = folder / f'.step-{step:08d}.beside'
    error = None
    try:
        if ranks.first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
    except OSError as problem:
        error = problem
    _stop_together(folder, ranks.agree(error))
    try:
        _write(beside / _name(ranks.rank, ranks.world), tensors)
    except (OSError, SafetensorError) as problem:
        error = problem
    error = ranks.agree(error)
    try:
        if ranks.first and error is None:
            told = {**facts, 'step': step, 'world': ranks.world}
            (beside / FACTS).write_text(json.dumps(told) + '\n')
            _sync(beside / FACTS)
            shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
            _sync(folder)
            for old in _states(folder):
                if old != target:
                    shutil.rmtree(old)
    except OSError as problem:
        error = problem
    error = ranks.agree(error)
    if error is not None and ranks.first:
        shutil.rmtree(beside, ignore_errors=True)
    _stop_together(folder, error)


def adam_tensors(
    weights: Mapping[str, nn.Parameter], optimiser: torch.optim.AdamW
) -> dict[str, Tensor]:
    """Return weights and Adam's moments by name; moments that are not there yet are made."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        held = optimiser.state[weight]
        if not held:
            held['step'] = torch.tensor(0.0)
            held['exp_avg'] = torch.zeros_like(weight)
            held['exp_avg_sq'] = torch.zeros_like(weight)
        found[f'weight.{name}'] = weight
        found[f'first.{name}'], found[f'second.{name}'] = held['exp_avg'], held['exp_avg_sq']
    return found


def set_adam_step(
    weights: Mapping[str, nn.Parameter], optimiser: torch.optim.AdamW, step: int
) -> None:
    """Let Adam go on after so many steps; adam_tensors() was asked before."""
    for weight in weights.values():
        optimiser.state[weight]['step'].fill_(float(step))


def _stop_together(folder: Path, error: Exception | None) -> None:
    if error is not None:
        raise QwenVlaError(
            f'{folder}: cannot write ({error}); the state saved before is intact: free space and '
            'run the same command again'
        ) from error


def _name(rank: int, world: int) -> str:
    return f'rank-{rank:05d}-of-{world:05d}.safetensors'


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    rows = {n: own_rows(value).detach().cpu().contiguous() for n, value in tensors.items()}
    save_file(rows, path, {'format': 'pt'})
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob('step-*'))


def last_state(folder: Path) -> Path | None:
    """Return the newest state, None before the first."""
    states = _states(folder)
    return states[-1] if states else None


def read_facts(state: Path) -> dict[str, Any]:
    """Return what save_state() was told beside the tensors."""
    try:
        return json.loads((state / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise QwenVlaError(
            f'{state / FACTS}: broken ({error}); delete {state} to go on from an older state or '
            'anew'
        ) from error


def facts_of_same(state: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return read_facts() of a state of the same run; else every setting that differs is told."""
    facts = read_facts(state)
    # JSON has no tuples, and neither has what was written.
    now = dict(_flat(json.loads(json.dumps(identity))))
    was = dict(_flat({key: facts.get(key) for key in identity}))
    told = [
        _difference(name, now, was) for name in {**now, **was} if now.get(name) != was.get(name)
    ]
    if told:
        raise QwenVlaError(
            f'{state}: belongs to a run with other settings ({"; ".join(told)}); choose another '
            '--out'
        )
    return facts


def _flat(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, (*above, key))
        else:
            yield (*above, key), value


def _difference(name: tuple[str, ...], now: Mapping[Any, Any], was: Mapping[Any, Any]) -> str:
    """Return a difference in words; data and checkpoints are known by fingerprints alone."""
    if name[0] == 'recipe':
        return f'{".".join(name[1:])} {now.get(name, "none")}, was {was.get(name, "none")}'
    return f'other {" ".join(name)}'


def load_state(state: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fill this process's part of the tensors, in place; what does not fit is named."""
    world = read_facts(state)['world']
    files = [state / _name(rank, world) for rank in range(world)]
    try:
        opened = [safe_open(file, 'pt') for file in files]
        for name, value in tensors.items():
            with torch.no_grad():
                _fill(name, value, [file.get_slice(name) for file in opened], ranks)
    except (OSError, SafetensorError, ValueError) as error:
        raise QwenVlaError(
            f'{state}: broken ({error}); delete it to start the run anew'
        ) from error


def _fill(name: str, value: Tensor, parts: list[Any], ranks: Ranks) -> None:
    """Copy those rows of a stored tensor that this process owns."""
    spread = isinstance(value, DTensor)
    local, rows = own_rows(value), value.shape[0]
    lengths = [part.get_shape()[0] for part in parts]
    # A tensor that was not spread lies whole in every file.
    parts, lengths = (parts[:1], lengths[:1]) if lengths[0] == rows else (parts, lengths)
    if sum(lengths) != rows or parts[0].get_shape()[1:] != list(value.shape[1:]):
        raise ValueError(f'{name}: {sum(lengths)} rows are stored, the model has {rows}')
    begin = min(rows, ranks.rank * -(-rows // ranks.world)) if spread else 0
    wanted, start, found = range(begin, begin + len(local)), 0, []
    for part, length in zip(parts, lengths, strict=True):
        low, high = max(wanted.start, start), min(wanted.stop, start + length)
        if low < high:
            found.append(part[low - start : high - start])
        start += length
    if found:
        local.copy_(torch.cat(found))
