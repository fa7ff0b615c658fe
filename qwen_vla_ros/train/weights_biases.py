"""A run in Weights & Biases, where --wandb asks for it: what TensorBoard is told."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError


class WeightsBiases:
    """
    One run there, whose name lies in OUT/wandb/run-id: a run that goes on here goes on there.

    Where WANDB_MODE is offline it lies in OUT/wandb, for `wandb sync`.
    """

    def __init__(self, project: str, out: Path, step: int, settings: Mapping[str, Any]) -> None:
        """Open a run, or that of OUT behind `step`; QwenVlaError where wandb cannot."""
        try:
            import wandb
        except ImportError as error:
            raise QwenVlaError(f'--wandb: {error}; pip install wandb') from error
        self._wandb = wandb
        known = out / 'wandb' / 'run-id'
        name = known.read_text().strip() if step and known.exists() else ''
        try:
            self._run = wandb.init(
                project=project,
                id=name or None,
                dir=str(out),
                config=dict(settings),
                resume='allow',
            )
        except wandb.Error as error:
            what = ' '.join(str(error).split())
            raise QwenVlaError(
                f'--wandb {project}: {what} Else keep it here for later (WANDB_MODE=offline), or '
                'leave --wandb out.'
            ) from error
        known.parent.mkdir(exist_ok=True)
        beside = known.with_name('.run-id.beside')
        beside.write_text(self._run.id)
        beside.rename(known)

    def tell(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell figures of a step by their paths."""
        self._run.log(dict(figures), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show a picture that was drawn."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def film(self, step: int, name: str, gif: bytes) -> None:
        """Show a film."""
        self._run.log({name: self._wandb.Video(io.BytesIO(gif), format='gif')}, step=step)

    def close(self) -> None:
        """Write what is waiting."""
        self._run.finish()
