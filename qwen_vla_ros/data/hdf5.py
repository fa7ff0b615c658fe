"""
HDF5 files of ALOHA/ACT and of robomimic/LIBERO, through h5py.

ALOHA      one file an episode: action [F, 14], observations/qpos [F, 14], and under
           observations/images/ a camera each, uint8 [F, h, w, 3] RGB or padded JPEGs [F, bytes];
           no sentence and no time inside (50 Hz is ALOHA's own rate), two grippers from 0 to 1
robomimic  data/demo_N/actions [F, A] and data/demo_N/obs/<key>; pictures are the keys that end in
           _image (robomimic) or _rgb (LIBERO, upside down as its simulator gives them: turn
           them by 180); the rate is in data.env_args, LIBERO's sentence in data.problem_info
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.pictures import decoded
from qwen_vla_ros.data.spec import HORIZON, SetSpec, say
from qwen_vla_ros.data.trajectory import Trajectory, TrajectoryEpisodes, joined, regular
from qwen_vla_ros.errors import QwenVlaError

ALOHA_KEYS = ('action', 'observations/qpos')
ROBOMIMIC_KEYS = ('data',)
ALOHA_HZ = 50.0
_ARM = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate', 'gripper')
ALOHA_NAMES = tuple(f'{side}_{joint}' for side in ('left', 'right') for joint in _ARM)
OSC_NAMES = ('dx', 'dy', 'dz', 'rx', 'ry', 'rz', 'gripper')
# What is taken for the state where all of its keys are there.
STATES: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        'obs/ee_states': ('x', 'y', 'z', 'rx', 'ry', 'rz'),
        'obs/gripper_states': ('left_finger', 'right_finger'),
    },
    {
        'obs/robot0_eef_pos': ('x', 'y', 'z'),
        'obs/robot0_eef_quat': ('qx', 'qy', 'qz', 'qw'),
        'obs/robot0_gripper_qpos': ('left_finger', 'right_finger'),
    },
)


def files_of(path: Path) -> list[Path]:
    """Return the HDF5 files that a path is, or holds; those that end in a number in its order."""
    if path.suffix in ('.hdf5', '.h5'):
        return [path]
    found = [file for end in ('hdf5', 'h5') for file in path.glob(f'*.{end}')]
    return sorted(found, key=lambda file: (_stem(file.stem), _number(file.stem)))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read; QwenVlaError names the file when it, or h5py, cannot."""
    try:
        import h5py
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    try:
        with h5py.File(path, 'r') as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py's words for damage
        told = ' '.join(str(error).split())
        raise QwenVlaError(f'{path}: cannot be read ({told}); copy it again') from error


def lacks_aloha(path: Path) -> str:
    """Return why the first file of a path is not one of ALOHA, or ''."""
    return _lacks(path, ALOHA_KEYS)


def lacks_robomimic(path: Path) -> str:
    """Return why the first file of a path is not one of robomimic, or ''."""
    return _lacks(path, ROBOMIMIC_KEYS)


def _lacks(path: Path, keys: Sequence[str]) -> str:
    files = files_of(path)
    if not files:
        return 'no .hdf5 and no .h5'
    with opened(files[0]) as file:
        absent = [key for key in keys if key not in file]
    return f'{files[0].name} has no {absent[0]}' if absent else ''


def column(place: str, group: Any, key: str) -> np.ndarray:
    """Return all rows of a key; QwenVlaError names a missing one with those that are there."""
    return dataset(place, group, key)[()]


def dataset(place: str, group: Any, key: str) -> Any:
    """Return the data set of a key; one without rows counts as missing."""
    found = group.get(key)
    if not getattr(found, 'shape', ()):
        raise QwenVlaError(f'{place}: no {key!r}; it has {", ".join(_keys(group))}')
    return found


def open_aloha(spec: SetSpec) -> TrajectoryEpisodes:
    """Return the episodes of a folder of ALOHA files, or of one file."""
    if not spec.instruction:
        raise QwenVlaError(f'{spec.path}: ALOHA files hold no sentence; {say("instruction")}')
    reader = _Aloha(spec)
    robot = spec.embodiment or 'aloha'
    horizon = spec.horizon or HORIZON
    return TrajectoryEpisodes(
        spec.path.name, robot, horizon, reader.lengths, reader.read, spec.turn
    )


class _Aloha:
    """The files of a set, one an episode."""

    def __init__(self, spec: SetSpec) -> None:
        self._spec, self._files = spec, files_of(spec.path)
        self._actions = spec.actions or {'action': ()}
        self.lengths = []
        for file in self._files:
            with opened(file) as h5:
                self.lengths.append(len(dataset(str(file), h5, next(iter(self._actions)))))

    def read(self, episode: int) -> Trajectory:
        """Return the table of a file."""
        spec, file, length = self._spec, self._files[episode], self.lengths[episode]
        place = f'{file}: episode {episode}'
        with opened(file) as h5:
            views = spec.views or {key: key for key in h5.get('observations/images', ())}
            paths = {view: f'observations/images/{key}' for view, key in views.items()}
            _check_pictures(place, h5, paths, length)
            rows, names = _table(place, h5, self._actions, length, ALOHA_NAMES)
            fields = spec.state or {'observations/qpos': ()}
            state, state_names = _table(place, h5, fields, length, ALOHA_NAMES)
        return Trajectory(
            rows,
            names,
            _pictures(file, paths),
            tuple(paths),
            (spec.instruction,),
            regular(length, spec.rate_hz or ALOHA_HZ, place),
            state,
            state_names,
        )


def open_robomimic(spec: SetSpec) -> TrajectoryEpisodes:
    """Return the demonstrations of a robomimic or LIBERO file, or of a folder of them."""
    reader = _Robomimic(spec)
    robot = spec.embodiment or 'franka'
    horizon = spec.horizon or HORIZON
    return TrajectoryEpisodes(
        spec.path.name, robot, horizon, reader.lengths, reader.read, spec.turn
    )


class _Robomimic:
    """The demonstrations of a set, file after file, in the order of their numbers."""

    def __init__(self, spec: SetSpec) -> None:
        self._spec = spec
        self._actions = spec.actions or {'actions': ()}
        self._demos: list[tuple[Path, str]] = []
        self._told: dict[Path, tuple[str, float]] = {}
        self.lengths = []
        for file in files_of(spec.path):
            with opened(file) as h5:
                if 'data' not in h5:
                    raise QwenVlaError(f"{file}: no 'data'; it has {', '.join(_keys(h5))}")
                self._told[file] = _told(file, h5['data'], spec)
                for name in sorted(h5['data'], key=_number):
                    key = f'data/{name}/{next(iter(self._actions))}'
                    self.lengths.append(len(dataset(f'{file}: {name}', h5, key)))
                    self._demos.append((file, name))

    def read(self, episode: int) -> Trajectory:
        """Return the table of a demonstration."""
        (file, name), length = self._demos[episode], self.lengths[episode]
        place = f'{file}: {name}'
        with opened(file) as h5:
            demo = h5['data'][name]
            views = self._spec.views or _camera_views(demo)
            paths = {view: f'data/{name}/obs/{key}' for view, key in views.items()}
            _check_pictures(place, h5, paths, length)
            rows, names = _table(place, demo, self._actions, length, OSC_NAMES)
            fields = self._spec.state or _state_fields(demo)
            state, state_names = _table(place, demo, fields, length) if fields else (None, ())
        sentence, rate_hz = self._told[file]
        return Trajectory(
            rows,
            names,
            _pictures(file, paths),
            tuple(paths),
            (sentence,),
            regular(length, rate_hz, place),
            state,
            state_names,
        )


def _table(
    place: str,
    group: Any,
    fields: Mapping[str, Sequence[str]],
    count: int,
    known: tuple[str, ...] = (),
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return columns side by side; one without names takes the known ones where they fit."""
    rows, names = joined(place, fields, lambda key: column(place, group, key), count)
    unnamed = len(fields) == 1 and not any(fields.values())
    return rows, known if unnamed and len(known) == rows.shape[1] else names


def _check_pictures(place: str, file: Any, paths: Mapping[str, str], count: int) -> None:
    for view, path in paths.items():
        found = len(dataset(place, file, path))
        if found != count:
            raise QwenVlaError(f'{place}: images.{view}: {found} pictures for {count} rows')


def _pictures(file: Path, paths: Mapping[str, str]) -> Callable[[str, int], np.ndarray]:
    """Return what reads one picture; a file is opened for each, so that workers may fork."""

    def picture(view: str, row: int) -> np.ndarray:
        with opened(file) as h5:
            found = h5[paths[view]][row]
        return found if found.ndim == 3 else decoded(found)

    return picture


def _camera_views(demo: Any) -> dict[str, str]:
    """Return view -> key of what looks like a camera."""
    keys = [key for key in demo.get('obs', ()) if key.endswith(('_image', '_rgb'))]
    return {key.rpartition('_')[0]: key for key in keys}


def _state_fields(demo: Any) -> Mapping[str, Sequence[str]]:
    return next((fields for fields in STATES if all(key in demo for key in fields)), {})


def _told(file: Path, data: Any, spec: SetSpec) -> tuple[str, float]:
    """Return the sentence and the rate of a robomimic file."""
    try:
        problem = json.loads(data.attrs.get('problem_info', '{}'))
        kwargs = json.loads(data.attrs.get('env_args', '{}')).get('env_kwargs', {})
        sentence = spec.instruction or problem.get('language_instruction', '')
        rate_hz = spec.rate_hz or float(kwargs.get('control_freq', 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise QwenVlaError(f'{file}: data: env_args or problem_info: no JSON object') from error
    if not sentence:
        raise QwenVlaError(f'{file}: it holds no sentence; {say("instruction")}')
    if not rate_hz > 0:
        raise QwenVlaError(f'{file}: data.env_args tells no control_freq; {say("rate_hz")}')
    return sentence, rate_hz


def _keys(group: Any) -> list[str]:
    """Return the names of all data sets below a group."""
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, 'shape') else None)
    return found or ['nothing']


def _number(name: str) -> int:
    """Return the number at a name's end, or -1."""
    digits = name[len(name.rstrip('0123456789')) :]
    return int(digits) if digits else -1


def _stem(name: str) -> str:
    return name.rstrip('0123456789')
