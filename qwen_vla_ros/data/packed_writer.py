"""Any data sets -> a packed cache; packed.py draws its files."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.cleaning import EpisodeFacts
from qwen_vla_ros.data.packed import CACHE, FORMAT, GROUP
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.data.statistics import Counter, SetStatistics
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.patches import resize

SMALL = ('actions', 'mask', 'state', 'rows')
KIND = ('embodiment', 'views', 'action_names', 'state_names', 'has_state', 'horizon')


@dataclass(frozen=True)
class PackedTarget:
    """What is written: pictures at size (height, width), or at that of their view in sizes."""

    size: tuple[int, int] = (224, 224)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    whole_rows = False

    def part(self, folder: Path, rate_hz: float) -> 'PackedPart':
        """Begin an episode."""
        return PackedPart(folder, self)

    def join(self, parts: Sequence[tuple[Path, EpisodeFacts]], folder: Path) -> None:
        """Write the cache: a group for each kind of episode, in the order of their first."""
        groups: dict[str, list[_Stored]] = {}
        for part in parts:
            stored = _Stored(*part)
            groups.setdefault(stored.kind(), []).append(stored)
        total = samples = 0
        names = [f'group-{number:03d}' for number in range(len(groups))]
        for name, members in zip(names, groups.values(), strict=True):
            place = folder / name
            place.mkdir()
            _write_group(place, members)
            total += sum(file.stat().st_size for file in place.iterdir())
            samples += sum(part.facts.frames for part in members)
        told = {'format': FORMAT, 'samples': samples, 'bytes_per_sample': total / samples}
        _dump(folder / CACHE, {**told, 'groups': names})


class PackedPart:
    """One episode: view-N.raw with pixels as they come, small.npz, about.json."""

    def __init__(self, folder: Path, target: PackedTarget) -> None:
        """Write nothing yet: the first sample tells views and channels."""
        self._folder, self._target = folder, target
        self._files: dict[str, Any] = {}
        self._kind: dict[str, Any] = {}
        self._words: dict[str, int] = {}
        self._columns: dict[str, list[np.ndarray]] = {key: [] for key in SMALL}

    def add(self, sample: Sample) -> None:
        """Append a sample; SampleError for one of another kind than the first."""
        kind = self._kind_of(sample)
        if not self._kind:
            self._kind = kind
            for number, view in enumerate(kind['views']):
                self._files[view] = (self._folder / f'view-{number}.raw').open('wb')
        if kind != self._kind:
            raise sample.place.refuse('views, channels', 'are not those of the first frame')
        for view, (height, width) in kind['views'].items():
            self._files[view].write(resize(sample.images[view], height, width).tobytes())
        words = json.dumps([sample.instruction, sample.text, sample.earlier])
        number = self._words.setdefault(words, len(self._words))
        state = np.zeros(0, np.float32) if sample.state is None else sample.state
        rows = np.array([sample.stamp_ns, sample.place.frame, number])
        for key, value in zip(SMALL, (sample.actions, sample.mask, state, rows), strict=True):
            self._columns[key].append(value)

    def close(self) -> None:
        """Finish the files."""
        for file in self._files.values():
            file.close()
        columns = {key: np.stack(values) for key, values in self._columns.items()}
        np.savez(self._folder / 'small.npz', **columns)
        _dump(self._folder / 'about.json', {'kind': self._kind, 'words': list(self._words)})

    def _kind_of(self, sample: Sample) -> dict[str, Any]:
        sizes = self._target.sizes
        values = (
            sample.embodiment,
            {view: list(sizes.get(view, self._target.size)) for view in sorted(sample.images)},
            list(sample.action_names),
            list(sample.state_names),
            sample.state is not None,
            len(sample.actions),
        )
        return dict(zip(KIND, values, strict=True))


class _Stored:
    """A part as it lies on disk."""

    def __init__(self, folder: Path, facts: EpisodeFacts) -> None:
        self.folder, self.facts = folder, facts
        self.about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))

    def kind(self) -> str:
        return json.dumps(self.about['kind'])

    def small(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / 'small.npz') as found:
            return dict(found)


def _write_group(folder: Path, parts: Sequence[_Stored]) -> None:
    """Write the files of one group."""
    kind = parts[0].about['kind']
    total = sum(part.facts.frames for part in parts)
    for number, size in enumerate(kind['views'].values()):
        with (folder / f'view-{number}.npy').open('wb') as file:
            np.lib.format.write_array_header_1_0(
                file, {'descr': '|u1', 'fortran_order': False, 'shape': (total, *size, 3)}
            )
            for part in parts:
                with (part.folder / f'view-{number}.raw').open('rb') as pixels:
                    shutil.copyfileobj(pixels, file, 2**20)
    words: dict[str, int] = {}
    episodes, start = [], 0
    small: dict[str, list[np.ndarray]] = {key: [] for key in SMALL}
    for part in parts:
        columns = part.small()
        index = [words.setdefault(word, len(words)) for word in part.about['words']]
        columns['rows'][:, 2] = np.array(index)[columns['rows'][:, 2]]
        for key, values in columns.items():
            small[key].append(values)
        told = part.facts
        episodes.append(
            {
                'source': told.source,
                'episode': told.episode,
                'start': start,
                'frames': told.frames,
                'rate_hz': told.rate_hz,
                'success': told.success,
            }
        )
        start += told.frames
    for key, values in small.items():
        if values[0].size:
            np.save(folder / f'{key}.npy', np.concatenate(values))
    texts = [json.loads(word) for word in words]
    _dump(folder / GROUP, {**kind, 'episodes': episodes, 'words': texts})
    _dump(folder / 'statistics.json', _statistics(kind, small, parts))


def _statistics(
    kind: Mapping[str, Any], small: Mapping[str, list[np.ndarray]], parts: Sequence[_Stored]
) -> dict[str, Any]:
    """Return q01 and q99 of actions, over the rows of all chunks, and of the state."""
    found: dict[str, Any] = {}
    source = ', '.join(sorted({Path(part.facts.source).name for part in parts}))
    for key, column, names in (
        ('action', 'actions', kind['action_names']),
        ('observation.state', 'state', kind['state_names']),
    ):
        if not names:
            continue
        counter = Counter(names)
        for part, mask, rows in zip(parts, small['mask'], small[column], strict=True):
            whole = rows[mask.all(2)] if column == 'actions' else rows
            counter.add(whole.reshape(-1, len(names)), part.facts.source)
        if counter.rows:
            found[key] = SetStatistics(
                source,
                kind['embodiment'],
                tuple(names),
                counter.quantile(0.01),
                counter.quantile(0.99),
                counter.rows,
            ).as_dict()
    return found


def parse_sizes(text: str) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    """
    Return the size of any view and those of named ones.

    text  '224', '180x320' (height x width), or 'ego=224,left_wrist=112x112,128'
    QwenVlaError says what cannot be read.
    """
    size, sizes = PackedTarget.size, {}
    for word in text.split(','):
        view, _, pixels = word.rpartition('=')
        edges = pixels.split('x')
        if len(edges) > 2 or not all(edge.isdecimal() and int(edge) > 0 for edge in edges):
            raise QwenVlaError(f'--size {text}: {word!r} is neither 224, 180x320 nor view=224')
        found = (int(edges[0]), int(edges[-1]))
        if view:
            sizes[view] = found
        else:
            size = found
    return size, sizes


def _dump(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
