"""
Who drives what of a layout: joints go through executor and safety gate, the rest follows chunks.

A Cartesian group whose output takes joints is executed with the contract's layout of joints; one
whose output takes the tip's own motion, and the waypoints of a base, are handed over as they are.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.command import output_of
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.output_kinds import JOINTS
from qwen_vla_ros.safety import CARTESIAN
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup, Embodiment

OWN = 'joints of'


@dataclass(frozen=True)
class LayoutParts:
    """
    The parts of one layout.

    embodiment     the contract, with a layout of the joints alone where it had none
    joints         that layout's name; '' when the robot has no joints to command
    policy_groups  the policy's groups for those joints, in the same order
    followers      groups whose outputs take the tip or the base
    """

    embodiment: 'Embodiment'
    joints: str
    policy_groups: 'tuple[ActionGroup, ...]'
    followers: 'tuple[ActionGroup, ...]'


def split_layout(embodiment: 'Embodiment', layout: str) -> LayoutParts:
    """Return the parts of a layout; QwenVlaError for a group without joints or output."""
    groups = embodiment.action_groups(layout)
    driven = tuple(g for g in groups if output_of(g.output.type).rows == JOINTS)
    followers = tuple(g for g in groups if g not in driven)
    if not driven:
        return LayoutParts(embodiment, '', (), followers)
    if any(group.kind in CARTESIAN for group in driven):
        return LayoutParts(
            embodiment, _joint_layout(embodiment, layout, driven), driven, followers
        )
    if not followers:
        return LayoutParts(embodiment, layout, driven, ())
    name = f'{OWN} {layout}'
    layouts = {**embodiment.layouts, name: driven}
    return LayoutParts(replace(embodiment, layouts=layouts), name, driven, followers)


def whole_chunk(
    joints: ActionChunk | None, chunk: ActionChunk, followers: 'tuple[ActionGroup, ...]'
) -> ActionChunk:
    """Return what is executed in one chunk: the joints as they go out, then tips and bases."""
    names = tuple(name for group in followers for name in group.names)
    if joints is None or not names:
        return chunk if joints is None else joints
    columns = [chunk.names.index(name) for name in names]
    rows = np.hstack([joints.actions, chunk.actions[:, columns]])
    return replace(joints, actions=rows, names=(*joints.names, *names), frame=chunk.frame)


def _joint_layout(embodiment: 'Embodiment', layout: str, driven: 'tuple[ActionGroup, ...]') -> str:
    """Return the contract's layout of joints that executes a Cartesian one, group for group."""
    wanted = [group.joints or group.names for group in driven]
    for name in embodiment.layouts:
        groups = embodiment.action_groups(name)
        cartesian = any(group.kind in CARTESIAN for group in groups)
        if not cartesian and [group.names for group in groups] == wanted:
            return name
    raise QwenVlaError(
        f'{embodiment.source}: no layout of joints to execute {layout!r} with; add one whose '
        f'groups have the names {"; ".join(", ".join(names) for names in wanted)}'
    )
