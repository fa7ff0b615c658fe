"""
Robot YAML -> Embodiment: the contract between one robot and a policy, and its prompt.

The reader is strict: a wrong key, type, unit, name or range fails with the key's path and, where
one is near, the right word. SI units throughout; frames by REP-103.
"""

import difflib
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.errors import QwenVlaError

UNITS = ('rad', 'm')
KINDS = ('abs_joint', 'delta_eef', 'gripper', 'dexterous', 'waypoint')
OUTPUT_TYPES = ('JointTrajectory',)
ENCODINGS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8')
TOPIC = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
VIEW = re.compile(r'[a-z][a-z0-9_]*')


class ContractError(QwenVlaError):
    """A robot YAML is wrong; the message names file, key path and remedy."""


@dataclass(frozen=True)
class Prompt:
    """The words of the embodiment prompt (paper 2.3); the last two are beyond the template."""

    robot_tag: str
    arms: str
    waist: bool = False
    mobile_base: bool = False
    control_convention: bool = False
    normalization: bool = False


@dataclass(frozen=True)
class Camera:
    """One view: stamp - latency_offset_s is the exposure; width, height in pixels."""

    view: str
    topic: str
    info_topic: str
    frame_id: str
    encoding: str
    width: int
    height: int
    rate_hz: float
    latency_offset_s: float = 0.0


@dataclass(frozen=True)
class StateField:
    """One measured joint and its unit."""

    name: str
    unit: str


@dataclass(frozen=True)
class StateSource:
    """Proprioception: sensor_msgs/JointState on a topic."""

    topic: str
    rate_hz: float
    fields: tuple[StateField, ...]
    latency_offset_s: float = 0.0


@dataclass(frozen=True)
class Output:
    """Where a group of actions goes."""

    type: str
    topic: str


@dataclass(frozen=True)
class ActionGroup:
    """
    Channels that belong together.

    kind delta_eef: displacement of tip in frame relative to the chunk's first row; joints are
    those that inverse kinematics moves.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    output: Output
    frame: str = ''
    tip: str = ''
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class JointLimit:
    """Position (rad or m), velocity (per s) and acceleration (per s^2)."""

    lower: float
    upper: float
    velocity: float
    acceleration: float


@dataclass(frozen=True)
class WorkspaceBox:
    """Where the tip may be, in m, in frame."""

    frame: str
    tip: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class Safety:
    """
    When the arm holds, and how commands go out.

    max_age_s            s, a stream older than this counts as lost
    max_skew_s           s, spread of the sources of one observation
    max_future_s         s, how far ahead of the clock a stamp may be
    inference_timeout_s  s, a slower model counts as lost
    command_rate_hz      Hz of the command timer
    lookahead_s          s, how far a command reaches; it ends at rest
    blend_s              s, shortest bridge from one chunk into the next
    max_jump_rad, _m     first row of a chunk against the measured joints
    max_refused_chunks   refused chunks in a row that latch the stop
    """

    max_age_s: float = 0.15
    max_skew_s: float = 0.06
    max_future_s: float = 0.05
    inference_timeout_s: float = 1.5
    command_rate_hz: float = 20.0
    lookahead_s: float = 0.3
    blend_s: float = 0.4
    max_jump_rad: float = 0.35
    max_jump_m: float = 0.02
    max_refused_chunks: int = 10


@dataclass(frozen=True)
class Embodiment:
    """One robot as a policy knows it."""

    name: str
    words: Prompt
    rate_hz: float
    horizon: int
    cameras: tuple[Camera, ...]
    state: StateSource
    layouts: Mapping[str, tuple[ActionGroup, ...]]
    default_layout: str
    limits: Mapping[str, JointLimit]
    workspace: WorkspaceBox | None
    safety: Safety
    description: str
    source: Path
    text: str

    @classmethod
    def load(cls, name_or_path: str | Path) -> 'Embodiment':
        """
        Read a contract by path, or by name from the package's config/embodiments.

        Raises ContractError that names file, key path and remedy.
        """
        path = _find(name_or_path)
        try:
            text = path.read_text()
            data = yaml.load(text, _StrictLoader)  # noqa: S506, a SafeLoader
        except (OSError, UnicodeDecodeError) as error:
            raise ContractError(f'{path}: cannot be read ({error})') from error
        except yaml.YAMLError as error:
            raise ContractError(f'{path}: not valid YAML: {" ".join(str(error).split())}') from error
        return _Reader(path.name).embodiment(data, path, text)

    @property
    def step_s(self) -> float:
        """Return the time between two rows of a chunk."""
        return 1.0 / self.rate_hz

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of the measured joints, in the policy's order."""
        return tuple(field.name for field in self.state.fields)

    def action_groups(self, layout: str | None = None) -> tuple[ActionGroup, ...]:
        """Return the groups of a layout; an unknown one is refused with the known ones."""
        layout = layout or self.default_layout
        if layout not in self.layouts:
            raise ContractError(
                f'{self.source.name}: layouts.{layout}: unknown layout{_near(layout, self.layouts)}'
            )
        return self.layouts[layout]

    def action_names(self, layout: str | None = None) -> tuple[str, ...]:
        """Return the A action names of a layout, in order."""
        return tuple(name for group in self.action_groups(layout) for name in group.names)

    @property
    def description_path(self) -> Path:
        """Return the URDF's path."""
        path = self.source.parent.parent / self.description
        return path if path.exists() else _config_folder() / self.description

    def prompt(
        self, instruction: str, horizon: int | None = None, layout: str | None = None
    ) -> str:
        """Return the embodiment-conditioned prompt, the paper's template word for word."""
        words = self.words
        body = f'{words.arms} arm' + ('s' if words.arms == 'dual' else '')
        body += ', waist' * words.waist + ', and mobile base' * words.mobile_base
        text = (
            f'The robot is {words.robot_tag} with {body}. '
            f'The control frequency is {self.rate_hz:g} Hz. '
            f'Please predict the next {horizon or self.horizon} control actions to execute the '
            f'following task: {instruction}.'
        )
        if words.control_convention:
            kinds = ', '.join(f'{g.name} {g.kind}' for g in self.action_groups(layout))
            text += f' The control convention is {kinds}.'
        if words.normalization:
            text += ' Actions are normalized by the 1st and 99th percentile.'
        return text

    def fingerprint(self) -> str:
        """Return a sha256 of the contract's content; comments and layout do not count."""
        content = yaml.load(self.text, _StrictLoader)  # noqa: S506, a SafeLoader
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key!r} stands twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _config_folder() -> Path:
    """Return config/ of the source tree, of a pip install or of a ROS install space."""
    source = Path(__file__).resolve().parent.parent / 'config'
    if source.is_dir():
        return source
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory('qwen_vla_ros')) / 'config'
    except (ImportError, LookupError):
        return Path(sys.prefix) / 'share' / 'qwen_vla_ros' / 'config'


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in ('.yaml', '.yml'):
        return path
    folder = _config_folder() / 'embodiments'
    found = folder / f'{name_or_path}.yaml'
    if not found.exists():
        known = sorted(entry.stem for entry in folder.glob('*.yaml'))
        raise ContractError(
            f'robot {str(name_or_path)!r}: no such contract{_near(str(name_or_path), known)}; '
            f'known: {", ".join(known) or "none"} in {folder}, or give the path of a .yaml'
        )
    return found


def _near(word: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return f"; did you mean '{close[0]}'?" if close else ''


class _Reader:
    """Reads one YAML; every method takes the key path of what it reads."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, path: str, problem: str) -> ContractError:
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
                raise self.fail(f'{dot}{key}', f'unknown key{_near(key, known)}')
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

    def number(self, value: Any, path: str, low: float = -math.inf, above: bool = False) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(path, f'a number is wanted, got {value!r}')
        if not math.isfinite(value):
            raise self.fail(path, f'a finite number is wanted, got {value}')
        if value < low or (above and value == low):
            raise self.fail(path, f'must be {"above" if above else "at least"} {low:g}, got {value}')
        return float(value)

    def whole(self, value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(path, f'a whole number above 0 is wanted, got {value!r}')
        return value

    def word(self, value: Any, path: str, pattern: re.Pattern | None = None) -> str:
        if not isinstance(value, str) or not value:
            raise self.fail(path, f'text is wanted, got {value!r}')
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fail(path, f'{value!r} is not a valid name here ({pattern.pattern})')
        return value

    def one_of(self, value: Any, path: str, known: Iterable[str]) -> str:
        known = tuple(known)
        if value not in known:
            raise self.fail(
                path, f'{value!r} is not one of {", ".join(known)}{_near(value, known)}'
            )
        return value

    def flag(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise self.fail(path, f'true or false is wanted, got {value!r}')
        return value

    def embodiment(self, data: Any, source: Path, text: str) -> Embodiment:
        keys = [f.name for f in fields(Embodiment) if f.name not in ('words', 'source', 'text')]
        self.table(data, '', ['prompt', *(k for k in keys if k != 'workspace')], ['workspace'])
        state = self.state(data['state'])
        limits = {
            name: self.limit(value, f'limits.{name}')
            for name, value in self.named(data['limits'], 'limits').items()
        }
        joints = [field.name for field in state.fields]
        for name in limits:
            if name not in joints:
                raise self.fail(f'limits.{name}', f'no such state field{_near(name, joints)}')
        layouts = {
            name: self.layout(value, f'layouts.{name}', limits)
            for name, value in self.named(data['layouts'], 'layouts').items()
        }
        cameras = tuple(
            self.camera(view, value, f'cameras.{view}')
            for view, value in self.named(data['cameras'], 'cameras').items()
        )
        topics = [camera.topic for camera in cameras]
        for index, topic in enumerate(topics):
            if topic in topics[:index]:
                raise self.fail(f'cameras.{cameras[index].view}.topic', f'{topic!r} stands twice')
        workspace = data.get('workspace')
        return Embodiment(
            name=self.word(data['name'], 'name', VIEW),
            words=self.prompt(data['prompt']),
            rate_hz=self.number(data['rate_hz'], 'rate_hz', 0, above=True),
            horizon=self.whole(data['horizon'], 'horizon'),
            cameras=cameras,
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
        flags = ('waist', 'mobile_base', 'control_convention', 'normalization')
        self.table(data, 'prompt', ('robot_tag', 'arms'), flags)
        return Prompt(
            self.word(data['robot_tag'], 'prompt.robot_tag'),
            self.one_of(data['arms'], 'prompt.arms', ('single', 'dual')),
            **{key: self.flag(data.get(key, False), f'prompt.{key}') for key in flags},
        )

    def camera(self, view: str, data: Any, path: str) -> Camera:
        keys = [f.name for f in fields(Camera) if f.name not in ('view', 'latency_offset_s')]
        self.word(view, path, VIEW)
        self.table(data, path, keys, ['latency_offset_s'])
        return Camera(
            view,
            self.word(data['topic'], f'{path}.topic', TOPIC),
            self.word(data['info_topic'], f'{path}.info_topic', TOPIC),
            self.word(data['frame_id'], f'{path}.frame_id'),
            self.one_of(data['encoding'], f'{path}.encoding', ENCODINGS),
            self.whole(data['width'], f'{path}.width'),
            self.whole(data['height'], f'{path}.height'),
            self.number(data['rate_hz'], f'{path}.rate_hz', 0, above=True),
            self.number(data.get('latency_offset_s', 0.0), f'{path}.latency_offset_s'),
        )

    def state(self, data: Any) -> StateSource:
        self.table(data, 'state', ('topic', 'rate_hz', 'fields'), ('latency_offset_s',))
        return StateSource(
            self.word(data['topic'], 'state.topic', TOPIC),
            self.number(data['rate_hz'], 'state.rate_hz', 0, above=True),
            tuple(
                StateField(name, self.one_of(unit, f'state.fields.{name}', UNITS))
                for name, unit in self.named(data['fields'], 'state.fields').items()
            ),
            self.number(data.get('latency_offset_s', 0.0), 'state.latency_offset_s'),
        )

    def layout(
        self, data: Any, path: str, limits: Mapping[str, JointLimit]
    ) -> tuple[ActionGroup, ...]:
        groups = tuple(
            self.group(name, value, f'{path}.{name}', limits)
            for name, value in self.named(data, path).items()
        )
        names = [name for group in groups for name in group.names]
        for name in names:
            if names.count(name) > 1:
                raise self.fail(path, f'the action {name!r} stands twice')
        return groups

    def group(
        self, name: str, data: Any, path: str, limits: Mapping[str, JointLimit]
    ) -> ActionGroup:
        cartesian = ('frame', 'tip', 'joints')
        kind = data.get('kind') if isinstance(data, dict) else None
        extra = cartesian if kind == 'delta_eef' else ()
        self.table(data, path, ('kind', 'names', 'output', *extra))
        self.one_of(kind, f'{path}.kind', KINDS)
        units = self.named(data['names'], f'{path}.names')
        for joint, unit in units.items():
            self.one_of(unit, f'{path}.names.{joint}', UNITS)
        joints = tuple(data.get('joints', ()))
        moved = joints if kind == 'delta_eef' else () if kind == 'waypoint' else tuple(units)
        for joint in moved:
            if joint not in limits:
                raise self.fail(
                    f'{path}.names.{joint}' if kind != 'delta_eef' else f'{path}.joints',
                    f'no limits for the joint {joint!r}{_near(joint, limits)}',
                )
        output = self.table(data['output'], f'{path}.output', ('type', 'topic'))
        return ActionGroup(
            name,
            kind,
            tuple(units),
            tuple(units.values()),
            Output(
                self.one_of(output['type'], f'{path}.output.type', OUTPUT_TYPES),
                self.word(output['topic'], f'{path}.output.topic', TOPIC),
            ),
            data.get('frame', ''),
            data.get('tip', ''),
            joints,
        )

    def limit(self, data: Any, path: str) -> JointLimit:
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
        known = {field.name: field.default for field in fields(Safety)}
        self.table(data, 'safety', (), known)
        values = {}
        for key, value in data.items():
            whole = isinstance(known[key], int)
            read = self.whole(value, f'safety.{key}') if whole else None
            values[key] = (
                read if whole else self.number(value, f'safety.{key}', 0, above=True)
            )
        return Safety(**values)
