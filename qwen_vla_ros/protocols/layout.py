"""
Where a client puts its pictures, state and words, and where it looks for actions.

A request is first split into samples, one for each of its environments: a mapping as the client
wrote it, without batch axes. Keys name a place in it; ' > ' leads into mappings and lists
('images > cam_high', 'image > -1'), and several keys in a list are alternatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.protocols.conversions import ActionPart, navigation_words
from qwen_vla_ros.types import ActionChunk, Observation
from qwen_vla_ros.wire import ProtocolError

Keys = tuple[str, ...]
OWN = 'a robot of ours'  # the source of generic_layout()
_ABSENT = object()


@dataclass(frozen=True)
class WireLayout:
    """
    The keys of one client.

    protocol      'openpi', 'starvla' or 'gr00t'
    source        where the client's code is: repository and file
    views         view tag of our prompt -> keys of its picture, uint8 [h, w, 3] or [3, h, w]
    state         key -> names of its values, in their order; empty: no state is read
    instruction   keys of the sentence
    actions       parts of the answer
    """

    protocol: str
    source: str
    views: Mapping[str, Keys]
    instruction: Keys
    actions: tuple[ActionPart, ...]
    state: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of all that the client measures."""
        return tuple(name for names in self.state.values() for name in names)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Return our channels that the client gets."""
        return tuple(name for part in self.actions for name in part.names)

    def read(self, sample: Any, stamp_ns: int, embodiment: str) -> Observation:
        """Return the observation of a sample; ProtocolError names the key that is wrong."""
        images = {view: _picture(sample, keys) for view, keys in self.views.items()}
        parts = [_numbers(sample, key, names) for key, names in self.state.items()]
        return Observation(
            images=images,
            state=np.concatenate([np.zeros(0, np.float32), *parts]),
            state_names=self.state_names,
            instruction=_sentence(sample, self.instruction),
            stamp_ns=stamp_ns,
            embodiment=embodiment,
        )

    def write(
        self, chunk: ActionChunk, rotations: Mapping[str, str]
    ) -> dict[str, np.ndarray | str]:
        """
        Return key -> float32 [H, n] (or a sentence) of a chunk.

        rotations: channel -> 'euler' or 'axis_angle', how the policy writes its rotation.
        """
        answer: dict[str, Any] = {}
        for part in self.actions:
            columns = [chunk.names.index(name) for name in part.names]
            rows = chunk.actions[:, columns]
            if part.way == 'words':
                sentence = navigation_words(rows, part.forward_m, part.turn_deg)
                answer[part.keys[0]] = sentence
                continue
            values = part.convert(rows, rotations.get(part.names[0], 'euler'))
            for key, columns in zip(
                part.keys, np.split(values, len(part.keys), axis=1), strict=True
            ):
                before = answer.get(key)
                answer[key] = columns if before is None else np.hstack([before, columns])
        return answer

    def request(self, observation: Observation) -> dict[str, Any]:
        """Return an observation in the client's keys, for another project's server."""
        absent = sorted(set(self.views) - set(observation.images))
        absent += sorted(set(self.state_names) - set(observation.state_names))
        if absent:
            raise QwenVlaError(
                f'{self.protocol} server: it wants {", ".join(absent)}, which the robot has not'
            )
        sample: dict[str, Any] = {}
        for view, keys in self.views.items():
            _put(sample, keys[0], observation.images[view])
        for key, names in self.state.items():
            places = [observation.state_names.index(name) for name in names]
            _put(sample, key, np.asarray(observation.state, np.float32)[places])
        _put(sample, self.instruction[0], observation.instruction)
        return sample

    def restore(
        self, answer: Mapping[str, np.ndarray], names: Sequence[str], rotations: Mapping[str, str]
    ) -> np.ndarray:
        """Return our channels float32 [H, A], as names order them, of a server's arrays."""
        found: dict[str, np.ndarray] = {}
        used: dict[str, int] = {}
        for part in self.actions:
            columns = []
            for key in part.keys:
                begin = used.get(key, 0)
                used[key] = begin + part.width
                columns.append(_rows(answer, key)[:, begin : used[key]])
            values = np.hstack(columns)
            if values.shape[1] != len(part.names):
                raise ProtocolError(f'{key}: too few channels, {", ".join(part.names)} are due')
            rows = part.restore(values, rotations.get(part.names[0], 'euler'))
            found.update(zip(part.names, rows.T, strict=True))
        for key, count in used.items():
            if _rows(answer, key).shape[1] != count:
                raise ProtocolError(
                    f'{key}: {_rows(answer, key).shape[1]} channels; the keys know {count}'
                )
        return np.stack([found[name] for name in names], axis=1).astype(np.float32)


def generic_layout(protocol: str, metadata: Mapping[str, Any]) -> WireLayout:
    """
    Return the keys for a robot of ours that is no benchmark's.

    openpi: observation/images/<view>, observation/state, prompt -> actions [H, A]
    starvla: image (a list in the order of the policy's views), state, lang -> actions
    gr00t: video.<view>, state.state, annotation.human.task_description -> action.action
    """
    views, names = metadata['views'], tuple(metadata['action_names'])
    state, key = tuple(metadata['state_names']), 'actions'
    if protocol == 'openpi':
        pictures = {view: (f'observation/images/{view}',) for view in views}
        words, place = ('prompt',), 'observation/state'
    elif protocol == 'starvla':
        pictures = {view: (f'image > {index}',) for index, view in enumerate(views)}
        words, place = ('lang',), 'state'
    elif protocol == 'gr00t':
        pictures = {view: (f'video.{view}',) for view in views}
        words, place, key = GR00T_SENTENCES, 'state.state', 'action'
    else:
        raise QwenVlaError(f'{protocol!r} is no protocol; choose openpi, starvla or gr00t')
    return WireLayout(protocol, OWN, pictures, words, (ActionPart((key,), names),), {place: state})


GR00T_SENTENCES = (
    'annotation.human.task_description',
    'annotation.human.action.task_description',
    'annotation.human.coarse_action',
    'task',
)


def find(sample: Any, keys: Keys) -> Any:
    """Return what stands at the first of these keys that is there; ProtocolError names them."""
    for key in keys:
        value = sample
        for step in key.split(' > '):
            value = _step(value, step)
        if value is not _ABSENT:
            return value
    known = ', '.join(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
    raise ProtocolError(f'{" or ".join(keys)} is not in the request, which has: {known}')


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, _ABSENT)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        index = int(step) if step.lstrip('-').isdigit() else None
        if index is not None and -len(value) <= index < len(value):
            return value[index]
    return _ABSENT


def _picture(sample: Any, keys: Keys) -> np.ndarray:
    """Return uint8 [h, w, 3]; the newest of several frames, the axes in our order."""
    image = find(sample, keys)
    if not isinstance(image, np.ndarray):
        raise ProtocolError(f'{keys[0]}: a picture is an array, not {type(image).__name__}')
    if image.ndim == 4 and len(image):
        image = image[-1]
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ProtocolError(
            f'{keys[0]}: {image.dtype} {list(image.shape)} is no picture, uint8 [h, w, 3]'
        )
    return np.ascontiguousarray(image)


def _numbers(sample: Any, key: str, names: tuple[str, ...]) -> np.ndarray:
    """Return float32 [n] of a key; the newest of several rows."""
    value = find(sample, (key,))
    if not isinstance(value, (np.ndarray, np.generic, int, float, list)):
        raise ProtocolError(f'{key}: numbers are wanted, not {type(value).__name__}')
    try:
        array = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError) as error:
        raise ProtocolError(f'{key}: not numbers ({error})') from error
    array = array.reshape(-1, array.shape[-1])[-1] if array.size else array.reshape(-1)
    if array.shape != (len(names),):
        raise ProtocolError(
            f'{key}: {len(array)} values; {len(names)} are wanted ({", ".join(names)})'
        )
    return array


def _sentence(sample: Any, keys: Keys) -> str:
    """Return the instruction; of lists in lists the first."""
    value = find(sample, keys)
    if isinstance(value, np.ndarray) and value.dtype.kind in 'UO':
        value = value.tolist()
    while isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise ProtocolError(f'{keys[0]}: the instruction is text, not {type(value).__name__}')
    return value


def _put(sample: dict[str, Any], key: str, value: Any) -> None:
    """Write a value at a key, making the tables and lists that lead to it."""
    first, *rest = key.split(' > ')
    if not rest:
        sample[first] = value
    elif rest[0].lstrip('-').isdigit():
        sample.setdefault(first, []).append(value)
    else:
        _put(sample.setdefault(first, {}), ' > '.join(rest), value)


def _rows(answer: Mapping[str, Any], key: str) -> np.ndarray:
    """Return [H, n] under a key of a server's answer."""
    value = answer.get(key)
    if not isinstance(value, np.ndarray):
        raise ProtocolError(
            f'{key} is not in the answer, which has: {", ".join(map(str, answer))}'
        )
    if value.ndim == 3 and len(value) == 1:
        value = value[0]
    if value.ndim == 1:
        value = value[:, None]
    if value.ndim != 2 or value.dtype.kind not in 'fiu' or not len(value):
        raise ProtocolError(f'{key}: {value.dtype} {list(value.shape)} are no rows of actions')
    return value
