"""
The one sample that every data reader yields, and how a reader is asked for it.

  images       view -> uint8 [h, w, 3] RGB
  instruction  the task in words, never empty
  earlier      what was said before it: pairs of (question, answer), oldest first
  actions      float32 [H, A]; row h is the command for stamp_ns + h * step, native units;
               [0, 0] where text is all there is to learn
  mask         bool [H, A]; False where the episode tells nothing (what stands there, NaN
               included, means nothing)
  state        float32 [S] or None
  text         what a language head should say, or '' where there are actions
  stamp_ns     instant for which images and state hold; 0 where the data tell no time
  sources_ns   source -> its own time, where the data tell it
  points       'view/thing' -> (u, v) in that view, 0..1 from its upper left corner, None: not in
               the picture; what nobody tells is left out (model/readout.py)
  values       name -> what else is known of the scene, such as where a thing is in m
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError


class SampleError(QwenVlaError):
    """Data that cannot be trained on; says source, episode, frame, key, and what is wrong."""


@dataclass(frozen=True)
class Place:
    """Where a sample comes from: data set, episode and frame; file: the episode's own, if any."""

    source: str
    episode: int
    frame: int
    file: str = ''

    def refuse(self, key: str, reason: str) -> SampleError:
        """Return the error for a key of this sample."""
        return SampleError(
            f'{self.file or self.source}: episode {self.episode}, frame {self.frame}: '
            f'{key}: {reason}'
        )


@dataclass(frozen=True)
class Sample:
    """One instant of an episode and the actions that followed; the module tells the fields."""

    place: Place
    images: Mapping[str, np.ndarray]
    instruction: str
    embodiment: str
    actions: np.ndarray
    mask: np.ndarray
    action_names: tuple[str, ...]
    stamp_ns: int
    state: np.ndarray | None = None
    state_names: tuple[str, ...] = ()
    text: str = ''
    sources_ns: Mapping[str, int] = field(default_factory=dict)
    earlier: tuple[tuple[str, str], ...] = ()
    points: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what nobody may train on; SampleError names episode, frame and key."""
        for view, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise self.place.refuse(
                    f'images.{view}',
                    f'expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}',
                )
        if not self.instruction.strip():
            raise self.place.refuse('instruction', 'is empty; name the task')
        self._check_actions()
        if self.state is not None:
            self._check_state(self.state)

    def _check_actions(self) -> None:
        shape, refuse = self.actions.shape, self.place.refuse
        if self.actions.ndim != 2 or shape[1] != len(self.action_names):
            raise refuse('actions', f'{list(shape)} for {len(self.action_names)} names')
        if self.actions.dtype != np.float32 or self.mask.dtype != bool:
            raise refuse(
                'actions',
                f'expected float32 and bool, got {self.actions.dtype}, {self.mask.dtype}',
            )
        if self.mask.shape != shape:
            raise refuse('mask', f'{list(self.mask.shape)} for actions {list(shape)}')
        if not self.mask.any() and not (self.text.strip() and not self.actions.size):
            raise refuse('mask', 'no action is valid, and text alone may stand without actions')
        bad = np.argwhere(self.mask & ~np.isfinite(self.actions))
        if len(bad):
            row, column = bad[0]
            value = self.actions[row, column]
            raise refuse(
                f'actions.{self.action_names[column]}', f'row {row} is {value}, not a number'
            )

    def _check_state(self, state: np.ndarray) -> None:
        if state.dtype != np.float32 or state.shape != (len(self.state_names),):
            raise self.place.refuse(
                'state', f'{state.dtype} {list(state.shape)} for {len(self.state_names)} names'
            )
        for name, value in zip(self.state_names, state, strict=True):
            if not np.isfinite(value):
                raise self.place.refuse(f'state.{name}', f'is {value}, not a number')


class Episodes(Protocol):
    """Worn by every reader: random access by (episode, frame), and in order."""

    source: str

    def __len__(self) -> int:
        """Return the number of episodes."""

    def frames(self, episode: int) -> int:
        """Return the number of frames of an episode."""

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError says why there is none."""

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""


class Counted:
    """What readers whose lengths are known share: counting, and frames that are not there."""

    def __init__(self, source: str, lengths: Sequence[int]) -> None:
        """Take the number of frames of each episode; QwenVlaError when there is none."""
        if not len(lengths):
            raise QwenVlaError(f'{source}: there is no episode in it')
        self.source, self._lengths = source, lengths

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._lengths)

    def frames(self, episode: int) -> int:
        """Return the number of frames of an episode."""
        if not 0 <= episode < len(self):
            raise QwenVlaError(f'{self.source}: episode {episode}: there are {len(self)}')
        return int(self._lengths[episode])

    def place(self, episode: int, frame: int) -> Place:
        """Return the place of a frame; SampleError when the episode is shorter."""
        place = Place(self.source, episode, frame)
        if not 0 <= frame < self.frames(episode):
            raise place.refuse('frame', f'the episode has {self.frames(episode)}')
        return place

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError says why there is none."""
        raise NotImplementedError


def window(rows: np.ndarray, start: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Return rows [start, start + horizon) as float32 [H, A], and their mask.

    Beyond the end the last row is repeated with a mask of False: nothing trains on it.
    """
    index = np.arange(start, start + horizon)
    valid = index < len(rows)
    actions = rows[np.minimum(index, len(rows) - 1)].astype(np.float32)
    return actions, np.repeat(valid[:, None], rows.shape[1], 1)


def spoken(
    place: Place,
    images: Mapping[str, np.ndarray],
    question: str,
    answer: str,
    earlier: tuple[tuple[str, str], ...] = (),
    stamp_ns: int = 0,
) -> Sample:
    """Return a sample whose only target is text; SampleError when there is no answer."""
    if not answer.strip():
        raise place.refuse('text', 'the answer is empty')
    nothing = np.zeros((0, 0), np.float32)
    return Sample(
        place,
        images,
        question,
        '',
        nothing,
        nothing.astype(bool),
        (),
        stamp_ns,
        text=answer,
        earlier=earlier,
    )
