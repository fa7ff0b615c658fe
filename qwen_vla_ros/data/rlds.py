"""
RLDS sets as tensorflow-datasets writes them (Open X-Embodiment, DROID), without tensorflow.

The folder of a version holds features.json, dataset_info.json and TFRecord shards; one record is
one episode, its steps transposed: feature steps/<key> is the list of all steps' values. Keys of a
description are those below steps/; observation/ may be left out.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.pictures import decoded
from qwen_vla_ros.data.rlds_sets import SENTENCES, SETS, SetFields
from qwen_vla_ros.data.spec import HORIZON, SetSpec, say
from qwen_vla_ros.data.tfrecord import Damaged, Value, features, record_at, records, value
from qwen_vla_ros.data.trajectory import Trajectory, TrajectoryEpisodes, joined, regular
from qwen_vla_ros.errors import QwenVlaError

TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
SPLIT = 'train'


@dataclass(frozen=True)
class Feature:
    """One value of a step: 'tensor', 'image' or 'text'; shape, dtype and encoding of a tensor."""

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ''
    encoding: str = 'none'


@dataclass(frozen=True)
class Record:
    """Where an episode lies, and its number of steps."""

    shard: Path
    offset: int
    length: int


def lacks(path: Path) -> str:
    """Return why a folder holds no version of an RLDS set, or ''."""
    absent = [
        name for name in ('features.json', 'dataset_info.json') if not (path / name).exists()
    ]
    return f'no {absent[0]} in it' if absent else ''


def open_rlds(spec: SetSpec) -> TrajectoryEpisodes:
    """Return the episodes of one split; QwenVlaError names file and key of what cannot be read."""
    info = _json(spec.path / 'dataset_info.json')
    steps = _steps(spec.path)
    known = SETS.get(str(info.get('name')), SetFields())
    reader = _Reader(spec, known, steps)
    marker = 'is_first' if 'is_first' in steps else reader.first_key
    found = [
        record
        for shard in _shards(spec.path, info, spec.split or SPLIT)
        for record in _index(shard, f'steps/{marker}', steps[marker])
    ]

    name = f'{info.get("name")}/{info.get("version", spec.path.name)}'
    robot = spec.embodiment or known.embodiment
    horizon, lengths = spec.horizon or HORIZON, [record.length for record in found]
    read = partial(_read, reader, found)
    return TrajectoryEpisodes(name, robot, horizon, lengths, read, spec.turn)


def _read(reader: '_Reader', found: Sequence[Record], episode: int) -> Trajectory:
    return reader.trajectory(episode, found[episode])


class _Reader:
    """Which features of a step are read, and how an episode's record becomes a table."""

    def __init__(self, spec: SetSpec, known: SetFields, steps: Mapping[str, Feature]) -> None:
        self._path, self._steps = spec.path, steps
        images = {k.rpartition('/')[2]: k for k, f in steps.items() if f.kind == 'image'}
        views = spec.views or known.views or images
        self._views = {view: self._key(key, 'image') for view, key in views.items()}
        actions = spec.actions or known.actions or {'action': ()}
        self._actions = {self._key(key, 'tensor'): names for key, names in actions.items()}
        if not spec.state and not known.state and 'observation/state' in steps:
            state: Mapping[str, Any] = {'observation/state': ()}
        else:
            state = spec.state or known.state
        self._state = {self._key(key, 'tensor'): names for key, names in state.items()}
        self._sentence = next((k for k in SENTENCES if k in steps), '')
        self._said = spec.instruction
        if not self._said and not self._sentence:
            raise QwenVlaError(f'{spec.path}: it holds no sentence; {say("instruction")}')
        self._rate_hz = spec.rate_hz or known.rate_hz
        regular(0, self._rate_hz, str(spec.path))

    @property
    def first_key(self) -> str:
        """Return the key of the first action."""
        return next(iter(self._actions))

    def trajectory(self, episode: int, record: Record) -> Trajectory:
        """Return the table of an episode; pictures stay encoded until they are asked for."""
        place = f'{record.shard}: episode {episode}'
        try:
            lists = dict(features(record_at(record.shard, record.offset)))
            columns = _Columns(place, lists, self._steps, record.length)
            rows, names = joined(place, self._actions, columns.table, record.length)
            state, state_names = None, ()
            if self._state:
                state, state_names = joined(place, self._state, columns.table, record.length)
            pictures = {view: columns.encoded(key) for view, key in self._views.items()}
            said = (self._said,) if self._said else columns.words(self._sentence)
        except Damaged as error:
            raise QwenVlaError(f'{place}: {error}; copy the file again') from error
        return Trajectory(
            rows,
            names,
            _picture(pictures),
            tuple(self._views),
            said,
            regular(record.length, self._rate_hz, place),
            state,
            state_names,
        )

    def _key(self, key: str, kind: str) -> str:
        """Return the full name of a key of some kind."""
        for name in (key, f'observation/{key}'):
            if name in self._steps and self._steps[name].kind == kind:
                return name
        known = ', '.join(name for name, found in self._steps.items() if found.kind == kind)
        raise QwenVlaError(
            f'{self._path / "features.json"}: steps: no {kind} {key!r}; there are: '
            f'{known or "none"}'
        )


class _Columns:
    """The lists of one episode, decoded when asked for."""

    def __init__(
        self,
        place: str,
        lists: Mapping[str, memoryview],
        steps: Mapping[str, Feature],
        count: int,
    ) -> None:
        self._place, self._lists, self._steps, self._count = place, lists, steps, count

    def table(self, key: str) -> np.ndarray:
        """Return a tensor as [F, w]."""
        feature, found = self._steps[key], self._list(key)
        if isinstance(found, list):
            return _unpacked(f'{self._place}: {key}', feature, found)
        width = int(np.prod(feature.shape))
        if len(found) != self._count * width:
            raise QwenVlaError(
                f'{self._place}: {key}: {len(found)} numbers for {self._count} steps of {width}'
            )
        return found.reshape(self._count, width)

    def encoded(self, key: str) -> list[memoryview]:
        """Return the encoded pictures or texts of all steps."""
        found = self._list(key)
        if not isinstance(found, list) or len(found) != self._count:
            raise QwenVlaError(
                f'{self._place}: {key}: {len(found)} values for {self._count} steps'
            )
        return found

    def words(self, key: str) -> tuple[str, ...]:
        """Return the sentence of each step."""
        return tuple(str(text, 'utf-8', 'replace') for text in self.encoded(key))

    def _list(self, key: str) -> Value:
        if f'steps/{key}' not in self._lists:
            raise QwenVlaError(f'{self._place}: no steps/{key} in it, though features.json has it')
        return value(self._lists[f'steps/{key}'])


def _picture(pictures: Mapping[str, list[memoryview]]) -> Callable[[str, int], np.ndarray]:
    return lambda view, row: decoded(pictures[view][row])


def _unpacked(place: str, feature: Feature, found: list[memoryview]) -> np.ndarray:
    """Return tensors that are stored as bytes, one a step."""
    try:
        raw = [zlib.decompress(v) if feature.encoding == 'zlib' else v for v in found]
        return np.stack([np.frombuffer(v, feature.dtype).reshape(-1) for v in raw])
    except (ValueError, TypeError, zlib.error) as error:
        raise QwenVlaError(f'{place}: no {feature.dtype} of one size ({error})') from error


def _index(shard: Path, marker: str, feature: Feature) -> Iterator[Record]:
    """Yield where the episodes of a shard lie; of each, one short list is read."""
    width = max(int(np.prod(feature.shape)), 1)
    for offset, content in records(shard):
        try:
            found = next((value(v) for name, v in features(content) if name == marker), None)
        except Damaged as error:
            raise QwenVlaError(
                f'{shard}: the record at byte {offset} is no Example ({error}); copy it again'
            ) from error
        if found is None:
            raise QwenVlaError(f'{shard}: the record at byte {offset} has no {marker}')
        yield Record(shard, offset, len(found) if isinstance(found, list) else len(found) // width)


def _shards(folder: Path, info: Mapping[str, Any], name: str) -> list[Path]:
    """Return the files of a split; QwenVlaError names what is missing."""
    kind = info.get('fileFormat', 'tfrecord')
    if kind != 'tfrecord':
        raise QwenVlaError(
            f'{folder}/dataset_info.json: fileFormat {kind!r}; tfrecord can be read: convert it '
            'with tfds.beam.convert_format or write it again'
        )
    splits = {split.get('name'): split for split in info.get('splits', ())}
    if name not in splits:
        raise QwenVlaError(f'{folder}: no split {name!r}; it has {", ".join(map(str, splits))}')
    split = splits[name]
    count = len(split.get('shardLengths', ()))
    found = []
    for shard in range(count):
        of = f'{shard:05d}-of-{count:05d}'
        values = {'DATASET': info.get('name'), 'SPLIT': name, 'FILEFORMAT': kind}
        template = split.get('filepathTemplate') or TEMPLATE
        try:
            file = template.format(
                **values, SHARD_X_OF_Y=of, SHARD_INDEX=of[:5], NUM_SHARDS=of[-5:]
            )
        except (KeyError, IndexError, ValueError) as error:
            raise QwenVlaError(f'{folder}: filepathTemplate {template!r}: {error}') from error
        if not (folder / file).is_file():
            raise QwenVlaError(f'{folder / file}: it is missing; download it again')
        found.append(folder / file)
    return found


def _steps(folder: Path) -> dict[str, Feature]:
    """Return key below steps/ -> what features.json says of it."""
    path = folder / 'features.json'
    told = _json(path)
    try:
        found = told['featuresDict']['features']['steps']['sequence']['feature']
        return dict(_flattened(found, ''))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise QwenVlaError(
            f'{path}: no RLDS set: steps with their features are expected '
            f'({type(error).__name__}: {error})'
        ) from error


def _flattened(told: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Feature]]:
    """Yield every feature that has one value a step; sequences within a step are left out."""
    if 'featuresDict' in told:
        for name, inner in told['featuresDict']['features'].items():
            yield from _flattened(inner, f'{prefix}/{name}' if prefix else name)
    elif 'image' in told:
        yield prefix, Feature('image')
    elif 'text' in told:
        yield prefix, Feature('text')
    elif 'tensor' in told:
        tensor = told['tensor']
        shape = tuple(int(size) for size in tensor.get('shape', {}).get('dimensions', ()))
        kind = 'text' if tensor['dtype'] in ('string', 'object') else 'tensor'
        if min(shape, default=1) > 0:
            yield prefix, Feature(kind, shape, tensor['dtype'], tensor.get('encoding', 'none'))


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise QwenVlaError(f'{path}: cannot be read ({" ".join(str(error).split())})') from error
    if not isinstance(found, dict):
        raise QwenVlaError(f'{path}: no JSON object')
    return found
