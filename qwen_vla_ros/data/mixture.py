"""
Sources at stated weights: which sample every rank trains on at every position.

Draw n is a function of (seed, n) alone: a source by weight ** (1 / temperature), then one of its
frames, each as likely (with replacement: there are no epochs). Rank r of w takes draws
r, r + w, ...: all ranks together see the same draws whatever w is. The position is one number, so
resuming at it gives what would have come. A bad sample is skipped, counted and named, and the
draw is made again from the same source; a source with nothing but bad samples stops the run.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Episodes, Sample
from qwen_vla_ros.errors import QwenVlaError

# Sampling weights in percent by family (paper, Table 1; they sum to 99.9).
TABLE_1: Mapping[str, float] = {
    'robot manipulation': 74.2,
    'navigation': 7.5,
    'egocentric hands': 6.0,
    'synthetic': 3.7,
    'vision-language': 3.4,
    'grounding': 2.5,
    'driving': 2.4,
    'fine-grained captions': 0.2,
}
# Text-to-action: real episodes without their pictures, and the text-action set (paper, Table 11).
TEXT_TO_ACTION: Mapping[str, float] = {'real': 0.8, 'synthetic': 0.2}
TRIES = 100  # bad samples in a row of one source
Spot = tuple[int, int, int]  # source, episode, frame, by number


@dataclass(frozen=True)
class Source:
    """A data set, its family and its share among the sets of that family."""

    episodes: Episodes
    family: str
    share: float = 1.0


def weights(
    sources: Sequence[Source], families: Mapping[str, float], temperature: float = 1.0
) -> np.ndarray:
    """
    Return the probability of each source [N]; families that have no source leave theirs to others.

    temperature 1 keeps the stated weights, more of it evens the families out. QwenVlaError for an
    unknown family and for what is not positive.
    """
    if not sources:
        raise QwenVlaError('mixture: there is no source')
    if not temperature > 0:
        raise QwenVlaError(f'mixture: temperature {temperature} must be positive')
    shares: Counter[str] = Counter()
    for source in sources:
        name = source.episodes.source
        if source.family not in families:
            raise QwenVlaError(
                f'mixture: {name}: unknown family {source.family!r}; known: {", ".join(families)}'
            )
        if not (source.share > 0 and families[source.family] > 0):
            raise QwenVlaError(f'mixture: {name}: share and weight must be positive')
        shares[source.family] += source.share
    found = np.array(
        [
            families[source.family] ** (1 / temperature) * source.share / shares[source.family]
            for source in sources
        ]
    )
    return found / found.sum()


class Mixture:
    """
    An endless stream of samples for one rank; see the module for what it promises.

    position  draws made by this rank; skipped  why samples were left out -> how often
    """

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        families: Mapping[str, float] = TABLE_1,
        temperature: float = 1.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Weigh the sources; nothing is read yet but the lengths of episodes."""
        if not 0 <= rank < world:
            raise QwenVlaError(f'mixture: rank {rank} of {world}: must be from 0 to {world - 1}')
        self.skipped: Counter[str] = Counter()
        self.position = 0
        self._sources = [source.episodes for source in sources]
        self._edges = np.cumsum(weights(sources, families, temperature))
        self._seed, self._rank, self._world = seed, rank, world
        self._starts = [_starts(source) for source in self._sources]

    def state(self) -> dict[str, int]:
        """Return what resume() takes, for a checkpoint."""
        return {'seed': self._seed, 'world': self._world, 'position': self.position}

    def resume(self, state: Mapping[str, int]) -> None:
        """Go on after the draws of a run; another seed or number of ranks is refused."""
        for key, value in (('seed', self._seed), ('world', self._world)):
            if state[key] != value:
                raise QwenVlaError(
                    f'mixture: the run was made with {key} {state[key]}, this one has {value}'
                )
        self.position = state['position']

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples from the position on."""
        while True:
            self.position += 1
            sample, skipped = self.at(self.position - 1)
            self.skipped.update(skipped)
            yield sample

    def at(
        self,
        position: int,
        bad: Collection[Spot] = (),
        trying: Callable[[Spot, str], None] | None = None,
        transform: Callable[[Sample], Any] | None = None,
    ) -> tuple[Any, list[str]]:
        """
        Return this rank's sample of a position, and why others were left out before it.

        bad are spots not to be tried; trying is told each spot, and its name, before it is read;
        transform makes something else of the sample, or raises QwenVlaError to leave it out.
        Nothing but the arguments decides the answer.
        """
        draw = position * self._world + self._rank
        rng = np.random.default_rng((self._seed, draw))
        number = min(int(np.searchsorted(self._edges, rng.random(), 'right')), self._last)
        source, starts = self._sources[number], self._starts[number]
        skipped: list[str] = []
        for _ in range(TRIES):
            index = int(rng.integers(starts[-1]))
            episode = int(np.searchsorted(starts, index, 'right')) - 1
            frame = index - int(starts[episode])
            if (number, episode, frame) in bad:
                continue
            if trying is not None:
                name = f'{source.source}: episode {episode}, frame {frame}'
                trying((number, episode, frame), name)
            try:
                sample = source.sample(episode, frame)
                return (sample if transform is None else transform(sample)), skipped
            except QwenVlaError as error:
                skipped.append(str(error))
        told = f'the last: {skipped[-1]}' if skipped else 'each of them ended a worker'
        raise QwenVlaError(f'{source.source}: {TRIES} bad samples in a row; {told}')

    @property
    def _last(self) -> int:
        return len(self._sources) - 1


def _starts(source: Episodes) -> np.ndarray:
    """Return where each episode begins among all frames of a source, and their number."""
    lengths = [source.frames(episode) for episode in range(len(source))]
    if sum(lengths) == 0:
        raise QwenVlaError(f'mixture: {source.source}: there is no frame in it')
    return np.cumsum([0, *lengths])
