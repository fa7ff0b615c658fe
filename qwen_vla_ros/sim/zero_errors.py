"""
Joints whose zero is not where they say: a horn a tooth off, an arm that was not calibrated again.

A joint with the error e reads q + e where it stands at q, and stands at q - e when it is sent to
q. Whoever reads and commands it cannot tell; only the pictures show it.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm

MOST = 0.2  # rad, m
NO_ERRORS: Mapping[str, float] = MappingProxyType({})


def parse_zero_errors(text: str) -> dict[str, float]:
    """Return joint -> rad (m) of 'shoulder=0.05,waist=-0.02'; '' has none."""
    found: dict[str, float] = {}
    for part in text.split(',') if text else ():
        name, _, number = part.partition('=')
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise QwenVlaError(
                f'zero errors: {part!r} is not JOINT=NUMBER, as in shoulder=0.05'
            ) from None
    as_joints(found)
    return found


def as_joints(errors: Mapping[str, float]) -> np.ndarray:
    """Return float64 [7] in the order of arm.JOINT_NAMES; QwenVlaError for what cannot be."""
    if unknown := [name for name in errors if name not in arm.JOINT_NAMES]:
        raise QwenVlaError(
            f'zero errors: no joint {unknown[0]!r}; choose of {", ".join(arm.JOINT_NAMES)}'
        )
    joints = np.array([errors.get(name, 0.0) for name in arm.JOINT_NAMES])
    if not (np.abs(joints) <= MOST).all():  # a NaN is refused too
        raise QwenVlaError(f'zero errors: {dict(errors)}: from -{MOST} to {MOST} each')
    return joints
