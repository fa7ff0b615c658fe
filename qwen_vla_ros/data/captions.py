"""
Fine-grained captions of manipulation: a film, or pictures in order, and one text a field.

  {"video": file or "images": [files], "caption": {field: text or null}}

The fields are the ten of FineVLA (all of them, null where there is nothing to tell), or the
paper's dimensions: it counts 13 and names the 11 that are known here. The question asks for the
fields that are told; the answer gives them, a line each.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.json_files import head_of, is_json, list_of, read_json, table_of, text_of
from qwen_vla_ros.data.spec import SetSpec
from qwen_vla_ros.data.talks import Exchange, Talk, TalkEpisodes
from qwen_vla_ros.data.video import evenly
from qwen_vla_ros.embodiment import did_you_mean
from qwen_vla_ros.errors import QwenVlaError

FIELDS = (
    'active_actor',
    'target_object',
    'initial_configuration',
    'action_sequence',
    'contact_and_approach',
    'trajectory_and_orientation',
    'body_motion',
    'object_interaction',
    'final_configuration',
    'failure_and_recovery',
)
DIMENSIONS = (
    'action_primitive',
    'actor_identity',
    'object_recognition',
    'object_disambiguation',
    'contact_region',
    'source_location',
    'target_location',
    'trajectory',
    'orientation',
    'gripper_state',
    'body_motion',
)
SHOWN = 8  # pictures of a film
ASK = 'These pictures show an action in order. Describe it. Tell: {fields}.'


def open_captions(spec: SetSpec) -> TalkEpisodes:
    """Return the captions of one file."""
    root = Path(spec.pictures) if spec.pictures else spec.path.parent
    entries = list_of(str(spec.path), read_json(spec.path))
    read = partial(take_apart, root=root, count=spec.frames or SHOWN)
    return TalkEpisodes(spec.path.name, entries, _count, read)


def lacks(path: Path) -> str:
    """Return why a file holds no captions, or ''."""
    if not is_json(path):
        return 'no .json or .jsonl file'
    found = re.search(r'"caption"\s*:\s*\{', head_of(path))
    return '' if found else 'it does not begin with a caption of fields'


def take_apart(place: str, entry: Any, root: Path, count: int) -> Talk:
    """Return the pictures and the one exchange of a caption; QwenVlaError names a wrong field."""
    table = table_of(place, entry)
    told = described(f'{place}: caption', table_of(f'{place}: caption', table.get('caption')))
    if 'video' in table:
        film = _Film(root / text_of(place, table, 'video'), count)
        pictures: dict[str, Any] = {f'frame_{i + 1}': film.picture(i) for i in range(count)}
    else:
        files = list_of(f'{place}: images', table.get('images'))
        names = [text_of(place, {'images': file}, 'images') for file in files]
        pictures = {f'frame_{i + 1}': root / name for i, name in enumerate(names)}
    return Talk(pictures, lambda _: [told])


def described(place: str, caption: Mapping[str, Any]) -> Exchange:
    """Return question and answer of the fields of a caption."""
    fields = (
        FIELDS if any(key in FIELDS for key in caption if key != 'body_motion') else DIMENSIONS
    )
    for key in caption:
        if key not in fields:
            raise QwenVlaError(f'{place}: {key}: unknown field{did_you_mean(key, fields)}')
    absent = [key for key in FIELDS if key not in caption] if fields is FIELDS else []
    if absent:
        raise QwenVlaError(f'{place}: {absent[0]}: the field is missing; write null for nothing')
    kept = [key for key in fields if caption.get(key) is not None]
    needed = fields[3] if fields is FIELDS else fields[0]
    if needed not in kept:
        raise QwenVlaError(f'{place}: {needed}: it must be told')
    words = {key: key.replace('_', ' ') for key in kept}
    lines = [f'{word.capitalize()}: {text_of(place, caption, key)}' for key, word in words.items()]
    return ASK.format(fields=', '.join(words.values())), '\n'.join(lines)


def _count(_: Any) -> int:
    return 1


class _Film:
    """A film whose pictures are decoded together, when the first is asked for."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count
        self._pictures: list[np.ndarray] = []

    def picture(self, number: int) -> Any:
        """Return what gives one of the pictures."""

        def given() -> np.ndarray:
            if not self._pictures:
                self._pictures = evenly(self._path, self._count)
            return self._pictures[number]

        return given
