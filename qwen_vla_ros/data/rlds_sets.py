"""
Where the well-known RLDS sets keep what a policy needs: keys below steps/, and their rates.

A set is known by the name in its dataset_info.json; a description goes before what stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_POSE = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw')


@dataclass(frozen=True)
class SetFields:
    """Keys of one data set; empty: found in its features.json, or asked for."""

    embodiment: str = ''
    rate_hz: float = 0.0
    views: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_BRIDGE_STATE = {'observation/state': ('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper')}
_LIBERO = SetFields(
    'franka',
    20.0,
    {'ego': 'observation/image', 'wrist': 'observation/wrist_image'},
    {'action': ('dx', 'dy', 'dz', 'rx', 'ry', 'rz', 'gripper')},
)
SETS: Mapping[str, SetFields] = {
    # BridgeData V2 as its authors publish it: actions from step to step, gripper 1 is open
    'bridge_dataset': SetFields(
        'widowx',
        5.0,
        {'ego': 'observation/image_0'},
        {'action': (*_POSE, 'gripper')},
        _BRIDGE_STATE,
    ),
    # the older form of Open X-Embodiment
    'bridge': SetFields(
        'widowx',
        5.0,
        {'ego': 'observation/image'},
        {
            'action/world_vector': _POSE[:3],
            'action/rotation_delta': _POSE[3:],
            'action/open_gripper': ('gripper',),
        },
        _BRIDGE_STATE,
    ),
    # RT-1; gripper 1 is closing
    'fractal20220817_data': SetFields(
        'google_robot',
        3.0,
        {'ego': 'observation/image'},
        {
            'action/world_vector': _POSE[:3],
            'action/rotation_delta': _POSE[3:],
            'action/gripper_closedness_action': ('gripper',),
        },
        {
            'observation/base_pose_tool_reached': ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw'),
            'observation/gripper_closed': ('gripper',),
        },
    ),
    'droid': SetFields(
        'franka',
        15.0,
        {
            'ego': 'observation/exterior_image_1_left',
            'side': 'observation/exterior_image_2_left',
            'wrist': 'observation/wrist_image_left',
        },
        {
            'action_dict/joint_position': tuple(f'panda_joint{i}' for i in range(1, 8)),
            'action_dict/gripper_position': ('gripper',),
        },
        {
            'observation/joint_position': tuple(f'panda_joint{i}' for i in range(1, 8)),
            'observation/gripper_position': ('gripper',),
        },
    ),
    # LIBERO as OpenVLA's authors made it, pictures upright
    **{f'libero_{name}_no_noops': _LIBERO for name in ('spatial', 'object', 'goal', '10')},
}
# Where a sentence is looked for, in this order.
SENTENCES = (
    'language_instruction',
    'observation/natural_language_instruction',
    'natural_language_instruction',
    'observation/language_instruction',
    'observation/instruction',
)
