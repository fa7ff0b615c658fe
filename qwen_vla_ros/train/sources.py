"""
What a stage is trained on: --data FAMILY=PATH, its episodes split into training and held out.

Every twentieth episode is held out, at least one where there are two; nothing of it is trained on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.data.mixture import TRIES, Mixture, Source, weights
from qwen_vla_ros.data.sample import Episodes, Sample, SampleError
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.recipe import CPT, T2A, Recipe
from qwen_vla_ros.train.robots import acts, spread

EVERY = 20
BALANCED = 'balanced'  # SFT: the family is the embodiment


class Part:
    """
    Some episodes of a source, as a source of its own.

    refused  (episode, frame) -> why it gave no sample, of the frames that were asked for
    """

    def __init__(self, episodes: Episodes, chosen: Sequence[int]) -> None:
        """Take the numbers of the chosen episodes."""
        self.source, self.chosen = episodes.source, tuple(chosen)
        self.refused: dict[tuple[int, int], str] = {}
        self._episodes = episodes

    def __len__(self) -> int:
        """Return the number of chosen episodes."""
        return len(self.chosen)

    def frames(self, episode: int) -> int:
        """Return the number of frames of a chosen episode."""
        return self._episodes.frames(self.chosen[episode])

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError says why there is none."""
        try:
            return self._episodes.sample(self.chosen[episode], frame)
        except SampleError as error:
            self.refused[episode, frame] = str(error)
            raise

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield a chosen episode's samples in order."""
        return self._episodes.stream(self.chosen[episode])

    def first(self) -> Sample:
        """Return the first of some samples; QwenVlaError when not one frame gives any."""
        for sample in spread(self, TRIES):
            return sample
        why = next(iter(self.refused.values()), 'there is no frame in it')
        raise QwenVlaError(f'{self.source}: no frame of it gives a sample; the first: {why}')


def split(episodes: Episodes) -> tuple[Part, Part]:
    """Return what is trained on and what is held out; of a single episode nothing is."""
    count = len(episodes)
    held = set(range(EVERY - 1, count, EVERY)) or ({count - 1} if count > 1 else set())
    return (
        Part(episodes, [number for number in range(count) if number not in held]),
        Part(episodes, sorted(held)),
    )


@dataclass(frozen=True)
class DataSet:
    """A source of samples, both its parts, and its family among the weights."""

    family: str
    episodes: Episodes
    training: Part
    held_out: Part

    @classmethod
    def of(cls, family: str, episodes: Episodes) -> 'DataSet':
        """Split a source."""
        return cls(family, episodes, *split(episodes))


def open_sources(told: Sequence[str], recipe: Recipe) -> list[DataSet]:
    """
    Return the data sets of --data FAMILY=PATH arguments.

    PATH alone: 'real' at T2A, 'robot manipulation' at CPT; at SFT a family is not told, for each
    embodiment weighs the same. QwenVlaError names what cannot be opened, or gives no sample.
    """
    from qwen_vla_ros.data.open import open_dataset
    from qwen_vla_ros.data.without_vision import WithoutVision

    usual = {T2A: 'real', CPT: 'robot manipulation'}.get(recipe.stage, BALANCED)
    found = []
    for text in told:
        family, mark, path = text.partition('=')
        if not mark:
            family, path = usual, text
        if recipe.families and family not in recipe.families:
            raise QwenVlaError(
                f'--data {text}: unknown family {family!r}; known: {", ".join(recipe.families)}'
            )
        episodes = open_dataset(path)
        seen = any(sample.images for sample in spread(episodes, 4))
        if recipe.whole and seen and hasattr(episodes, 'columns'):
            episodes = WithoutVision(episodes, whole=True)
        found.append(DataSet.of(family, episodes))
        found[-1].training.first()
    names = [data.episodes.source for data in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QwenVlaError(f'--data: two data sets are called {twice[0]}; rename a folder')
    return found


def weighed(
    sets: Sequence[DataSet], recipe: Recipe
) -> tuple[list[Source], dict[str, float], dict[str, float]]:
    """Return the mixture's sources, the weights of families, and the share of each set."""
    families = dict(recipe.families)
    sources = []
    for data in sets:
        family = data.family if families else _embodiment(data)
        sources.append(Source(data.training, family))
    families = families or {source.family: 1.0 for source in sources}
    shares = weights(sources, families)
    return (
        sources,
        families,
        {s.episodes.source: float(w) for s, w in zip(sources, shares, strict=True)},
    )


def training_mixture(told: Sequence[str], recipe: Recipe, rank: int, world: int) -> Mixture:
    """Return the mixture of --data arguments for a rank, as a loader's workers build it."""
    sources, families, _ = weighed(open_sources(told, recipe), recipe)
    return Mixture(sources, recipe.seed, families, rank=rank, world=world)


def _embodiment(data: DataSet) -> str:
    """Return the robot of a set; sets of words and pictures alone are one more."""
    sample = data.training.first()
    return sample.embodiment if acts(sample) else 'text'


def fingerprint(episodes: Episodes, samples: int = 16) -> str:
    """
    Return a sha256 over the lengths of all episodes and some whole samples.

    It tells other data from these; it is no proof that every frame is the same.
    """
    digest = hashlib.sha256(episodes.source.encode())
    lengths = [episodes.frames(episode) for episode in range(len(episodes))]
    digest.update(np.asarray(lengths, np.int64).tobytes())
    for sample in spread(episodes, samples):
        digest.update(f'{sample.instruction}|{sample.text}|{sample.action_names}'.encode())
        for array in (sample.actions[sample.mask], sample.mask, *sample.images.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
