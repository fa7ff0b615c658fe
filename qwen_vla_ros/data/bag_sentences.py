"""
Who said what when in a bag: its stretches that have one sentence each.

Where one sentence was said, it holds all through. Where several were, or none for a while ('' ends
one: the policy rests), each holds from the instant at which it was heard until the next one is.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from qwen_vla_ros.data.bag_files import read
from qwen_vla_ros.data.episode_notes import SAID
from qwen_vla_ros.data.spec import say
from qwen_vla_ros.errors import QwenVlaError

REMEDY = f'give one (--instruction), or {say("instruction")}'


class NoSentence(QwenVlaError):
    """Nobody said what the robot was to do, or several voices said several things."""


class Stretch(NamedTuple):
    """A sentence, and the first and last ns in which it held."""

    sentence: str
    first_ns: int
    last_ns: int


def find_stretches(path: Path, reader: Any) -> list[Stretch]:
    """Return the stretches of an open bag in their order; NoSentence where it has none."""
    heard = _heard(path, reader)
    texts = {text for _, text in heard}
    if not texts:
        raise NoSentence(f'{path}: no instruction in it; {REMEDY}')
    if len(texts) == 1:
        return [Stretch(texts.pop(), reader.start_time, reader.end_time)]
    changes = [new for old, new in pairwise([(0, ''), *heard]) if new[1] != old[1]]
    ends = [time_ns - 1 for time_ns, _ in changes[1:]] + [reader.end_time]
    return [
        Stretch(text, time_ns, end_ns)
        for (time_ns, text), end_ns in zip(changes, ends, strict=True)
        if text and time_ns <= end_ns
    ]


def _heard(path: Path, reader: Any) -> list[tuple[int, str]]:
    """Return when each sentence was published or, where none was, told by the policy's status."""
    for end, field in (('/instruction', 'data'), ('/status', 'instruction')):
        found = list(_told(path, reader, end, field))
        texts = {text for _, _, text in found} - {''}
        topics = sorted({topic for topic, _, text in found if text} - {SAID})
        if len(topics) > 1 and len(texts) > 1:
            raise NoSentence(
                f'{path}: {len(texts)} different instructions on {", ".join(topics)}; {REMEDY}'
            )
        if texts:
            return [(time_ns, text) for _, time_ns, text in found]
    return []


def _told(path: Path, reader: Any, end: str, field: str) -> Iterator[tuple[str, int, str]]:
    """Yield topic, time in ns and sentence of the messages that have such a field."""
    wanted = [c for c in reader.connections if c.topic.endswith(end)]
    for topic, time_ns, message in read(path, reader, wanted):
        if isinstance(text := getattr(message, field, None), str):
            yield topic, time_ns, text.strip()
