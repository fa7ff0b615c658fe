"""
What a conversion works on: one episode after another, of any sources, each opened when needed.

A reader may tell more than Episodes asks for: rate_hz(episode), success(episode).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.sample import Episodes
from qwen_vla_ros.errors import QwenVlaError


@dataclass(frozen=True)
class Unit:
    """One episode of a source; options are those of open_dataset()."""

    source: str
    episode: int
    options: Mapping[str, Any] = field(default_factory=dict)


def opened(unit: Unit) -> Episodes:
    """Return the episodes of a unit's source; the last sources opened are kept."""
    return _opened(unit.source, json.dumps(dict(unit.options), sort_keys=True))


@lru_cache(maxsize=2)
def _opened(source: str, options: str) -> Episodes:
    return open_dataset(source, **json.loads(options))


def rate_of(episodes: Episodes, episode: int) -> float:
    """Return an episode's frames per second: the reader's, or by its first stamps; 0 unknown."""
    known = getattr(episodes, 'rate_hz', None)
    if known is not None:
        return float(known(episode))
    if episodes.frames(episode) < 2:
        return 0.0
    step_ns = episodes.sample(episode, 1).stamp_ns - episodes.sample(episode, 0).stamp_ns
    return 1e9 / step_ns if step_ns > 0 else 0.0


def success_of(episodes: Episodes, episode: int) -> bool | None:
    """Return whether an episode reached its goal, None where nobody said."""
    told = getattr(episodes, 'success', None)
    return None if told is None else told(episode)


def units_of(sources: Sequence[str], options: Mapping[str, Any]) -> list[Unit]:
    """
    Return the episodes of sources; of a folder of bags each bag is a source of its own.

    A source that cannot be opened is one unit that will be told as unreadable; when there is no
    other source its error is raised at once.
    """
    found: list[Unit] = []
    errors: list[QwenVlaError] = []
    each = [one for source in sources for one in _spread(source)]
    for source in each:
        try:
            count = len(opened(Unit(source, 0, options)))
        except QwenVlaError as error:
            errors.append(error)
            count = 1
        found += [Unit(source, episode, options) for episode in range(count)]
    if errors and len(errors) == len(each):
        raise errors[0]
    return found


def _spread(source: str) -> list[str]:
    """Return the bags of a folder of bags; anything else as it is."""
    folder = Path(source)
    if not folder.is_dir() or (folder / 'metadata.yaml').exists() or any(folder.glob('*.mcap')):
        return [source]
    bags = {file.parent for end in ('metadata.yaml', '*.mcap') for file in folder.glob(f'*/{end}')}
    return sorted(map(str, bags)) or [source]
