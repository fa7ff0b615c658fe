"""
Strict reading of what a robot YAML says of safety.

Position and velocity limits are those of the description; the YAML may tighten them, never widen.
Accelerations and jerks stand in no URDF, so they are always the YAML's.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_vla_ros.contract_keys import MAX_METRES, MAX_SPEED, SAFETY_RANGES, SECTIONS
from qwen_vla_ros.embodiment import ContractError, did_you_mean, find_description, told_file
from qwen_vla_ros.safety_contract import (
    Capsule,
    Capsules,
    JointLimit,
    Park,
    Plane,
    Safety,
    WorkspaceBox,
)
from qwen_vla_ros.sensor_reader import SensorReader
from qwen_vla_ros.splice import MODES


@dataclass(frozen=True)
class DescribedLimit:
    """What a URDF says of one joint; None where it says nothing."""

    file: str
    lower: float | None = None
    upper: float | None = None
    velocity: float | None = None


def described_limits(source: Path, description: str) -> dict[str, DescribedLimit]:
    """
    Return the limits in a contract's URDF by joint; none when the file is not there.

    A missing file is told by Embodiment.description_path, which all that moves a robot asks for.
    Raises ContractError when the file is no URDF.
    """
    try:
        path = find_description(source, description)
    except ContractError:
        return {}
    try:
        root = ElementTree.parse(path).getroot()
        return {
            joint.get('name', ''): _described(joint, path.name)
            for joint in root.iter('joint')
            if joint.get('type') in ('revolute', 'prismatic', 'continuous')
        }
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ContractError(
            f'{told_file(source)}: description: {path} is not a URDF ({error})'
        ) from error


def _described(joint: ElementTree.Element, file: str) -> DescribedLimit:
    limit = joint.find('limit')
    if limit is None:
        return DescribedLimit(file)
    told = {key: float(value) for key, value in limit.attrib.items()}
    velocity = told.get('velocity') or None
    if joint.get('type') == 'continuous':
        return DescribedLimit(file, velocity=velocity)
    # The format's default for a bound that is left out is zero.
    return DescribedLimit(file, told.get('lower', 0.0), told.get('upper', 0.0), velocity)


class SafetyReader(SensorReader):
    """Reads limits, workspace, capsules, park and safety."""

    def limits(
        self, data: Any, units: Mapping[str, str], described: Mapping[str, DescribedLimit]
    ) -> dict[str, JointLimit]:
        """Return the limits of joints, each of which is measured."""
        for name in self.named(data, 'limits'):
            if name not in units:
                raise self.fail(
                    f'limits.{name}', f'no such state field{did_you_mean(name, units)}'
                )
        nothing = DescribedLimit('the description')
        return {
            name: self.limit(value, f'limits.{name}', described.get(name, nothing))
            for name, value in data.items()
        }

    def limit(self, data: Any, path: str, told: DescribedLimit) -> JointLimit:
        """Return the limits of one joint: the URDF's where the YAML says nothing."""
        self.section(data, path, 'limit')
        lower, upper, velocity = told.lower, told.upper, told.velocity
        if 'position' in data:
            lower, upper = self.pair(data['position'], f'{path}.position', '[lower, upper]')
            if lower >= upper:
                problem = f'lower {lower:g} is not below upper {upper:g}'
                raise self.fail(f'{path}.position', problem)
            self.tightened(f'{path}.position', 'lower', -lower, told.lower, told.file, -1)
            self.tightened(f'{path}.position', 'upper', upper, told.upper, told.file)
        if 'velocity' in data:
            velocity = self.number(data['velocity'], f'{path}.velocity', 0, above=True)
            self.tightened(f'{path}.velocity', 'velocity', velocity, told.velocity, told.file)
        for key, known in (('position', lower), ('velocity', velocity)):
            if known is None:
                raise self.fail(f'{path}.{key}', f'the key is missing, and {told.file} has none')
        jerk = self.number(data['jerk'], f'{path}.jerk', 0, above=True) if 'jerk' in data else None
        acceleration = self.number(data['acceleration'], f'{path}.acceleration', 0, above=True)
        return JointLimit(lower, upper, velocity, acceleration, jerk)

    def tightened(
        self, path: str, what: str, value: float, most: float | None, file: str, sign: int = 1
    ) -> None:
        """Refuse a limit beyond that of the description; sign -1 turns a lower one round."""
        if most is not None and value > sign * most:
            problem = (
                f'{what} {sign * value:.9g} is wider than the {most:.9g} of {file}; a contract '
                'may only tighten the limits of its description'
            )
            raise self.fail(path, problem)

    def boxes(self, one: Any, several: Any) -> tuple[WorkspaceBox, ...]:
        """Return the boxes of the tips: of one arm, or of several by their names."""
        if one is not None and several is not None:
            raise self.fail('workspaces', 'workspace is there as well; keep one of the two')
        if several is None:
            return () if one is None else (self.box(one, 'workspace'),)
        found = tuple(
            self.box(value, f'workspaces.{name}')
            for name, value in self.named(several, 'workspaces').items()
        )
        tips = [box.tip for box in found]
        for tip in tips:
            if tips.count(tip) > 1:
                raise self.fail('workspaces', f'the tip {tip!r} has two boxes')
        if len({box.frame for box in found}) > 1:
            raise self.fail('workspaces', "all boxes are in one frame: that of the arms' root")
        return found

    def box(self, data: Any, path: str) -> WorkspaceBox:
        """Return the box of a tip."""
        self.section(data, path, 'workspace')
        corners = [self.point(data[key], f'{path}.{key}') for key in ('lower', 'upper')]
        for axis, low, high in zip('xyz', *corners, strict=True):
            if low >= high:
                raise self.fail(path, f'{axis}: lower {low:g} is not below upper {high:g}')
        return WorkspaceBox(
            self.word(data['frame'], f'{path}.frame'),
            self.word(data['tip'], f'{path}.tip'),
            *corners,
            self.number(data['speed'], f'{path}.speed', 0, MAX_SPEED, True)
            if 'speed' in data
            else None,
        )

    def point(self, data: Any, path: str) -> tuple[float, float, float]:
        """Return [x, y, z]."""
        if not isinstance(data, list) or len(data) != 3:
            raise self.fail(path, f'[x, y, z] is wanted, got {data!r}')
        x, y, z = (self.number(value, path) for value in data)
        return x, y, z

    def capsules(self, data: Any) -> Capsules:
        """Return the volume of the arm."""
        self.section(data, 'capsules', 'capsules')
        parts = {
            name: self.capsule(name, value, f'capsules.parts.{name}')
            for name, value in self.named(data['parts'], 'capsules.parts').items()
        }
        ignore = data.get('ignore', [])
        if not isinstance(ignore, list):
            raise self.fail('capsules.ignore', f'a list of pairs is wanted, got {ignore!r}')
        for pair in ignore:
            if len(self.words(pair, 'capsules.ignore')) != 2:
                raise self.fail('capsules.ignore', f'two names make a pair, got {pair!r}')
            for name in pair:
                self.one_of(name, 'capsules.ignore', parts)
        planes = data.get('planes', {})
        if 'planes' in data:
            self.named(planes, 'capsules.planes')
        return Capsules(
            tuple(parts.values()),
            tuple((one, other) for one, other in ignore),
            tuple(self.plane(n, v, f'capsules.planes.{n}') for n, v in planes.items()),
            self.number(data.get('clearance', 0.0), 'capsules.clearance', 0, 1),
        )

    def capsule(self, name: str, data: Any, path: str) -> Capsule:
        """Return one capsule."""
        self.section(data, path, 'capsule')
        return Capsule(
            name,
            self.word(data['link'], f'{path}.link'),
            self.point(data['from'], f'{path}.from'),
            self.point(data['to'], f'{path}.to'),
            self.number(data['radius'], f'{path}.radius', 0, MAX_METRES, above=True),
        )

    def plane(self, name: str, data: Any, path: str) -> Plane:
        """Return one plane; its normal is brought to length 1."""
        self.section(data, path, 'plane')
        x, y, z = self.point(data['normal'], f'{path}.normal')
        length = math.hypot(x, y, z)
        if length < 1e-6:
            raise self.fail(f'{path}.normal', 'a normal of length 0 points nowhere')
        offset = self.number(data['offset'], f'{path}.offset', -MAX_METRES, MAX_METRES)
        return Plane(name, (x / length, y / length, z / length), offset)

    def park(self, data: Any, limits: Mapping[str, JointLimit]) -> Park:
        """Return where the arm is put, inside the limits."""
        self.section(data, 'park', 'park')
        via = data.get('via', [])
        if not isinstance(via, list):
            raise self.fail('park.via', f'a list of postures is wanted, got {via!r}')
        return Park(
            self.posture(data['positions'], 'park.positions', limits),
            self.number(data.get('scale', 0.2), 'park.scale', 0.01, 1.0),
            tuple(self.posture(one, f'park.via.{i}', limits) for i, one in enumerate(via)),
        )

    def posture(self, data: Any, path: str, limits: Mapping[str, JointLimit]) -> dict[str, float]:
        """Return joint -> position."""
        for name in self.named(data, path):
            if name not in limits:
                raise self.fail(f'{path}.{name}', f'no limits{did_you_mean(name, limits)}')
        return {
            name: self.number(value, f'{path}.{name}', limits[name].lower, limits[name].upper)
            for name, value in data.items()
        }

    def safety(self, data: Any) -> Safety:
        """Return the safety figures; what is left out keeps its default."""
        known = SECTIONS['safety']
        self.section(data, 'safety', 'safety')
        values: dict[str, Any] = {}
        for key, value in data.items():
            path = f'safety.{key}'
            if key == 'splice':
                values[key] = self.one_of(value, path, MODES)
                continue
            low, high = SAFETY_RANGES[key]
            if known[key].kind == 'whole':
                values[key] = self.whole(value, path, high)
            else:
                values[key] = self.number(value, path, low, high)
        safety = Safety(**values)
        if safety.lookahead_s <= 1.0 / safety.command_rate_hz:
            problem = (
                f'must exceed the time between two commands ({1 / safety.command_rate_hz:g} s)'
            )
            raise self.fail('safety.lookahead_s', problem)
        return safety
