"""
LeRobot data sets, v3.0 and v2.1, through pyarrow and PyAV; the lerobot package is not needed.

Rows lie in parquet, one per frame; pictures in mp4, one file an episode (v2.1) or many episodes a
file with from/to timestamps (v3.0). A picture is the decoded frame within half a step of its row's
time. Actions are the rows of the key 'action' that follow, in the data set's own units.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.lerobot_meta import EpisodeFiles, Layout, column, read_layout, read_table
from qwen_vla_ros.data.sample import Place, Sample, window
from qwen_vla_ros.data.video import frame_at, frames_between
from qwen_vla_ros.errors import QwenVlaError

ACTION, STATE = 'action', 'observation.state'
SECOND_NS = 1_000_000_000


class LeRobotEpisodes:
    """
    One data set folder.

    views       view tag -> key of its video, e.g. {'ego': 'observation.images.top'}; without it
                the tag is the last part of the key
    embodiment  name that samples carry; without it the robot_type of info.json
    pseudo_actions  for a set without actions: each is the step of the state to the next row,
                its channels d<name>; the last row has none and is no frame
    Raises QwenVlaError for a folder, a version or a column that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        horizon: int,
        views: Mapping[str, str] | None = None,
        embodiment: str = '',
        pseudo_actions: bool = False,
    ) -> None:
        """Read the meta data; rows and pictures are read when asked for."""
        self.source = folder.name
        self._folder, self._horizon, self._pseudo = folder, horizon, pseudo_actions
        self._layout = read_layout(folder, pseudo_actions)
        self.embodiment = embodiment or self._layout.robot
        if not self.embodiment:
            raise QwenVlaError(f'{folder}: meta/info.json names no robot_type; say which it is')
        videos = self._layout.videos
        self._views = dict(views or {key.rpartition('.')[2]: key for key in videos})
        for view, key in self._views.items():
            if key not in videos:
                raise QwenVlaError(
                    f'{folder}: view {view}: no video {key!r}; it has {", ".join(videos)}'
                )
        self._rows = lru_cache(maxsize=8)(self._read_rows)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._layout.episodes)

    def frames(self, episode: int) -> int:
        """Return the number of frames of an episode."""
        return self._files(episode).length - self._pseudo

    def rate_hz(self, episode: int) -> float:
        """Return frames per second."""
        return self._layout.fps

    def success(self, episode: int) -> bool | None:
        """Return whether an episode reached its goal, None where meta/ does not say."""
        return self._files(episode).success

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and key."""
        files, half = self._files(episode), 0.5 / self._layout.fps
        place = Place(self.source, episode, frame)
        if not 0 <= frame < self.frames(episode):
            raise place.refuse('frame', f'the episode has {self.frames(episode)}')
        time_s = float(self._rows(episode)['timestamp'][frame])
        images = {}
        for view, key in self._views.items():
            path, start_s = files.videos[key]
            image = frame_at(path, start_s + time_s, half)
            if image is None:
                raise place.refuse(f'images.{view}', f'{path.name} has no frame at {time_s:.3f} s')
            images[view] = image
        return self._sample(place, images)

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples; each video is decoded once, from front to back."""
        files, half = self._files(episode), 0.5 / self._layout.fps
        times = self._rows(episode)['timestamp']
        films = {}
        for view, key in self._views.items():
            path, start_s = files.videos[key]
            films[view] = frames_between(path, start_s + times, half)
        for frame in range(self.frames(episode)):
            place = Place(self.source, episode, frame)
            images = {}
            for view, film in films.items():
                image = next(film)
                if image is None:
                    raise place.refuse(
                        f'images.{view}', f'the video has no frame at {times[frame]:.3f} s'
                    )
                images[view] = image
            yield self._sample(place, images)

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return action [F, A] and, where it is measured, observation.state [F, S], float32."""
        rows = self._rows(episode)
        return {key: rows[key] for key in (ACTION, STATE) if key in rows}

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the A channels."""
        if self._pseudo:
            return tuple(f'd{name}' for name in self._layout.names(STATE))
        return self._layout.names(ACTION)

    def _sample(self, place: Place, images: Mapping[str, np.ndarray]) -> Sample:
        rows = self._rows(place.episode)
        actions, mask = window(rows[ACTION], place.frame, self._horizon)
        has_state = STATE in rows
        return Sample(
            place,
            images,
            rows['task'][place.frame],
            self.embodiment,
            actions,
            mask,
            self.action_names,
            round(float(rows['timestamp'][place.frame]) * SECOND_NS),
            rows[STATE][place.frame] if has_state else None,
            self._layout.names(STATE) if has_state else (),
        )

    def _files(self, episode: int) -> EpisodeFiles:
        if not 0 <= episode < len(self):
            raise QwenVlaError(f'{self._folder}: episode {episode}: there are {len(self)}')
        return self._layout.episodes[episode]

    def _read_rows(self, episode: int) -> dict[str, Any]:
        """Return an episode's columns; what is missing, short or off its rate is named."""
        files = self._files(episode)
        table = read_table(files.data, files.index)
        index = column(files.data, table, 'episode_index')
        table = table.filter(np.asarray(index) == files.index)
        if table.num_rows != files.length:
            raise QwenVlaError(
                f'{files.data}: episode {files.index} has {table.num_rows} rows, its meta data '
                f'say {files.length}; the file is incomplete'
            )
        found: dict[str, Any] = {}
        for key in (ACTION, STATE):
            if key in self._layout.features:
                found[key] = _matrix(files.data, table, key, len(self._layout.names(key)))
        times = np.asarray(column(files.data, table, 'timestamp'), np.float64)
        _check_rate(files, times, self._layout)
        found['timestamp'] = times
        tasks = np.asarray(column(files.data, table, 'task_index'))
        found['task'] = [self._layout.task(files.data, int(task)) for task in tasks]
        if self._pseudo:
            steps = np.diff(found[STATE], axis=0)
            return {ACTION: steps, **{key: values[:-1] for key, values in found.items()}}
        return found


def _matrix(path: Path, table: Any, key: str, width: int) -> np.ndarray:
    """Return a column of lists as float32 [F, width]."""
    rows: Sequence[Any] = column(path, table, key)
    if any(np.size(row) != width for row in rows):
        raise QwenVlaError(f'{path}: {key}: a row has not the {width} values of meta/info.json')
    return np.array([np.reshape(row, width) for row in rows], np.float32)


def _check_rate(files: EpisodeFiles, times: np.ndarray, layout: Layout) -> None:
    """Refuse rows that are not 1 / fps apart: the data would play slow or fast."""
    if not np.isfinite(times).all():
        frame = int(np.argmin(np.isfinite(times)))
        raise QwenVlaError(
            f'{files.data}: episode {files.index}, frame {frame}: timestamp: is not a number'
        )
    wrong = np.abs(np.diff(times) * layout.fps - 1) > 0.1
    if wrong.any():
        frame = int(np.argmax(wrong)) + 1
        raise QwenVlaError(
            f'{files.data}: episode {files.index}, frame {frame}: timestamp: '
            f'{times[frame] - times[frame - 1]:.4f} s after the frame before, but meta/info.json '
            f'says {layout.fps:g} fps; mend fps, or record again'
        )
