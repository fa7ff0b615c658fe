"""
What a run tells while it goes: log.jsonl always, TensorBoard and Weights & Biases where they are.

A line of log.jsonl is one step: losses of the step, and every few steps what was tallied since:
loss by source and by channel, gradient norms by part, throughput, memory. A run that goes on drops
the lines behind its state, so the file reads as if it had never stopped.
"""

import io
import json
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qwen_vla_ros.train.weights_biases import WeightsBiases

# Dense bfloat16 peak in TFLOP/s, by a part of the GPU's name (vendors' data sheets).
PEAKS = {'H200': 989.0, 'H100': 989.0, 'A100': 312.0, 'L40S': 362.0, '4090': 165.0, 'L4': 121.0}


class Tally:
    """Sums and counts by name, between two reports."""

    def __init__(self, held: Mapping[str, list[float]] | None = None) -> None:
        """Go on with what a state held."""
        self.held: dict[str, list[float]] = {k: list(v) for k, v in (held or {}).items()}

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add a sum of `count` values."""
        entry = self.held.setdefault(name, [0.0, 0.0])
        entry[0] += value
        entry[1] += count

    def merge(self, others: list[dict[str, list[float]]]) -> None:
        """Take every process's sums as one."""
        self.held = {}
        for held in others:
            for name, (value, count) in held.items():
                self.add(name, value, count)

    def means(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: value / count for name, (value, count) in sorted(self.held.items())}


class Watch:
    """The writers of one run; only the first process has one."""

    def __init__(
        self, out: Path, step: int, wandb: str | None, settings: Mapping[str, Any]
    ) -> None:
        """Open the writers; what was logged behind `step` is dropped."""
        self.path = out / 'log.jsonl'
        self._forget(step)
        self._board = _tensorboard(out / 'tensorboard', step)
        self._wandb = WeightsBiases(wandb, out, step, settings) if wandb else None

    def _forget(self, step: int) -> None:
        """Drop lines behind a step, and a line that was cut short."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)['step'] <= step:
                    kept.append(line + '\n')
            except ValueError:
                break
        beside = self.path.with_name('.log.jsonl.beside')
        beside.write_text(''.join(kept))
        beside.rename(self.path)

    def tell(self, step: int, entry: Mapping[str, Any]) -> None:
        """Write one line of figures; nested tables become paths in TensorBoard."""
        with self.path.open('a') as file:
            file.write(json.dumps({'step': step, **entry}) + '\n')
        flat = dict(_flat(entry))
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.tell(step, flat)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show a picture that was drawn."""
        if self._board is not None:
            import cv2

            self._board.add_image(
                name, cv2.imread(str(path))[..., ::-1].copy(), step, dataformats='HWC'
            )
        if self._wandb is not None:
            self._wandb.picture(step, name, path)

    def film(self, step: int, name: str, frames: Sequence[np.ndarray], rate_hz: float) -> None:
        """Show frames uint8 [h, w, 3] as TensorBoard shows films: as a GIF that plays."""
        if self._board is None and self._wandb is None:
            return
        gif = _gif(frames, rate_hz)
        if self._wandb is not None:
            self._wandb.film(step, name, gif)
        if self._board is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = frames[0].shape[:2]
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=shown)])
        self._board.file_writer.add_summary(summary, step)

    def close(self) -> None:
        """Write what is waiting."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def _flat(entry: Mapping[str, Any], above: str = '') -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in entry.items():
        path = f'{above}/{name}' if above else name
        if isinstance(value, Mapping):
            found += _flat(value, path)
        elif isinstance(value, (int, float)):
            found.append((path, float(value)))
    return found


def _tensorboard(folder: Path, step: int) -> Any:
    """Return TensorBoard's writer, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _gif(frames: Sequence[np.ndarray], rate_hz: float) -> bytes:
    from PIL import Image

    pictures, data = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    pictures[0].save(
        data,
        format='GIF',
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / rate_hz),
        loop=0,
    )
    return data.getvalue()


def memory_gb(device: torch.device) -> float:
    """Return the most memory that was taken so far: of the GPU, else of this process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_tflops(device: torch.device) -> float | None:
    """Return the device's bfloat16 peak; None where it is not known."""
    if device.type != 'cuda':
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def git_state() -> dict[str, Any]:
    """Return commit and number of changed files; of an installed copy the version, and why."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / '.git').exists():
        return {**_installed(), 'why': 'not run from a checkout'}
    words = {'commit': ['rev-parse', 'HEAD'], 'changed': ['status', '--porcelain']}
    try:
        found = {
            key: subprocess.run(
                ['git', '-C', str(folder), *rest],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'},
            ).stdout.strip()
            for key, rest in words.items()
        }
    except (OSError, subprocess.CalledProcessError) as error:
        return {**_installed(), 'why': f'git did not tell ({error})'}
    return {'commit': found['commit'], 'changed_files': len(found['changed'].splitlines())}


def _installed() -> dict[str, Any]:
    """Return the installed version, and the commit where pip had it from a repository."""
    try:
        package = metadata.distribution('qwen_vla_ros')
    except metadata.PackageNotFoundError:  # colcon installs none
        return {'version': None, 'commit': None}
    origin = json.loads(package.read_text('direct_url.json') or '{}')
    commit = origin.get('vcs_info', {}).get('commit_id')
    return {'version': package.version, 'commit': commit}
