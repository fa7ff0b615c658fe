"""
Embodiment: the contract between one robot and a policy, and its prompt.

One YAML a robot in config/embodiments; contract_reader.py reads it. SI units throughout; frames by
REP-103.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.safety_contract import Capsules, JointLimit, Park, Safety, WorkspaceBox

# How the last three channels of a delta_eef group turn the tip.
ROTATIONS = EULER, AXIS_ANGLE = ('euler', 'axis_angle')


class ContractError(QwenVlaError):
    """A robot YAML is wrong; the message names file, key path and remedy."""


@dataclass(frozen=True)
class Prompt:
    """
    The words of the embodiment prompt (paper 2.3); the last two are beyond the template.

    arms: single, dual, or none: a base alone, asked for waypoints.
    """

    robot_tag: str
    arms: str
    waist: bool = False
    mobile_base: bool = False
    control_convention: bool = False
    normalization: bool = False


@dataclass(frozen=True)
class Camera:
    """
    One view: stamp - latency_offset_s is the exposure; width, height in pixels.

    depth_m, of depth encodings only: distances (near, far) in m that become grey 1 and 255.
    """

    view: str
    topic: str
    info_topic: str
    frame_id: str
    encoding: str
    width: int
    height: int
    rate_hz: float
    latency_offset_s: float = 0.0
    depth_m: tuple[float, float] | None = None


@dataclass(frozen=True)
class StateField:
    """One measured joint (or component of the odometry) and its unit."""

    name: str
    unit: str


@dataclass(frozen=True)
class StateSource:
    """
    Proprioception on a topic: sensor_msgs/JointState or nav_msgs/Odometry (type).

    name is 'state', or 'state.<key>' where a robot has several. A field is named by prefix and
    what the message calls it: two arms that both publish 'waist' stay apart.
    """

    topic: str
    rate_hz: float
    fields: tuple[StateField, ...]
    latency_offset_s: float = 0.0
    type: str = 'JointState'
    name: str = 'state'
    prefix: str = ''


@dataclass(frozen=True)
class Output:
    """
    Where a group of actions goes.

    type      one of command.OUTPUTS
    topic     its topic, or the name of its action
    options   what the type takes beyond that, defaults included
    """

    type: str
    topic: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ActionGroup:
    """
    Channels that belong together.

    kind delta_eef: displacement of tip in frame relative to the chunk's first row; joints are
    those that inverse kinematics moves. rotation: how its last three channels turn the tip:
    'euler' (about fixed axes) or 'axis_angle' (a rotation vector). on_limit: 'clamp' moves
    positions and velocities into their limits where 'reject' refuses the chunk. An output of type
    command.NOTHING: the group is data to train on and is never commanded.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    output: Output
    frame: str = ''
    tip: str = ''
    joints: tuple[str, ...] = ()
    on_limit: str = 'reject'
    rotation: str = EULER


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
    workspaces: tuple[WorkspaceBox, ...]
    safety: Safety
    description: str
    source: Path
    text: str
    further_states: tuple[StateSource, ...] = ()
    capsules: Capsules | None = None
    park: Park | None = None

    @classmethod
    def load(cls, name_or_path: str | Path) -> 'Embodiment':
        """
        Read a contract by path, or by name from the package's config/embodiments.

        Raises ContractError that names file, key path and remedy.
        """
        from qwen_vla_ros.contract_reader import read_contract

        return read_contract(find_contract(name_or_path))

    @property
    def step_s(self) -> float:
        """Return the time between two rows of a chunk."""
        return 1.0 / self.rate_hz

    @property
    def state_names(self) -> tuple[str, ...]:
        """Return the names of all that is measured, in the policy's order."""
        return tuple(field.name for state in self.states for field in state.fields)

    @property
    def states(self) -> tuple[StateSource, ...]:
        """Return every source of proprioception: most robots have one, two arms often two."""
        return (self.state, *self.further_states)

    def action_groups(self, layout: str | None = None) -> tuple[ActionGroup, ...]:
        """Return the groups of a layout; an unknown one is refused with the known ones."""
        layout = layout or self.default_layout
        if layout not in self.layouts:
            raise ContractError(
                f'{told_file(self.source)}: layouts.{layout}: unknown layout'
                f'{did_you_mean(layout, self.layouts)}; known: {", ".join(self.layouts)}'
            )
        return self.layouts[layout]

    def action_names(self, layout: str | None = None) -> tuple[str, ...]:
        """Return the A action names of a layout, in order."""
        return tuple(name for group in self.action_groups(layout) for name in group.names)

    @property
    def description_path(self) -> Path:
        """
        Return the URDF's path: beside the contract, in the folder above, in the package's config.

        Raises ContractError when it is in none of them.
        """
        return find_description(self.source, self.description)

    def prompt(
        self, instruction: str, horizon: int | None = None, layout: str | None = None
    ) -> str:
        """
        Return the embodiment-conditioned prompt, the paper's template word for word.

        Only the template's full stop gives way to the instruction's own '.', '!' or '?'.
        """
        task = instruction.strip()
        task += '' if task.endswith(('.', '!', '?')) else '.'
        words = self.words
        body = f'{words.arms} arm' + ('s' if words.arms == 'dual' else '')
        body += ', waist' * words.waist + ', and mobile base' * words.mobile_base
        wanted = 'control actions'
        if words.arms == 'none':
            body, wanted = 'waist and mobile base' if words.waist else 'mobile base', 'waypoints'
        text = (
            f'The robot is {words.robot_tag} with {body}. '
            f'The control frequency is {self.rate_hz:g} Hz. '
            f'Please predict the next {horizon or self.horizon} {wanted} to execute the '
            f'following task: {task}'
        )
        if words.control_convention:
            kinds = ', '.join(f'{g.name} {g.kind}' for g in self.action_groups(layout))
            text += f' The control convention is {kinds}.'
        if words.normalization:
            text += ' Actions are normalized by the 1st and 99th percentile.'
        return text

    def fingerprint(self) -> str:
        """
        Return a sha256 of what the contract says.

        Comments, order of keys and written-out defaults do not count; the order of cameras, state
        fields and actions does, because it is the policy's.
        """
        content = asdict(self)
        del content['source'], content['text']
        if len(self.workspaces) < 2:  # as recorded, of contracts that knew one box
            content['workspace'] = next(iter(content.pop('workspaces')), None)
        for groups in content['layouts'].values():
            for group in groups:
                # Younger than recorded fingerprints, so its default is left out.
                if group['rotation'] == EULER:
                    del group['rotation']
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def config_folder() -> Path:
    """Return config/ of the source tree, of a pip install or of a ROS install space."""
    here = Path(__file__).resolve()
    source = here.parents[1] / 'config'
    for folder in (source, *(up / 'share' / 'qwen_vla_ros' / 'config' for up in here.parents)):
        if (folder / 'embodiments').is_dir():
            return folder
    raise ContractError(
        f'no config/embodiments belongs to {here.parent}: the installation is incomplete; '
        'install the package again by pip or colcon'
    )


def find_contract(name_or_path: str | Path) -> Path:
    """Return the file of a contract given by path or by name; ContractError lists those known."""
    path = Path(name_or_path)
    if path.suffix in ('.yaml', '.yml') and path.exists():
        return path
    folder = config_folder() / 'embodiments'
    known = sorted(entry.stem for entry in folder.glob('*.yaml'))
    if path.suffix in ('.yaml', '.yml'):
        raise ContractError(
            f'robot {str(name_or_path)!r}: no such file{did_you_mean(path.stem, known)} '
            f'(a path is taken from {Path.cwd()}; by name, without .yaml, there are '
            f'{", ".join(known) or "none"})'
        )
    found = folder / f'{name_or_path}.yaml'
    if not found.exists():
        raise ContractError(
            f'robot {str(name_or_path)!r}: no such contract'
            f'{did_you_mean(path.stem, known)}; '
            f'known: {", ".join(known) or "none"} in {folder}, or give the path of a .yaml'
        )
    return found


def find_description(source: Path, description: str) -> Path:
    """Return the URDF of a contract; ContractError tells where it was looked for."""
    if not description:
        raise ContractError(
            f'{told_file(source)}: description: the contract names none; write '
            "'description: robots/<robot>.urdf' and put the vendor's URDF there"
        )
    beside = source.resolve().parent
    folders = (beside, beside.parent, config_folder())
    for folder in folders:
        if (folder / description).is_file():
            return folder / description
    raise ContractError(
        f'{told_file(source)}: description: no file {description!r} in '
        f'{" or ".join(str(folder) for folder in dict.fromkeys(folders))}; put the '
        "vendor's URDF there"
    )


def told_file(path: Path) -> str:
    """Return how an error calls a contract: by name when it is the package's, else by path."""
    own = (config_folder() / 'embodiments').resolve()
    return path.name if path.resolve().parent == own else str(path)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or '' when none is near."""
    close = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return f"; did you mean '{close[0]}'?" if close else ''
