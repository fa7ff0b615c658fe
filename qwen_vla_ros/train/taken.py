"""
What a step trains on: the next draws of the mixture, encoded, with further sentences about them.

Draw n comes from (seed, n) alone, and so does the choice of its sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.data.mixture import Mixture
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.train.ranks import Ranks
from qwen_vla_ros.train.recipe import Recipe
from qwen_vla_ros.train.robots import Encoder, acts
from qwen_vla_ros.train.sources import DataSet

SENTENCES = 2  # told apart from the mixture's own draws of the same seed


@dataclass(frozen=True)
class Taken:
    """One encoded sample: its draw, and what it teaches; None: nothing of that kind."""

    draw: int
    sample: Sample
    acting: Mapping[str, Any] | None
    answering: Mapping[str, Any] | None
    sentence: int = 0  # of the draw's picture

    @property
    def form(self) -> tuple[int, ...]:
        """Return what samples of one pass should have in common, so that little is padding."""
        rows = 0 if self.acting is None else len(self.acting['actions'])
        return rows, len(self.sample.images)


class Taker:
    """One process's samples, step by step."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        encoder: Encoder,
        mixture: Mixture | Loader,
        sets: Sequence[DataSet],
    ) -> None:
        """Take from the mixture of the sets."""
        self._recipe, self._ranks = recipe, ranks
        self._encoder, self._mixture = encoder, mixture
        self._episodes = {data.episodes.source: data.episodes for data in sets}

    @property
    def drawn(self) -> int:
        """Return how many draws a process takes for a step."""
        return self._recipe.batch // (self._ranks.world * self._recipe.sentences)

    def take(self, stream: Iterator[Sample]) -> list[Taken]:
        """Return this process's samples of the next step, encoded."""
        found = []
        for _ in range(self.drawn):
            draw = self._mixture.position * self._ranks.world + self._ranks.rank
            told = self._with_further_sentences(next(stream), draw)
            found += [self._encoded(draw, sample, number) for number, sample in enumerate(told)]
        return found

    def _encoded(self, draw: int, sample: Sample, sentence: int) -> Taken:
        acting = self._encoder.acting(sample) if acts(sample) else None
        asked = sample.text and self._recipe.text_weight and self._recipe.trains_backbone
        answering = self._encoder.answering(sample) if asked else None
        if acting is None and answering is None:
            raise sample.place.refuse(
                'sample', f'neither actions nor words to learn at {self._recipe.stage}'
            )
        return Taken(draw, sample, acting, answering, sentence)

    def _with_further_sentences(self, sample: Sample, draw: int) -> list[Sample]:
        """Return a sample and others of the same picture, where its set tells any."""
        episodes = self._episodes[sample.place.source]
        if self._recipe.sentences == 1 or not hasattr(episodes, 'same_picture'):
            return [sample]
        place = sample.place
        others = episodes.same_picture(place.episode, place.frame)
        others = np.random.default_rng((self._recipe.seed, SENTENCES, draw)).permutation(others)
        chosen = others[: self._recipe.sentences - 1].tolist()
        further = (episodes.sample(place.episode, number) for number in chosen)
        return [sample, *(replace(one, images=sample.images) for one in further)]
