"""
Strict reading of a robot YAML into an Embodiment.

A wrong key, type, unit, name or range fails with the file, the key's path and, where one is near,
the right word. Nothing is guessed and nothing unknown is passed over.
"""

import math
import re
import sys
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.embodiment import (
    ActionGroup,
    Camera,
    ContractError,
    Embodiment,
    JointLimit,
    Output,
    Prompt,
    Safety,
    StateField,
    StateSource,
    WorkspaceBox,
    did_you_mean,
)

UNITS = ('rad', 'm')
KINDS = ('abs_joint', 'delta_eef', 'gripper', 'dexterous', 'waypoint')
OUTPUT_TYPES = ('JointTrajectory',)
ENCODINGS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8')
TOPIC = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
VIEW = re.compile(r'[a-z][a-z0-9_]*')
LINE = re.compile(r'[^\n\r]+')
MAX_LATENCY_S = 1.0
MAX_RATE_HZ = 1000.0
MAX_HORIZON = 1000
MAX_PIXELS = 8192
# Outside these a figure would switch its check off, or is meant in another unit (ms, degrees).
SAFETY_RANGES = {
    'max_age_s': (0.01, 2.0),
    'max_skew_s': (0.001, 1.0),
    'max_future_s': (0.001, 1.0),
    'inference_timeout_s': (0.05, 10.0),
    'command_rate_hz': (1.0, 500.0),
    'lookahead_s': (0.02, 2.0),
    'blend_s': (0.02, 2.0),
    'max_jump_rad': (0.01, 1.0),
    'max_jump_m': (0.001, 0.2),
    'max_refused_chunks': (1, 1000),
}
DELTA_UNITS = ('m', 'm', 'm', 'rad', 'rad', 'rad')


def read_contract(path: Path) -> Embodiment:
    """Return the contract in a file; ContractError names file, key path or line, and remedy."""
    try:
        text = path.read_text(encoding='utf-8')
        data = yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ContractError(f'{path}: line {line}: not valid YAML: {error.problem}') from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ContractError(f'{path}: cannot be read: {" ".join(str(error).split())}') from error
    return _Reader(path.name).embodiment(data, path, text)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node after looking for keys that stand twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f'{key!r} cannot be a key', key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key!r} stands twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Values:
    """Reads single values of one file; every method takes the key path of what it reads."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, path: str, problem: str) -> ContractError:
        """Return the error for a key path, to be raised."""
        return ContractError(f'{self.file}: {path}: {problem}')

    def table(
        self, data: Any, path: str, required: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return a mapping with exactly these keys."""
        if not isinstance(data, dict):
            raise self.fail(path or 'the file', f'a table of keys is wanted, got {data!r}')
        dot = f'{path}.' if path else ''
        required, known = tuple(required), (*required, *optional)
        for key in data:
            if key not in known:
                raise self.fail(f'{dot}{key}', f'unknown key{did_you_mean(key, known)}')
        for key in required:
            if key not in data:
                raise self.fail(f'{dot}{key}', 'the key is missing')
        return data

    def named(self, data: Any, path: str) -> dict[str, Any]:
        """Return a non-empty mapping with free names for keys."""
        if not isinstance(data, dict) or not data:
            raise self.fail(path, f'a table of names is wanted, got {data!r}')
        for key in data:
            if not isinstance(key, str):
                raise self.fail(f'{path}.{key}', 'names are text; put it in quotes')
        return data

    def number(
        self,
        value: Any,
        path: str,
        low: float = -math.inf,
        high: float = math.inf,
        above: bool = False,
    ) -> float:
        """Return a finite number from `low` (or above it) to `high`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = (
                ' (write 1.0e-3, with point and sign)' if re.match(r'[\d.]+e', str(value)) else ''
            )
            raise self.fail(path, f'a number is wanted, got {value!r}{hint}')
        if value != value or abs(value) > sys.float_info.max:
            raise self.fail(path, f'a finite number is wanted, got {value}')
        if value < low or (above and value == low):
            raise self.fail(
                path, f'must be {"above" if above else "at least"} {low:g}, got {value}'
            )
        if value > high:
            raise self.fail(path, f'must be at most {high:g}, got {value}')
        return float(value)

    def whole(self, value: Any, path: str, high: int) -> int:
        """Return a whole number above 0, at most `high`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(path, f'a whole number above 0 is wanted, got {value!r}')
        if value > high:
            raise self.fail(path, f'must be at most {high}, got {value}')
        return value

    def rate(self, value: Any, path: str) -> float:
        """Return a rate in Hz."""
        return self.number(value, path, 0, MAX_RATE_HZ, above=True)

    def latency(self, value: Any, path: str) -> float:
        """Return by how much, in s, stamps differ from the exposure."""
        return self.number(value, path, -MAX_LATENCY_S, MAX_LATENCY_S)

    def word(self, value: Any, path: str, pattern: re.Pattern | None = None) -> str:
        """Return a text that is not empty and fits the pattern."""
        if not isinstance(value, str) or not value:
            raise self.fail(path, f'text is wanted, got {value!r}')
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fail(path, f'{value!r} is not a valid name here ({pattern.pattern})')
        return value

    def one_of(self, value: Any, path: str, known: Iterable[str]) -> str:
        """Return one of the known words."""
        known = tuple(known)
        if value not in known:
            raise self.fail(
                path, f'{value!r} is not one of {", ".join(known)}{did_you_mean(value, known)}'
            )
        return value

    def flag(self, value: Any, path: str) -> bool:
        """Return true or false."""
        if not isinstance(value, bool):
            raise self.fail(path, f'true or false is wanted, got {value!r}')
        return value

    def words(self, value: Any, path: str) -> tuple[str, ...]:
        """Return the texts of a list that is not empty."""
        if not isinstance(value, list) or not value:
            raise self.fail(path, f'a list of names is wanted, got {value!r}')
        for item in value:
            if value.count(self.word(item, path)) > 1:
                raise self.fail(path, f'{item!r} stands twice')
        return tuple(value)

    def units(self, data: Any, path: str) -> dict[str, str]:
        """Return a table name -> unit."""
        return {
            name: self.one_of(unit, f'{path}.{name}', UNITS)
            for name, unit in self.named(data, path).items()
        }


class _Reader(_Values):
    """Reads the sections of a contract."""

    def embodiment(self, data: Any, source: Path, text: str) -> Embodiment:
        """Return the whole contract."""
        keys = [f.name for f in fields(Embodiment) if f.name not in ('words', 'source', 'text')]
        self.table(data, '', ['prompt', *(k for k in keys if k != 'workspace')], ['workspace'])
        state = self.state(data['state'])
        units = {field.name: field.unit for field in state.fields}
        limits = self.limits(data['limits'], units)
        layouts = {
            name: self.layout(value, f'layouts.{name}', units, limits)
            for name, value in self.named(data['layouts'], 'layouts').items()
        }
        workspace = data.get('workspace')
        return Embodiment(
            name=self.word(data['name'], 'name', VIEW),
            words=self.prompt(data['prompt']),
            rate_hz=self.rate(data['rate_hz'], 'rate_hz'),
            horizon=self.whole(data['horizon'], 'horizon', MAX_HORIZON),
            cameras=self.cameras(data['cameras'], state.topic),
            state=state,
            layouts=layouts,
            default_layout=self.one_of(data['default_layout'], 'default_layout', layouts),
            limits=limits,
            workspace=None if workspace is None else self.box(workspace),
            safety=self.safety(data['safety']),
            description=self.word(data['description'], 'description'),
            source=source,
            text=text,
        )

    def prompt(self, data: Any) -> Prompt:
        """Return the words of the prompt."""
        flags = ('waist', 'mobile_base', 'control_convention', 'normalization')
        self.table(data, 'prompt', ('robot_tag', 'arms'), flags)
        return Prompt(
            self.word(data['robot_tag'], 'prompt.robot_tag', LINE),
            self.one_of(data['arms'], 'prompt.arms', ('single', 'dual')),
            **{key: self.flag(data.get(key, False), f'prompt.{key}') for key in flags},
        )

    def cameras(self, data: Any, state_topic: str) -> tuple[Camera, ...]:
        """Return the views; no topic serves two of them, or the joints as well."""
        cameras = tuple(
            self.camera(view, value, f'cameras.{view}')
            for view, value in self.named(data, 'cameras').items()
        )
        taken = {state_topic}
        for camera in cameras:
            for key in ('topic', 'info_topic'):
                topic = getattr(camera, key)
                if topic in taken:
                    raise self.fail(f'cameras.{camera.view}.{key}', f'{topic!r} stands twice')
                taken.add(topic)
        return cameras

    def camera(self, view: str, data: Any, path: str) -> Camera:
        """Return one view."""
        keys = [f.name for f in fields(Camera) if f.name not in ('view', 'latency_offset_s')]
        self.word(view, path, VIEW)
        self.table(data, path, keys, ['latency_offset_s'])
        return Camera(
            view,
            self.word(data['topic'], f'{path}.topic', TOPIC),
            self.word(data['info_topic'], f'{path}.info_topic', TOPIC),
            self.word(data['frame_id'], f'{path}.frame_id'),
            self.one_of(data['encoding'], f'{path}.encoding', ENCODINGS),
            self.whole(data['width'], f'{path}.width', MAX_PIXELS),
            self.whole(data['height'], f'{path}.height', MAX_PIXELS),
            self.rate(data['rate_hz'], f'{path}.rate_hz'),
            self.latency(data.get('latency_offset_s', 0.0), f'{path}.latency_offset_s'),
        )

    def state(self, data: Any) -> StateSource:
        """Return where the measured joints come from."""
        self.table(data, 'state', ('topic', 'rate_hz', 'fields'), ('latency_offset_s',))
        units = self.units(data['fields'], 'state.fields')
        return StateSource(
            self.word(data['topic'], 'state.topic', TOPIC),
            self.rate(data['rate_hz'], 'state.rate_hz'),
            tuple(StateField(name, unit) for name, unit in units.items()),
            self.latency(data.get('latency_offset_s', 0.0), 'state.latency_offset_s'),
        )

    def layout(
        self,
        data: Any,
        path: str,
        units: Mapping[str, str],
        limits: Mapping[str, JointLimit],
    ) -> tuple[ActionGroup, ...]:
        """Return the groups of a layout; no action stands in two of them."""
        groups = tuple(
            self.group(name, value, f'{path}.{name}', units, limits)
            for name, value in self.named(data, path).items()
        )
        names = [name for group in groups for name in group.names]
        for name in names:
            if names.count(name) > 1:
                raise self.fail(path, f'the action {name!r} stands twice')
        topics = [group.output.topic for group in groups]
        for index, topic in enumerate(topics):
            if topic in topics[:index]:
                raise self.fail(f'{path}.{groups[index].name}.output', f'{topic!r} stands twice')
        return groups

    def group(
        self,
        name: str,
        data: Any,
        path: str,
        units: Mapping[str, str],
        limits: Mapping[str, JointLimit],
    ) -> ActionGroup:
        """Return one group; units are those of the state, by joint."""
        kind = data.get('kind') if isinstance(data, dict) else None
        cartesian = kind == 'delta_eef'
        extra = ('frame', 'tip', 'joints') if cartesian else ()
        self.table(data, path, ('kind', 'names', 'output', *extra))
        self.one_of(kind, f'{path}.kind', KINDS)
        names = self.units(data['names'], f'{path}.names')
        joints: tuple[str, ...] = ()
        if cartesian:
            joints = self.words(data['joints'], f'{path}.joints')
            self.limited(joints, f'{path}.joints', limits)
            if tuple(names.values()) != DELTA_UNITS:
                wanted = 'six names of units m, m, m, rad, rad, rad are wanted (dx .. dyaw)'
                raise self.fail(f'{path}.names', wanted)
        elif kind != 'waypoint':
            self.limited(names, f'{path}.names', limits)
            for joint, unit in names.items():
                if unit != units[joint]:
                    problem = f'unit {unit!r}, but state.fields says {units[joint]!r}'
                    raise self.fail(f'{path}.names.{joint}', problem)
        return ActionGroup(
            name,
            kind,
            tuple(names),
            tuple(names.values()),
            self.output(data['output'], f'{path}.output'),
            self.word(data['frame'], f'{path}.frame') if cartesian else '',
            self.word(data['tip'], f'{path}.tip') if cartesian else '',
            joints,
        )

    def limited(self, joints: Iterable[str], path: str, limits: Mapping[str, JointLimit]) -> None:
        """Refuse a joint that has no limits."""
        for joint in joints:
            if joint not in limits:
                near = did_you_mean(joint, limits)
                raise self.fail(f'{path}.{joint}', f'no limits for the joint {joint!r}{near}')

    def output(self, data: Any, path: str) -> Output:
        """Return where a group goes."""
        self.table(data, path, ('type', 'topic'))
        return Output(
            self.one_of(data['type'], f'{path}.type', OUTPUT_TYPES),
            self.word(data['topic'], f'{path}.topic', TOPIC),
        )

    def limits(self, data: Any, units: Mapping[str, str]) -> dict[str, JointLimit]:
        """Return the limits of joints, each of which is measured."""
        for name in self.named(data, 'limits'):
            if name not in units:
                raise self.fail(
                    f'limits.{name}', f'no such state field{did_you_mean(name, units)}'
                )
        return {name: self.limit(value, f'limits.{name}') for name, value in data.items()}

    def limit(self, data: Any, path: str) -> JointLimit:
        """Return the limits of one joint."""
        self.table(data, path, ('position', 'velocity', 'acceleration'))
        pair = data['position']
        if not isinstance(pair, list) or len(pair) != 2:
            raise self.fail(f'{path}.position', f'[lower, upper] is wanted, got {pair!r}')
        lower, upper = (self.number(value, f'{path}.position') for value in pair)
        if lower >= upper:
            raise self.fail(f'{path}.position', f'lower {lower:g} is not below upper {upper:g}')
        return JointLimit(
            lower,
            upper,
            self.number(data['velocity'], f'{path}.velocity', 0, above=True),
            self.number(data['acceleration'], f'{path}.acceleration', 0, above=True),
        )

    def box(self, data: Any) -> WorkspaceBox:
        """Return the box of the tip."""
        self.table(data, 'workspace', ('frame', 'tip', 'lower', 'upper'))
        corners = []
        for key in ('lower', 'upper'):
            if not isinstance(data[key], list) or len(data[key]) != 3:
                raise self.fail(f'workspace.{key}', f'[x, y, z] is wanted, got {data[key]!r}')
            corners.append(tuple(self.number(v, f'workspace.{key}') for v in data[key]))
        for axis, low, high in zip('xyz', *corners, strict=True):
            if low >= high:
                raise self.fail('workspace', f'{axis}: lower {low:g} is not below upper {high:g}')
        return WorkspaceBox(
            self.word(data['frame'], 'workspace.frame'),
            self.word(data['tip'], 'workspace.tip'),
            *corners,
        )

    def safety(self, data: Any) -> Safety:
        """Return the safety figures; what is left out keeps its default."""
        known = {field.name: field.default for field in fields(Safety)}
        self.table(data, 'safety', (), known)
        values: dict[str, Any] = {}
        for key, value in data.items():
            path = f'safety.{key}'
            low, high = SAFETY_RANGES[key]
            if isinstance(known[key], int):
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
