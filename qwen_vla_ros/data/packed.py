"""
A packed cache: any data sets as samples at training size, memory-mapped, read at random.

cache.json            format, groups, bytes of a sample
group-000/            episodes of one kind: embodiment, views and sizes, channels, horizon
  group.json          that kind, episodes (source, where they begin, length, success), words
  view-0.npy ...      uint8 [N, h, w, 3] RGB, one a view in the order of group.json
  actions.npy         float32 [N, H, A], mask.npy bool [N, H, A]
  state.npy           float32 [N, S]
  rows.npy            int64 [N, 3]: stamp in ns, frame in its source, index into words
  statistics.json     q01 and q99 with the hash that checkpoints carry

Pictures are not compressed: decoding is what costs time in training, and resizing to what the
model takes anyway makes them small (224x224: 147 KiB). Other times of a sample (sources_ns) are
not kept. Pictures of a sample are views into the file: copy before writing into them.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.errors import QwenVlaError

FORMAT = 'qwen_vla packed 1'
CACHE, GROUP = 'cache.json', 'group.json'


class PackedEpisodes:
    """A folder that `qwen-vla convert --to packed` wrote."""

    def __init__(self, folder: Path) -> None:
        """Read what is in it; pictures and rows are mapped when asked for."""
        self.source = folder.name
        found = read_json(folder / CACHE)
        if not isinstance(found, dict) or found.get('format') != FORMAT:
            raise QwenVlaError(f'{folder / CACHE}: not a cache of format {FORMAT!r}; pack it anew')
        self.bytes_per_sample = float(found['bytes_per_sample'])
        self._groups = [_Group(folder / name) for name in found['groups']]
        self._episodes = [
            (group, number) for group in self._groups for number in range(len(group.episodes))
        ]

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._episodes)

    def frames(self, episode: int) -> int:
        """Return the number of samples of an episode."""
        return self._told(episode)['frames']

    def rate_hz(self, episode: int) -> float:
        """Return frames per second; 0 where the source told none."""
        return self._told(episode)['rate_hz']

    def success(self, episode: int) -> bool | None:
        """Return whether an episode reached its goal, None where nobody said."""
        return self._told(episode)['success']

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample, its place that in the set it came from."""
        told = self._told(episode)
        if not 0 <= frame < told['frames']:
            place = Place(self.source, episode, frame)
            raise place.refuse('frame', f'the episode has {told["frames"]}')
        return self._episodes[episode][0].sample(told, told['start'] + frame)

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return action [F, A], the first row of each chunk, and observation.state [F, S]."""
        group, told = self._episodes[episode][0], self._told(episode)
        rows = slice(told['start'], told['start'] + told['frames'])
        found = {'action': group.actions[rows, :1].reshape(told['frames'], -1)}
        return {**found, 'observation.state': group.state[rows]} if group.has_state else found

    def _told(self, episode: int) -> dict[str, Any]:
        if not 0 <= episode < len(self):
            raise QwenVlaError(f'{self.source}: episode {episode}: there are {len(self)}')
        group, number = self._episodes[episode]
        return group.episodes[number]


class _Group:
    """Episodes of one kind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        told = read_json(folder / GROUP)
        try:
            self.episodes: list[dict[str, Any]] = told['episodes']
            self._rows = sum(episode['frames'] for episode in self.episodes)
            self._views: dict[str, list[int]] = told['views']
            self._embodiment: str = told['embodiment']
            self._action_names = tuple(told['action_names'])
            self._state_names = tuple(told['state_names'])
            self.has_state: bool = told['has_state']
            self._horizon = int(told['horizon'])
            self._words: list[Any] = told['words']
        except (KeyError, TypeError, ValueError) as error:
            raise QwenVlaError(f'{folder / GROUP}: damaged ({error}); pack it anew') from error

    def sample(self, told: Mapping[str, Any], row: int) -> Sample:
        """Return the sample of a row."""
        stamp_ns, frame, words = self._numbers[row].tolist()
        instruction, text, earlier = self._words[words]
        return Sample(
            Place(told['source'], told['episode'], frame),
            {view: pictures[row] for view, pictures in self._pictures.items()},
            instruction,
            self._embodiment,
            self.actions[row],
            self._mask[row],
            self._action_names,
            stamp_ns,
            self.state[row] if self.has_state else None,
            self._state_names,
            text,
            earlier=tuple((question, answer) for question, answer in earlier),
        )

    @cached_property
    def _pictures(self) -> dict[str, np.ndarray]:
        return {
            view: self._mapped(f'view-{number}.npy', np.uint8, *size, 3)
            for number, (view, size) in enumerate(self._views.items())
        }

    @cached_property
    def actions(self) -> np.ndarray:
        return self._mapped('actions.npy', np.float32, self._horizon, len(self._action_names))

    @cached_property
    def _mask(self) -> np.ndarray:
        return self._mapped('mask.npy', np.bool_, self._horizon, len(self._action_names))

    @cached_property
    def state(self) -> np.ndarray:
        return self._mapped('state.npy', np.float32, len(self._state_names))

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self._mapped('rows.npy', np.int64, 3)

    def _mapped(self, name: str, dtype: type, *shape: int) -> np.ndarray:
        """Map a file; QwenVlaError names one that is absent, cut, or of another shape."""
        path, wanted = self._folder / name, (self._rows, *shape)
        if 0 in wanted:
            return np.zeros(wanted, dtype)
        try:
            found = np.load(path, mmap_mode='r', allow_pickle=False)
        except (OSError, ValueError) as error:
            raise QwenVlaError(f'{path}: cannot be read ({error}); pack it anew') from error
        if found.shape != wanted or found.dtype != dtype:
            raise QwenVlaError(
                f'{path}: {found.dtype} {list(found.shape)}, but {GROUP} says '
                f'{np.dtype(dtype)} {list(wanted)}; pack it anew'
            )
        return np.asarray(found)


def read_json(path: Path) -> Any:
    """Return a file's JSON; QwenVlaError names the file."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise QwenVlaError(f'{path}: cannot be read ({error})') from error
