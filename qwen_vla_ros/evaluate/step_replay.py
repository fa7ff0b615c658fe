"""
`qwen-vla eval replay LOG --checkpoint DIR`: logged calls again, bit by bit.

Compared are, in the order in which one follows from the other: weights, pixels, prompt ids, state,
noise, encoder output, each denoising step, raw actions, inverse transforms. The first that differs
is named with how much; what lies behind it differs because of it. On the same class of processor,
with the same torch and number of threads, nothing differs.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError

if TYPE_CHECKING:
    from qwen_vla_ros.policy import LocalPolicy

FACTS = ('torch', 'processor', 'capability', 'device', 'dtype', 'path', 'denoising_steps')


class Difference(NamedTuple):
    """The first stage of a step that is not as logged; most: the largest difference, or None."""

    stage: str
    most: float | None
    told: str

    def __str__(self) -> str:
        """Say it in one line."""
        size = '' if self.most is None else f', by at most {self.most:.3g}'
        return f'{self.stage}: {self.told}{size}'


class Replayed(NamedTuple):
    """One step again; difference None: the same to the bit. machine: what else differs."""

    path: Path
    difference: Difference | None
    machine: tuple[str, ...]


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('path', type=Path, help='folder of a step log, or one of its files')
    parser.add_argument('--checkpoint', required=True, help='folder or hub name')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--dtype', default='auto')
    parser.add_argument('--threads', type=int, help="of torch (default: the log's)")


def run_from_arguments(args: argparse.Namespace) -> int:
    """Print what differs; 1 when anything does."""
    import torch

    from qwen_vla_ros.model.step_log import read_step
    from qwen_vla_ros.policy import load_policies

    files = step_files(args.path)
    _, facts = read_step(files[0])
    torch.set_num_threads(args.threads or int(facts['threads']))
    policies = load_policies(args.checkpoint, args.device, dtype=args.dtype)
    policy = policies.open(facts['embodiment'])
    found = list(replay(policy, tqdm(files, unit='step', disable=None)))
    different = [item for item in found if item.difference is not None]
    for item in different[:10]:
        print(f'{item.path.name}  {item.difference}')
    for told in found[0].machine if different else ():
        print(f'unlike the log: {told}')
    print(f'{len(found) - len(different)} of {len(found)} steps are the same to the bit')
    return 1 if different else 0


def step_files(path: Path) -> list[Path]:
    """Return the steps of a log in their order; QwenVlaError when there is none."""
    files = [path] if path.is_file() else sorted(path.glob('*.safetensors'))
    if files:
        return files
    below = sorted({str(step.parent) for step in path.glob('*/*.safetensors')})
    told = f'choose one of {", ".join(below)}' if below else 'log with log_steps:=DIR of the node'
    raise QwenVlaError(f'{path}: no logged step there; {told}')


def replay(policy: 'LocalPolicy', files: Any) -> Iterator[Replayed]:
    """Yield each step, made again by a policy."""
    from qwen_vla_ros.model.step_log import machine_facts, read_step, weights_hash

    own = {**machine_facts(), **policy.metadata['engine'], 'weights': weights_hash(policy.model)}
    for path in files:
        tensors, facts = read_step(path)
        machine = tuple(
            f'{key} {own.get(key)}, logged {facts.get(key)}'
            for key in FACTS
            if own.get(key) != facts.get(key)
        )
        yield Replayed(path, _first_difference(policy, tensors, facts, own['weights']), machine)


def _first_difference(
    policy: 'LocalPolicy',
    tensors: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    weights: str,
) -> Difference | None:
    """Make a step again and return the first stage that is not as logged."""
    if facts['weights'] != weights:
        return Difference('weights', None, f'{weights}, logged {facts["weights"]}')
    # A log without 'draw' is of one seed: its n-th call took the n-th noise.
    draw = int(facts.get('draw', facts['call']))
    made = policy.again(_given(tensors, facts), int(facts['seed']), draw)
    stages = [
        ('pixels', 'pixel_values'),
        ('prompt ids', 'input_ids'),
        ('state', 'model_state'),
        ('noise', 'noise'),
        ('encoder output', 'features'),
    ]
    for stage, name in stages:
        if found := _compared(stage, tensors.get(name), made.get(name)):
            return found
    logged, own = tensors.get('steps'), made.get('steps')
    if logged is not None and own is not None:
        if len(logged) != len(own):
            return Difference('denoising', None, f'{len(own)} steps, logged {len(logged)}')
        for step, (one, other) in enumerate(zip(logged, own, strict=True), 1):
            if found := _compared(f'denoising step {step}', one, other):
                return found
    for stage, name in (('raw actions', 'actions'), ('inverse transforms', 'rows')):
        if found := _compared(stage, tensors.get(name), made.get(name)):
            return found
    return None


def _given(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the transforms were given; the pictures have their final size already."""
    views = {n.partition('.')[2]: v for n, v in tensors.items() if n.startswith('images.')}
    history = [tensors[name] for name in sorted(tensors) if name.startswith('history.')]
    return {
        'images': views,
        'history': history,
        'state': tensors['state'],
        'instruction': facts['instruction'],
        'prefix': tensors.get('prefix'),
    }


def _compared(stage: str, logged: np.ndarray | None, made: np.ndarray | None) -> Difference | None:
    """Return how two arrays differ; None when they are the same to the bit."""
    if logged is None and made is None:
        return None
    if logged is None or made is None:
        return Difference(stage, None, 'not logged' if logged is None else 'no longer there')
    if logged.shape != made.shape or logged.dtype != made.dtype:
        told = f'{made.dtype} {list(made.shape)}, logged {logged.dtype} {list(logged.shape)}'
        return Difference(stage, None, told)
    if logged.tobytes() == made.tobytes():
        return None
    apart = np.abs(logged.astype(np.float64) - made.astype(np.float64))
    return Difference(stage, float(apart.max()), f'{int((apart > 0).sum())} of {apart.size}')
