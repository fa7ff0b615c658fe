"""
What a checkpoint was trained with, as facts that travel in a policy's metadata (JSON-able).

'trained' in the metadata:

prompt       the whole prompt with '{instruction}' where the sentence stands
cameras      view -> {width, height, encoding, rate_hz}
state_units  unit of each measured field, in order
statistics   'actions' and 'state': name -> [q01, q99], SI units

Reading a folder needs neither torch nor ROS, so the doctor is quick on any machine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_vla_ros.embodiment import Embodiment, find_description
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.safety_contract import JointLimit

SENTENCE = '{instruction}'
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Pairing:
    """A policy's metadata beside the contract and layout that it is to drive."""

    metadata: Mapping[str, Any]
    embodiment: Embodiment
    layout: str

    @property
    def trained(self) -> Mapping[str, Any]:
        """Return what the policy tells of its training; empty when it tells nothing."""
        return self.metadata.get('trained') or {}

    def ranges(self, key: str) -> Ranges:
        """Return name -> (q01, q99) of 'actions' or 'state'; empty when not told."""
        table = (self.trained.get('statistics') or {}).get(key) or {}
        return {name: (float(low), float(high)) for name, (low, high) in table.items()}

    @property
    def limits(self) -> Mapping[str, JointLimit]:
        """Return the limits of the contract: the description's, or tighter."""
        return self.embodiment.limits

    @property
    def units(self) -> dict[str, str]:
        """Return the unit of every action and measured field."""
        groups = self.embodiment.action_groups(self.layout)
        units = {n: u for g in groups for n, u in zip(g.names, g.units, strict=True)}
        return {**{f.name: f.unit for s in self.embodiment.states for f in s.fields}, **units}

    @property
    def description(self) -> Path:
        """Return the URDF's path; ContractError when there is none."""
        return find_description(self.embodiment.source, self.embodiment.description)


def describe_training(
    embodiment: Embodiment, layout: str, statistics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the facts; statistics as statistics.json has them for this robot and layout."""
    return {
        'prompt': embodiment.prompt(SENTENCE, layout=layout),
        'cameras': {
            camera.view: {
                'width': camera.width,
                'height': camera.height,
                'encoding': camera.encoding,
                'rate_hz': float(camera.rate_hz),
            }
            for camera in embodiment.cameras
        },
        'state_units': [field.unit for state in embodiment.states for field in state.fields],
        'statistics': {key: dict(table) for key, table in statistics.items()},
    }


def robots_of(folder: Path) -> tuple[str, ...]:
    """Return the robots that a checkpoint's folder was trained for."""
    return tuple(sorted(file.stem for file in (folder / 'embodiments').glob('*.yaml')))


def read_training(folder: Path, robot: str) -> dict[str, Any]:
    """
    Return the metadata of a checkpoint's folder for one of its robots, or for its only one.

    QwenVlaError names a file that is missing or wrong.
    """
    path = folder / 'statistics.json'
    try:
        statistics = json.loads(path.read_text())
        contracts = {file.stem: file for file in sorted((folder / 'embodiments').glob('*.yaml'))}
        if robot not in contracts and len(contracts) != 1:
            told = ', '.join(contracts) or 'no robot'
            raise QwenVlaError(f'{folder}: drives {told}, not {robot}')
        name = robot if robot in contracts else next(iter(contracts))
        embodiment = Embodiment.load(contracts[name])
        ((layout, table),) = statistics[embodiment.name].items()
        _numbers(table)
    except OSError as error:
        raise QwenVlaError(
            f'{path}: cannot be read ({error.strerror}); give the folder of a trained checkpoint'
        ) from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise QwenVlaError(
            f'{path}: not the statistics of one layout a robot ({error})'
        ) from error
    facts = describe_training(embodiment, layout, table)
    return {**describe_policy(embodiment, layout), 'checkpoint': str(folder), 'trained': facts}


def _numbers(table: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError unless every entry is a pair of numbers."""
    for ranges in table.values():
        for low, high in ranges.values():
            float(low), float(high)


def learnt_answers(folder: Path) -> bool:
    """Tell whether training.json says that answers were trained; QwenVlaError if unreadable."""
    path = folder / 'training.json'
    try:
        facts = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise QwenVlaError(f'{path}: not readable as JSON ({error})') from error
    return isinstance(facts, dict) and bool(facts.get('text'))
