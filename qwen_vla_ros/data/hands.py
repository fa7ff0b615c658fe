"""
Egocentric recordings of hands -> the 32 channels of the contract human_hands.

A chunk at frame t: row h tells where each wrist is at t + h relative to where it was at t
(translation in m, rotation vector in rad, both in the axes of the camera at t), and ten
coefficients of the articulation (hand_pca.py). A hand that is not seen at t, or at t + h, is
masked there. The film lies beside the recording (hand_tracks.py), of the same name, as .mp4.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qwen_vla_ros.data.hand_pca import KEPT, SIDES, load
from qwen_vla_ros.data.hand_tracks import HandTrack, hand_files, length_of, read_track
from qwen_vla_ros.data.sample import Counted, Place, Sample, SampleError
from qwen_vla_ros.data.spec import SetSpec
from qwen_vla_ros.data.video import frame_at, frames_between
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import rotation_vectors

HORIZON = 32
SECOND_NS = 1_000_000_000
_COEFFICIENTS = tuple(f'pca_{i + 1}' for i in range(KEPT))
_WRIST = ('dx', 'dy', 'dz', 'rx', 'ry', 'rz')
ACTIONS = tuple(f'{side}_{name}' for side in SIDES for name in (*_WRIST, *_COEFFICIENTS))
STATE = tuple(name.replace('_d', '_') for name in ACTIONS)


class HandEpisodes(Counted):
    """Recordings of hands; skipped counts, after stream(), frames in which no hand is seen."""

    embodiment = 'human_hands'
    action_names = ACTIONS

    def __init__(self, spec: SetSpec) -> None:
        """Read which recordings there are, and the components."""
        if not spec.pca:
            raise QwenVlaError(
                f"{spec.path}: hands need components: make them by 'qwen-vla fit-hands' and say "
                'pca: FILE'
            )
        self._files = hand_files(spec.path)
        super().__init__(spec.path.name, [length_of(file) for file in self._files])
        self.skipped: Counter[str] = Counter()
        self._spec, self._horizon = spec, spec.horizon or HORIZON
        self._pca = load(Path(spec.pca))
        self._view = next(iter(spec.views), 'ego')
        self._kept: tuple[int, HandTrack, np.ndarray] | None = None

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError says where no hand is seen."""
        place = self.place(episode, frame)
        film, rate_hz = self._film(episode), self._track(episode)[0].rate_hz
        return self._sample(place, frame_at(film, frame / rate_hz, 0.5 / rate_hz))

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield the samples in order; frames without a hand are counted, not yielded."""
        rate_hz = self._track(episode)[0].rate_hz
        times = np.arange(self.frames(episode)) / rate_hz
        for frame, image in enumerate(frames_between(self._film(episode), times, 0.5 / rate_hz)):
            try:
                yield self._sample(Place(self.source, episode, frame), image)
            except SampleError as error:
                self.skipped[str(error).partition(f'frame {frame}: ')[2]] += 1

    def chunk(self, episode: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions float32 [H, 32] and mask bool [H, 32] of a frame."""
        track, coefficients = self._track(episode)
        count = len(track.camera)
        index = np.arange(frame, frame + self._horizon)
        inside, rows = index < count, np.minimum(index, count - 1)
        turn = track.camera[frame, :3, :3].T
        actions, masks = [], []
        for number, side in enumerate(SIDES):
            wrist, seen = track.wrist[side], track.seen[side]
            moved = (wrist[rows, :3, 3] - wrist[frame, :3, 3]) @ turn.T
            turned = turn @ wrist[rows, :3, :3] @ wrist[frame, :3, :3].T @ turn.T
            parts = [moved, rotation_vectors(turned), coefficients[rows, number]]
            actions.append(np.concatenate(parts, 1))
            mask = inside & seen[rows] & seen[frame]
            masks.append(np.repeat(mask[:, None], actions[-1].shape[1], 1))
        return np.concatenate(actions, 1).astype(np.float32), np.concatenate(masks, 1)

    def _sample(self, place: Place, image: np.ndarray | None) -> Sample:
        track, coefficients = self._track(place.episode)
        if image is None:
            raise place.refuse(f'images.{self._view}', 'the film has no such frame')
        actions, mask = self.chunk(place.episode, place.frame)
        both = all(track.seen[side][place.frame] for side in SIDES)
        state = _state(track, coefficients, place.frame) if both else None
        return Sample(
            place,
            {self._view: image},
            self._spec.instruction or track.instruction,
            self.embodiment,
            actions,
            mask,
            ACTIONS,
            round(place.frame * SECOND_NS / track.rate_hz),
            state,
            () if state is None else STATE,
        )

    def _film(self, episode: int) -> Path:
        return self._files[episode].with_suffix('.mp4')

    def _track(self, episode: int) -> tuple[HandTrack, np.ndarray]:
        """Return a recording and its coefficients [N, 2, 10]."""
        if self._kept is None or self._kept[0] != episode:
            file = self._files[episode]
            track = read_track(file)
            if track.kind != self._pca.kind:
                raise QwenVlaError(
                    f'{file}: angles of kind {track.kind!r}, but {self._spec.pca} was fitted on '
                    f"{self._pca.kind!r}; fit components on this data by 'qwen-vla fit-hands'"
                )
            found = [self._pca.coefficients(side, track.pose[side]) for side in SIDES]
            self._kept = episode, track, np.stack(found, 1)
        return self._kept[1:]


def _state(track: HandTrack, coefficients: np.ndarray, frame: int) -> np.ndarray:
    """Return float32 [32]: wrists in the frame of the camera, and the coefficients."""
    inverse, parts = np.linalg.inv(track.camera[frame]), []
    for number, side in enumerate(SIDES):
        pose = inverse @ track.wrist[side][frame]
        parts += [pose[:3, 3], rotation_vectors(pose[:3, :3]), coefficients[frame, number]]
    return np.concatenate(parts).astype(np.float32)
