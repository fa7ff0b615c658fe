"""
Real episodes as the text-to-action stage takes them: without their pictures (paper, section 5.2).

The same frames and chunks, or one sample an episode with the whole trajectory. Together with the
synthetic text-action set at mixture.TEXT_TO_ACTION, 80 to 20.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from qwen_vla_ros.data.sample import Episodes, Sample
from qwen_vla_ros.errors import QwenVlaError


class WithColumns(Episodes, Protocol):
    """Episodes that give their actions without pictures."""

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return at least action [F, A]."""


class WithoutVision:
    """A data set without views."""

    def __init__(self, episodes: Episodes, whole: bool = False) -> None:
        """Wear a data set; whole: one sample an episode, which needs a reader with columns()."""
        if whole and not hasattr(episodes, 'columns'):
            raise QwenVlaError(
                f'{episodes.source}: its reader cannot give whole trajectories; take chunks'
            )
        self.source = episodes.source
        self._episodes, self._whole = episodes, whole

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._episodes)

    def frames(self, episode: int) -> int:
        """Return the number of samples of an episode."""
        return 1 if self._whole else self._episodes.frames(episode)

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError says why there is none."""
        return self._blind(self._episodes.sample(episode, frame))

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""
        if self._whole:
            yield self.sample(episode, 0)
        else:
            yield from map(self._blind, self._episodes.stream(episode))

    def _blind(self, sample: Sample) -> Sample:
        if not self._whole:
            return replace(sample, images={})
        rows = np.asarray(self._episodes.columns(sample.place.episode)['action'], np.float32)
        return replace(sample, images={}, actions=rows, mask=np.ones(rows.shape, bool))
