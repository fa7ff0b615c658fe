"""
A data set described: what it does not tell itself, as YAML or as a SetSpec.

  format: rlds                  # left out: recognised
  path: bridge/1.0.0            # relative to this file
  horizon: 16                   # rows of a chunk; left out: a bag's contract's, else the format's
  embodiment: widowx            # a contract's name or YAML; left out: what the data say
  layout: abs_joint             # bags: which actions of the contract
  split: train                  # RLDS, VLN; left out: train
  instruction: fold the towel   # where the data have no words
  flawed: true                  # bags: take episodes that the recorder's audit marked, too
  rate_hz: 5.0                  # where the data tell no times
  pca: hands.safetensors        # hands: components by `qwen-vla fit-hands`; relative to this file
  pictures: ../coco             # conversations, driving, captions: left out: beside the file
  frames: 2                     # driving: key frames shown; captions: pictures of a film
  views: {ego: image_0}         # view tag -> key of its pictures
  turn: {ego: 180}              # degrees by which a view's pictures are turned left: 90, 180, 270
  pseudo_actions: true          # LeRobot without actions: the steps of its state are taken
  actions: {action: [dx, dy]}   # key -> names of its channels, in order
  state: {state: [x, y]}
  scale: {gripper: [0, 0.04]}   # units.py: a channel as offset + factor * value
  sum_steps: [dx, dy, dz, droll, dpitch, dyaw]   # units.py: since the chunk began, not a step
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.embodiment import did_you_mean
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.strict_values import StrictLoader

HORIZON = 16  # of a chunk where nothing tells it (the paper's fine-tuning)


@dataclass(frozen=True)
class SetSpec:
    """What a data set is and how it is read; the module tells the fields. Empty: not told."""

    path: Path
    format: str = ''
    horizon: int = 0
    embodiment: str = ''
    layout: str = ''
    split: str = ''
    instruction: str = ''
    rate_hz: float = 0.0
    pseudo_actions: bool = False
    flawed: bool = False
    pca: str | Path = ''
    pictures: str | Path = ''
    frames: int = 0
    views: Mapping[str, str] = field(default_factory=dict)
    turn: Mapping[str, int] = field(default_factory=dict)
    actions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    state: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scale: Mapping[str, Sequence[float]] = field(default_factory=dict)
    sum_steps: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind by their key."""
        for key, kind in (('horizon', int), ('frames', int), ('rate_hz', (int, float))):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= 0:
                raise QwenVlaError(f'{self.path}: {key}: {value!r} is not a positive number')
        if not isinstance(self.flawed, bool):
            raise QwenVlaError(f'{self.path}: flawed: {self.flawed!r} is not true or false')
        for key in ('format', 'embodiment', 'layout', 'split', 'instruction'):
            if not isinstance(getattr(self, key), str):
                raise QwenVlaError(f'{self.path}: {key}: {getattr(self, key)!r} is not a text')
        for key in ('pca', 'pictures'):
            if not isinstance(getattr(self, key), (str, Path)):
                raise QwenVlaError(f'{self.path}: {key}: {getattr(self, key)!r} is no path')
        if not isinstance(self.pseudo_actions, bool):
            raise QwenVlaError(f'{self.path}: pseudo_actions: write true or false')
        for key in ('views', 'turn', 'actions', 'state', 'scale'):
            if not isinstance(getattr(self, key), Mapping):
                raise QwenVlaError(f'{self.path}: {key}: {getattr(self, key)!r} is not a table')
        if not isinstance(self.sum_steps, (list, tuple)):
            raise QwenVlaError(f'{self.path}: sum_steps: {self.sum_steps!r} is not a list')
        for view, degrees in self.turn.items():
            if degrees not in (90, 180, 270):
                raise QwenVlaError(f'{self.path}: turn.{view}: {degrees!r} is not 90, 180 or 270')
        for key in ('actions', 'state'):
            for name, channels in getattr(self, key).items():
                if not isinstance(channels, (list, tuple)) or not all(
                    isinstance(c, str) for c in channels
                ):
                    raise QwenVlaError(f'{self.path}: {key}.{name}: write a list of names')


def say(key: str) -> str:
    """Return how to tell what a data set does not: the end of a refusal."""
    return (
        f'say {key}: write `path:` and `{key}:` into a YAML file and give that in place of the '
        'path, e.g. --data set.yaml (docs/formats.md)'
    )


def read_spec(path: Path) -> SetSpec:
    """Return a YAML description; QwenVlaError names file and key."""
    try:
        told = yaml.load(path.read_text(encoding='utf-8'), StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QwenVlaError(f'{path}: cannot be read ({" ".join(str(error).split())})') from error
    return spec_of(told, path.parent, str(path))


def spec_of(told: Any, folder: Path, where: str) -> SetSpec:
    """Return a description from what YAML gave; paths are relative to folder."""
    if not isinstance(told, Mapping) or not isinstance(told.get('path'), (str, Path)):
        raise QwenVlaError(f'{where}: path: the key is missing; write where the data set lies')
    refuse_unknown(told, where)
    keys = [key for key in ('path', 'pca', 'pictures') if isinstance(told.get(key), str)]
    paths = {key: folder / told[key] for key in keys}
    return SetSpec(**{**told, **paths})


def refuse_unknown(told: Mapping[str, Any], where: str) -> None:
    """Raise QwenVlaError for a key that no description has."""
    known = [key.name for key in fields(SetSpec)]
    for key in told:
        if key not in known:
            raise QwenVlaError(f'{where}: {key}: unknown key{did_you_mean(key, known)}')
