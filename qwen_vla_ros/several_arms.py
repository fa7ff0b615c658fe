"""
Kinematics of several arms on one root: distances between them, and where their tips are.

Each arm is a chain of its own; the joints of all stand in one row, arm after arm. Places are
numbered as joint_transforms() has them: root and joints of the first arm, then of the next.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.kinematics import ArmKinematics, KinematicsError

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup, Embodiment


class SeveralArms:
    """Where the links of several arms are. Thread-safe."""

    def __init__(self, urdf: Path, chains: Sequence[Sequence[str]]) -> None:
        """Take each arm's joints from the root outward; KinematicsError when they are no chain."""
        ends = _children(urdf)
        missing = [chain[-1] for chain in chains if chain[-1] not in ends]
        if missing:
            raise KinematicsError(f'{urdf}: no joint {missing[0]!r}')
        self._arms = [ArmKinematics(urdf, ends[chain[-1]], chain) for chain in chains]
        sizes = [len(chain) for chain in chains]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def joint_transforms(self, rows: np.ndarray) -> np.ndarray:
        """Return [R, places, 3, 4] in m for rows of all joints [R, J]."""
        spans = zip(self._arms, self._starts[:-1], self._starts[1:], strict=True)
        return np.concatenate([arm.joint_transforms(rows[:, a:b]) for arm, a, b in spans], axis=1)

    def link_place(self, link: str) -> tuple[int, np.ndarray]:
        """Return which place moves a link (0: none), and the link's pose [4, 4] in it."""
        found = [arm.link_place(link) for arm in self._arms]
        for index, (place, pose) in enumerate(found):
            if place > 0:
                return int(self._starts[index]) + index + place, pose
        return found[0]


def _children(urdf: Path) -> dict[str, str]:
    """Return the link that each joint of a description moves."""
    try:
        root = ElementTree.parse(urdf).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise KinematicsError(f'{urdf}: not a URDF ({error})') from error
    children = {joint.get('name', ''): joint.find('child') for joint in root.findall('joint')}
    return {name: child.get('link', '') for name, child in children.items() if child is not None}


def tip_positions(
    embodiment: 'Embodiment', groups: 'Sequence[ActionGroup]'
) -> Callable[[np.ndarray], np.ndarray]:
    """
    Return tips(rows [R, J]) -> [R, T, 3] in m in the root's frame, a tip for each workspace.

    J are the joints of the groups but grippers. KinematicsError when a tip hangs on other joints.
    """
    names = [name for group in groups if group.kind != 'gripper' for name in group.names]
    arms, urdf = [], embodiment.description_path
    for box in embodiment.workspaces:
        arm = ArmKinematics(urdf, box.tip)
        if other := [name for name in arm.joint_names if name not in names]:
            raise KinematicsError(
                f'{embodiment.source}: workspace: {box.tip} hangs on {", ".join(other)}, which '
                'the layout does not command; name another tip'
            )
        arms.append((arm, [names.index(name) for name in arm.joint_names]))

    def tips(rows: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(rows)
        return np.stack([arm.tip_position(rows[:, columns]) for arm, columns in arms], axis=1)

    return tips
