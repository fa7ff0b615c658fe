"""
Text to learn: entries of a file, each with pictures and exchanges of question and answer.

An entry is an episode and an exchange is a frame: its sample has what was said before it, and the
pictures that were shown by then. Entries are taken apart when asked for, so that a bad one is told
by name and costs no other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.pictures import picture_of
from qwen_vla_ros.data.sample import Counted, Sample, spoken
from qwen_vla_ros.errors import QwenVlaError

Exchange = tuple[str, str]
Sizes = Mapping[str, tuple[int, int]]  # view -> height, width in pixels


@dataclass(frozen=True)
class Talk:
    """
    One entry.

    pictures   view -> file, or what gives the picture
    exchanges  sizes of the pictures -> questions and answers, in order
    shown      how many pictures, from the first on, are known at each exchange; without it all
    """

    pictures: Mapping[str, Path | Callable[[], np.ndarray]]
    exchanges: Callable[[Sizes], Sequence[Exchange]]
    shown: Sequence[int] = ()


class TalkEpisodes(Counted):
    """Entries by number; take_apart(place, entry) gives the Talk of one or QwenVlaError."""

    embodiment = ''
    action_names: tuple[str, ...] = ()

    def __init__(
        self,
        source: str,
        entries: Sequence[Any],
        count: Callable[[Any], int],
        take_apart: Callable[[str, Any], Talk],
    ) -> None:
        """Count exchanges; an entry that cannot be counted has one, whose sample tells why."""
        super().__init__(source, [max(count(entry), 1) for entry in entries])
        self._entries, self._take_apart = entries, take_apart

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one exchange; SampleError names entry, exchange and key."""
        place = self.place(episode, frame)
        try:
            talk = self._take_apart('entry', self._entries[episode])
        except QwenVlaError as error:
            raise place.refuse('text', str(error)) from error
        images = {}
        for view, told in talk.pictures.items():
            try:
                images[view] = picture_of(told) if isinstance(told, Path) else told()
            except QwenVlaError as error:
                raise place.refuse(f'images.{view}', str(error)) from error
        try:
            said = talk.exchanges({view: image.shape[:2] for view, image in images.items()})
        except QwenVlaError as error:
            raise place.refuse('text', str(error)) from error
        shown = list(images)[: talk.shown[frame] if talk.shown else None]
        seen = {view: images[view] for view in shown}
        return spoken(place, seen, *said[frame], earlier=tuple(said[:frame]))


def thousandths(box: Sequence[float], size: tuple[int, int], place: str) -> list[int]:
    """Return a box x1, y1, x2, y2 of pixels as whole numbers from 0 to 1000 of its picture."""
    height, width = size
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise QwenVlaError(f'{place}: {box!r} is no box x1, y1, x2, y2') from error
    if not (-1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1):
        raise QwenVlaError(f'{place}: {[x1, y1, x2, y2]} is no box in {width}x{height} pixels')
    scaled = np.array([x1 / width, y1 / height, x2 / width, y2 / height]) * 1000
    return np.clip(np.round(scaled), 0, 1000).astype(int).tolist()
