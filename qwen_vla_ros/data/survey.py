"""
What is in a data set, in one pass: counts, hours, rates, histograms, words, sample pictures.

Every episode is read; of its pictures only the strip is decoded where the reader gives columns
without them. Means are of what was read: an episode that cannot be read is named, not guessed.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.data.cleaning import CleaningReport, EpisodeFacts, Thresholds, facts_of, judge
from qwen_vla_ros.data.sample import Episodes, Sample
from qwen_vla_ros.data.statistics import Counter as Bins
from qwen_vla_ros.data.statistics import SetStatistics
from qwen_vla_ros.data.work_list import rate_of, success_of
from qwen_vla_ros.errors import QwenVlaError

STRIPS, STRIP = 6, 6  # episodes that are shown, and pictures of each
ACTION, STATE = 'action', 'observation.state'
SMALL = frozenset(('a', 'an', 'and', 'at', 'in', 'into', 'it', 'of', 'on', 'the', 'to', 'with'))


@dataclass
class Channels:
    """Rows of one kind of vector: its names, counted in bins."""

    names: tuple[str, ...]
    bins: Bins

    def statistics(self, source: str, embodiment: str) -> SetStatistics:
        """Return q01 and q99 with their hash."""
        q01, q99 = self.bins.quantile(0.01), self.bins.quantile(0.99)
        return SetStatistics(source, embodiment, self.names, q01, q99, self.bins.rows)


@dataclass
class Survey:
    """Everything that the card shows of one source."""

    source: str
    embodiments: Counter[str] = field(default_factory=Counter)
    facts: list[EpisodeFacts] = field(default_factory=list)
    channels: dict[tuple[str, str, tuple[str, ...]], Channels] = field(default_factory=dict)
    sentences: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    strips: list[tuple[int, str, list[np.ndarray]]] = field(default_factory=list)
    report: CleaningReport = field(default_factory=lambda: CleaningReport(0, ()))

    @property
    def frames(self) -> int:
        """Return the frames of the episodes that can be read."""
        return sum(facts.frames for facts in self.facts)

    @property
    def hours(self) -> float:
        """Return the time that they span; episodes without a rate count nothing."""
        return sum(f.frames / f.rate_hz for f in self.facts if f.rate_hz > 0) / 3600

    def words(self) -> Counter[str]:
        """Return how many episodes say each word; the smallest words are left out."""
        found: Counter[str] = Counter()
        for sentence, count in self.sentences.items():
            for word in set(re.findall(r"[^\W\d_][\w'-]*", sentence.lower())) - SMALL:
                found[word] += count
        return found


def survey(episodes: Episodes, thresholds: Thresholds) -> Survey:
    """Read a data set once; QwenVlaError when not one of its episodes can be read."""
    found = Survey(episodes.source)
    shown = set(np.linspace(0, len(episodes) - 1, min(STRIPS, len(episodes))).astype(int).tolist())
    for episode in tqdm(range(len(episodes)), unit='episode', disable=None):
        try:
            found.facts.append(_read(episodes, episode, found, episode in shown))
        except QwenVlaError as error:
            found.facts.append(EpisodeFacts(episodes.source, episode, unreadable=str(error)))
    for path, reason in getattr(episodes, 'left_out', {}).items():  # bags that are no episode
        found.facts.append(EpisodeFacts(str(path), 0, unreadable=reason))
    if all(facts.unreadable for facts in found.facts):
        raise QwenVlaError(f'no episode can be read; the first: {found.facts[0].unreadable}')
    spread: dict[str, float] = {}
    for (kind, _, _), channels in found.channels.items():
        if kind == ACTION:
            wide = np.subtract(channels.bins.quantile(0.99), channels.bins.quantile(0.01))
            spread |= dict(zip(channels.names, wide.tolist(), strict=True))
    found.report = judge(found.facts, spread, thresholds)
    return found


def _read(episodes: Episodes, episode: int, found: Survey, shown: bool) -> EpisodeFacts:
    """Read one episode into the survey; nothing of it is counted if it cannot be read."""
    count = episodes.frames(episode)
    if hasattr(episodes, 'columns') and count:
        columns = dict(episodes.columns(episode))
        at = np.linspace(0, count - 1, min(STRIP if shown else 1, count)).astype(int)
        samples = [episodes.sample(episode, int(frame)) for frame in at]
        count = max(count, len(columns[ACTION]))  # of text-action sets: one sample an episode
        lost = 0
    else:
        samples = _thinned(episodes, episode)
        columns = _columns(samples)
        count = len(samples)
        lost = samples[-1].place.frame + 1 - samples[0].place.frame - count
        samples = [sample for sample in samples if sample.images or sample is samples[0]]
        at = np.linspace(0, len(samples) - 1, min(STRIP, len(samples))).astype(int)
        samples = [samples[i] for i in at]
    first, actions = samples[0], columns[ACTION]
    found.embodiments[first.embodiment or 'none: text'] += 1
    for kind, names in ((ACTION, first.action_names), (STATE, first.state_names)):
        if names and kind in columns:
            key = kind, first.embodiment, tuple(names)
            channels = found.channels.setdefault(key, Channels(tuple(names), Bins(names)))
            channels.bins.add(columns[kind], f'{episodes.source}: episode {episode}')
    found.sentences.update({sample.instruction for sample in samples})
    for view, image in first.images.items():
        found.sizes[f'{view} {image.shape[1]}x{image.shape[0]}'] += 1
    if shown and first.images:
        for view in first.images:
            found.strips.append(
                (
                    episode,
                    view,
                    [sample.images[view] for sample in samples if view in sample.images],
                )
            )
    return facts_of(
        actions,
        first.action_names,
        source=episodes.source,
        episode=episode,
        frames=count,
        lost=lost,
        of=count + lost,
        rate_hz=rate_of(episodes, episode),
        instructions=tuple({sample.instruction for sample in samples}),
        success=success_of(episodes, episode),
    )


def _columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Return the first rows of all chunks that have no hole, and the states."""
    whole = [sample.actions[:1] for sample in samples if sample.mask[:1].all()]
    empty = np.zeros((0, len(samples[0].action_names)), np.float32)
    states = [sample.state for sample in samples if sample.state is not None]
    found = {ACTION: np.concatenate([empty, *whole])}
    return {**found, STATE: np.stack(states)} if states else found


def _thinned(episodes: Episodes, episode: int) -> list[Sample]:
    """Return an episode's samples; pictures of a few alone, so that memory stays small."""
    count = episodes.frames(episode)
    shown = set(np.linspace(0, max(count - 1, 0), 4 * STRIP).astype(int).tolist())
    kept: list[Sample] = []
    for sample in episodes.stream(episode):
        whole = not kept or sample.place.frame in shown
        kept.append(sample if whole else replace(sample, images={}))
    if not kept:
        raise QwenVlaError(f'{episodes.source}: episode {episode}: no frame gives an observation')
    return kept
