"""
Recordings of two hands in HDF5, of EgoDex and of ours, as poses in one fixed frame.

  EgoDex  transforms/<joint> [N, 4, 4] of ARKit's skeleton, camera included; below 0.5 in
          confidences/<joint> [N], where given, a hand counts as not seen; the sentence is an
          attribute; 30 Hz
  hands   ours, for poses of MANO: camera [N, 4, 4], and for left/ and right/ wrist [N, 4, 4],
          pose [N, 45], seen [N]; attributes instruction and rate_hz
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.hand_pca import ANGLES, SIDES
from qwen_vla_ros.data.hdf5 import column, files_of, opened
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import rotation_vectors

EGODEX_KEYS = ('transforms/camera', 'transforms/leftHand', 'transforms/rightHand')
HANDS_KEYS = ('camera', 'left/wrist', 'right/wrist')
EGODEX_HZ = 30.0
CONFIDENT = 0.5
FINGERS = ('IndexFinger', 'MiddleFinger', 'LittleFinger', 'RingFinger', 'Thumb')
JOINTS = ('Knuckle', 'IntermediateBase', 'IntermediateTip')


@dataclass(frozen=True)
class HandTrack:
    """
    One recording of N frames.

    camera, wrist  poses in one fixed frame [N, 4, 4]; wrist by side
    pose           side -> [N, 45] in rad, of kind 'arkit' or 'mano' (hand_pca.py)
    seen           side -> bool [N]
    """

    camera: np.ndarray
    wrist: Mapping[str, np.ndarray]
    pose: Mapping[str, np.ndarray]
    seen: Mapping[str, np.ndarray]
    kind: str
    instruction: str
    rate_hz: float


def hand_files(path: Path) -> list[Path]:
    """Return the HDF5 files of a path, those up to two folders below included."""
    found = files_of(path)
    for depth in ('*', '*/*'):
        for folder in sorted(path.glob(depth)) if path.is_dir() else ():
            found += files_of(folder) if folder.is_dir() else []
    return found


def lacks(path: Path) -> str:
    """Return why the first file of a path is no recording of hands, or ''."""
    files = hand_files(path)
    if not files:
        return 'no .hdf5 in it or two folders below'
    with opened(files[0]) as file:
        if all(key in file for key in EGODEX_KEYS) or all(key in file for key in HANDS_KEYS):
            return ''
    return f'{files[0].name} has neither {EGODEX_KEYS[1]} nor {HANDS_KEYS[1]}'


def read_track(file: Path) -> HandTrack:
    """Return a recording; QwenVlaError names file and key of what is missing or of wrong size."""
    with opened(file) as h5:
        track = _egodex(file, h5) if 'transforms' in h5 else _mano(file, h5)
    count = len(track.camera)
    for name, rows, shape in (
        ('camera', track.camera, (4, 4)),
        *((f'{side} wrist', track.wrist[side], (4, 4)) for side in SIDES),
        *((f'{side} pose', track.pose[side], (ANGLES,)) for side in SIDES),
        *((f'{side} seen', track.seen[side], ()) for side in SIDES),
    ):
        if rows.shape != (count, *shape):
            raise QwenVlaError(f'{file}: {name}: {list(rows.shape)} where {count} frames are')
    if not np.isfinite(track.camera).all():
        frame = int(np.argmin(np.isfinite(track.camera).all((1, 2))))
        raise QwenVlaError(f'{file}: frame {frame}: camera: is not a number')
    return track


def _egodex(file: Path, h5: Any) -> HandTrack:
    def joint(name: str) -> np.ndarray:
        found = column(str(file), h5, f'transforms/{name}')
        if found.ndim != 3 or found.shape[1:] != (4, 4):
            raise QwenVlaError(f'{file}: transforms/{name}: {list(found.shape)} is no [N, 4, 4]')
        return found.astype(np.float64)

    camera = joint('camera')
    wrist, pose, seen = {}, {}, {}
    for side in SIDES:
        wrist[side] = joint(f'{side}Hand')
        turns = []
        for finger in FINGERS:
            before = wrist[side]
            for name in JOINTS:
                now = joint(f'{side}{finger}{name}')
                if len(now) != len(before):
                    raise QwenVlaError(
                        f'{file}: transforms/{side}{finger}{name}: {len(now)} frames where '
                        f'{len(before)} are'
                    )
                turns.append(np.swapaxes(before[:, :3, :3], 1, 2) @ now[:, :3, :3])
                before = now
        pose[side] = rotation_vectors(np.stack(turns, 1)).reshape(len(camera), -1)
        seen[side] = np.isfinite(pose[side]).all(1) & np.isfinite(wrist[side]).all((1, 2))
        if f'confidences/{side}Hand' in h5:
            sure = column(str(file), h5, f'confidences/{side}Hand')
            if sure.shape != seen[side].shape:
                raise QwenVlaError(f'{file}: confidences/{side}Hand: {list(sure.shape)}')
            seen[side] &= sure >= CONFIDENT
    return HandTrack(camera, wrist, pose, seen, 'arkit', _said(file, h5), EGODEX_HZ)


def _mano(file: Path, h5: Any) -> HandTrack:
    def read(key: str) -> np.ndarray:
        return column(str(file), h5, key)

    rate_hz = float(h5.attrs.get('rate_hz', 0))
    if not rate_hz > 0:
        raise QwenVlaError(f'{file}: rate_hz: the attribute is missing or not positive')
    wrist = {side: read(f'{side}/wrist') for side in SIDES}
    pose = {side: read(f'{side}/pose') for side in SIDES}
    seen = {
        side: read(f'{side}/seen').astype(bool)
        & np.isfinite(pose[side]).all(1)
        & np.isfinite(wrist[side]).all((1, 2))
        for side in SIDES
    }
    said = _text(h5.attrs.get('instruction', ''))
    return HandTrack(read('camera'), wrist, pose, seen, 'mano', said, rate_hz)


def _said(file: Path, h5: Any) -> str:
    """Return EgoDex' sentence; a reversible task tells which of its two holds."""
    which = _text(h5.attrs.get('which_llm_description', '1'))
    reversed_ = _text(h5.attrs.get('llm_type', '')) == 'reversible' and which == '2'
    key = 'llm_description2' if reversed_ else 'llm_description'
    if key not in h5.attrs:
        raise QwenVlaError(f'{file}: {key}: the attribute is missing')
    return _text(h5.attrs[key])


def _text(value: Any) -> str:
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)


def length_of(file: Path) -> int:
    """Return the number of frames of a recording."""
    with opened(file) as h5:
        key = 'transforms/camera' if 'transforms' in h5 else 'camera'
        return len(column(str(file), h5, key))
