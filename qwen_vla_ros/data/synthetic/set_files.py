"""
Synthetic episodes on disk, in the layout of LeRobot v3.0: parquet, one row group an episode.

  action                float32 [J + 1]  joints (rad) and opening of the gripper (m) of this row
  observation.velocity  float32 [J]      rad/s
  observation.tip       float32 [7]      x y z (m) and quaternion x y z w of the tip in the base
  step                  int16            which of the episode's steps moves there
  timestamp s, frame_index, episode_index, index, task_index (that of the episode)

  data/chunk-000/file-000.parquet            rows of up to EPISODES_A_FILE episodes
  meta/episodes/chunk-000/file-000.parquet   their lengths, sentences, steps and what made them
  meta/info.json, meta/tasks.parquet         written last: a set without them is not finished

Both files of a number are written beside and renamed, the second one last; it says that the first
is whole.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

ORDER = 'order.json'
EPISODES_A_FILE = 128
FILES_A_CHUNK = 1000
DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
EPISODES = 'meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'


@dataclass(frozen=True)
class Recorded:
    """
    An episode: columns of R rows, its sentence, the labels of its steps, and what is told of it.

    told  further columns of meta/episodes: texts, numbers, lists of them
    """

    columns: Mapping[str, np.ndarray]
    instruction: str
    steps: tuple[str, ...]
    told: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Return the number of rows."""
        return len(self.columns['action'])

    def step_starts(self) -> list[int]:
        """Return the row at which each step begins."""
        numbers = self.columns['step']
        return [int(np.argmax(numbers == number)) for number in range(len(self.steps))]


def file_path(folder: Path, pattern: str, number: int) -> Path:
    """Return the path of file `number` by one of the patterns above."""
    chunk, file = divmod(number, FILES_A_CHUNK)
    return folder / pattern.format(chunk_index=chunk, file_index=file)


def write_episodes(
    folder: Path,
    number: int,
    first: tuple[int, int],
    episodes: Sequence[Recorded],
    rate_hz: int,
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> int:
    """
    Write the two files of a number and return how many rows they hold.

    first  episodes and rows of all files before; extra: more columns of meta/episodes
    """
    pyarrow, parquet = _pyarrow()
    path = file_path(folder, DATA, number)
    first_episode, first_row = first
    tables, starts = [], [first_row]
    for index, episode in enumerate(episodes, first_episode):
        tables.append(_table(pyarrow, episode, index, starts[-1], rate_hz))
        starts.append(starts[-1] + episode.length)
    split = [name for name in tables[0].schema.names if name.startswith(('action', 'observation'))]

    def rows(beside: Path) -> None:
        encoding = {f'{name}.list.element': 'BYTE_STREAM_SPLIT' for name in split}
        with parquet.ParquetWriter(
            beside,
            tables[0].schema,
            compression='zstd',
            use_dictionary=False,
            column_encoding=encoding,
        ) as writer:
            for table in tables:
                writer.write_table(table)

    beside_then_renamed(path, rows)
    chunk, file = divmod(number, FILES_A_CHUNK)
    count = len(episodes)
    columns = {
        'episode_index': list(range(first_episode, first_episode + count)),
        'length': [episode.length for episode in episodes],
        'tasks': [[episode.instruction] for episode in episodes],
        'data/chunk_index': [chunk] * count,
        'data/file_index': [file] * count,
        'dataset_from_index': starts[:-1],
        'dataset_to_index': starts[1:],
        'steps': [list(episode.steps) for episode in episodes],
        'step_starts': [episode.step_starts() for episode in episodes],
        **{key: [episode.told[key] for episode in episodes] for key in episodes[0].told},
        **(extra or {}),
    }
    table = pyarrow.table({key: _typed(pyarrow, key, values) for key, values in columns.items()})
    meta = file_path(folder, EPISODES, number)
    beside_then_renamed(meta, lambda beside: parquet.write_table(table, beside))
    return starts[-1] - first_row


class SetWriter:
    """A set's folder while it is written: what is done, and episodes that wait for a file."""

    def __init__(
        self,
        folder: Path,
        count: int,
        rate_hz: int,
        extra: Callable[[Sequence[int], int], Mapping[str, Sequence[Any]]] | None = None,
        a_file: int = EPISODES_A_FILE,
    ) -> None:
        """
        Find what is whole already of a set of `count` episodes.

        extra   lengths, number of the first -> more columns of meta/episodes
        a_file  episodes that share a file; a run that is cut loses less than so many
        """
        self.folder = folder
        self._count, self._rate_hz, self._extra = count, rate_hz, extra
        self._a_file = a_file
        self._number, self._row = finished_files(folder, count, a_file)
        self.done = min(self._number * a_file, count)
        self._waiting: list[Recorded] = []

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Return first and number of what is still to be made; none crosses a file's end."""
        starts = range(self.done, self._count, size)
        return [(start, min(size, self._count - start)) for start in starts]

    def add(self, episodes: Sequence[Recorded]) -> None:
        """Take the next episodes, and write a file when it is full or the last one."""
        self._waiting += episodes
        full = len(self._waiting) == self._a_file
        if full or self.done + len(self._waiting) == self._count:
            lengths = [episode.length for episode in self._waiting]
            extra = self._extra(lengths, self.done) if self._extra else None
            first = (self.done, self._row)
            self._row += write_episodes(
                self.folder, self._number, first, self._waiting, self._rate_hz, extra
            )
            self.done, self._number = self.done + len(self._waiting), self._number + 1
            self._waiting = []


def begun_as(folder: Path, told: Mapping[str, Any]) -> None:
    """Note what a folder is made of; one that was begun with something else is refused."""
    path, text = folder / ORDER, json.dumps(told)
    if not path.exists():
        beside_then_renamed(path, lambda beside: beside.write_text(text))
    elif path.read_text() != text:
        raise QwenVlaError(
            f'{path}: begun as {path.read_text()}, now asked for as {text}; choose another folder'
        )


def finish(
    folder: Path,
    robot: str,
    rate_hz: int,
    features: Mapping[str, Any],
    marker: str,
    told: Mapping[str, Any],
) -> None:
    """Write meta/tasks.parquet, what is told into the file marker, and last meta/info.json."""
    pyarrow, parquet = _pyarrow()
    table = episode_table(folder, ('length', 'tasks'))
    sentences = [tasks[0] for tasks in table['tasks'].to_pylist()]
    tasks = pyarrow.table({'task': sentences, 'task_index': np.arange(len(sentences))})
    beside_then_renamed(
        folder / 'meta/tasks.parquet', lambda beside: parquet.write_table(tasks, beside)
    )
    videos = any(feature['dtype'] == 'video' for feature in features.values())
    info = {
        'codebase_version': 'v3.0',
        'robot_type': robot,
        'total_episodes': len(sentences),
        'total_frames': int(np.sum(table['length'].to_numpy())),
        'total_tasks': len(sentences),
        'chunks_size': FILES_A_CHUNK,
        'fps': rate_hz,
        'splits': {'train': f'0:{len(sentences)}'},
        'data_path': DATA,
        'video_path': (
            'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
            if videos
            else None
        ),
        'features': {**features, **_bookkeeping()},
    }
    for name, content in ((marker, dict(told)), ('meta/info.json', info)):
        text = json.dumps(content, indent=1) + '\n'
        beside_then_renamed(folder / name, lambda beside, text=text: beside.write_text(text))


def finished_files(folder: Path, episodes: int, a_file: int = EPISODES_A_FILE) -> tuple[int, int]:
    """Return how many files of a set of so many episodes are whole, from the first, and rows."""
    rows, number = 0, 0
    while number * a_file < episodes:
        path = file_path(folder, EPISODES, number)
        if not path.exists():
            break
        lengths = _read(path, ('length',))['length'].to_numpy()
        if len(lengths) != min(a_file, episodes - number * a_file):
            break  # the last file of a smaller set
        rows, number = rows + int(lengths.sum()), number + 1
    return number, rows


def episode_table(folder: Path, columns: Sequence[str] | None = None) -> Any:
    """Return meta/episodes of a set as one pyarrow table, in order."""
    pyarrow, _ = _pyarrow()
    paths = sorted((folder / 'meta' / 'episodes').glob('*/*.parquet'))
    if not paths:
        raise QwenVlaError(f'{folder}: no meta/episodes; is this a synthetic set?')
    return pyarrow.concat_tables([_read(path, columns) for path in paths])


def vector(names: Sequence[str]) -> dict[str, Any]:
    """Return the feature of a float32 vector with named channels."""
    return {'dtype': 'float32', 'shape': [len(names)], 'names': list(names)}


def beside_then_renamed(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside, then rename it: whoever looks sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        write(beside)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def _table(pyarrow: Any, episode: Recorded, index: int, first_row: int, rate_hz: int) -> Any:
    count = episode.length
    frames = np.arange(count)
    arrays = {}
    for key, values in episode.columns.items():
        if values.ndim == 2:
            flat = pyarrow.array(values.ravel())
            arrays[key] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[key] = pyarrow.array(values)
    return pyarrow.table(
        {
            **arrays,
            'timestamp': (frames / rate_hz).astype(np.float32),
            'frame_index': frames,
            'episode_index': np.full(count, index),
            'index': first_row + frames,
            'task_index': np.full(count, index),
        }
    )


def _typed(pyarrow: Any, key: str, values: Sequence[Any]) -> Any:
    """Return a column; empty lists do not tell their type, so texts in lists are said to be it."""
    texts = key in ('tasks', 'steps', 'step_kinds', 'rejected')
    return pyarrow.array(values, pyarrow.list_(pyarrow.string()) if texts else None)


def _bookkeeping() -> dict[str, Any]:
    whole = {'dtype': 'int64', 'shape': [1], 'names': None}
    time = {'dtype': 'float32', 'shape': [1], 'names': None}
    rest = dict.fromkeys(('frame_index', 'episode_index', 'index', 'task_index'), whole)
    return {'step': {'dtype': 'int16', 'shape': [1], 'names': None}, 'timestamp': time, **rest}


def _read(path: Path, columns: Sequence[str] | None) -> Any:
    pyarrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, columns=list(columns) if columns else None)
    except (OSError, pyarrow.ArrowException) as error:
        told = str(error).splitlines()[0]
        raise QwenVlaError(f'{path}: cannot be read ({told}); delete it and run again') from error
    for name in columns or ():
        if name not in table.column_names:
            raise QwenVlaError(f'{path}: no column {name!r}; delete it and run again')
    return table


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise QwenVlaError(f"synthetic sets: {error}; pip install 'qwen_vla_ros[data]'") from error
    return pyarrow, parquet
