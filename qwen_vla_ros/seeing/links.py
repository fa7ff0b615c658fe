"""
Where a robot's links are: every frame of its URDF from joints by name, through pinocchio.

kinematics.py knows one arm up to one tip; here a whole robot counts, with two arms or a camera on
a hand. A link that hangs on a joint whose position is not known has no place: nothing is assumed.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.kinematics import KinematicsError, load_pinocchio

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment


class RobotLinks:
    """Forward kinematics of a whole URDF. Not thread-safe."""

    def __init__(self, urdf: str | Path) -> None:
        """Read the description; KinematicsError when pinocchio or the file cannot be used."""
        self._pin = load_pinocchio()
        try:
            self._model = self._pin.buildModelFromUrdf(str(urdf))
        except Exception as error:  # pinocchio raises ValueError and RuntimeError
            raise KinematicsError(f'{urdf}: cannot be read as URDF ({error})') from error
        self._data = self._model.createData()
        model, body = self._model, self._pin.FrameType.BODY
        self._frames = {
            frame.name: i for i, frame in enumerate(model.frames) if frame.type == body
        }
        self.root = next(iter(self._frames))
        tree = ElementTree.parse(urdf).getroot()
        self.radius = _root_radius(tree, self.root)
        self._parents = {
            joint.find('child').get('link'): joint.find('parent').get('link')
            for joint in tree.iter('joint')
            if joint.find('child') is not None and joint.find('parent') is not None
        }
        self._needs = {link: self._supports(model.frames[i]) for link, i in self._frames.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Return all links, the root first."""
        return tuple(self._frames)

    def joints_of(self, link: str) -> tuple[str, ...]:
        """Return the joints between the root and a link; KinematicsError for an unknown link."""
        if link not in self._needs:
            raise KinematicsError(f'no link {link!r} in the description; it has {self.names}')
        return self._needs[link]

    def mount_of(self, link: str) -> str:
        """Return the nearest link towards the root that no joint moves: where an arm stands."""
        while self.joints_of(link):
            link = self._parents[link]
        return link

    def end_of(self, joints: Sequence[str]) -> str | None:
        """
        Return the outermost link that exactly these joints move; None when there is none.

        Outermost: the last one that the description names, as tips come last by custom.
        """
        wanted = set(joints)
        found = [link for link, needs in self._needs.items() if set(needs) == wanted]
        return found[-1] if found else None

    def poses(self, positions: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return link -> pose [4, 4] in the root link, for all whose joints are known."""
        self._place(positions)
        return {
            link: self._data.oMf[index].homogeneous.copy()
            for link, index in self._frames.items()
            if all(name in positions for name in self._needs[link])
        }

    def way(
        self,
        link: str,
        names: Sequence[str],
        rows: np.ndarray,
        others: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """
        Return the places [R, 3] in m of a link in the root link, for rows [R, A] of joints.

        others: joints that the rows do not move, as measured. Raises KinematicsError when a joint
        between root and link is in neither.
        """
        others = others or {}
        lacking = [n for n in self.joints_of(link) if n not in names and n not in others]
        if lacking:
            raise KinematicsError(f'{link}: no position of {", ".join(lacking)}')
        index, places = self._frames[link], np.empty((len(rows), 3))
        for place, row in zip(places, rows, strict=True):
            self._place({**others, **dict(zip(names, row, strict=True))})
            place[:] = self._data.oMf[index].translation
        return places

    def _place(self, positions: Mapping[str, float]) -> None:
        q = self._pin.neutral(self._model)
        for name, joint in zip(self._model.names[1:], list(self._model.joints)[1:], strict=True):
            value = positions.get(name)
            if value is None or not np.isfinite(value):
                continue
            if joint.nq == 1:
                q[joint.idx_q] = value
            elif joint.nv == 1:  # a continuous joint is told by cosine and sine
                q[joint.idx_q : joint.idx_q + 2] = np.cos(value), np.sin(value)
        self._pin.framesForwardKinematics(self._model, self._data, q)

    def _supports(self, frame: Any) -> tuple[str, ...]:
        joint = frame.parentJoint if hasattr(frame, 'parentJoint') else frame.parent
        return tuple(self._model.names[i] for i in list(self._model.supports[joint])[1:])


def _root_radius(tree: ElementTree.Element, root: str) -> float:
    """Return how far the root link's cylinders and boxes reach on the ground, in m; 0: unknown."""
    reach = [0.0]
    for link in tree.iter('link'):
        if link.get('name') != root:
            continue
        reach += [float(shape.get('radius', 0)) for shape in link.iterfind('.//cylinder')]
        for shape in link.iterfind('.//box'):
            x, y, _ = (float(side) for side in shape.get('size', '0 0 0').split())
            reach.append(float(np.hypot(x, y)) / 2.0)
    return max(reach)


def tip_links(embodiment: 'Embodiment', links: RobotLinks) -> dict[str, str]:
    """
    Return arm -> the link whose way is drawn, for every arm of a contract.

    Tips that the contract names (workspace, Cartesian groups) come first; a group of joints
    without one gets the outermost link that its joints move.
    """
    named = dict.fromkeys(_named_tips(embodiment))
    arms: dict[str, str] = {}
    for groups in embodiment.layouts.values():
        for group in groups:
            joints = set(group.joints or group.names)
            if group.kind not in ('abs_joint', 'delta_eef'):
                continue
            own = [tip for tip in named if joints & set(links.joints_of(tip))]
            tip = group.tip or (own[0] if own else links.end_of(group.names))
            if tip and tip not in arms.values():
                arms[group.name] = tip
    return arms


def _named_tips(embodiment: 'Embodiment') -> list[str]:
    groups = [group for groups in embodiment.layouts.values() for group in groups]
    boxed = [box.tip for box in embodiment.workspaces]
    return [*boxed, *(group.tip for group in groups if group.tip)]
