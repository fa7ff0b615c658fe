"""
Episodes that are tables: rows of actions and state, and a picture per view and row.

RLDS, ALOHA and robomimic differ in where their columns lie, and in nothing else: each hands over
one Trajectory an episode, and TrajectoryEpisodes makes samples of it. Actions are the rows that
follow, in the data set's own units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Counted, Sample, window
from qwen_vla_ros.data.spec import say
from qwen_vla_ros.errors import QwenVlaError

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Trajectory:
    """
    One episode of F rows.

    actions       float32 [F, A], action_names A
    picture       (view, row) -> uint8 [h, w, 3] RGB
    instructions  one for all rows, or F of them
    times_ns      int64 [F]
    state         float32 [F, S] or None, state_names S
    """

    actions: np.ndarray
    action_names: tuple[str, ...]
    picture: Callable[[str, int], np.ndarray]
    views: tuple[str, ...]
    instructions: tuple[str, ...]
    times_ns: np.ndarray
    state: np.ndarray | None = None
    state_names: tuple[str, ...] = ()

    def instruction(self, row: int) -> str:
        """Return the sentence that holds at a row."""
        return self.instructions[row if len(self.instructions) > 1 else 0]


class TrajectoryEpisodes(Counted):
    """Episodes by number; the last one read is kept, so that its frames cost a picture each."""

    def __init__(
        self,
        source: str,
        embodiment: str,
        horizon: int,
        lengths: Sequence[int],
        read: Callable[[int], Trajectory],
        turn: Mapping[str, int] | None = None,
    ) -> None:
        """Take lengths [E] in rows, what reads an episode, and view -> degrees to turn it left."""
        super().__init__(source, lengths)
        if not embodiment:
            raise QwenVlaError(f'{source}: no robot is named in it; {say("embodiment")}')
        self.embodiment, self._horizon, self._read = embodiment, horizon, read
        self._turn = {view: degrees // 90 for view, degrees in (turn or {}).items()}
        self._kept: tuple[int, Trajectory] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs; read must be picklable, the kept episode is not."""
        return {**self.__dict__, '_kept': None}

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and key."""
        place = self.place(episode, frame)
        rows = self.trajectory(episode)
        images = {}
        for view in rows.views:
            try:
                images[view] = np.rot90(rows.picture(view, frame), self._turn.get(view, 0))
            except QwenVlaError as error:
                raise place.refuse(f'images.{view}', str(error)) from error
        actions, mask = window(rows.actions, frame, self._horizon)
        return Sample(
            place,
            images,
            rows.instruction(frame),
            self.embodiment,
            actions,
            mask,
            rows.action_names,
            int(rows.times_ns[frame]),
            None if rows.state is None else rows.state[frame],
            rows.state_names,
        )

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return action [F, A] and, where it is measured, observation.state [F, S], float32."""
        rows = self.trajectory(episode)
        found = {'action': rows.actions}
        return found if rows.state is None else {**found, 'observation.state': rows.state}

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return the names of the A channels."""
        return self.trajectory(0).action_names

    def trajectory(self, episode: int) -> Trajectory:
        """Return the table of an episode."""
        if self._kept is None or self._kept[0] != episode:
            count = self.frames(episode)
            rows = self._read(episode)
            if len(rows.actions) != count:
                raise QwenVlaError(
                    f'{self.source}: episode {episode}: {len(rows.actions)} rows of actions, '
                    f'but {count} were announced; the file has changed or is incomplete'
                )
            self._kept = episode, rows
        return self._kept[1]


def joined(
    place: str,
    fields: Mapping[str, Sequence[str]],
    column: Callable[[str], np.ndarray],
    count: int | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """
    Return the columns of several keys side by side as float32 [F, A], and the A names.

    fields   key -> names of its channels; without names they are key.0, key.1, ...
    column   key -> [F] or [F, w]
    QwenVlaError names the key whose length or width is wrong.
    """
    parts: list[np.ndarray] = []
    names: list[str] = []
    for key, channels in fields.items():
        rows = np.asarray(column(key))
        if rows.dtype.kind not in 'fiub' or rows.ndim not in (1, 2):
            raise QwenVlaError(f'{place}: {key}: {rows.dtype} {list(rows.shape)} is no table')
        with np.errstate(over='ignore'):  # what is too large is infinite then, and told by Sample
            rows = rows.reshape(len(rows), -1).astype(np.float32)
        wanted = len(rows) if count is None else count
        if len(rows) != wanted or not len(rows):
            raise QwenVlaError(f'{place}: {key}: {len(rows)} rows where {wanted} are expected')
        count = wanted
        if channels and len(channels) != rows.shape[1]:
            raise QwenVlaError(
                f'{place}: {key}: {rows.shape[1]} channels, but {len(channels)} names'
            )
        names += channels or [f'{key}.{i}' for i in range(rows.shape[1])]
        parts.append(rows)
    if len(set(names)) < len(names):
        raise QwenVlaError(f'{place}: a channel is named twice: {", ".join(names)}')
    return np.concatenate(parts, 1), tuple(names)


def regular(count: int, rate_hz: float, place: str) -> np.ndarray:
    """Return int64 ns [count] at a rate in Hz; QwenVlaError where it is not known."""
    if not rate_hz > 0:
        raise QwenVlaError(f'{place}: it tells no times; {say("rate_hz")}')
    return np.round(np.arange(count) * SECOND_NS / rate_hz).astype(np.int64)
