"""
The sandwich around the model: forward steps in order, the same steps inverted in reverse.

The same list serves training and the robot, so it cannot drift between them. A sample is a
dictionary; keys and who writes them:

  images       view -> uint8 [h, w, 3] RGB                   observation
  history      uint8 [h, w, 3] past frames, oldest first     observation, or absent
  state        float32 [S] SI                                observation; normalised, padded
  state_text   the state in 256 bins                         WriteState
  instruction  text                                          observation
  actions      float32 [H, A] SI -> [H, K] in [-1, 1]        dataset or model
  origin       float32 [A] SI, what actions are counted from CountFromState
  prefix       float32 [d, A] SI or None -> [d, K]           runtime
  action_mask  bool [H, K]                                   PadActions
  prompt       text                                          WritePrompt
  input_ids, mm_token_type_ids, pixel_values, image_grid_thw, stable_tokens   Tokenise
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.patches import resize

Sample = dict[str, Any]


class Transform(Protocol):
    """One paired step; for actions inverse(forward(x)) == x."""

    def forward(self, sample: Sample) -> Sample:
        """Return a new sample, towards the model."""

    def inverse(self, sample: Sample) -> Sample:
        """Return a new sample, towards the robot."""


@dataclass(frozen=True)
class Pipeline:
    """Steps in order, and reversed."""

    steps: Sequence[Transform]

    def forward(self, sample: Sample) -> Sample:
        """Run every step towards the model."""
        for step in self.steps:
            sample = step.forward(sample)
        return sample

    def inverse(self, sample: Sample) -> Sample:
        """Run every step's inverse, last first, towards the robot."""
        for step in reversed(self.steps):
            sample = step.inverse(sample)
        return sample


class OneWay:
    """A step that changes inputs only: nothing of the actions is to be undone."""

    def inverse(self, sample: Sample) -> Sample:
        """Return the sample as it is."""
        return sample


@dataclass(frozen=True)
class ResizeImages(OneWay):
    """
    Resize each view, and past frames, to the model's (height, width).

    A past frame goes by way of its view's size, at which a policy keeps it and a remote robot
    sends it: so training, local and remote policies see the same pixels.
    """

    sizes: Mapping[str, tuple[int, int]]
    history_size: tuple[int, int] = (128, 128)
    history_view: str = 'ego'

    def forward(self, sample: Sample) -> Sample:
        """Keep the model's views only; an absent view is refused by name."""
        images = {}
        for view, size in self.sizes.items():
            if view not in sample['images']:
                raise QwenVlaError(f'observation.images.{view}: the view is missing')
            images[view] = _resized(f'images.{view}', sample['images'][view], size)
        past = []
        for image in sample.get('history', ()):
            kept = _resized('history', image, self.sizes[self.history_view])
            past.append(resize(kept, *self.history_size))
        return {**sample, 'images': images, 'history': past}


def _resized(place: str, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return resize(); an error names the place in the observation."""
    try:
        return resize(image, *size)
    except QwenVlaError as error:
        raise QwenVlaError(f'observation.{place}: {error}') from error


@dataclass(frozen=True)
class WritePrompt(OneWay):
    """Instruction -> embodiment-conditioned prompt (paper 2.3)."""

    write: Callable[[str], str]

    def forward(self, sample: Sample) -> Sample:
        """Add 'prompt'."""
        return {**sample, 'prompt': self.write(sample['instruction'])}


@dataclass(frozen=True)
class Quantiles:
    """q01 and q99 of each channel, float64 [A], with the channels' names (paper, eq. 5)."""

    names: tuple[str, ...]
    q01: np.ndarray
    q99: np.ndarray

    def __post_init__(self) -> None:
        """Refuse statistics that would send wild numbers."""
        for name, low, high in zip(self.names, self.q01, self.q99, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and high > low):
                raise QwenVlaError(
                    f'statistics: {name}: q01 {low} and q99 {high} are not an increasing, finite '
                    'pair; compute the statistics anew'
                )

    def normalise(self, values: np.ndarray, clip: bool) -> np.ndarray:
        """
        Return values [..., A] scaled so that q01 -> -1 and q99 -> 1.

        QwenVlaError names what is not finite, and a number of channels that is not A.
        """
        if values.shape[-1] != len(self.names):
            raise QwenVlaError(
                f'statistics: {values.shape[-1]} channels given for {len(self.names)} '
                f'({", ".join(self.names)})'
            )
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values.reshape(-1, len(self.names))).all(0)
            names = [name for name, is_bad in zip(self.names, bad, strict=True) if is_bad]
            raise QwenVlaError(f'{", ".join(names)}: a value is not a finite number')
        scaled = 2 * (values - self.q01) / (self.q99 - self.q01) - 1
        return (np.clip(scaled, -1, 1) if clip else scaled).astype(np.float32)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Undo normalise (within the quantiles)."""
        return (values + 1) / 2 * (self.q99 - self.q01) + self.q01


@dataclass(frozen=True)
class CountFromState:
    """
    Absolute actions <-> how far they are from the observed state, where it has the channel.

    columns: pairs of (channel of the actions, channel of the state)
    """

    channels: int
    columns: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, actions: Sequence[str], state: Sequence[str]) -> 'CountFromState':
        """Return the step for channels of these names."""
        pairs = ((index, name) for index, name in enumerate(actions) if name in state)
        columns = tuple((index, list(state).index(name)) for index, name in pairs)
        return cls(len(actions), columns)

    def forward(self, sample: Sample) -> Sample:
        """Add 'origin' and subtract it from actions and prefix; 'state' is in SI units yet."""
        origin = np.zeros(self.channels, np.float32)
        for action, state in self.columns:
            origin[action] = sample['state'][state]
        changed = {
            key: sample[key] - origin
            for key in ('actions', 'prefix')
            if sample.get(key) is not None
        }
        return {**sample, **changed, 'origin': origin}

    def inverse(self, sample: Sample) -> Sample:
        """Return absolute actions; 'origin' is that of the sample that went forward."""
        return {**sample, 'actions': sample['actions'] + sample['origin']}


@dataclass(frozen=True)
class NormaliseActions:
    """
    SI <-> [-1, 1] by q01/q99 and clipping, for 'actions' and 'prefix'.

    clip: published (True). False keeps values beyond the quantiles, for data without outliers. A
    prefix is never clipped: its rows run as they are, and the chunk must begin with them.
    """

    quantiles: Quantiles
    clip: bool = True

    def forward(self, sample: Sample) -> Sample:
        """Normalise what is there."""
        changed = {
            key: self.quantiles.normalise(sample[key], self.clip and key != 'prefix')
            for key in ('actions', 'prefix')
            if sample.get(key) is not None
        }
        return {**sample, **changed}

    def inverse(self, sample: Sample) -> Sample:
        """Return actions in SI units."""
        return {**sample, 'actions': self.quantiles.restore(sample['actions'])}


@dataclass(frozen=True)
class NormaliseState(OneWay):
    """Proprioception -> [-1, 1] by q01/q99 (not clipped), padded to the model's width."""

    quantiles: Quantiles
    width: int

    def forward(self, sample: Sample) -> Sample:
        """Normalise 'state' and pad it; padding is no measurement, its weights never see data."""
        state = self.quantiles.normalise(sample['state'], clip=False)
        if len(state) > self.width:
            raise QwenVlaError(
                f'observation.state: {len(state)} values, but the model has room for {self.width} '
                '(decoder.state_dim)'
            )
        return {**sample, 'state': np.pad(state, (0, self.width - len(state)))}


@dataclass(frozen=True)
class WriteState(OneWay):
    """
    Proprioception -> words behind the prompt, 256 bins (paper, Table 12, second row).

    The wording is ours: " The state is 127 3 255." Bin 0 is q01 and below, bin 255 q99 and above.
    """

    quantiles: Quantiles
    bins: int = 256

    def forward(self, sample: Sample) -> Sample:
        """Add 'state_text'; the numbers themselves stay."""
        scaled = self.quantiles.normalise(sample['state'], clip=True)
        index = np.minimum(((scaled + 1) / 2 * self.bins).astype(int), self.bins - 1)
        return {**sample, 'state_text': f' The state is {" ".join(map(str, index))}.'}


@dataclass(frozen=True)
class PadActions:
    """[H_task, A] <-> the leading block of [H, K], with its mask (paper 2.4)."""

    task_horizon: int
    task_channels: int
    horizon: int
    channels: int

    def forward(self, sample: Sample) -> Sample:
        """Pad actions and prefix; add 'action_mask'. Other shapes than the task's are refused."""
        self._refuse_shapes(sample)
        mask = np.zeros((self.horizon, self.channels), bool)
        mask[: self.task_horizon, : self.task_channels] = True
        changed = {'action_mask': mask}
        beyond = self.channels - self.task_channels
        if sample.get('actions') is not None:
            rows = self.horizon - self.task_horizon
            changed['actions'] = np.pad(sample['actions'], ((0, rows), (0, beyond)))
        if sample.get('prefix') is not None:
            changed['prefix'] = np.pad(sample['prefix'], ((0, 0), (0, beyond)))
        return {**sample, **changed}

    def _refuse_shapes(self, sample: Sample) -> None:
        actions, prefix = sample.get('actions'), sample.get('prefix')
        wanted = (self.task_horizon, self.task_channels)
        if actions is not None and actions.shape != wanted:
            raise QwenVlaError(f'actions: {list(actions.shape)}, the task has {list(wanted)}')
        if prefix is None:
            return
        if prefix.shape[1:] != wanted[1:] or len(prefix) > self.task_horizon:
            raise QwenVlaError(f'prefix: {list(prefix.shape)}, the task has {list(wanted)}')

    def inverse(self, sample: Sample) -> Sample:
        """Return the leading block."""
        block = sample['actions'][: self.task_horizon, : self.task_channels]
        return {**sample, 'actions': block}


@dataclass(frozen=True)
class Tokenise(OneWay):
    """Images and prompt -> token ids, patches, grids (model/processor.py)."""

    processor: Callable[..., Sample]

    def forward(self, sample: Sample) -> Sample:
        """Add the model's inputs."""
        found = self.processor(
            sample['images'],
            sample['prompt'],
            sample.get('history', ()),
            sample.get('state_text', ''),
        )
        return {**sample, **found}
