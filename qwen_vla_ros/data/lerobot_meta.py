"""
meta/ of a LeRobot data set -> which files hold an episode, for both layouts.

v3.0  meta/info.json, meta/tasks.parquet (the sentence is its index), meta/episodes/**/*.parquet
v2.1  meta/info.json, meta/tasks.jsonl, meta/episodes.jsonl
File names come from the templates data_path and video_path of info.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_vla_ros.data.remote import here
from qwen_vla_ros.errors import QwenVlaError

VERSIONS = V3, V2 = ('v3.0', 'v2.1')


@dataclass(frozen=True)
class EpisodeFiles:
    """
    One episode: rows in data, and for each video key the file and where it starts in s.

    success  None where meta/episodes has no such column or no word on it
    """

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    success: bool | None = None


@dataclass(frozen=True)
class Layout:
    """What meta/ says of a data set."""

    folder: Path
    fps: float
    robot: str
    features: Mapping[str, Any]
    tasks: Mapping[int, str]
    episodes: tuple[EpisodeFiles, ...]

    @property
    def videos(self) -> tuple[str, ...]:
        """Return the keys that are videos."""
        return tuple(k for k, f in self.features.items() if f.get('dtype') == 'video')

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of a vector's channels, or key.0, key.1, ... where it has none."""
        feature = self.features[key]
        names, width = feature.get('names'), int(feature['shape'][0])
        if isinstance(names, dict):  # {'motors': [...]}: the older spelling
            lists = [value for value in names.values() if isinstance(value, list)]
            names = lists[0] if len(lists) == 1 else list(names)
        if names and len(names) == width:
            return tuple(map(str, names))
        return tuple(f'{key}.{i}' for i in range(width))

    def task(self, path: Path, index: int) -> str:
        """Return the sentence of a task index."""
        if index not in self.tasks:
            raise QwenVlaError(f'{path}: task_index {index} is not in {self.folder}/meta')
        return self.tasks[index]


def read_layout(folder: Path, pseudo_actions: bool = False) -> Layout:
    """
    Read meta/; QwenVlaError names the file and the key that is wrong.

    pseudo_actions  there must be a state in place of actions
    """
    path = folder / 'meta' / 'info.json'
    try:
        info = json.loads(path.read_text(encoding='utf-8'))
        version = info['codebase_version']
    except OSError as error:
        raise QwenVlaError(f'{path}: {error.strerror}; is this a LeRobot data set?') from error
    except (ValueError, KeyError, TypeError) as error:
        raise QwenVlaError(f'{path}: no JSON object with a codebase_version') from error
    if version not in VERSIONS:
        raise QwenVlaError(
            f'{path}: codebase_version {version!r}; {" and ".join(VERSIONS)} can be read: convert '
            'the data set with the lerobot package'
        )
    try:
        fps, features = float(info['fps']), info['features']
        if not fps > 0:
            raise QwenVlaError(f'{path}: fps must be positive, not {fps:g}')
        if pseudo_actions:
            _only_state(path, features)
        elif 'action' not in features:
            raise QwenVlaError(
                f'{path}: features hold no action; where there are none, pseudo_actions takes the '
                'steps of observation.state (--pseudo-actions)'
            )
        videos = [key for key, feature in features.items() if feature['dtype'] == 'video']
        read = _episodes_v3 if version == V3 else _episodes_v2
        episodes = tuple(read(folder, info, videos))
        tasks = _tasks_v3(folder) if version == V3 else _tasks_v2(folder)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise QwenVlaError(
            f'{folder}/meta: incomplete or damaged ({type(error).__name__}: {error})'
        ) from error
    if not episodes:
        raise QwenVlaError(f'{folder}: there is no episode in it')
    return Layout(folder, fps, info.get('robot_type') or '', features, tasks, episodes)


def _only_state(path: Path, features: Mapping[str, Any]) -> None:
    """Raise QwenVlaError unless a set has a state, and no actions of its own."""
    if 'action' in features or 'observation.state' not in features:
        told = 'it has actions' if 'action' in features else 'it has no observation.state'
        raise QwenVlaError(f'{path}: pseudo_actions: {told}')


def read_table(path: Path, episode: int | None = None) -> Any:
    """
    Return a parquet file as a pyarrow table.

    episode: leave out row groups that cannot hold it, as their statistics tell; a file of many
    episodes then costs what one of them does.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    try:
        file = parquet.ParquetFile(here(path))
        if episode is None:
            return file.read()
        return file.read_row_groups(_holding(file.metadata, episode))
    except (OSError, pyarrow.ArrowException) as error:
        told = str(error).splitlines()[0]
        raise QwenVlaError(f'{path}: cannot be read ({told}); copy it again') from error


def _holding(metadata: Any, episode: int) -> list[int]:
    """Return the row groups of a file that may hold an episode."""
    found = []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            part = row_group.column(number)
            if part.path_in_schema == 'episode_index':
                told = part.statistics
                if told is None or not told.has_min_max or told.min <= episode <= told.max:
                    found.append(group)
                break
        else:
            found.append(group)  # no such column: whoever asks for it says so
    return found


def column(path: Path, table: Any, key: str) -> list[Any]:
    """Return a column's values; an absent one, or one with holes, is refused by name."""
    if key not in table.column_names:
        raise QwenVlaError(f'{path}: no column {key!r}; it has {", ".join(table.column_names)}')
    if table[key].null_count:
        raise QwenVlaError(f'{path}: column {key!r} has {table[key].null_count} empty rows')
    return table[key].to_pylist()


def _episodes_v3(folder: Path, info: Any, videos: list[str]) -> list[EpisodeFiles]:
    found = []
    for path in sorted((folder / 'meta' / 'episodes').glob('*/*.parquet')):
        table = read_table(path)
        index = column(path, table, 'episode_index')
        length = column(path, table, 'length')
        place = {
            prefix: [column(path, table, f'{prefix}/{part}_index') for part in ('chunk', 'file')]
            for prefix in ('data', *(f'videos/{key}' for key in videos))
        }
        starts = {key: column(path, table, f'videos/{key}/from_timestamp') for key in videos}
        known = table.column('success').to_pylist() if 'success' in table.column_names else None
        for row in range(len(index)):
            chunk, file = (part[row] for part in place['data'])
            data = folder / info['data_path'].format(chunk_index=chunk, file_index=file)
            films = {}
            for key in videos:
                chunk, file = (part[row] for part in place[f'videos/{key}'])
                name = info['video_path'].format(video_key=key, chunk_index=chunk, file_index=file)
                films[key] = folder / name, float(starts[key][row])
            success = known and known[row]
            found.append(EpisodeFiles(int(index[row]), int(length[row]), data, films, success))
    return sorted(found, key=lambda episode: episode.index)


def _episodes_v2(folder: Path, info: Any, videos: list[str]) -> list[EpisodeFiles]:
    found = []
    for episode in _lines(folder / 'meta' / 'episodes.jsonl'):
        index = int(episode['episode_index'])
        where = {'episode_chunk': index // int(info['chunks_size']), 'episode_index': index}
        films = {
            key: (folder / info['video_path'].format(video_key=key, **where), 0.0)
            for key in videos
        }
        data = folder / info['data_path'].format(**where)
        found.append(EpisodeFiles(index, int(episode['length']), data, films))
    return sorted(found, key=lambda episode: episode.index)


def _tasks_v3(folder: Path) -> dict[int, str]:
    path = folder / 'meta' / 'tasks.parquet'
    table = read_table(path)
    words = [name for name in table.column_names if name != 'task_index']
    if len(words) != 1:
        raise QwenVlaError(f'{path}: one column of sentences expected, found {len(words)}')
    return dict(zip(column(path, table, 'task_index'), column(path, table, words[0]), strict=True))


def _tasks_v2(folder: Path) -> dict[int, str]:
    lines = _lines(folder / 'meta' / 'tasks.jsonl')
    return {int(line['task_index']): line['task'] for line in lines}


def _lines(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise QwenVlaError(f'{path}: {error.strerror}') from error
    return [json.loads(line) for line in text.splitlines() if line.strip()]
