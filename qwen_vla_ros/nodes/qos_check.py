"""
Why a topic is silent, asked of the ROS graph: nobody publishes, another type, QoS at odds.

DDS connects two ends only when the publisher offers at least what the subscriber asks; otherwise
nothing arrives and nothing is said. Every answer names both sides and the remedy.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from qwen_vla_ros.nodes.inputs import type_name

if TYPE_CHECKING:
    from rclpy.node import Node


class Wanted(NamedTuple):
    """What a node reads; optional topics may lack a publisher."""

    source: str
    kind: type
    topic: str
    qos: QoSProfile
    optional: bool = False


class GraphCheck:
    """Compare what a node reads with who publishes."""

    def __init__(self, node: 'Node', wanted: Iterable[Wanted]) -> None:
        """Ask through a node about its inputs."""
        self._node, self.wanted = node, tuple(wanted)

    def problems(self) -> dict[str, str]:
        """Return source -> why nothing can arrive, for those for which the graph has a reason."""
        found = {item.source: self._problem(item) for item in self.wanted}
        return {source: problem for source, problem in found.items() if problem}

    def _problem(self, item: Wanted) -> str:
        publishers = self._node.get_publishers_info_by_topic(item.topic)
        if not publishers:
            return '' if item.optional else self._nobody(item)
        wanted = type_name(item.kind)
        typed = [info for info in publishers if info.topic_type == wanted]
        if not typed:
            other = publishers[0]
            return (
                f'publisher {_name(other)} sends {other.topic_type}, this node reads {wanted}; '
                'name the topic of the right type in the contract, or remap it'
            )
        reasons = [_mismatch(info.qos_profile, item.qos) for info in typed]
        if not all(reasons):
            return ''
        return f'publisher {_name(typed[0])} {reasons[0]}'

    def _nobody(self, item: Wanted) -> str:
        name, wanted = self._node.resolve_topic_name(item.topic), type_name(item.kind)
        others = [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if wanted in types and topic != name and self._node.count_publishers(topic)
        ]
        known = f'; {wanted} is published on {", ".join(others)}' if others else ''
        return f'no publisher on {name}{known}; start the driver, or remap the topic'


def _mismatch(offered: QoSProfile, asked: QoSProfile) -> str:
    """Return both sides and the remedy when they cannot match; '' when they can."""
    verdict, reason = qos_check_compatible(offered, asked)
    if verdict != QoSCompatibility.ERROR:
        return ''
    sides: list[tuple[Any, Any]] = []
    if asked.reliability == ReliabilityPolicy.RELIABLE != offered.reliability:
        sides.append((offered.reliability, asked.reliability))
    if asked.durability == DurabilityPolicy.TRANSIENT_LOCAL != offered.durability:
        sides.append((offered.durability, asked.durability))
    if not sides:
        return f'and this node cannot match: {reason.rstrip("; ")}; change its QoS'
    offers = ', '.join(side.name for side, _ in sides)
    asks = ', '.join(side.name for _, side in sides)
    return f'offers {offers}, this node asks {asks}; let the publisher offer {asks}'


def _name(info: Any) -> str:
    """Return the full name of an endpoint's node."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
