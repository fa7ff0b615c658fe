"""Checkpoint against contract and description: names, units, views, sizes, rate, prompt, URDF."""

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from qwen_vla_ros.command import commands
from qwen_vla_ros.compatibility.finding import REFUSE, WARN, Problem
from qwen_vla_ros.compatibility.training import SENTENCE, Pairing
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.output_kinds import JOINTS
from qwen_vla_ros.policy import describe_policy

ASPECT = 0.02  # share by which width / height may differ
_JOINT_UNITS = {'revolute': 'rad', 'continuous': 'rad', 'prismatic': 'm'}


def robot(pair: Pairing) -> Iterator[Problem]:
    """Compare the robot's name and the layout."""
    yield from _differs(pair, 'embodiment', 'robot')
    yield from _differs(pair, 'layout', 'layout')


def joint_names(pair: Pairing) -> Iterator[Problem]:
    """Compare names and order of actions and of measured fields."""
    wanted = describe_policy(pair.embodiment, pair.layout)
    for key, what in (('action_names', 'actions'), ('state_names', 'state')):
        yield from _order(what, pair.metadata.get(key) or [], wanted[key])


def units(pair: Pairing) -> Iterator[Problem]:
    """Compare the units of actions and of measured fields."""
    yield from _differs(pair, 'action_units', 'action units')
    fields = [field.unit for state in pair.embodiment.states for field in state.fields]
    told = pair.trained.get('state_units')
    if told is not None and list(told) != fields:
        yield Problem(REFUSE, f'state units: trained in {list(told)}, the robot has {fields}')


def views(pair: Pairing) -> Iterator[Problem]:
    """Compare the camera views and their order."""
    wanted = [camera.view for camera in pair.embodiment.cameras]
    yield from _order('views', pair.metadata.get('views') or [], wanted)


def rate(pair: Pairing) -> Iterator[Problem]:
    """Compare steps a second and steps a chunk."""
    yield from _differs(pair, 'rate_hz', 'steps a second (rate_hz)')
    yield from _differs(pair, 'horizon', 'steps a chunk (horizon)')


def sizes(pair: Pairing) -> Iterator[Problem]:
    """Compare each camera's size and kind of picture with those of training."""
    trained = pair.trained.get('cameras') or {}
    own = {camera.view: (camera.width, camera.height) for camera in pair.embodiment.cameras}
    was = {view: (facts['width'], facts['height']) for view, facts in trained.items()}
    for camera in pair.embodiment.cameras:
        view, size = camera.view, own[camera.view]
        if view not in was:
            continue
        if _is_depth(trained[view]['encoding']) != _is_depth(camera.encoding):
            kinds = f'{trained[view]["encoding"]}, the contract has {camera.encoding}'
            yield Problem(REFUSE, f'{view}: trained on {kinds}')
        if size == was[view]:
            continue
        text = f'{view}: trained on {_by(was[view])}, the contract has {_by(size)}'
        twin = next(
            (v for v in was if v != view and was[v] == size and own.get(v) == was[view]), ''
        )
        if twin:
            yield Problem(REFUSE, f'{text}: that of {twin}; the cameras are swapped')
        elif abs(size[0] * was[view][1] / (size[1] * was[view][0]) - 1.0) > ASPECT:
            yield Problem(REFUSE, f'{text}: another shape of picture')
        else:
            yield Problem(WARN, f'{text}: the same shape, other pixels')


def prompt(pair: Pairing) -> Iterator[Problem]:
    """Compare the whole prompt around the sentence, word for word."""
    told = pair.trained.get('prompt')
    own = pair.embodiment.prompt(SENTENCE, layout=pair.layout)
    if told is not None and told != own:
        yield Problem(REFUSE, f'trained with {told!r}, the contract says {own!r}')


def description(pair: Pairing) -> Iterator[Problem]:
    """Compare joints, kinds and links of the URDF with the contract's."""
    try:
        path = pair.description
        root = ElementTree.parse(path).getroot()
    except QwenVlaError as error:
        if _needs_description(pair):
            yield Problem(REFUSE, str(error))
        else:
            yield Problem(WARN, f'joints are not compared with a URDF: {error}')
        return
    except (ElementTree.ParseError, OSError) as error:
        yield Problem(REFUSE, f'{pair.embodiment.description}: not a URDF ({error})')
        return
    joints = {joint.get('name'): joint.get('type', '') for joint in root.findall('joint')}
    links = {link.get('name') for link in root.findall('link')}
    for name in pair.limits:
        if pair.units.get(name) == '1':
            continue  # a share or a coefficient is no joint of a URDF
        if name not in joints:
            yield Problem(REFUSE, f'{path.name} has no joint {name!r}')
        elif _JOINT_UNITS.get(joints[name]) != pair.units.get(name):
            kinds = f'{joints[name]}, the contract says {pair.units.get(name)}'
            yield Problem(REFUSE, f'{name} is {kinds} ({path.name})')
    boxes = pair.embodiment.workspaces
    for frame in dict.fromkeys(name for box in boxes for name in (box.tip, box.frame)):
        if frame not in links:
            yield Problem(REFUSE, f'{path.name} has no link {frame!r} (workspace)')


def _needs_description(pair: Pairing) -> bool:
    """Return whether box, volume or layout ask for the kinematics of a description."""
    robot = pair.embodiment
    solved = (
        group.kind == 'delta_eef' and commands(group, JOINTS)
        for group in robot.action_groups(pair.layout)
    )
    return bool(robot.workspaces) or robot.capsules is not None or any(solved)


def _differs(pair: Pairing, key: str, what: str) -> Iterator[Problem]:
    wanted = describe_policy(pair.embodiment, pair.layout)[key]
    told = pair.metadata.get(key)
    if told != wanted:
        yield Problem(REFUSE, f'{what}: the policy has {told!r}, the robot {wanted!r}')


def _order(what: str, told: Sequence[str], wanted: Sequence[str]) -> Iterator[Problem]:
    """Say which names lack, are too many, or stand in another order."""
    told, wanted = list(told), list(wanted)
    lacking = [name for name in told if name not in wanted]
    beyond = [name for name in wanted if name not in told]
    if lacking:
        yield Problem(REFUSE, f'{what}: the robot lacks {", ".join(lacking)} of the policy')
    if beyond:
        yield Problem(REFUSE, f'{what}: the policy knows no {", ".join(beyond)} of the robot')
    if told != wanted and not lacking and not beyond:
        moved = [f'{a} where {b} was trained' for a, b in zip(wanted, told, strict=True) if a != b]
        yield Problem(REFUSE, f'{what}: another order ({", ".join(moved)})')


def _is_depth(encoding: str) -> bool:
    return encoding.lower().startswith(('16u', '32f', 'mono16'))


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
