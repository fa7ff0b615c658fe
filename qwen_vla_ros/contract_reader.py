"""
Strict reading of a robot YAML into an Embodiment.

A wrong key, type, unit, name or range fails with the file, the key's path and, where one is near,
the right word. Nothing is guessed and nothing unknown is passed over.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.command import NOTHING, OUTPUTS
from qwen_vla_ros.contract_keys import (
    ARMS,
    DELTA_UNITS,
    KINDS,
    LINE,
    MAX_HORIZON,
    SECTIONS,
    TOPIC,
    TRACE_UNITS,
    VIEW,
    WAYPOINT_UNITS,
    needed,
)
from qwen_vla_ros.embodiment import (
    EULER,
    ROTATIONS,
    ActionGroup,
    ContractError,
    Embodiment,
    Output,
    Prompt,
    did_you_mean,
    told_file,
)
from qwen_vla_ros.output_kinds import BASE, JOINTS, TIP, Option
from qwen_vla_ros.safety_contract import ON_LIMIT, REJECT, JointLimit
from qwen_vla_ros.safety_reader import SafetyReader, described_limits
from qwen_vla_ros.strict_values import StrictLoader

# What an output must take to fit a kind; all others go to joints. delta_eef goes there through
# our inverse kinematics.
ROWS_OF = {'delta_eef': (JOINTS, TIP), 'waypoint': (BASE,)}


def read_contract(path: Path) -> Embodiment:
    """Return the contract in a file; ContractError names file, key path or line, and remedy."""
    file = told_file(path)
    try:
        text = path.read_text(encoding='utf-8')
        data = yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ContractError(f'{file}: line {line}: not valid YAML: {error.problem}') from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ContractError(f'{file}: cannot be read: {" ".join(str(error).split())}') from error
    return _Reader(file).embodiment(data, path, text)


class _Reader(SafetyReader):
    """Reads the sections of a contract."""

    def embodiment(self, data: Any, source: Path, text: str) -> Embodiment:
        """Return the whole contract."""
        self.section(data, '', 'contract')
        states = self.states(data['state'])
        units = {field.name: field.unit for state in states for field in state.fields}
        description = data.get('description', '')
        if 'description' in data:
            self.word(description, 'description')
        told = described_limits(source, description)
        limits = self.limits(data['limits'], units, told) if data['limits'] != {} else {}
        layouts = {
            name: self.layout(value, f'layouts.{name}', units, limits)
            for name, value in self.named(data['layouts'], 'layouts').items()
        }
        capsules, park = data.get('capsules'), data.get('park')
        return Embodiment(
            name=self.word(data['name'], 'name', VIEW),
            words=self.prompt(data['prompt']),
            rate_hz=self.rate(data['rate_hz'], 'rate_hz'),
            horizon=self.whole(data['horizon'], 'horizon', MAX_HORIZON),
            cameras=self.cameras(data['cameras'], states),
            state=states[0],
            further_states=states[1:],
            layouts=layouts,
            default_layout=self.one_of(data['default_layout'], 'default_layout', layouts),
            limits=limits,
            workspaces=self.boxes(data.get('workspace'), data.get('workspaces')),
            safety=self.safety(data['safety']),
            description=description,
            source=source,
            text=text,
            capsules=None if capsules is None else self.capsules(capsules),
            park=None if park is None else self.park(park, limits),
        )

    def prompt(self, data: Any) -> Prompt:
        """Return the words of the prompt."""
        flags = ('waist', 'mobile_base', 'control_convention', 'normalization')
        self.section(data, 'prompt', 'prompt')
        prompt = Prompt(
            self.word(data['robot_tag'], 'prompt.robot_tag', LINE),
            self.one_of(data['arms'], 'prompt.arms', ARMS),
            **{key: self.flag(data.get(key, False), f'prompt.{key}') for key in flags},
        )
        if prompt.arms == 'none' and not prompt.mobile_base:
            raise self.fail('prompt.arms', 'a robot without arms needs mobile_base: true')
        return prompt

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
            if topic and topic in topics[:index]:
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
        kind = self.table_of(data, path).get('kind')
        cartesian, solved = kind == 'delta_eef', self.takes(data.get('output')) == JOINTS
        # Our own kinematics need the arm; whoever takes the tip itself has his own.
        arm = ('tip', 'joints') if cartesian else ()
        also = (*(('frame',) if cartesian else ()), *(arm if solved else ()))
        beyond = () if cartesian else ('frame', 'tip', 'joints', 'rotation')
        known = [key for key in SECTIONS['group'] if key not in beyond]
        self.table(data, path, (*needed('group'), *also), known)
        self.one_of(kind, f'{path}.kind', KINDS)
        names = self.units(data['names'], f'{path}.names')
        joints: tuple[str, ...] = ()
        if cartesian:
            self.shaped(names, DELTA_UNITS, f'{path}.names', 'six', 'dx .. dyaw')
        elif kind == 'waypoint':
            self.shaped(names, WAYPOINT_UNITS, f'{path}.names', 'three', 'dx, dy, dtheta')
        elif kind == 'trace':
            self.trace(data, names, path)
        elif 'output' in data:
            self.limited(names, f'{path}.names', limits)
            self.measured(names, f'{path}.names', units)
        if 'joints' in data:
            joints = self.words(data['joints'], f'{path}.joints')
            self.limited(joints, f'{path}.joints', limits)
        return ActionGroup(
            name,
            kind,
            tuple(names),
            tuple(names.values()),
            self.output(data['output'], f'{path}.output', kind, tuple(names))
            if 'output' in data
            else Output(NOTHING, ''),
            self.word(data['frame'], f'{path}.frame') if cartesian else '',
            self.word(data['tip'], f'{path}.tip') if 'tip' in data else '',
            joints,
            self.one_of(data.get('on_limit', REJECT), f'{path}.on_limit', ON_LIMIT),
            self.rotation(data, path),
        )

    def takes(self, output: Any) -> str:
        """Return which rows an output takes; '' for none, and for one that is refused later."""
        known = output.get('type') if isinstance(output, dict) else None
        return OUTPUTS[known].rows if known in OUTPUTS else ''

    def rotation(self, data: dict[str, Any], path: str) -> str:
        """Return how a group's channels turn the tip; outputs take 'euler' only."""
        rotation = self.one_of(data.get('rotation', EULER), f'{path}.rotation', ROTATIONS)
        if rotation != EULER and 'output' in data:
            problem = (
                f'no output takes {rotation!r}; leave the output out (data), or use {EULER!r}'
            )
            raise self.fail(f'{path}.rotation', problem)
        return rotation

    def shaped(
        self, names: Mapping[str, str], wanted: tuple[str, ...], path: str, count: str, such: str
    ) -> None:
        """Refuse names of other units than those of the kind."""
        if tuple(names.values()) != wanted:
            units = ', '.join(wanted)
            raise self.fail(path, f'{count} names of units {units} are wanted ({such})')

    def trace(self, data: dict[str, Any], names: Mapping[str, str], path: str) -> None:
        """Refuse a trace that is commanded, or is neither in a picture nor in space."""
        if 'output' in data:
            raise self.fail(f'{path}.output', 'a trace is drawn, not commanded; leave it out')
        if tuple(names.values()) not in TRACE_UNITS:
            problem = "two names of unit '1' (u, v in the picture) or three of unit m are wanted"
            raise self.fail(f'{path}.names', problem)

    def measured(self, names: Mapping[str, str], path: str, units: Mapping[str, str]) -> None:
        """Refuse joints that are commanded in another unit than they are measured in."""
        for joint, unit in names.items():
            if unit != units[joint]:
                problem = f'unit {unit!r}, but state.fields says {units[joint]!r}'
                raise self.fail(f'{path}.{joint}', problem)

    def limited(self, joints: Iterable[str], path: str, limits: Mapping[str, JointLimit]) -> None:
        """Refuse a joint that has no limits."""
        for joint in joints:
            if joint not in limits:
                near = did_you_mean(joint, limits)
                raise self.fail(f'{path}.{joint}', f'no limits for the joint {joint!r}{near}')

    def output(self, data: Any, path: str, kind: str, names: tuple[str, ...]) -> Output:
        """Return where a group of a kind goes, with the options that its type takes."""
        known = data.get('type') if isinstance(data, dict) else None
        options = OUTPUTS[known].options if known in OUTPUTS else {}
        self.table(data, path, ('type', 'topic'), options)
        takes = OUTPUTS[self.one_of(known, f'{path}.type', OUTPUTS)].rows
        if takes not in ROWS_OF.get(kind, (JOINTS,)):
            fitting = [n for n, o in OUTPUTS.items() if o.rows in ROWS_OF.get(kind, (JOINTS,))]
            problem = f'{known} does not take a group of kind {kind}; {", ".join(fitting)} do'
            raise self.fail(f'{path}.type', problem)
        found = {
            key: self.option(option, data.get(key, option.default), f'{path}.{key}')
            for key, option in options.items()
        }
        order = found.get('joints')
        if order and sorted(order) != sorted(names):
            problem = f"{', '.join(order)} are not the group's {', '.join(names)}"
            raise self.fail(f'{path}.joints', problem)
        prefix = found.get('prefix') or ''
        for name in names:
            if not name.startswith(prefix) or name == prefix:
                raise self.fail(f'{path}.prefix', f'{name!r} does not begin with {prefix!r}')
        return Output(known, self.word(data['topic'], f'{path}.topic', TOPIC), found)

    def option(self, option: Option, value: Any, path: str) -> Any:
        """Return one option of an output, of the kind that it declares."""
        if value is None:
            raise self.fail(path, 'the key is missing')
        if option.kind == 'number':
            return self.number(value, path, option.low, option.high)
        if option.kind == 'choice':
            return self.one_of(value, path, option.known)
        if option.kind in ('word', 'words') and value == option.default:
            return value
        if option.kind == 'words':
            return self.words(value, path)
        return self.flag(value, path) if option.kind == 'flag' else self.word(value, path)
