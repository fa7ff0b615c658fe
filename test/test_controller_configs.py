"""config/controllers/: joints are our descriptions', rates and profiles what the policy needs."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from qwen_vla_ros.sim.interbotix_config import read_modes, read_motor_config
from qwen_vla_ros.sim.motor_profile import ProfileRegisters

CONFIG = Path(__file__).parents[1] / 'config'
CONTROLLERS = CONFIG / 'controllers'
ROBOTS = sorted(path.name.split('_')[0] for path in CONTROLLERS.glob('*_motors.yaml'))
TICK = 2 * 3.14159265 / 4096


def described(robot):
    """{joint: (lower, upper) or None} of the robot's own description."""
    root = ElementTree.parse(CONFIG / 'robots' / f'{robot}.urdf').getroot()
    found = {}
    for joint in root.iter('joint'):
        limit = joint.find('limit')
        if joint.get('type') != 'fixed' and joint.get('name'):
            span = None if limit is None else (limit.get('lower'), limit.get('upper'))
            found[joint.get('name')] = span
    return found


def parameters(robot):
    data = yaml.safe_load((CONTROLLERS / f'{robot}_ros2_control.yaml').read_text())
    return {name: entry['ros__parameters'] for name, entry in data['/**'].items()}


def test_both_arms_have_their_files():
    assert ROBOTS == ['vx300s', 'wx250s']


@pytest.mark.parametrize('robot', ROBOTS)
def test_motors_are_the_descriptions_joints_with_its_limits(robot):
    config, known = read_motor_config(CONTROLLERS / f'{robot}_motors.yaml'), described(robot)
    assert set(config.groups['arm']) < set(known)
    for name in config.groups['arm']:
        lower, upper = (float(value) for value in known[name])
        motor = config.motors[name]
        assert motor.lower == pytest.approx(lower, abs=1.5 * TICK)
        assert motor.upper == pytest.approx(upper, abs=1.5 * TICK)
    assert config.rate_hz >= 50
    gripper = config.grippers['gripper']
    assert gripper.left in known
    lower, upper = (float(value) for value in known[gripper.left])
    for finger in (lower, upper):  # the crank reaches the fingers' whole way
        assert gripper.finger(gripper.angle(2 * finger)) == pytest.approx(finger, abs=1e-9)


@pytest.mark.parametrize('robot', ROBOTS)
def test_no_motor_filters_what_it_is_told(robot):
    config = read_motor_config(CONTROLLERS / f'{robot}_motors.yaml')
    modes = read_modes(CONTROLLERS / f'{robot}_modes.yaml', config)
    assert modes['groups']['arm'].mode == 'position'
    assert modes['singles']['gripper'].mode == 'linear_position'
    for mode in (modes['groups']['arm'], modes['singles']['gripper']):
        assert mode.profile == ProfileRegisters('velocity', 0, 0) and mode.torque


@pytest.mark.parametrize('robot', ROBOTS)
def test_ros2_control_has_the_joints_and_runs_at_100_hz(robot):
    known, found = described(robot), parameters(robot)
    assert found['controller_manager']['update_rate'] == 100
    arm = read_motor_config(CONTROLLERS / f'{robot}_motors.yaml').groups['arm']
    for name in ('arm_controller', 'arm_position_controller'):
        assert tuple(found[name]['joints']) == arm
    for name in ('gripper_controller', 'gripper_position_controller'):
        assert found[name]['joints'] == ['left_finger']
    assert set(found['joint_state_broadcaster']['joints']) <= {*known, 'gripper'}
    for name in ('arm_controller', 'gripper_controller'):
        options = found[name]
        assert options['interpolate_from_desired_state'] and options['open_loop_control']
        assert not options['allow_nonzero_velocity_at_trajectory_end']
    managed = set(found['controller_manager']) - {'update_rate'}
    assert managed == set(found) - {'controller_manager'}


@pytest.mark.parametrize('path', sorted(CONTROLLERS.glob('*.yaml')), ids=lambda path: path.name)
def test_no_anchors_which_the_parser_of_rcl_does_not_know(path):
    tokens = list(yaml.scan(path.read_text()))
    assert not [t for t in tokens if isinstance(t, yaml.AliasToken | yaml.AnchorToken)]
