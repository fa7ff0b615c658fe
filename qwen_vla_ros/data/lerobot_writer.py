"""
Episodes -> a LeRobot v3.0 data set: rows in parquet, pictures in mp4, many episodes a file.

Beyond what the format asks for: the column stamp_ns (the real time of each row; timestamp is
frame / fps), success in meta/episodes where it is known, meta/statistics.json (q01 and q99 with
the hash that checkpoints carry). The layout was compared with what lerobot 0.4.4 writes
(lerobot/datasets/utils.py, compute_stats.py).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.cleaning import EpisodeFacts
from qwen_vla_ros.data.film import join_films
from qwen_vla_ros.data.lerobot_part import ACTION, STATE, LeRobotPart, StoredPart
from qwen_vla_ros.data.lerobot_stats import RunningStats, pixel_stats, vector_stats
from qwen_vla_ros.data.statistics import SetStatistics
from qwen_vla_ros.errors import QwenVlaError

IMAGES = 'observation.images'
NAME = 'chunk-{chunk_index:03d}/file-{file_index:03d}'
CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200
SCALARS = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')


@dataclass(frozen=True)
class LeRobotTarget:
    """What is written; codec is av1 or h264, the sizes of files are LeRobot's."""

    codec: str = 'av1'
    data_mb: float = DATA_MB
    video_mb: float = VIDEO_MB
    whole_rows = True

    def part(self, folder: Path, rate_hz: float) -> LeRobotPart:
        """Begin an episode."""
        if not rate_hz > 0:
            raise QwenVlaError(
                'lerobot: the data tell no rate, and LeRobot needs one; --to packed'
            )
        return LeRobotPart(folder, rate_hz, self.codec)

    def join(self, parts: Sequence[tuple[Path, EpisodeFacts]], folder: Path) -> None:
        """Write the data set; QwenVlaError when the episodes are of several robots."""
        _Joined([StoredPart(*part) for part in parts], folder, self).write()


class _Joined:
    """The data set being written, part after part."""

    def __init__(self, parts: Sequence[StoredPart], folder: Path, target: LeRobotTarget) -> None:
        self._parts, self._folder, self._target = parts, folder, target
        self._kind = parts[0].kind()
        for part in parts:
            for key, value in part.kind().items():
                if value != self._kind[key]:
                    raise QwenVlaError(
                        f'{part.facts.source}: episode {part.facts.episode}: {key} is {value}, '
                        f'but {self._kind[key]} in {parts[0].facts.source}; LeRobot holds one '
                        'kind a set: convert them apart, or --to packed'
                    )
        self._views = list(self._kind['views'])
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, RunningStats] = {}
        self._pixels = {view: np.zeros((3, 256), np.int64) for view in self._views}
        self._episodes: list[dict[str, Any]] = []

    def write(self) -> None:
        """Write rows, films and meta/."""
        lengths = [part.facts.frames for part in self._parts]
        films = {view: self._write_films(view, lengths) for view in self._views}
        self._write_rows(films)
        meta = self._folder / 'meta'
        self._write_info(meta, sum(lengths))
        _write_tasks(meta / 'tasks.parquet', self._tasks)
        _save(
            meta / f'episodes/{NAME.format(chunk_index=0, file_index=0)}.parquet', self._episodes
        )
        stats = {key: running.result() for key, running in self._stats.items()}
        stats |= {
            _key(view): pixel_stats(self._pixels[view], sum(lengths)) for view in self._views
        }
        _dump(meta / 'stats.json', stats)
        _dump(meta / 'statistics.json', self._own_statistics())

    def _write_films(self, view: str, lengths: Sequence[int]) -> list[dict[str, Any]]:
        """Write a view's films, and return for each episode where it lies."""
        rate_hz, found = self._kind['rate_hz'], []
        paths = [part.film(view) for part in self._parts]
        sizes = [path.stat().st_size for path in paths]
        for number, group in enumerate(_groups(sizes, self._target.video_mb)):
            chunk, file = divmod(number, CHUNK)
            name = NAME.format(chunk_index=chunk, file_index=file)
            path = self._folder / 'videos' / _key(view) / f'{name}.mp4'
            path.parent.mkdir(parents=True, exist_ok=True)
            join_films(paths[group], lengths[group], rate_hz, path)
            ends = np.cumsum([0, *lengths[group]]) / rate_hz
            for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                prefix = f'videos/{_key(view)}'
                found.append(
                    {
                        f'{prefix}/chunk_index': chunk,
                        f'{prefix}/file_index': file,
                        f'{prefix}/from_timestamp': start,
                        f'{prefix}/to_timestamp': end,
                    }
                )
        return found

    def _write_rows(self, films: dict[str, list[dict[str, Any]]]) -> None:
        """Write data/, and gather what meta/ says of each episode."""
        widths = len(self._kind['action_names']) + len(self._kind['state_names']) + 12
        sizes = [4 * widths * part.facts.frames for part in self._parts]
        index = 0
        for number, group in enumerate(_groups(sizes, self._target.data_mb)):
            chunk, file = divmod(number, CHUNK)
            tables = []
            for episode in range(group.start, group.stop):
                part = self._parts[episode]
                columns = self._numbered(part, episode, index)
                pixels = {view: columns.pop(f'pixels.{view}') for view in self._views}
                tables.append(columns)
                length = part.facts.frames
                self._episodes.append(
                    {
                        'episode_index': episode,
                        'tasks': list(dict.fromkeys(part.about['sentences'])),
                        'length': length,
                        'success': part.facts.success,
                        'source': part.facts.source,
                        'source_episode': part.facts.episode,
                        'data/chunk_index': chunk,
                        'data/file_index': file,
                        'dataset_from_index': index,
                        'dataset_to_index': index + length,
                        **{
                            key: at
                            for view in self._views
                            for key, at in films[view][episode].items()
                        },
                        'meta/episodes/chunk_index': 0,
                        'meta/episodes/file_index': 0,
                        **self._measured(columns, pixels, length),
                    }
                )
                index += length
            name = NAME.format(chunk_index=chunk, file_index=file)
            _save_columns(self._folder / 'data' / f'{name}.parquet', tables)

    def _numbered(self, part: StoredPart, episode: int, index: int) -> dict[str, np.ndarray]:
        """Return a part's columns with LeRobot's own beside them."""
        columns, count = part.columns(), part.facts.frames
        for sentence in part.about['sentences']:
            self._tasks.setdefault(sentence, len(self._tasks))
        frames = np.arange(count)
        columns['timestamp'] = (frames / self._kind['rate_hz']).astype(np.float32)
        columns['frame_index'] = frames
        columns['episode_index'] = np.full(count, episode)
        columns['index'] = index + frames
        columns['task_index'] = np.array([self._tasks[s] for s in part.about['sentences']])
        return columns

    def _measured(
        self, columns: dict[str, np.ndarray], pixels: dict[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Count an episode into the set's statistics, and return its own."""
        found = {}
        for key, values in columns.items():
            if key == 'stamp_ns':
                continue
            table = values.reshape(count, -1)
            self._stats.setdefault(key, RunningStats(table.shape[1])).add(table)
            found[key] = vector_stats(table)
        for view, counts in pixels.items():
            self._pixels[view] += counts
            found[_key(view)] = pixel_stats(counts, count)
        return {
            f'stats/{key}/{name}': value
            for key, stats in found.items()
            for name, value in stats.items()
        }

    def _own_statistics(self) -> dict[str, Any]:
        """Return q01 and q99 of actions and state as data/statistics.py stores them."""
        found, sources = {}, sorted({part.facts.source for part in self._parts})
        for key, names in ((ACTION, 'action_names'), (STATE, 'state_names')):
            if key in self._stats:
                stats = self._stats[key].result()
                found[key] = SetStatistics(
                    ', '.join(Path(source).name for source in sources),
                    self._kind['embodiment'],
                    tuple(self._kind[names]),
                    tuple(stats['q01']),
                    tuple(stats['q99']),
                    stats['count'][0],
                ).as_dict()
        return found

    def _write_info(self, meta: Path, frames: int) -> None:
        rate = self._kind['rate_hz']
        _dump(
            meta / 'info.json',
            {
                'codebase_version': 'v3.0',
                'robot_type': self._kind['embodiment'],
                'total_episodes': len(self._parts),
                'total_frames': frames,
                'total_tasks': len(self._tasks),
                'chunks_size': CHUNK,
                'data_files_size_in_mb': self._target.data_mb,
                'video_files_size_in_mb': self._target.video_mb,
                'fps': int(rate) if rate == int(rate) else rate,
                'splits': {'train': f'0:{len(self._parts)}'},
                'data_path': f'data/{NAME}.parquet',
                'video_path': f'videos/{{video_key}}/{NAME}.mp4' if self._views else None,
                'features': dict(self._features()),
            },
        )

    def _features(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for view, (height, width) in self._kind['views'].items():
            yield (
                _key(view),
                {
                    'dtype': 'video',
                    'shape': [height, width, 3],
                    'names': ['height', 'width', 'channels'],
                    'info': {
                        'video.height': height,
                        'video.width': width,
                        'video.codec': self._target.codec,
                        'video.pix_fmt': 'yuv420p',
                        'video.is_depth_map': False,
                        'video.fps': self._kind['rate_hz'],
                        'video.channels': 3,
                        'has_audio': False,
                    },
                },
            )
        for key, names in ((STATE, 'state_names'), (ACTION, 'action_names')):
            if self._kind[names]:
                channels = self._kind[names]
                yield key, {'dtype': 'float32', 'shape': [len(channels)], 'names': channels}
        yield 'stamp_ns', {'dtype': 'int64', 'shape': [1], 'names': None}
        for key in SCALARS:
            kind = 'float32' if key == 'timestamp' else 'int64'
            yield key, {'dtype': kind, 'shape': [1], 'names': None}


def _key(view: str) -> str:
    return f'{IMAGES}.{view}'


def _groups(sizes: Sequence[int], limit_mb: float) -> Iterator[slice]:
    """Yield slices of consecutive episodes, each below a limit unless one alone is above it."""
    start, size = 0, 0
    for number, bytes_of in enumerate(sizes):
        if number > start and size + bytes_of > limit_mb * 2**20:
            yield slice(start, number)
            start, size = number, 0
        size += bytes_of
    yield slice(start, len(sizes))


def _save_columns(path: Path, tables: Sequence[dict[str, np.ndarray]]) -> None:
    """Write columns of several episodes; those of vectors as lists of a fixed length."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {}
    for key in tables[0]:
        values = np.concatenate([table[key] for table in tables])
        if values.ndim == 2 and values.shape[1] > 1:
            flat = pa.array(values.ravel())
            columns[key] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            columns[key] = pa.array(values.ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def _save(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    kinds = {'success': pa.bool_()}
    table = pa.table({key: pa.array(value, kinds.get(key)) for key, value in columns.items()})
    parquet.write_table(table, path)


def _write_tasks(path: Path, tasks: dict[str, int]) -> None:
    """Write the sentences as the index of a pandas table, which is what LeRobot reads."""
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    index = '__index_level_0__'
    table = pa.table({'task_index': list(tasks.values()), index: list(tasks)})
    kinds = (('task_index', 'int64', 'task_index'), (None, 'unicode', index))
    told = {
        'index_columns': [index],
        'column_indexes': [],
        'columns': [
            {
                'name': name,
                'field_name': field,
                'pandas_type': kind,
                'numpy_type': 'object' if kind == 'unicode' else kind,
                'metadata': None,
            }
            for name, kind, field in kinds
        ],
        'pandas_version': '2.0.0',
    }
    parquet.write_table(table.replace_schema_metadata({'pandas': json.dumps(told)}), path)


def _dump(path: Path, found: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=4) + '\n', encoding='utf-8')
