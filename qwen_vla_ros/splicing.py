"""Which splice mode runs with which figures: contract, node parameter and policy joined."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.splice import BLEND, MODES, RTC

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.policy import Policy

PREFIX_RAD, PREFIX_M = 0.01, 0.001
GUIDED = 10.0  # times that: a guided policy is pulled towards the prefix, it does not keep it


@dataclass(frozen=True)
class Splicing:
    """
    How chunks are spliced.

    mode              one of splice.MODES
    max_prefix        rows that the policy takes as a prefix (its metadata); needed by 'rtc'
    prefix_tolerance  how far the chunk's first rows may lie off the prefix, rad or m; a number
                      or [A]
    replan_s          s between two observations, at least
    margin_s          s of a chunk that must be left when the next one comes
    """

    mode: str = BLEND
    max_prefix: int = 0
    prefix_tolerance: float | np.ndarray = 0.01
    replan_s: float = 0.0
    margin_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse modes that do not exist and those that the policy cannot serve."""
        if self.mode not in MODES:
            raise QwenVlaError(
                f'chunk executor: splice mode {self.mode!r} is unknown; choose one of '
                f'{", ".join(MODES)}'
            )
        if self.mode == RTC and self.max_prefix < 1:
            raise QwenVlaError(
                "chunk executor: splice mode 'rtc' needs a policy that continues a prefix, and "
                "this one's metadata has no max_prefix; choose 'blend', or a checkpoint trained "
                'with flow.prefix_rate > 0'
            )


def splicing_of(
    embodiment: 'Embodiment', policy: 'Policy', layout: str, mode: str, replan_s: float
) -> Splicing:
    """
    Return how the chunks of a policy are spliced on a robot.

    mode '' takes the contract's safety.splice. Raises QwenVlaError for a mode that does not exist,
    and for 'rtc' with a policy or a layout that cannot have it.
    """
    mode, margin_s = mode or embodiment.safety.splice, embodiment.safety.lookahead_s
    if mode != RTC:
        return Splicing(mode, replan_s=replan_s, margin_s=margin_s)
    groups = embodiment.action_groups(layout)
    moved = [group.name for group in groups if group.kind not in ('abs_joint', 'gripper')]
    if moved:
        raise QwenVlaError(
            f"splice mode 'rtc' needs a layout of absolute joints; {layout} has {moved}: choose "
            "another layout, or 'blend'"
        )
    metadata = policy.metadata
    share = 1.0 if metadata.get('prefix') == 'trained' else GUIDED
    units = [unit for group in groups for unit in group.units]
    return Splicing(
        mode,
        int(metadata.get('max_prefix') or 0),
        share * np.array([PREFIX_M if unit == 'm' else PREFIX_RAD for unit in units]),
        replan_s,
        margin_s,
    )
