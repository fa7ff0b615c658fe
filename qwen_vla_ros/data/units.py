"""
A data set's own numbers -> those of a contract: units, and displacements from a chunk's beginning.

Public sets tell a gripper as a share of its opening where a contract has metres, and the motion of
one step where a contract has the tip's displacement since the chunk began. A description says so:

  scale: {left_finger: [0.015, 0.022]}            # offset + factor * value, actions and state
  sum_steps: [dx, dy, dz, droll, dpitch, dyaw]    # six a tip, turns about fixed axes

Row h of summed channels is where steps 0 to h lead from the pose at the frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Episodes, Sample
from qwen_vla_ros.embodiment import did_you_mean
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import euler_angles, euler_matrix

TIP = 6  # channels: x y z and roll pitch yaw


class _Changed:
    """A data set whose samples are changed one by one."""

    def __init__(self, episodes: Episodes) -> None:
        self.source, self._episodes = episodes.source, episodes
        self.embodiment = getattr(episodes, 'embodiment', '')
        self.action_names: tuple[str, ...] = getattr(episodes, 'action_names', ())

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._episodes)

    def frames(self, episode: int) -> int:
        """Return the number of frames of an episode."""
        return self._episodes.frames(episode)

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one changed sample."""
        return self._change(self._episodes.sample(episode, frame))

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's changed samples in order."""
        return map(self._change, self._episodes.stream(episode))

    def _change(self, sample: Sample) -> Sample:
        raise NotImplementedError

    def _channels(self, names: Sequence[str], key: str) -> None:
        """Refuse names that are no channels of the actions."""
        for name in names:
            if name not in self.action_names:
                raise QwenVlaError(
                    f'{self.source}: {key}: no channel {name!r}'
                    f'{did_you_mean(name, self.action_names)}; there are: '
                    f'{", ".join(self.action_names) or "none"}'
                )


class Scaled(_Changed):
    """Channels of actions and state as offset + factor * value."""

    def __init__(self, episodes: Episodes, scale: Mapping[str, tuple[float, float]]) -> None:
        """Take channel -> (offset, factor); QwenVlaError for a channel that is not there."""
        super().__init__(episodes)
        self._scale = dict(scale)
        self._channels(tuple(scale), 'scale')

    def _change(self, sample: Sample) -> Sample:
        state = sample.state
        return replace(
            sample,
            actions=self._scaled(sample.actions, sample.action_names),
            state=None if state is None else self._scaled(state, sample.state_names),
        )

    def _scaled(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        offset, factor = np.array([self._scale.get(name, (0.0, 1.0)) for name in names]).T
        return (offset + factor * values).astype(np.float32)


class ScaledTables(Scaled):
    """The same for a data set that also gives whole tables."""

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return action [F, A] and, where it is measured, observation.state [F, S], float32."""
        source: Any = self._episodes
        found = dict(source.columns(episode))
        names = {'action': self.action_names}
        if 'observation.state' in found:
            names['observation.state'] = source.sample(episode, 0).state_names
        return {key: self._scaled(rows, names[key]) for key, rows in found.items()}


class Summed(_Changed):
    """Displacements of single steps as displacements since the chunk's beginning."""

    def __init__(self, episodes: Episodes, names: Sequence[str]) -> None:
        """Take six channels a tip; QwenVlaError for other numbers and unknown channels."""
        super().__init__(episodes)
        if not names or len(names) % TIP:
            raise QwenVlaError(
                f'{self.source}: sum_steps: {len(names)} channels; name {TIP} of a tip: x, y, z '
                'and the turns about them'
            )
        self._channels(names, 'sum_steps')
        index = [self.action_names.index(name) for name in names]
        self._tips = [index[first : first + TIP] for first in range(0, len(index), TIP)]

    def _change(self, sample: Sample) -> Sample:
        actions = sample.actions.copy()
        for tip in self._tips:
            rows = np.flatnonzero(sample.mask[:, tip].all(1))
            place = np.ix_(rows, tip)
            actions[place] = summed(actions[place])
        return replace(sample, actions=actions)


def summed(steps: np.ndarray) -> np.ndarray:
    """Return [H, 6], where steps [H, 6] lead: x y z added, turns about fixed axes composed."""
    found, turn = steps.astype(np.float64), np.eye(3)
    found[:, :3] = np.cumsum(found[:, :3], 0)
    for row, step in zip(found, steps, strict=True):
        turn = euler_matrix(*step[3:]) @ turn
        row[3:] = euler_angles(turn)
    return found


def in_units(
    episodes: Episodes, scale: Mapping[str, Sequence[float]], sum_steps: Sequence[str]
) -> Episodes:
    """Return a data set as a description wants its channels."""
    if scale:
        for name, pair in scale.items():
            numbers = isinstance(pair, (list, tuple)) and len(pair) == 2
            if not numbers or not all(
                isinstance(v, (int, float)) and np.isfinite(v) for v in pair
            ):
                raise QwenVlaError(
                    f'{episodes.source}: scale.{name}: {pair!r}; write [offset, factor]'
                )
        kind = ScaledTables if hasattr(episodes, 'columns') else Scaled
        episodes = kind(episodes, {name: (pair[0], pair[1]) for name, pair in scale.items()})
    return Summed(episodes, sum_steps) if sum_steps else episodes
