"""
Everything that one inference was made of, to the bit, one safetensors file a call.

Pictures as they were resized, prompt ids, state, noise and its seed, the encoder's output, the
rows after each denoising step (eager path, Euler), the raw actions and those in SI units; beside
them what ran: weights' hash, versions, device, threads. The oldest files go when it is full.
evaluate/step_replay.py makes the same calls again and tells where a difference begins.
"""

import hashlib
import json
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen_vla_ros.errors import QwenVlaError

FORMAT = 1


class StepLog:
    """A folder of steps. Thread-safe."""

    def __init__(self, folder: Path, model: Any, engine: Any, max_gb: float = 2.0) -> None:
        """Create a new folder; QwenVlaError when it holds steps already or cannot be written."""
        self._folder, self._max_bytes = Path(folder), max_gb * 2**30
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QwenVlaError(f'step log {folder}: {error.strerror}; choose another') from error
        if any(self._folder.glob('*.safetensors')):
            raise QwenVlaError(f'step log {folder}: it holds steps already; choose a new folder')
        self._lock = threading.Lock()
        self._sizes: list[tuple[Path, int]] = []
        self._count = 0
        self.failure = ''
        self._facts = {**machine_facts(), **engine.describe(), 'weights': weights_hash(model)}

    def write(self, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write a step; a full disk ends the log, never the robot: failure tells it."""
        from safetensors.numpy import save_file

        with self._lock:
            if self.failure:
                return
            path = self._folder / f'{self._count:08d}.safetensors'
            self._count += 1
            told = {**self._facts, **facts, 'threads': torch.get_num_threads(), 'format': FORMAT}
            beside = path.with_suffix('.part')
            try:
                save_file(arrays(tensors), beside, {'step': json.dumps(told)})
                beside.replace(path)
                self._sizes.append((path, path.stat().st_size))
                while sum(size for _, size in self._sizes) > self._max_bytes:
                    self._sizes.pop(0)[0].unlink(missing_ok=True)
            except OSError as error:
                beside.unlink(missing_ok=True)
                self.failure = f'step log {self._folder}: {error.strerror}; no more is written'


class Trace:
    """What an engine tells of one call: the encoder's output and the rows after each step."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.features: Tensor | None = None
        self.steps: list[Tensor] = []

    def tensors(self) -> dict[str, Any]:
        """Return 'features' [V, C] and 'steps' [N, B, H, K], where they are known."""
        steps = torch.stack(self.steps).float() if self.steps else None
        return {'features': self.features, 'steps': steps}


def read_step(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return tensors and facts of a step; QwenVlaError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, 'np') as file:
            facts = json.loads((file.metadata() or {})['step'])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise QwenVlaError(f'{path}: not a logged step ({error})') from error
    if facts.get('format') != FORMAT:
        raise QwenVlaError(f'{path}: format {facts.get("format")}, this version reads {FORMAT}')
    return tensors, facts


def weights_hash(model: torch.nn.Module) -> str:
    """Return 32 hexadecimal digits of every weight as it is in memory, names included."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def machine_facts() -> dict[str, str]:
    """Return what the bits of a result depend on beside the weights."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ''
    return {
        'torch': torch.__version__,
        'processor': gpu or platform.processor() or platform.machine(),
        'capability': torch.backends.cpu.get_cpu_capability(),
    }


def arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what is there as arrays of their own bits; bfloat16 as float32."""
    return {name: _array(value) for name, value in tensors.items() if value is not None}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
        return np.ascontiguousarray(value.numpy())
    return np.ascontiguousarray(value)
