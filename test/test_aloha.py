"""The contract of ALOHA: two ViperX 300s, 14 joints, three cameras, each joint under one name."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import ContractError, Embodiment
from qwen_vla_ros.kinematics import ArmKinematics, load_pinocchio
from qwen_vla_ros.output_kinds import JointRows
from qwen_vla_ros.safety import capsule_model
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.scene import TASKS, TRANSFER, sample_scene
from qwen_vla_ros.sim.aloha.tasks import Place, insertion_rows, transfer_rows
from qwen_vla_ros.state_reading import state_reader

ALOHA = Embodiment.load('aloha')
ROBOTS = Path(ALOHA.description_path).parent
JOINTS = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
FOURTEEN = tuple(
    f'{side}_{name}' for side in ('left', 'right') for name in (*JOINTS, 'left_finger')
)


def test_fourteen_absolute_joints_at_50_hz_from_three_cameras():
    assert (ALOHA.rate_hz, ALOHA.horizon) == (50.0, 50)
    assert [camera.view for camera in ALOHA.cameras] == [
        'ego',
        'cam_left_wrist',
        'cam_right_wrist',
    ]
    assert ALOHA.state_names == FOURTEEN
    for layout in ALOHA.layouts:
        assert ALOHA.action_names(layout) == FOURTEEN
    assert ALOHA.prompt('hand over the red cube') == (
        'The robot is ALOHA with dual arms. The control frequency is 50 Hz. Please predict the '
        'next 50 control actions to execute the following task: hand over the red cube.'
    )


def test_each_arms_driver_names_its_joints_without_the_prefix():
    message = type('JointState', (), {})()
    message.name = [*JOINTS, 'gripper', 'left_finger', 'right_finger']
    message.position = [0.0, -0.9, 1.1, 0.0, -0.3, 0.0, 0.5, 0.03, -0.03]
    for source in (ALOHA.state, *ALOHA.further_states):
        assert state_reader(source)(message) == (0.0, -0.9, 1.1, 0.0, -0.3, 0.0, 0.03)


def test_trajectories_go_to_each_arms_controllers_under_their_own_names():
    pytest.importorskip('trajectory_msgs.msg')
    sent = {}
    for group in ALOHA.action_groups():
        rows = JointRows(group.names, np.array([0.1]), np.zeros((1, len(group.names))), None, 0)
        (timed,) = output_of(group.output.type).plan(rows, group.output.options).timed
        sent[group.output.topic] = tuple(timed.message.joint_names)
    assert sent == {
        'follower_left/arm_controller/joint_trajectory': JOINTS,
        'follower_left/gripper_controller/joint_trajectory': ('left_finger',),
        'follower_right/arm_controller/joint_trajectory': JOINTS,
        'follower_right/gripper_controller/joint_trajectory': ('left_finger',),
    }


def test_a_prefix_that_the_joints_lack_is_refused(tmp_path):
    path = tmp_path / 'aloha.yaml'
    path.write_text(
        ALOHA.text.replace('joint_trajectory, prefix: left_}', 'joint_trajectory, prefix: l_}')
    )
    with pytest.raises(
        ContractError, match=r"output\.prefix: 'left_waist' does not begin with 'l_'"
    ):
        Embodiment.load(path)


def joints_of(file):
    """{joint: everything the description says of it and of its child} without names of links."""
    root = ElementTree.parse(ROBOTS / file).getroot()
    links = {link.get('name'): link for link in root.iter('link')}
    found = {}
    for joint in root.findall('joint'):
        parts = (joint.find('origin'), joint.find('axis'), joint.find('limit'))
        told = [None if part is None else dict(part.attrib) for part in parts]
        child = links[joint.find('child').get('link')]
        told.append([dict(element.attrib) for element in child.iter() if element is not child])
        found[joint.get('name')] = told
    return found


def test_both_arms_are_the_same_robot_as_the_single_one():
    one, two = joints_of('vx300s.urdf'), joints_of('aloha.urdf')
    for side in ('left_', 'right_'):
        arm = {
            name.removeprefix(side): told for name, told in two.items() if name.startswith(side)
        }
        arm.pop('mount')
        # right_right_finger and left_finger of both arms begin with a side as well
        assert {name: arm[name] for name in one} == one


def test_straight_arms_meet_in_the_middle_of_the_table():
    load_pinocchio()
    # horizontal forearm and hand: 0.05955 + 0.3 + 0.069744 + 0.1072 m before the base
    reach = 0.05955 + 0.3 + 0.069744 + 0.042825 + 0.025875 + 0.0385
    height = 0.079 + 0.04805 + 0.3
    for side, sign in (('left', 1.0), ('right', -1.0)):
        names = [f'{side}_{name}' for name in JOINTS]
        arm = ArmKinematics(ALOHA.description_path, f'{side}_ee_gripper_link', names)
        position, rotation = arm.forward(np.zeros(6))
        np.testing.assert_allclose(position, [sign * (reach - 0.469), 0, height], atol=1e-6)
        np.testing.assert_allclose(rotation[:, 0], [sign, 0, 0], atol=1e-6)


def without_fingers(row):
    return np.delete(np.asarray(row, np.float64), [6, 13])[None]


def test_arms_that_would_meet_are_refused_by_name_and_the_park_posture_is_not():
    model = capsule_model(ALOHA)
    parked = [ALOHA.park.positions[name] for name in FOURTEEN if not name.endswith('finger')]
    assert model.problem(np.array([parked]), 0.002) is None
    straight = without_fingers([0.0, 0.9, -0.9, 0.0, 0.0, 0.0, 0.03] * 2)
    verdict = model.problem(straight, 0.002)
    assert verdict is not None and 'left_' in verdict.reason and 'right_' in verdict.reason
    down = without_fingers(
        [0.0, 1.2, 0.0, 0.0, 0.0, 0.0, 0.03] + [0.0, -1.5, 1.2, 0, 0.6, 0, 0.03]
    )
    assert (
        'left_' in model.problem(down, 0.002).reason and 'table' in model.problem(down, 0).reason
    )


def test_capsules_of_both_arms_stand_where_their_links_are():
    model = capsule_model(ALOHA)
    q = np.array([0.3, -0.5, 0.7, 0.2, 0.6, -0.1, 0.03, -0.2, -0.6, 0.9, 0.1, 0.4, 0.5, 0.03])
    placed = model.placed(without_fingers(q))[0]
    tips = vx300s.tips(q)
    for side, tip in zip(vx300s.SIDES, tips, strict=True):
        index = model.names.index(f'{side}_fingers')
        middle = placed[index] + placed[len(model.names) + index] / 2
        assert np.linalg.norm(middle - tip) == pytest.approx(0.0167, abs=1e-4)


def test_handing_over_and_inserting_keep_the_arms_apart():
    model, columns = capsule_model(ALOHA), np.arange(14) % 7 != 6
    for seed in range(4):
        for task in TASKS:
            scene = sample_scene(seed, task)
            q = np.array(scene.posture)
            places = [Place(*item.position[:2], item.yaw) for item in scene.objects]
            if task == TRANSFER:
                rows = transfer_rows(q, places[0], scene.giver, 0.02)
            else:
                rows = insertion_rows(q, places[0], places[1], 0.02)
            assert model.problem(rows[:, columns], 0.0) is None, (seed, task)
