"""
Tensors in safetensors files: written in shards, checked before they are read, read one by one.

Layout as Hugging Face has it: `model.safetensors`, or above a shard size
`model-00001-of-00003.safetensors` ... with `model.safetensors.index.json`, whose `weight_map` says
which file holds which tensor. Loading compares names and shapes from the files' headers first, so
a checkpoint that does not fit is refused before the model changes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwen_vla_ros.errors import QwenVlaError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
SHARD_BYTES = 5_000_000_000


class CheckpointError(QwenVlaError):
    """A checkpoint cannot be used; the message names the file or tensor and the remedy."""


@dataclass
class LoadReport:
    """
    What a load did, by the model's names (unknown and left_out: by the file's).

    loaded      read from the file
    resized     name -> 'old shape -> new shape': read and made to fit, e.g. a grown vocabulary
    missing     in the model, not in the file: as it was initialised
    other_size  name -> 'file shape, model shape': not read
    unknown     in the file, not in the model
    left_out    in the file and known to be of no use here, e.g. multi-token prediction
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    other_size: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Return whether every tensor of the model came from the file, and nothing else was."""
        return not (self.missing or self.other_size or self.unknown)

    def table(self, most: int = 3) -> str:
        """Return one line a kind: how many, and the first names."""
        lines = [self.source]
        for kind in ('loaded', 'resized', 'missing', 'other_size', 'unknown', 'left_out'):
            entries = getattr(self, kind)
            if not entries:
                continue
            told = list(entries)[:most]
            if isinstance(entries, dict):
                told = [f'{name} ({entries[name]})' for name in told]
            rest = ', ...' if len(entries) > most else ''
            lines.append(f'  {kind.replace("_", " "):11}{len(entries):6}  {", ".join(told)}{rest}')
        return '\n'.join(lines)

    def refuse_partial(self) -> None:
        """Raise CheckpointError unless the load is complete."""
        for words, names in (
            ('missing', self.missing),
            ('unknown', self.unknown),
            ('of another size', [f'{name} ({text})' for name, text in self.other_size.items()]),
        ):
            if names:
                raise CheckpointError(
                    f'{self.source}: {len(names)} tensors {words}, first {names[0]!r}; use a '
                    'checkpoint of this model, or allow_partial=True to take what fits'
                )


class StoredWeights:
    """The tensors of a safetensors file or of a folder with one or many; headers only."""

    def __init__(self, source: Path) -> None:
        """Open every file's header; a missing or truncated one and a false index are refused."""
        self.source = source
        listed = self._listed()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.files: dict[str, Path] = {}
        for path in sorted(set(listed.values())) if listed else [self._single()]:
            for name, shape in _shapes(path).items():
                if listed and listed.get(name) != path:
                    raise CheckpointError(
                        f'{source / INDEX}: says that tensor {name!r} is in '
                        f'{listed[name].name if name in listed else "no file"}, but it is in '
                        f'{path.name}; copy index and shards anew'
                    )
                self.shapes[name], self.files[name] = shape, path
        if absent := sorted(set(listed) - set(self.files)):
            raise CheckpointError(
                f'{listed[absent[0]]}: tensor {absent[0]!r} is not in it, though '
                f'{INDEX} says so; copy index and shards anew'
            )

    def tensors(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """
        Yield each named tensor, file by file; numbers that are not finite are refused.

        A tensor is the file itself, mapped: copy it. The file is opened for each, so that only
        one tensor's pages are held at a time.
        """
        for name in sorted(names, key=lambda name: self.files[name]):
            with safe_open(self.files[name], framework='pt') as file:
                value = file.get_tensor(name)
            yield name, _finite(value, name, self.files[name])

    def metadata(self) -> dict[str, str]:
        """Return the texts in the first file's header, {} when there are none."""
        with safe_open(min(self.files.values()), framework='pt') as file:
            return dict(file.metadata() or {})

    def _single(self) -> Path:
        return self.source / SINGLE if self.source.is_dir() else self.source

    def _listed(self) -> dict[str, Path]:
        """Return the index's tensor name -> file; {} when there is no index."""
        path = self.source / INDEX
        if not (self.source.is_dir() and path.is_file()):
            return {}
        try:
            table = dict(json.loads(path.read_text())['weight_map'])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f'{path}: not an index of shards ({error!r})') from error
        for name, shard in table.items():
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise CheckpointError(f'{path}: {name!r}: {shard!r} is not a file name')
        return {name: self.source / shard for name, shard in table.items()}


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds weights in one of the two layouts."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework='pt') as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f'{path}: the file is missing') from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'{path}: truncated or not a safetensors file ({error}); copy it anew'
        ) from error


def _finite(value: Tensor, name: str, path: Path) -> Tensor:
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise CheckpointError(f'{path}: tensor {name!r} holds numbers that are not finite')
    return value


def aliases(module: nn.Module) -> dict[str, str]:
    """Return name -> first name of parameters that are one tensor (tied embeddings)."""
    first = {id(p): name for name, p in module.named_parameters()}
    names = module.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in names if first[id(p)] != name}


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dictionary, each tied tensor once."""
    tied = aliases(module)
    return {name: value for name, value in module.state_dict().items() if name not in tied}


def save_weights(
    tensors: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one file, or shards of at most shard_bytes (a larger tensor alone) and an index."""
    shards: list[list[str]] = [[]]
    size = total = 0
    for name, value in tensors.items():
        cost = value.numel() * _disk_dtype(value, dtype).itemsize
        if shards[-1] and size + cost > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total = size + cost, total + cost
    count = len(shards)
    files = [
        SINGLE if count == 1 else f'model-{number:05d}-of-{count:05d}.safetensors'
        for number in range(1, count + 1)
    ]
    for file, names in zip(files, shards, strict=True):
        part = {n: tensors[n].detach().to(_disk_dtype(tensors[n], dtype)) for n in names}
        contiguous = {name: value.cpu().contiguous() for name, value in part.items()}
        save_file(contiguous, folder / file, {'format': 'pt', **(metadata or {})})
        (folder / file).chmod(0o644)
    if count > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {'metadata': {'total_size': total}, 'weight_map': dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _disk_dtype(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if value.is_floating_point() else value.dtype


def load_weights(
    module: nn.Module,
    source: Path,
    rename: Callable[[str], str | None] = str,
    fit: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    place: tuple[torch.device, torch.dtype] | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """
    Load a file or folder of safetensors into a module and tell what came from where.

    rename: the file's name -> the module's, None = left out. fit: the module's name -> what makes
    a tensor of another size fit. place: replace the parameters by tensors on this device in this
    dtype (a module built by placement.build_empty); else copy into those that are there.
    """
    stored, own, tied = StoredWeights(Path(source)), own_tensors(module), aliases(module)
    report, taken = LoadReport(str(source)), {}
    for stored_name, shape in stored.shapes.items():
        name = rename(stored_name)
        if name is None or name in tied:
            report.left_out.append(stored_name)
        elif name not in own:
            report.unknown.append(stored_name)
        elif shape != tuple(own[name].shape) and name not in (fit or {}):
            report.other_size[name] = f'{list(shape)}, here {list(own[name].shape)}'
        else:
            taken[stored_name] = name
    report.loaded = list(taken.values())
    report.missing = sorted(set(own) - set(report.loaded) - set(report.other_size))
    if not allow_partial:
        report.refuse_partial()
    for stored_name, value in stored.tensors(list(taken)):
        name = taken[stored_name]
        if fit and name in fit:
            old, value = value.shape, fit[name](value)
            if old != value.shape:
                report.resized[name] = f'{list(old)} -> {list(value.shape)}'
        put(module, name, value, place)
    _tie(module, tied)
    return report


def _tie(module: nn.Module, tied: Mapping[str, str]) -> None:
    """Let names be one tensor again after new ones were put in."""
    for name, first in tied.items():
        owner, leaf = _owner(module, name)
        owner._parameters[leaf] = module.get_parameter(first)


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], place: tuple[torch.device, torch.dtype]
) -> None:
    """Put own_tensors() of another module of the same build into one that has no memory yet."""
    tied = aliases(module)
    for name, value in tensors.items():
        put(module, name, value.detach(), place)
    _tie(module, tied)


def put(
    module: nn.Module,
    name: str,
    value: Tensor,
    place: tuple[torch.device, torch.dtype] | None = None,
) -> None:
    """Copy a value into a module's tensor; with place, put a new one there instead."""
    owner, leaf = _owner(module, name)
    old = getattr(owner, leaf)
    if place is None:
        with torch.no_grad():
            old.copy_(value)
        return
    device, dtype = place
    kind = dtype if value.is_floating_point() else value.dtype
    value = value.to(device, kind, copy=True)  # never the file itself, which may be overwritten
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        owner._buffers[leaf] = value


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition('.')
    return module.get_submodule(path), leaf
