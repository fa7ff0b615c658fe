"""Planted mismatches of checkpoint, contract, URDF and machine are named; a fit passes."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
from ros_lab import ROOT

from qwen_vla_ros.compatibility import clashes
from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN
from qwen_vla_ros.compatibility.passing import TOLD
from qwen_vla_ros.compatibility.registry import (
    CLASHES,
    LIVE,
    STATIC,
    Incompatible,
    clash_findings,
    refuse_incompatible,
    static_findings,
)
from qwen_vla_ros.compatibility.report import as_json, exit_code
from qwen_vla_ros.compatibility.training import Pairing, read_training
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.policy import describe_policy

FOLDER = bundled_checkpoint()


def metadata():
    return copy.deepcopy(read_training(FOLDER, 'widowx'))


def contract(folder, *changes):
    """The WidowX' contract with text replaced."""
    widowx = Embodiment.load('widowx')
    text = widowx.text.replace(
        f'description: {widowx.description}', f'description: {widowx.description_path}'
    )
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / 'planted.yaml'
    path.write_text(text)
    return Embodiment.load(path)


def told(robot=None, facts=None):
    """(subject, level) -> what was found, of all that does not pass."""
    embodiment = robot or Embodiment.load('widowx')
    pair = Pairing(facts or metadata(), embodiment, embodiment.default_layout)
    found = [f for f in static_findings(pair) if f.level != PASS]
    assert all(f.remedy for f in found)
    return {(f.subject, f.level): f.found for f in found}


def scaled(factor, unit, key='statistics'):
    """Facts whose statistics are in another unit."""
    facts = metadata()
    units = Pairing(facts, Embodiment.load('widowx'), 'abs_joint').units
    for table in facts['trained'][key].values():
        for name, (low, high) in table.items():
            if units[name] == unit:
                table[name] = [low * factor, high * factor]
    return facts


def test_the_bundled_checkpoint_fits_its_robot_without_a_warning():
    assert told() == {}


def test_degrees_are_named():
    found = told(facts=scaled(57.29578, 'rad'))
    text = found['statistics units', REFUSE]
    assert 'wrist_angle [46.8, 97.19]' in text and 'only as degrees' in text
    assert 'forearm_roll' not in text  # 1 degree fits either way


def test_millimetres_are_named():
    found = told(facts=scaled(1000.0, 'm'))
    assert (
        'left_finger [16.47, 32.6] fit their limits only as millimetres'
        in found['statistics units', REFUSE]
    )


def test_swapped_statistics_of_actions_are_named():
    facts = metadata()
    table = facts['trained']['statistics']['actions']
    table['shoulder'], table['wrist_angle'] = table['wrist_angle'], table['shoulder']
    text = told(facts=facts)['actions and state', REFUSE]
    assert text.endswith('exchanged with shoulder both agree: the two names are swapped')


def test_a_range_that_only_another_joint_can_hold_is_a_swap():
    facts = metadata()
    for table in facts['trained']['statistics'].values():
        table['waist'], table['shoulder'] = [-1.0, 1.9], [-3.0, 3.0]
    text = told(facts=facts)['statistics and limits', REFUSE]
    assert text.startswith('state shoulder: [-3, 3], the limits are [-1.885, 1.99] rad')
    assert 'it fits waist, and that fits shoulder: the two names are swapped' in text


def test_a_flipped_sign_is_named():
    facts = metadata()
    low, high = facts['trained']['statistics']['actions']['wrist_angle']
    facts['trained']['statistics']['actions']['wrist_angle'] = [-high, -low]
    text = told(facts=facts)['actions and state', REFUSE]
    assert text.startswith('wrist_angle: sent to') and text.endswith('the joint is flipped')


def test_statistics_of_another_robot_leave_the_limits():
    facts = metadata()
    for table in facts['trained']['statistics'].values():
        table['left_finger'] = [0.021, 0.057]
    text = told(facts=facts)['statistics and limits', REFUSE]
    assert text.startswith('state left_finger: [0.021, 0.057], the limits are [0.015, 0.037] m')


def test_a_number_that_is_not_finite_is_refused():
    facts = metadata()
    facts['trained']['statistics']['actions']['waist'] = [float('nan'), 1.0]
    assert told(facts=facts)['statistics', REFUSE] == 'actions waist: q01 nan, q99 1'


def test_a_joint_that_never_moved_is_a_warning():
    facts = metadata()
    facts['trained']['statistics']['actions']['waist'] = [0.1, 0.1]
    assert 'never moved in training' in told(facts=facts)['statistics', WARN]


def test_a_missing_channel_is_refused():
    facts = metadata()
    del facts['trained']['statistics']['actions']['elbow']
    assert told(facts=facts)['statistics', REFUSE] == 'actions: no statistics of elbow'


def test_swapped_joint_names_are_another_order(tmp_path):
    robot = contract(
        tmp_path,
        ('{waist: rad, shoulder: rad, elbow', '{shoulder: rad, waist: rad, elbow'),
    )
    text = told(robot)['joint names', REFUSE]
    assert 'actions: another order' in text and 'shoulder where waist was trained' in text


def test_a_missing_wrist_camera_is_named():
    facts = metadata()
    facts['views'] = ['ego']
    assert 'knows no cam_right_wrist of the robot' in told(facts=facts)['camera views', REFUSE]
    facts['views'] = ['ego', 'cam_right_wrist', 'cam_left_wrist']
    assert 'the robot lacks cam_left_wrist' in told(facts=facts)['camera views', REFUSE]


def test_a_wrong_rate_is_named(tmp_path):
    robot = contract(tmp_path, ('rate_hz: 5.0  ', 'rate_hz: 10.0  '))
    text = told(robot)['rate', REFUSE]
    assert text == 'steps a second (rate_hz): the policy has 5.0, the robot 10.0'


def test_another_prompt_is_named_with_both(tmp_path):
    robot = contract(tmp_path, ('robot_tag: WidowX 250s', 'robot_tag: ViperX 300s'))
    text = told(robot)['prompt', REFUSE]
    assert 'WidowX 250s' in text and 'ViperX 300s' in text


def test_swapped_cameras_of_two_sizes_are_named():
    facts = metadata()
    facts['trained']['cameras']['ego'].update(width=320, height=240)
    robot = Embodiment.load('widowx')
    assert 'the same shape, other pixels' in told(robot, facts)['camera sizes', WARN]
    facts['trained']['cameras']['ego'].update(width=640, height=360)
    assert 'another shape of picture' in told(robot, facts)['camera sizes', REFUSE]


def test_exchanged_sizes_are_swapped_cameras(tmp_path):
    facts = metadata()
    facts['trained']['cameras']['ego'].update(width=320, height=240)
    widowx = Embodiment.load('widowx')
    wrist = widowx.text.split('cam_right_wrist:')[1].split('state:')[0]
    small = wrist.replace('width: 640', 'width: 320').replace('height: 480', 'height: 240')
    robot = contract(tmp_path, (wrist, small))
    found = told(robot, facts)['camera sizes', REFUSE]
    assert 'that of ego; the cameras are swapped' in found


def test_a_wrong_urdf_is_named(tmp_path):
    widowx = Embodiment.load('widowx')
    other = tmp_path / 'other.urdf'
    other.write_text(widowx.description_path.read_text().replace('"left_finger"', '"finger"'))
    robot = contract(tmp_path, (str(widowx.description_path), str(other)))
    assert told(robot)['description', REFUSE] == "other.urdf has no joint 'left_finger'"


def test_a_missing_urdf_is_refused_where_joints_move_and_warned_where_none_do(tmp_path):
    widowx = Embodiment.load('widowx')
    arm = contract(tmp_path, (str(widowx.description_path), 'robots/none.urdf'))
    assert "no file 'robots/none.urdf'" in told(arm)['description', REFUSE]
    base = Embodiment.load('mobile_base')
    base = replace(base, description='robots/none.urdf')
    pair = Pairing(describe_policy(base), base, base.default_layout)
    assert [(f.subject, f.level) for f in static_findings(pair) if f.level != PASS] == [
        ('description', WARN)
    ]


def test_a_joint_of_another_kind_is_named(tmp_path):
    widowx = Embodiment.load('widowx')
    other = tmp_path / 'other.urdf'
    text = widowx.description_path.read_text()
    old = '<joint name="waist" type="revolute">'
    assert old in text
    other.write_text(text.replace(old, '<joint name="waist" type="prismatic">'))
    robot = contract(tmp_path, (str(widowx.description_path), str(other)))
    assert 'waist is prismatic, the contract says rad' in told(robot)['description', REFUSE]


def test_refusals_become_one_error_that_names_all():
    facts = scaled(57.29578, 'rad')
    facts['trained']['prompt'] = 'go'
    with pytest.raises(Incompatible, match=r'prompt: trained with.*\| statistics units: '):
        refuse_incompatible(facts, Embodiment.load('widowx'), 'abs_joint')


def test_a_policy_that_tells_nothing_of_its_training_is_not_judged_by_it():
    facts = metadata()
    del facts['trained']
    assert refuse_incompatible(facts, Embodiment.load('widowx'), 'abs_joint') == []


def test_the_facts_of_a_loaded_checkpoint_are_those_of_its_folder():
    from qwen_vla_ros.model.checkpoint import load_checkpoint

    loaded = load_checkpoint(FOLDER, 'cpu').robot('widowx').metadata
    assert loaded['trained'] == metadata()['trained']


def test_a_broken_statistics_file_is_one_error(tmp_path):
    shutil.copytree(FOLDER / 'embodiments', tmp_path / 'embodiments')
    with pytest.raises(QwenVlaError, match=r'statistics.json: cannot be read'):
        read_training(tmp_path, 'widowx')
    (tmp_path / 'statistics.json').write_text('{"widowx": {"abs_joint": {"actions": {"a": [1]}}}}')
    with pytest.raises(QwenVlaError, match='not the statistics of one layout'):
        read_training(tmp_path, 'widowx')


@pytest.mark.parametrize(
    ('machine', 'subject', 'level'),
    [
        (
            clashes.Machine('jazzy', versions={'numpy': '2.4.6'}, system_ros=True),
            'numpy and ROS',
            REFUSE,
        ),
        (
            clashes.Machine('humble', versions={'numpy': '2.1.0'}, cv_bridge=True),
            'numpy and ROS',
            WARN,
        ),
        (clashes.Machine(versions={'opencv-python': '5.0.0'}), 'OpenCV', WARN),
        (clashes.Machine('foxy'), 'ROS distribution', WARN),
        (
            clashes.Machine(versions={'ros-rclpy': '9.1.2', 'ros-std-msgs': '5.3.5'}),
            'ROS distribution',
            REFUSE,
        ),
        (clashes.Machine(middleware='rmw_opensplice_cpp'), 'RMW', REFUSE),
        (clashes.Machine(middleware='rmw_cyclonedds_cpp', rmw_library=False), 'RMW', REFUSE),
        (clashes.Machine(middleware='rmw_cyclonedds_cpp', receive_buffer=212992), 'RMW', WARN),
        (clashes.Machine(middleware='rmw_zenoh_cpp'), 'RMW', WARN),
        (
            clashes.Machine(versions={'torch': '2.13'}, driver='535.54', cuda='13.0'),
            'CUDA',
            REFUSE,
        ),
        (clashes.Machine(versions={'torch': '2.13'}, driver='580.10'), 'CUDA', WARN),
        (clashes.Machine(versions={'transformers': '4.57.1'}), 'packages', REFUSE),
        (clashes.Machine(disk_free=2**30), 'disk', WARN),
    ],
)
def test_a_known_clash_is_named(machine, subject, level):
    found = [f for f in clash_findings(machine) if f.level != PASS]
    assert [(f.subject, f.level) for f in found] == [(subject, level)]
    assert found[0].remedy


def test_what_passes_tells_values():
    robot = Embodiment.load('widowx')
    pair = Pairing(metadata(), robot, robot.default_layout)
    found = {f.subject: f.found for f in static_findings(pair)}
    assert found['rate'] == '5 steps a second, 16 a chunk'
    assert found['camera sizes'] == 'ego 640x480 rgb8, cam_right_wrist 640x480 rgb8'
    assert found['statistics'] == 'q01 and q99 of 7 actions and 7 measured'
    assert found['statistics units'] == 'they fit the limits as rad and m'
    machine = clashes.Machine('kilted', versions={'numpy': '2.3.5'}, system_ros=True)
    found = {f.subject: f.found for f in clash_findings(machine)}
    assert found['numpy and ROS'] == 'numpy 2.3.5, ROS kilted, no cv_bridge'
    assert found['disk'] == '1024 GB free here'


def test_every_check_can_tell_what_it_found():
    assert set(TOLD) == {check.subject for check in (*STATIC, *LIVE, *CLASHES)}


def test_what_the_bundle_pins_does_not_clash():
    machine = clashes.Machine(
        'kilted',
        'rmw_fastrtps_cpp',
        {'numpy': '2.4.6', 'opencv-python-headless': '4.14.0', 'transformers': '5.23.0'},
        cv_bridge=True,
    )
    assert {f.level for f in clash_findings(machine)} == {PASS}


def test_levels_decide_the_exit_code():
    passed = clash_findings(clashes.Machine())
    warned = clash_findings(clashes.Machine('foxy'))
    refused = clash_findings(clashes.Machine(middleware='x'))
    assert [exit_code(findings) for findings in (passed, warned, refused)] == [0, 0, 2]
    report = json.loads(as_json(refused))
    assert report['exit_code'] == 2
    assert [row['level'] for row in report['findings'] if row['check'] == 'RMW'] == [REFUSE]


def test_the_documented_checks_are_those_that_run():
    lines = (ROOT / 'docs' / 'doctor.md').read_text().splitlines()
    rows = [line for line in lines if line.startswith('| `')]
    wanted = [
        f'| `{check.subject}` | {check.compares} | {", ".join(check.levels)} | {check.remedy} |'
        for check in (*STATIC, *LIVE, *CLASHES)
    ]
    assert rows == wanted
