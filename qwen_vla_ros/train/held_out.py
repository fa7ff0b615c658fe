"""
Figures on episodes that nothing trains on: the error of predicted actions in SI units.

Each sample is predicted once, from noise of its own seed, as the policy would run, and compared
with what was demonstrated. Errors are means of absolutes over valid steps, by unit (rad, m) and by
channel, for each source, and by unit those of one who stands still; the language head has its
loss.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from qwen_vla_ros.data.sample import Sample, SampleError
from qwen_vla_ros.embodiment import ActionGroup
from qwen_vla_ros.train.losses import Losses
from qwen_vla_ros.train.mixed_batch import collate_mixed
from qwen_vla_ros.train.robots import Encoder, acts, spread
from qwen_vla_ros.train.sources import DataSet

SAMPLES = 24  # of a source
AT_ONCE = 8
ABSOLUTE = ('abs_joint', 'gripper', 'dexterous')  # kinds whose channels are those of the state
FILMED = 40  # frames of an episode


@dataclass(frozen=True)
class Prediction:
    """A held-out sample and what was predicted for it, [H, A] in SI units."""

    sample: Sample
    predicted: np.ndarray

    def errors(self) -> np.ndarray:
        """Return the absolute errors [H, A]; NaN where nothing was demonstrated."""
        found = np.abs(self.predicted - self.sample.actions)
        return np.where(self.sample.mask, found, np.nan)


def at_rest(sample: Sample, groups: Sequence[ActionGroup]) -> np.ndarray:
    """Return the command [A] that changes nothing; NaN where the sample does not tell it."""
    found = []
    for group in groups:
        for name in group.names:
            if group.kind == 'waypoint':
                found.append(0.0)
            elif (
                group.kind in ABSOLUTE and sample.state is not None and name in sample.state_names
            ):
                found.append(float(sample.state[list(sample.state_names).index(name)]))
            else:
                found.append(np.nan)
    return np.array(found, np.float32)


def chosen(data: DataSet) -> list[Sample]:
    """Return the held-out samples with actions that are looked at."""
    if not len(data.held_out):
        return []
    return [sample for sample in spread(data.held_out, SAMPLES) if acts(sample)]


def episode(data: DataSet) -> list[Sample]:
    """Return the samples with actions of a held-out episode, evenly chosen; none: there is no."""
    held = data.held_out
    for number in range(len(held)):
        found, count = [], held.frames(number)
        for frame in np.unique(np.linspace(0, count - 1, min(count, FILMED)).astype(int)):
            with contextlib.suppress(SampleError):
                found.append(held.sample(number, int(frame)))
        if len(found := [sample for sample in found if acts(sample)]) > 1:
            # Rows of other robots, or more of them, would need other bands.
            first = found[0]
            return [s for s in found if s.action_names == first.action_names]
    return []


def predict(losses: Losses, encoder: Encoder, samples: Sequence[Sample]) -> list[Prediction]:
    """Return what the model would do, each sample from its own noise."""
    model, found = losses.model, []
    losses.eval()
    for begin in range(0, len(samples), AT_ONCE):
        some = samples[begin : begin + AT_ONCE]
        encoded = [encoder.acting(sample) for sample in some]
        batch = collate_mixed(model, encoded, ())
        shape = batch['actions'].shape[1:]
        noise = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(begin + index))
                for index in range(len(some))
            ]
        )
        rows = losses(batch, None, noise).float().cpu().numpy()
        for sample, inputs, chunk in zip(some, encoded, rows, strict=True):
            actions = encoder.pipeline(sample).inverse({**inputs, 'actions': chunk})['actions']
            found.append(Prediction(sample, np.asarray(actions, np.float32)))
    losses.train()
    return found


def figures(encoder: Encoder, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return the mean absolute error of each unit and of each channel of one source."""
    errors = np.concatenate([prediction.errors() for prediction in predictions])
    robot = encoder.robot(predictions[0].sample)
    groups = robot.embodiment.action_groups(robot.layout)
    units = [unit for group in groups for unit in group.units]
    names = predictions[0].sample.action_names
    still = np.concatenate(
        [replace(p, predicted=at_rest(p.sample, groups)).errors() for p in predictions]
    )
    found = {'samples': float(len(predictions))}
    for unit in dict.fromkeys(units):
        columns = [column for column, own in enumerate(units) if own == unit]
        found[f'error_{unit}'] = float(np.nanmean(errors[:, columns]))
        if np.isfinite(still[:, columns]).any():
            found[f'still_{unit}'] = float(np.nanmean(still[:, columns]))
    for column, (name, unit) in enumerate(zip(names, units, strict=True)):
        found[f'{name}_{unit}'] = float(np.nanmean(errors[:, column]))
    return {key: round(value, 6) for key, value in found.items()}


def draw_predictions(predictions: Sequence[Prediction], title: str, path: str) -> None:
    """Draw pictures, words, demonstrated and predicted rows of a few samples."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    shown = predictions[:: max(1, len(predictions) // 3)][:3]
    figure, axes = pyplot.subplots(
        len(shown), 2, figsize=(11, 3.2 * len(shown)), layout='constrained', squeeze=False
    )
    for (left, right), item in zip(axes, shown, strict=True):
        sample = item.sample
        if sample.images:
            left.imshow(next(iter(sample.images.values())))
        left.set_axis_off()
        left.set_title(sample.instruction, fontsize=8)
        for column, name in enumerate(sample.action_names):
            colour = f'C{column % 10}'
            right.plot(sample.actions[:, column], color=colour, label=name)
            right.plot(item.predicted[:, column], '--', color=colour)
        right.set_xlabel('row; dashed: predicted')
        right.legend(fontsize=6, ncols=2)
        right.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
