"""One episode on its way into a LeRobot data set: rows.npz, a film a view, about.json."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.cleaning import EpisodeFacts
from qwen_vla_ros.data.film import Film
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.errors import QwenVlaError

ACTION, STATE = 'action', 'observation.state'
LEAST_MOTION = 2e-3  # m or rad of a chunk's end
EVERY = 4  # of rows and columns of a picture that the pixel statistics look at


class LeRobotPart:
    """What takes the samples, and counts their pixels on the way."""

    def __init__(self, folder: Path, rate_hz: float, codec: str) -> None:
        """Write nothing yet: the first sample tells views and channels."""
        self._folder, self._rate_hz, self._codec = folder, rate_hz, codec
        self._films: dict[str, Film] = {}
        self._pixels: dict[str, np.ndarray] = {}
        self._rows: list[Sample] = []  # without their pictures
        self._shape: tuple[object, ...] = ()
        self._anchoring = _Anchoring()

    def add(self, sample: Sample) -> None:
        """Append a frame."""
        if not self._rows:
            for number, view in enumerate(sorted(sample.images)):
                path = self._folder / f'view-{number}.mp4'
                self._films[view] = Film(
                    path, self._rate_hz, self._codec, f'{sample.place.source}: view {view}'
                )
                self._pixels[view] = np.zeros((3, 256), np.int64)
            self._shape = _shape(sample)
        if _shape(sample) != self._shape:
            raise sample.place.refuse('pictures, channels', 'are not those of the first frame')
        for view, film in self._films.items():
            image = sample.images[view]
            film.add(image)
            seen = image[::EVERY, ::EVERY]
            for channel in range(3):
                counted = np.bincount(seen[..., channel].ravel(), minlength=256)
                self._pixels[view][channel] += counted
        if self._rows:
            self._anchoring.add(self._rows[-1], sample)
        self._rows.append(replace(sample, images={}))

    def close(self) -> None:
        """Finish films and rows; QwenVlaError for actions that no single row can hold."""
        for film in self._films.values():
            film.close()
        rows, first = self._rows, self._rows[0]
        if self._anchoring.found():
            raise QwenVlaError(
                f"{first.place.source}: actions are told from each chunk's first frame, which "
                "LeRobot's rows cannot hold; --to packed"
            )
        columns = {
            ACTION: np.stack([row.actions[0] for row in rows]),
            'stamp_ns': np.array([row.stamp_ns for row in rows], np.int64),
        }
        if first.state is not None:
            columns[STATE] = np.stack([row.state for row in rows])
        for view, counts in self._pixels.items():
            columns[f'pixels.{view}'] = counts
        np.savez(self._folder / 'rows.npz', **columns)
        about = {
            'embodiment': first.embodiment,
            'views': {
                view: [f'view-{number}.mp4', *film.size]
                for number, (view, film) in enumerate(self._films.items())
            },
            'action_names': first.action_names,
            'state_names': first.state_names,
            'sentences': [row.instruction for row in rows],
        }
        (self._folder / 'about.json').write_text(json.dumps(about), encoding='utf-8')


class _Anchoring:
    """
    Are actions told from each chunk's first frame? Then no single row says what was commanded.

    A channel shows it in two ways together: a chunk's second row is not what the next chunk begins
    with, though it moves; and chunks begin near zero and end far from it, in every frame.
    A channel that hardly leaves zero shows nothing.
    """

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None  # [4, A]: mismatch, step, beginning, end
        self._count = 0

    def add(self, before: Sample, sample: Sample) -> None:
        """Compare a sample with the one before it; chunks with holes say nothing."""
        first, second = before.actions, sample.actions
        if len(first) < 3 or not (before.mask.all() and sample.mask.all()):
            return
        seen = [first[1] - second[0], first[1] - first[0], first[0], first[-1]]
        sums = np.abs(np.array(seen, np.float64))
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += 1

    def found(self) -> bool:
        """Tell whether any channel shows it."""
        if self._sums is None:
            return False
        mismatch, step, begins, ends = self._sums
        away = ends > LEAST_MOTION * self._count
        return bool(np.any((mismatch > 0.5 * step) & away & (begins < 0.25 * ends)))


def _shape(sample: Sample) -> tuple[object, ...]:
    sizes = {view: image.shape for view, image in sample.images.items()}
    return sample.embodiment, sizes, sample.action_names, sample.state_names


class StoredPart:
    """A part as it lies on disk."""

    def __init__(self, folder: Path, facts: EpisodeFacts) -> None:
        """Read what it says of itself."""
        self.folder, self.facts = folder, facts
        self.about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))

    def columns(self) -> dict[str, np.ndarray]:
        """Return its rows by key, and counts of pixels under pixels.<view>."""
        with np.load(self.folder / 'rows.npz') as found:
            return dict(found)

    def film(self, view: str) -> Path:
        """Return where a view's film lies."""
        return self.folder / self.about['views'][view][0]

    def kind(self) -> dict[str, Any]:
        """Return what all episodes of a set must share."""
        found = {key: self.about[key] for key in ('embodiment', 'action_names', 'state_names')}
        views = {view: size[1:] for view, size in self.about['views'].items()}
        return {**found, 'views': views, 'rate_hz': round(self.facts.rate_hz, 3)}
