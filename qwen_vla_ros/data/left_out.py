"""What was left out of data sets, in a few lines: which episode, how many frames, and why."""

import re
from collections.abc import Iterable

from qwen_vla_ros.data.sample import Episodes

FRAME = re.compile(r'(.*?: episode \d+), frame \d+: (.*)', re.DOTALL)
LINES = 12


def bags_left_out(sources: Iterable[Episodes]) -> list[str]:
    """Return a line for each bag that is no episode of its source."""
    return [
        f'left out: {path}: {reason}'
        for source in sources
        for path, reason in getattr(source, 'left_out', {}).items()
    ]


def frames_left_out(refusals: Iterable[str]) -> list[str]:
    """
    Return a line for each episode and kind of reason, the most frequent first.

    refusals  as Place.refuse() words them, one a frame; reasons that differ in their figures are
              of one kind, and told with the figures of the first
    """
    found: dict[tuple[str, str], list[str]] = {}
    for text in refusals:
        match = FRAME.match(text)
        of, why = match.groups() if match else ('', text)
        found.setdefault((of, re.sub(r'[\d.]+', '#', why)), []).append(why)
    most = sorted(found.items(), key=lambda item: -len(item[1]))
    lines = [
        f'left out: {of}{": " if of else ""}{len(whys)} frame{"s" * (len(whys) > 1)}: {whys[0]}'
        for (of, _), whys in most[:LINES]
    ]
    if rest := sum(len(whys) for _, whys in most[LINES:]):
        lines.append(f'left out: {rest} more frames')
    return lines
