"""
Robots that only data know: the six arms of the text-action set have no contract of their own.

They are trained on and never driven: a checkpoint carries no contract of theirs, so no robot can
load it under their name. What they need here are the words of their prompt and the names and units
of their channels.
"""

from pathlib import Path

from qwen_vla_ros.command import NOTHING
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.motions import RATE_HZ
from qwen_vla_ros.data.synthetic.text_action import ABS_JOINT, DELTA_EEF, DELTA_NAMES
from qwen_vla_ros.embodiment import (
    ActionGroup,
    Embodiment,
    Output,
    Prompt,
    StateField,
    StateSource,
)
from qwen_vla_ros.safety_contract import Safety

METRES = ('dx', 'dy', 'dz', 'gripper')


def robot_of(sample: Sample) -> Embodiment:
    """Return the contract that a sample names, or what is known of an arm that has none."""
    if sample.embodiment not in ARMS:
        return Embodiment.load(sample.embodiment)
    delta = sample.action_names == DELTA_NAMES
    layout = DELTA_EEF if delta else ABS_JOINT
    units = tuple('m' if name in METRES else 'rad' for name in sample.action_names)
    group = ActionGroup('arm', layout, sample.action_names, units, Output(NOTHING, '', {}))
    return Embodiment(
        name=sample.embodiment,
        words=Prompt(ARMS[sample.embodiment].tag, 'single'),
        rate_hz=RATE_HZ,
        horizon=len(sample.actions),
        cameras=(),
        state=StateSource('', RATE_HZ, tuple(StateField(n, 'rad') for n in sample.state_names)),
        layouts={layout: (group,)},
        default_layout=layout,
        limits={},
        workspaces=(),
        safety=Safety(),
        description='',
        source=Path(),
        text='',
    )
