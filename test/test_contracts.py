"""Every contract that is shipped: prompt, channels, transforms, outputs, limits and safety."""

import math

import numpy as np
import pytest

from qwen_vla_ros.command import NOTHING, OUTPUTS, output_of
from qwen_vla_ros.compatibility import contract_checks
from qwen_vla_ros.compatibility.finding import REFUSE, WARN
from qwen_vla_ros.compatibility.training import Pairing
from qwen_vla_ros.contract_keys import DELTA_UNITS
from qwen_vla_ros.embodiment import ContractError, Embodiment, config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.interlocks import Interlocks
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.model.config import ActionDecoderConfig
from qwen_vla_ros.nodes.arm_drive import ArmDrive
from qwen_vla_ros.nodes.layout_parts import split_layout
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.splicing import Splicing
from qwen_vla_ros.transforms import NormaliseActions, PadActions, Pipeline, Quantiles
from qwen_vla_ros.types import ActionChunk

FOLDER = config_folder() / 'embodiments'
ROBOTS = {path.stem: Embodiment.load(path) for path in sorted(FOLDER.glob('*.yaml'))}
LAYOUTS = [(name, layout) for name, robot in ROBOTS.items() for layout in robot.layouts]
# robot -> tag and body of the prompt, rate, horizon, channels a layout
SAID = {
    'agibot_a2d': ('AgiBot A2-D with dual arms, waist, and mobile base', 30, 32, (16,)),
    'agibot_a2d_hands': ('AgiBot A2-D with dual arms, waist, and mobile base', 30, 32, (26,)),
    'aloha': ('ALOHA with dual arms', 50, 50, (14, 14, 14)),
    'arx5': ('ARX5 with dual arms', 30, 32, (14, 14, 14)),
    'franka': ('Franka Panda with single arm', 15, 16, (8, 7, 7)),
    'franka_dual': ('Franka Panda with dual arms', 15, 16, (16, 14, 14)),
    'galaxea_r1': ('Galaxea R1 with dual arms, waist, and mobile base', 15, 16, (14,)),
    'google_robot': ('Google Robot with single arm', 3, 16, (8, 7, 7)),
    'gr1': ('Fourier GR-1 with dual arms, waist', 20, 16, (29, 26, 24)),
    'human_hands': ('Real Human with dual arms', 30, 32, (32,)),
    'mmk2': ('AIRBOT MMK2 with dual arms, waist, and mobile base', 30, 32, (24,)),
    'mobile_aloha': ('Mobile ALOHA with dual arms, and mobile base', 50, 50, (14, 14, 14)),
    'mobile_base': ('LoCoBot with mobile base', 2, 8, (3, 3, 3, 3, 3)),
    'tienkung': ('TienKung with dual arms', 30, 32, (16,)),
    'tienkung_hands': ('TienKung with dual arms', 30, 32, (26,)),
    'trace_2d': ('WidowX 250s with single arm', 5, 16, (2,)),
    'trace_3d': ('WidowX 250s with single arm', 5, 16, (3,)),
    'widowx': ('WidowX 250s with single arm', 5, 16, (7, 7, 7)),
}
# robot -> the sentence on its convention, which tells it from another of the same body
CONVENTIONS = {
    'trace_2d': ' The control convention is in_picture trace.',
    'trace_3d': ' The control convention is in_space trace.',
}
DATA = ('human_hands', 'trace_2d', 'trace_3d')  # without output
DELTA_NAMES = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw')
# Table 2 of the paper: tag -> what stands for it
TABLE_2 = {
    'WidowX 250s': {'single', 'delta_eef', 'gripper'},
    'Google Robot': {'single', 'delta_eef', 'gripper'},
    'Franka Panda': {'single', 'dual', 'delta_eef', 'abs_joint', 'gripper'},
    'ARX5': {'dual', 'delta_eef', 'gripper'},
    'Fourier GR-1': {'dual', 'delta_eef', 'dexterous'},
    'Mobile ALOHA': {'dual', 'delta_eef', 'abs_joint', 'gripper'},
    'AgiBot A2-D': {'dual', 'abs_joint', 'gripper', 'dexterous'},
    'Galaxea R1': {'dual', 'abs_joint', 'gripper'},
    'AIRBOT MMK2': {'dual', 'abs_joint', 'dexterous'},
    'TienKung': {'dual', 'abs_joint', 'gripper', 'dexterous'},
    'Real Human': {'dual', 'delta_eef', 'dexterous'},
}


def test_the_shipped_contracts_are_these():
    assert set(ROBOTS) == set(SAID)


@pytest.mark.parametrize('name', SAID)
def test_each_prompt_is_the_papers_template(name):
    body, rate, horizon, _ = SAID[name]
    wanted = 'waypoints' if name == 'mobile_base' else 'control actions'
    assert ROBOTS[name].prompt('fold the towel') == (
        f'The robot is {body}. The control frequency is {rate} Hz. Please predict the next '
        f'{horizon} {wanted} to execute the following task: fold the towel.'
        + CONVENTIONS.get(name, '')
    )


@pytest.mark.parametrize('name', SAID)
def test_each_layout_has_these_channels_and_fits_the_model(name):
    robot = ROBOTS[name]
    channels = [len(robot.action_names(layout)) for layout in robot.layouts]
    assert tuple(channels) == SAID[name][3]
    published = ActionDecoderConfig()
    assert max(channels) <= published.action_dim
    assert len(robot.state_names) <= published.state_dim


@pytest.mark.parametrize('tag', TABLE_2)
def test_every_row_of_table_2_has_its_contracts(tag):
    found = [robot for robot in ROBOTS.values() if robot.words.robot_tag == tag]
    kinds = {
        group.kind for robot in found for groups in robot.layouts.values() for group in groups
    }
    assert kinds | {robot.words.arms for robot in found} >= TABLE_2[tag]


def test_humans_hands_are_sixteen_channels_each():
    groups = ROBOTS['human_hands'].action_groups()
    assert [(group.name, len(group.names)) for group in groups] == [
        *(('left_wrist', 6), ('left_hand', 10)),
        *(('right_wrist', 6), ('right_hand', 10)),
    ]
    assert {group.rotation for group in groups if group.kind == 'delta_eef'} == {'axis_angle'}


def spans(robot, layout):
    """Return (low, high) [A] within which rows of a layout are drawn."""
    names = robot.action_names(layout)
    limits = [robot.limits.get(name) for name in names]
    low = [-0.05 if limit is None else limit.lower for limit in limits]
    high = [0.05 if limit is None else limit.upper for limit in limits]
    return np.array(low), np.array(high)


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_chunks_take_the_leading_channels_and_come_back(name, layout):
    robot, width = ROBOTS[name], ActionDecoderConfig().action_dim
    names, (low, high) = robot.action_names(layout), spans(robot, layout)
    padded = PadActions(robot.horizon, len(names), 64, width)
    pipeline = Pipeline([NormaliseActions(Quantiles(names, low, high)), padded])
    rows = np.random.default_rng(0).uniform(low, high, (robot.horizon, len(names)))
    sample = pipeline.forward({'actions': rows.astype(np.float32)})
    mask = np.zeros((64, width), bool)
    mask[: robot.horizon, : len(names)] = True
    np.testing.assert_array_equal(sample['action_mask'], mask)
    assert not sample['actions'][~mask].any()
    assert np.abs(sample['actions']).max() <= 1
    for index, channel in enumerate(names):  # each channel where its name stands
        alone = 2 * (rows[:, index] - low[index]) / (high[index] - low[index]) - 1
        found = sample['actions'][: robot.horizon, index]
        np.testing.assert_allclose(found, alone, atol=1e-5, err_msg=channel)
    back = pipeline.inverse(sample)['actions']
    np.testing.assert_allclose(back, rows, atol=1e-5)


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_each_output_is_known_and_its_options_are_filled(name, layout):
    for group in ROBOTS[name].action_groups(layout):
        if group.output.type == NOTHING:
            assert name in DATA
            continue
        kind = OUTPUTS[group.output.type]
        assert kind.filled(group.output.options) == dict(group.output.options)


@pytest.mark.parametrize('name', SAID)
def test_limits_are_finite_and_slow_enough_to_be_stopped(name):
    for joint, limit in ROBOTS[name].limits.items():
        rates = (limit.velocity, limit.acceleration, limit.jerk)
        assert all(math.isfinite(value) and value > 0 for value in rates), joint
        assert math.isfinite(limit.lower) and math.isfinite(limit.upper), joint
        assert limit.velocity <= 3.15 and limit.acceleration <= 10.0, joint
        assert limit.velocity / limit.acceleration <= 1.0, f'{joint} needs over 1 s to stop'


@pytest.mark.parametrize('name', SAID)
def test_what_is_commanded_is_limited_and_measured(name):
    robot = ROBOTS[name]
    for groups in robot.layouts.values():
        for group in groups:
            joints = group.joints or (
                group.names if group.kind not in ('delta_eef', 'waypoint') else ()
            )
            if group.output.type != NOTHING:
                assert set(joints) <= set(robot.limits) <= set(robot.state_names)


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS)
def test_the_gate_lets_a_robot_stand_and_refuses_each_joint_outside(name, layout):
    if name in DATA:
        with pytest.raises(QwenVlaError, match='gives this group of actions no output'):
            split_layout(ROBOTS[name], layout)
        return
    parts = split_layout(ROBOTS[name], layout)
    if not parts.joints:
        return
    names = parts.embodiment.action_names(parts.joints)
    limits = [parts.embodiment.limits[joint] for joint in names]
    middle = np.array([(limit.lower + limit.upper) / 2 for limit in limits])
    rows = np.tile(middle, (4, 1))
    step_s = ROBOTS[name].step_s
    gate = SafetyGate(parts.embodiment, parts.joints)
    assert gate.check_chunk(ActionChunk(rows, names, 0, step_s), 0, middle).ok
    for index, (joint, limit) in enumerate(zip(names, limits, strict=True)):
        outside = rows.copy()
        outside[:, index] = limit.upper + 0.1
        gate = SafetyGate(parts.embodiment, parts.joints)
        verdict = gate.check_chunk(ActionChunk(outside, names, 0, step_s), 0)
        assert (verdict.ok, verdict.joint) == (False, joint)


def test_both_arms_of_a_cartesian_layout_are_executed_by_their_own_joints():
    parts = split_layout(ROBOTS['franka_dual'], 'delta_eef')
    joints = [group.names for group in parts.embodiment.action_groups(parts.joints)]
    assert joints == [group.joints or group.names for group in parts.policy_groups]


def delta(side):
    """Return the group of one of ALOHA's arms as displacements of its tip."""
    units = zip(DELTA_NAMES, DELTA_UNITS, strict=True)
    names = ', '.join(f'{side}_{name}: {unit}' for name, unit in units)
    arm = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
    return f"""    {side}_arm:
      kind: delta_eef
      names: {{{names}}}
      frame: table
      tip: {side}_ee_gripper_link
      joints: [{', '.join(f'{side}_{joint}' for joint in arm)}]
      output: {{type: JointTrajectory, topic: {side}/joint_trajectory}}
    {side}_gripper:
      kind: gripper
      names: {{{side}_left_finger: m}}
      output: {{type: JointTrajectory, topic: {side}_gripper/joint_trajectory}}
"""


def test_each_arm_of_a_cartesian_layout_moves_by_its_own_kinematics(tmp_path):
    from qwen_vla_ros.nodes.arm_models import kinematics_of

    path = tmp_path / 'aloha.yaml'
    layout = 'layouts:\n  delta_eef:\n' + delta('left') + delta('right')
    path.write_text(ROBOTS['aloha'].text.replace('layouts:\n', layout, 1))
    robot = Embodiment.load(path)
    _, to_joints = kinematics_of(robot, 'delta_eef')
    assert set(to_joints) == {'left_arm', 'right_arm'}
    parts = split_layout(robot, 'delta_eef')
    assert parts.joints == 'abs_joint'
    drive = ArmDrive(
        parts.embodiment,
        parts.joints,
        Splicing(),
        0.3,
        0.05,
        Interlocks(None),
        to_joints=to_joints,
        policy_groups=parts.policy_groups,
    )
    posture = [0.0, -0.6, 0.8, 0.0, 0.3, 0.0, 0.03]
    names = robot.action_names('delta_eef')
    rows = np.zeros((3, 14), np.float32)
    rows[:, [6, 13]] = 0.03
    rows[:, names.index('right_dz')] = [0.0, 0.005, 0.01]
    chunk = ActionChunk(rows, names, 0, robot.step_s)
    found = drive.in_joints(chunk, np.array(posture + posture)).actions
    np.testing.assert_allclose(found[:, :7], [posture] * 3, atol=1e-3)
    arm = ArmKinematics(
        robot.description_path, 'right_ee_gripper_link', parts.policy_groups[2].joints
    )
    heights = [arm.tip_position(row[7:13])[2] for row in found]
    np.testing.assert_allclose(np.diff(heights), 0.005, atol=1e-4)


def test_a_cartesian_layout_without_its_joints_is_refused(tmp_path):
    text = ROBOTS['franka'].text.replace('default_layout: abs_joint', 'default_layout: delta_eef')
    start, end = text.index('  abs_joint:\n'), text.index('  delta_eef:\n')
    path = tmp_path / 'franka.yaml'
    path.write_text(text[:start] + text[end:])
    with pytest.raises(QwenVlaError, match='no layout of joints to execute .delta_eef. with'):
        split_layout(Embodiment.load(path), 'delta_eef')


def test_a_group_without_output_says_what_to_do():
    with pytest.raises(QwenVlaError, match='data to train on; add an output'):
        output_of(NOTHING)


@pytest.mark.parametrize(('layout', 'level'), [('abs_joint', WARN), ('delta_eef', REFUSE)])
def test_a_missing_description_stops_only_what_needs_it(layout, level):
    robot = ROBOTS['franka']
    pair = Pairing(describe_policy(robot, layout), robot, layout)
    (problem,) = contract_checks.description(pair)
    assert (problem.level, 'robots/panda.urdf' in problem.found) == (level, True)


def test_a_robot_without_description_says_where_it_belongs():
    with pytest.raises(ContractError, match='human_hands.yaml: description: the contract names'):
        _ = ROBOTS['human_hands'].description_path
    with pytest.raises(ContractError, match=r"no file 'robots/panda\.urdf' in .*put the vendor's"):
        _ = ROBOTS['franka'].description_path


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('rotation: axis_angle', 'rotation: quaternion', "'quaternion' is not one of euler, axis"),
        (
            'rotation: axis_angle',
            'rotation: axis_angle\n      output: {type: ServoTwist, topic: a}',
            "rotation: no output takes 'axis_angle'",
        ),
        ('kind: dexterous', 'kind: dexterous\n      rotation: euler', 'rotation: unknown key'),
        (
            'frame: camera_head_optical_frame\n      rotation',
            'rotation',
            r'frame: the key is miss',
        ),
        (
            "left_pca_1: '1'",
            'left_pca_1: 1',
            'left_pca_1: 1 is not one of rad, m, 1; put it in quotes',
        ),
    ],
)
def test_wrong_groups_of_data_are_refused(tmp_path, old, new, message):
    text = ROBOTS['human_hands'].text
    assert old in text
    path = tmp_path / 'hands.yaml'
    path.write_text(text.replace(old, new, 1) if 'frame:' not in old else text.replace(old, new))
    with pytest.raises(ContractError, match=message):
        Embodiment.load(path)


def test_the_bundled_checkpoint_keeps_its_fingerprint():
    path = config_folder().parent / 'checkpoints' / 'small' / 'embodiments' / 'widowx.yaml'
    assert Embodiment.load(path).fingerprint() == (
        '78602b8df314bb15d215c48ca19254a5c548a9d4e89249b9b094542ae0c7c0c9'
    )
