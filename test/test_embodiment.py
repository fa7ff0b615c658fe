"""The contract: its prompt word for word, and every way in which a robot YAML can be wrong."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from qwen_vla_ros import embodiment
from qwen_vla_ros.embodiment import ContractError, Embodiment, find_contract

TEXT = find_contract('widowx').read_text()
CONTRACT = Embodiment.load('widowx')


def load(folder, *changes):
    """Return the contract read after replacing text in the WidowX's."""
    text = TEXT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / 'robot.yaml'
    path.write_text(text)
    return Embodiment.load(path)


def prompt(*parts):
    return (
        f'The robot is WidowX 250s with {parts[0]}. The control frequency is 5 Hz. Please predict '
        'the next 16 control actions to execute the following task: touch the red block.'
        + ''.join(parts[1:])
    )


def test_chunks_are_blended_unless_the_contract_says_otherwise(tmp_path):
    assert CONTRACT.safety.splice == 'blend'
    other = load(tmp_path, ('blend_s: 0.4 ', 'splice: rtc\n  blend_s: 0.4 '))
    assert other.safety.splice == 'rtc'


def test_the_widowx_is_read():
    assert (CONTRACT.name, CONTRACT.rate_hz, CONTRACT.step_s, CONTRACT.horizon) == (
        'widowx',
        5.0,
        0.2,
        16,
    )
    assert [camera.view for camera in CONTRACT.cameras] == ['ego', 'cam_right_wrist']
    assert CONTRACT.cameras[1].topic == 'camera/wrist/image_raw'
    assert CONTRACT.action_names() == CONTRACT.state_names
    assert CONTRACT.action_names('delta_eef') == (
        *('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw'),
        'left_finger',
    )
    assert CONTRACT.action_groups('delta_eef')[0].joints == CONTRACT.state_names[:6]
    assert CONTRACT.workspaces[0].upper == (0.55, 0.42, 0.50)
    assert CONTRACT.text == TEXT


@pytest.mark.parametrize(
    ('changes', 'body'),
    [
        ([], 'single arm'),
        ([('  arms: single', '  arms: dual')], 'dual arms'),
        ([('waist: false', 'waist: true')], 'single arm, waist'),
        ([('mobile_base: false', 'mobile_base: true')], 'single arm, and mobile base'),
        (
            [
                ('  arms: single', '  arms: dual'),
                ('waist: false', 'waist: true'),
                ('mobile_base: false', 'mobile_base: true'),
            ],
            'dual arms, waist, and mobile base',
        ),
    ],
)
def test_the_prompt_is_the_template_word_for_word(tmp_path, changes, body):
    assert load(tmp_path, *changes).prompt('touch the red block') == prompt(body)


def test_the_optional_sentences_follow_the_template(tmp_path):
    spoken = load(
        tmp_path,
        ('control_convention: false', 'control_convention: true'),
        ('normalization: false', 'normalization: true'),
    )
    assert spoken.prompt('touch the red block') == prompt(
        'single arm',
        ' The control convention is arm abs_joint, gripper gripper.',
        ' Actions are normalized by the 1st and 99th percentile.',
    )
    assert 'is arm delta_eef, gripper gripper.' in spoken.prompt('wait', layout='delta_eef')


@pytest.mark.parametrize('end', ['.', '!', '?'])
def test_an_instruction_that_ends_a_sentence_gets_no_second_full_stop(end):
    said = CONTRACT.prompt(f'touch the red block{end}')
    assert said == prompt('single arm').removesuffix('.') + end
    assert CONTRACT.prompt(f' touch the red block{end} ') == said


def test_the_prompt_takes_another_horizon_and_a_broken_rate(tmp_path):
    assert 'the next 8 control' in CONTRACT.prompt('wait', horizon=8)
    assert 'is 2.5 Hz.' in load(tmp_path, ('rate_hz: 5.0', 'rate_hz: 2.5')).prompt('wait')


SHOULDER = 'shoulder:     {position: [-1.88495, 1.98967]'
BAD = {
    'unknown key': (
        ('encoding: rgb8', 'encodng: rgb8'),
        r"cameras\.ego\.encodng: unknown key; did you mean 'encoding'\?",
    ),
    'unknown key at the top': (('horizon: 16', 'horizn: 16'), "horizn: unknown key; .*'horizon'"),
    'missing key': (('    height: 480\n', ''), r'cameras\.ego\.height: the key is missing'),
    'missing section': (('horizon: 16', ''), 'horizon: the key is missing'),
    'text for a number': (('rate_hz: 20.0', 'rate_hz: fast'), r"ego\.rate_hz: a number .*'fast'"),
    'exponent without a point': (('max_age_s: 0.15', 'max_age_s: 1e-1'), 'write 1.0e-3'),
    'number for a text': (('robot_tag: WidowX 250s', 'robot_tag: 250'), 'robot_tag: text is want'),
    'truth for a number': (('max_skew_s: 0.06', 'max_skew_s: true'), 'max_skew_s: a number is'),
    'text for a truth': (('waist: false', 'waist: never'), 'prompt.waist: true or false is'),
    'broken number of pixels': (('width: 640', 'width: 640.5'), 'width: a whole number above 0'),
    'list for a table': (
        ('fields:\n    waist: rad', 'fields: [waist]\n#'),
        'not valid YAML|table',
    ),
    'unknown unit': (('    waist: rad', '    waist: deg'), r"fields\.waist: 'deg' is not one of"),
    'unit unlike the state': (
        ('names: {left_finger: m}', 'names: {left_finger: rad}'),
        "says 'm'",
    ),
    'units of a displacement': (('{dx: m,', '{dx: rad,'), r'delta_eef\.arm\.names: six names of'),
    'joints not a list': (
        ('joints: [waist, shoulder, elbow, forearm_roll, wrist_angle, wrist_rotate]', 'joints: 3'),
        r'delta_eef\.arm\.joints: a list of names is wanted, got 3',
    ),
    'joint without limits': (
        ('  elbow:        {position', '# {position'),
        "no limits for the joint 'elbow'",
    ),
    'limits of no joint': (
        (SHOULDER, SHOULDER.replace('shoulder:', 'sholder:')),
        "limits.sholder: no such state field; did you mean 'shoulder'",
    ),
    'lower above upper': (
        (SHOULDER, 'shoulder: {position: [2.0, 1.0]'),
        r'limits\.shoulder\.position: lower 2 is not below upper 1',
    ),
    'lower equals upper': ((SHOULDER, 'shoulder: {position: [1.0, 1.0]'), 'lower 1 is not below'),
    'one limit': ((SHOULDER, 'shoulder: {position: [1.0]'), r'\[lower, upper\] is wanted'),
    'NaN': (('upper: [0.55,', 'upper: [.nan,'), r'workspace\.upper: a finite number is wanted'),
    'infinity': ((SHOULDER, 'shoulder: {position: [-.inf, 1.0]'), 'position: a finite number'),
    'box inside out': (('lower: [0.08,', 'lower: [0.80,'), 'workspace: x: lower 0.8 is not below'),
    'box of two': (('lower: [0.08, -0.42, 0.005]', 'lower: [0, 0]'), r'\[x, y, z\] is wanted'),
    'key twice': (('horizon: 16', 'horizon: 16\nhorizon: 8'), "line .*key 'horizon' stands twice"),
    'list for a key': (('horizon: 16', '? [a]\n: 16'), 'cannot be a key'),
    'bad topic': (('topic: joint_states', 'topic: joint states'), r"state\.topic: 'joint states'"),
    'topic twice': (('camera/wrist/image_raw', 'camera/scene/image_raw'), 'topic: .*stands twice'),
    'unknown kind': (('kind: gripper', 'kind: griper'), r"griper' is not one .*mean 'gripper'"),
    'unknown encoding': (('encoding: rgb8', 'encoding: rbg8'), "encoding: 'rbg8' is not one of"),
    'unknown output': (
        ('type: JointTrajectory', 'type: JointTrajektory'),
        r"abs_joint\.arm\.output\.type: .*did you mean 'JointTrajectory'",
    ),
    'unknown layout': (
        ('default_layout: abs_joint', 'default_layout: joint'),
        "'joint' is not on",
    ),
    'rate of zero': (('rate_hz: 5.0', 'rate_hz: 0'), 'rate_hz: must be above 0, got 0'),
    'rate below zero': (('rate_hz: 50.0', 'rate_hz: -1.0'), r'state\.rate_hz: must be above 0'),
    'rate beyond floats': (('rate_hz: 5.0', f'rate_hz: 1{"0" * 400}'), 'rate_hz: a finite number'),
    'horizon beyond reason': (('horizon: 16', 'horizon: 100000'), 'horizon: must be at most 1000'),
    'pixels beyond reason': (('width: 640', 'width: 640000'), r'ego\.width: must be at most 8192'),
    'latency in ms': (
        ('latency_offset_s: 0.0', 'latency_offset_s: 30.0'),
        r'ego\.latency_offset_s: must be at most 1, got 30',
    ),
    'age in ms': (
        ('max_age_s: 0.15', 'max_age_s: 150.0'),
        r'safety\.max_age_s: must be at most 2',
    ),
    'endless model': (
        ('timeout_s: 1.5', 'timeout_s: 900'),
        r'inference_timeout_s: must be at most',
    ),
    'jump in degrees': (
        ('max_jump_rad: 0.35', 'max_jump_rad: 20'),
        'max_jump_rad: must be at most',
    ),
    'splice that does not exist': (
        ('blend_s: 0.4 ', 'splice: blended\n  blend_s: 0.4 '),
        r"safety\.splice: 'blended' is not one of hold-finish, blend, rtc, temporal-ensemble",
    ),
    'gap between commands': (
        ('lookahead_s: 0.3', 'lookahead_s: 0.04'),
        r'safety\.lookahead_s: must exceed the time between two commands \(0\.05 s\)',
    ),
    'info on the topic of images': (
        ('camera/scene/camera_info', 'camera/scene/image_raw'),
        r"ego\.info_topic: 'camera/scene/image_raw' stands twice",
    ),
    'joints on the topic of images': (
        ('topic: joint_states', 'topic: camera/scene/image_raw'),
        r'cameras\.ego\.topic: .*stands twice',
    ),
    'two groups on one topic': (
        ('gripper_controller/joint_trajectory', 'arm_controller/joint_trajectory'),
        r'layouts\.abs_joint\.gripper\.output: .*stands twice',
    ),
    'joint twice': (
        ('joints: [waist, shoulder,', 'joints: [waist, waist,'),
        "'waist' stands twice",
    ),
    'tag of two lines': (('WidowX 250s\n', '"Widow\\nX"\n'), 'robot_tag: .*not a valid name here'),
    'horizon of zero': (('horizon: 16', 'horizon: 0'), 'horizon: a whole number above 0'),
    'no YAML': (('horizon: 16', 'horizon: [16'), r'robot\.yaml: line \d+: not valid YAML'),
}


ONE_STATE = TEXT[TEXT.index('state:\n') : TEXT.index('# What a policy may command')]
SEVERAL = """state:
  sources:
    arm:
      topic: joint_states
      rate_hz: 50.0
      fields:
        waist: rad
        shoulder: rad
        elbow: rad
        forearm_roll: rad
        wrist_angle: rad
        wrist_rotate: rad
        left_finger: m
    other:
      topic: other/joint_states
      rate_hz: 100.0
      prefix: other_
      latency_offset_s: 0.01
      fields: {other_waist: rad}
    base:
      type: Odometry
      topic: odom
      rate_hz: 30.0
      prefix: base_
      fields: {base_x: m, base_yaw: rad, base_angular_z: rad/s}

"""
BAD_STATES = {
    'field without the prefix': ('{other_waist: rad}', '{waist: rad}', r'prefix .other_'),
    'field twice': ('      prefix: other_\n', '', 'stands twice|elbow'),
    'topic twice': ('topic: odom', 'topic: joint_states', "'joint_states' stands twice"),
    'unknown type': ('type: Odometry', 'type: Odometri', "did you mean 'Odometry'"),
    'unknown component': ('base_yaw: rad,', 'base_yow: rad,', "did you mean 'yaw'"),
    'unit of a component': ('base_yaw: rad,', 'base_yaw: m,', "base_yaw: is in rad, got 'm'"),
    'camera on its topic': ('topic: odom', 'topic: camera/scene/image_raw', 'stands twice'),
    'key beside the sources': ('  sources:', '  topic: a\n  sources:', 'state.topic: unknown key'),
}


def test_several_sources_of_state_are_read_in_order(tmp_path):
    found = load(tmp_path, (ONE_STATE, SEVERAL))
    assert [state.name for state in found.states] == ['state.arm', 'state.other', 'state.base']
    assert found.state_names == (
        *CONTRACT.state_names,
        *('other_waist', 'base_x', 'base_yaw', 'base_angular_z'),
    )
    assert found.states[1].latency_offset_s == 0.01
    assert (found.states[2].type, found.states[2].prefix) == ('Odometry', 'base_')


def test_one_source_is_called_state():
    assert [(state.name, state.type) for state in CONTRACT.states] == [('state', 'JointState')]


@pytest.mark.parametrize('kind', BAD_STATES)
def test_wrong_sources_of_state_are_refused(tmp_path, kind):
    old, new, message = BAD_STATES[kind]
    text = SEVERAL.replace(old, new, 1)
    if kind == 'field twice':
        text = text.replace('{other_waist: rad}', '{waist: rad}')
    with pytest.raises(ContractError, match=message):
        load(tmp_path, (ONE_STATE, text))


def test_a_depth_camera_says_its_range(tmp_path):
    depth = 'encoding: 16UC1\n    depth_m: [0.3, 2.0]'
    assert load(tmp_path, ('encoding: rgb8', depth)).cameras[0].depth_m == (0.3, 2.0)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'encoding: 32FC1',
            r'ego\.depth_m: \[near, far\] in m belongs to the encodings 16UC1, 32',
        ),
        ('encoding: rgb8\n    depth_m: [0.3, 2.0]', 'the encoding is rgb8'),
        ('encoding: 16UC1\n    depth_m: [2.0, 0.3]', '0 <= near < far is wanted'),
        ('encoding: 16UC1\n    depth_m: 2.0', r'\[near, far\] is wanted, got 2.0'),
        ('encoding: rgb9', "did you mean 'rgb8'"),
    ],
)
def test_a_wrong_encoding_or_range_is_refused(tmp_path, text, message):
    with pytest.raises(ContractError, match=message):
        load(tmp_path, ('encoding: rgb8', text))


@pytest.mark.parametrize('kind', BAD)
def test_a_wrong_file_is_refused_with_place_and_reason(tmp_path, kind):
    change, message = BAD[kind]
    with pytest.raises(ContractError, match=message) as raised:
        load(tmp_path, change)
    assert 'robot.yaml' in str(raised.value)


ARM = '{type: JointTrajectory, topic: arm_controller/joint_trajectory}'
GRIPPER = '{type: JointTrajectory, topic: gripper_controller/joint_trajectory}'


@pytest.mark.parametrize(
    ('output', 'options'),
    [
        (
            '{type: JointTrajectory, topic: a, mode: chunk, stamped: false}',
            {'mode': 'chunk', 'stamped': False, 'prefix': ''},
        ),
        (
            '{type: FollowJointTrajectory, topic: a/follow_joint_trajectory}',
            {'stamped': True, 'goal_time_tolerance_s': 0.5, 'prefix': ''},
        ),
        (
            '{type: JointGroupCommand, topic: commands/joint_group, group: arm}',
            {'group': 'arm', 'joints': (), 'rate_hz': 50.0},
        ),
        (
            '{type: Float64MultiArray, topic: a/commands, rate_hz: 100.0, joints: [elbow, waist, '
            'shoulder, forearm_roll, wrist_angle, wrist_rotate]}',
            {
                'joints': (
                    *('elbow', 'waist', 'shoulder'),
                    *('forearm_roll', 'wrist_angle', 'wrist_rotate'),
                ),
                'rate_hz': 100.0,
            },
        ),
    ],
)
def test_outputs_are_read_with_their_options(tmp_path, output, options):
    found = load(tmp_path, (ARM, output)).action_groups()[0].output
    assert found.options == options


def test_defaults_of_an_output_that_are_written_out_do_not_change_the_fingerprint(tmp_path):
    written = ARM.replace('}', ', mode: stream, stamped: true}')
    assert load(tmp_path, (ARM, written)).fingerprint() == CONTRACT.fingerprint()


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (
            ARM,
            ARM.replace('}', ', mod: chunk}'),
            r"abs_joint\.arm\.output\.mod: unknown key; did you mean 'mode'",
        ),
        (ARM, ARM.replace('}', ', mode: chunks}'), r"output\.mode: 'chunks' is not one of"),
        (ARM, ARM.replace('}', ', stamped: 1}'), r'output\.stamped: true or false is wanted'),
        (ARM, '{type: JointGroupCommand, topic: a}', r'output\.group: the key is missing'),
        (
            ARM,
            '{type: Float64MultiArray, topic: a, rate_hz: 5000.0}',
            r'output\.rate_hz: must be at most 500',
        ),
        (
            ARM,
            '{type: Float64MultiArray, topic: a, joints: [waist, elbow]}',
            r"output\.joints: waist, elbow are not the group's waist, shoulder",
        ),
        (
            GRIPPER,
            '{type: Path, topic: a}',
            r'output\.type: Path does not take a group of kind gripper; JointTrajectory, Follow',
        ),
        (
            GRIPPER,
            '{type: JointSingleCommand, topic: a, joint: gripper, conversion: degrees}',
            r"output\.conversion: 'degrees' is not one of none, opening, crank",
        ),
    ],
)
def test_an_output_that_does_not_fit_is_refused(tmp_path, old, new, message):
    with pytest.raises(ContractError, match=message):
        load(tmp_path, (old, new))


def test_a_cartesian_group_may_go_to_moveit_servo(tmp_path):
    text = TEXT.replace('rotate]\n      output: ' + ARM, 'rotate]\n      output: {SERVO}')
    text = text.replace('{SERVO}', '{type: ServoTwist, topic: servo/delta_twist_cmds}')
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    output = Embodiment.load(path).action_groups('delta_eef')[0].output
    assert output.type == 'ServoTwist'
    assert output.options == {'rate_hz': 50.0, 'max_linear': 0.25, 'max_angular': 1.0}


BASE = """
  drive:
    base:
      kind: waypoint
      names: {dx: m, dy: m, dtheta: UNIT}
      output: {type: TwistStamped, topic: cmd_vel, relative_to: first}

description:"""


def test_waypoints_are_metres_and_radians(tmp_path):
    robot = load(tmp_path, ('\ndescription:', BASE.replace('UNIT', 'rad')))
    (group,) = robot.action_groups('drive')
    assert group.output.options['relative_to'] == 'first'
    with pytest.raises(ContractError, match=r'drive\.base\.names: three names of units m, m, rad'):
        load(tmp_path, ('\ndescription:', BASE.replace('UNIT', 'm')))


def test_a_contract_of_a_checkpoint_is_told_by_its_whole_path(tmp_path):
    folder = tmp_path / 'checkpoint' / 'embodiments'
    folder.mkdir(parents=True)
    path = folder / 'widowx.yaml'
    for text, problem in ((TEXT.replace('horizon: 16', ''), 'horizon: '), ('[', 'line 1: ')):
        path.write_text(text)
        with pytest.raises(ContractError) as raised:
            Embodiment.load(path)
        assert str(raised.value).startswith(f'{path}: {problem}')
    path.write_text(TEXT)
    with pytest.raises(ContractError) as raised:
        Embodiment.load(path).action_names('joint')
    assert str(raised.value).startswith(f'{path}: layouts.joint: ')


def test_a_contract_of_the_package_is_told_by_its_name():
    with pytest.raises(ContractError) as raised:
        CONTRACT.action_names('joint')
    assert str(raised.value).startswith('widowx.yaml: layouts.joint: ')


def test_a_syntax_error_names_its_line(tmp_path):
    path = tmp_path / 'robot.yaml'
    path.write_text('name: widowx\nrate_hz: 5\n  horizon: 16\n')
    with pytest.raises(ContractError, match='line 3: not valid YAML'):
        Embodiment.load(path)


@pytest.mark.parametrize('text', ['', '- a', 'name: 2024-99-99'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    with pytest.raises(ContractError, match=r'robot\.yaml: '):
        Embodiment.load(path)


def test_a_missing_contract_lists_those_known(tmp_path):
    with pytest.raises(ContractError, match="did you mean 'widowx'.*known: .*widowx"):
        Embodiment.load('widow')
    with pytest.raises(ContractError, match=r"gone\.yaml': no such file.*by name.*widowx"):
        Embodiment.load(tmp_path / 'gone.yaml')


def test_an_unknown_layout_is_refused_with_those_known():
    with pytest.raises(ContractError, match="did you mean 'delta_eef'.*known: .*delta"):
        CONTRACT.action_names('delta_ee')


def test_comments_and_the_order_of_keys_do_not_change_the_fingerprint(tmp_path):
    same = load(tmp_path, ('horizon: 16', '# more\nhorizon:   16'), ('rate_hz: 5.0', 'rate_hz: 5'))
    assert same.fingerprint() == CONTRACT.fingerprint()
    moved = load(tmp_path, ('name: widowx\n', ''), ('horizon: 16', 'horizon: 16\nname: widowx'))
    assert moved.fingerprint() == CONTRACT.fingerprint()


@pytest.mark.parametrize(
    'change',
    [
        ('horizon: 16', 'horizon: 17'),
        ('velocity: 3.14159', 'velocity: 3.1'),
        ('    waist: rad\n    shoulder: rad\n', '    shoulder: rad\n    waist: rad\n'),
    ],
    ids=['value', 'limit', 'order of joints'],
)
def test_values_and_the_order_of_joints_change_the_fingerprint(tmp_path, change):
    assert load(tmp_path, change).fingerprint() != CONTRACT.fingerprint()


def test_limits_lie_inside_those_of_the_description():
    joints = {
        joint.get('name'): joint
        for joint in ElementTree.parse(CONTRACT.description_path).iter('joint')
    }
    for name, limit in CONTRACT.limits.items():
        told = {key: float(value) for key, value in joints[name].find('limit').attrib.items()}
        assert told['lower'] <= limit.lower < limit.upper <= told['upper'], name
        assert limit.velocity <= told['velocity'], name


ELBOW = 'elbow:        {position: [-2.14675, 1.60570], velocity: 3.14159, '


@pytest.mark.parametrize(
    ('limit', 'message'),
    [
        (
            'position: [-2.14675, 1.7], velocity: 3.1',
            r'elbow\.position: upper 1\.7 is wider than the '
            r'1\.60570291 of wx250s\.urdf; a contract may only tighten',
        ),
        ('position: [-2.2, 1.6], velocity: 3.1', r'lower -2\.2 is wider than the -2\.14675498 of'),
        ('velocity: 4.0', r'elbow\.velocity: velocity 4 is wider than the 3\.14159265 of wx250s'),
    ],
)
def test_limits_wider_than_the_description_are_refused_with_both_numbers(tmp_path, limit, message):
    with pytest.raises(ContractError, match=message):
        load(tmp_path, (ELBOW, f'elbow: {{{limit}, '))


def test_limits_that_are_left_out_are_those_of_the_description(tmp_path):
    limit = load(tmp_path, (ELBOW, 'elbow: {')).limits['elbow']
    assert (limit.lower, limit.upper, limit.velocity) == (-2.14675498, 1.605702912, 3.141592654)
    assert (limit.acceleration, limit.jerk) == (8.0, 200.0)


def test_limits_that_nobody_gives_are_missing(tmp_path):
    changes = (ELBOW, 'elbow: {'), ('robots/wx250s.urdf', 'robots/none.urdf')
    with pytest.raises(ContractError, match=r'limits\.elbow\.position: the key is missing'):
        load(tmp_path, *changes)


def test_a_contract_without_the_newer_keys_is_read(tmp_path):
    volume = TEXT[TEXT.index('# The arm') : TEXT.index('safety:\n')]
    found = load(tmp_path, (volume, ''), ('  speed: 0.75', '#'), (', jerk: 200.0}', '}'))
    assert (found.capsules, found.park, found.workspaces[0].speed) == (None, None, None)
    assert found.limits['waist'].jerk is None
    assert found.safety.watchdog_s == 0.2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('radius: 0.048', 'radius: 48.0'), r'parts\.shoulder\.radius: must be at most 10'),
        (('[[column, upper_arm]]', '[[column, uper_arm]]'), "did you mean 'upper_arm'"),
        (('[[column, upper_arm]]', '[[column]]'), 'two names make a pair'),
        (('normal: [0, 0, 1]', 'normal: [0, 0, 0]'), 'a normal of length 0'),
        (
            ('shoulder: -1.7,', 'shoulder: -1.9,'),
            r'park\.positions\.shoulder: must be at least -1.88',
        ),
        (
            ('{shoulder: -0.5,', '{sholder: -0.5,'),
            "via.0.sholder: no limits; did you mean 'should",
        ),
        (('speed: 0.75', 'speed: 0'), r'workspace\.speed: must be above 0'),
        (
            ('kind: gripper', 'kind: gripper\n      on_limit: clip'),
            "on_limit: 'clip' is not one of",
        ),
        (('watchdog_s: 0.2', 'watchdog_s: 200.0'), r'safety\.watchdog_s: must be at most 2'),
    ],
)
def test_wrong_figures_of_safety_are_refused(tmp_path, change, message):
    with pytest.raises(ContractError, match=message):
        load(tmp_path, change)


def test_the_description_is_found_beside_a_contract_or_in_the_package(tmp_path):
    package = Path(embodiment.__file__).parents[1] / 'config' / 'robots' / 'wx250s.urdf'
    assert CONTRACT.description_path == package
    folder = tmp_path / 'embodiments'
    folder.mkdir()
    assert load(folder).description_path == package
    (tmp_path / 'robots').mkdir()
    (tmp_path / 'robots' / 'wx250s.urdf').write_text('<robot/>')
    assert load(folder).description_path == tmp_path / 'robots' / 'wx250s.urdf'
    beside = (folder / 'own.urdf', tmp_path / 'own.urdf')
    for file in beside:
        file.write_text('<robot/>')
    robot = load(folder, ('robots/wx250s.urdf', 'own.urdf'))
    assert robot.description_path == beside[0]


def test_a_missing_description_is_told(tmp_path):
    robot = load(tmp_path, ('robots/wx250s.urdf', 'robots/wx250.urdf'))
    with pytest.raises(ContractError, match=r"description: no file 'robots/wx250\.urdf' in "):
        _ = robot.description_path


@pytest.mark.parametrize(
    'site', ['lib/python3.12/site-packages', 'local/lib/python3.10/dist-packages']
)
def test_an_installed_package_finds_its_share(tmp_path, site):
    source = Path(embodiment.__file__).parent
    target = tmp_path / site / 'qwen_vla_ros'
    target.mkdir(parents=True)
    for file in source.glob('*.py'):
        shutil.copy(file, target)
    share = tmp_path / 'share' / 'qwen_vla_ros' / 'config'
    shutil.copytree(source.parent / 'config', share)
    script = (
        'from qwen_vla_ros.embodiment import Embodiment\n'
        'robot = Embodiment.load("widowx")\n'
        'print(robot.source, robot.description_path)'
    )
    found = subprocess.run(
        [sys.executable, '-c', script],
        check=True,
        cwd=tmp_path / site,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == [
        str(share / 'embodiments' / 'widowx.yaml'),
        str(share / 'robots' / 'wx250s.urdf'),
    ]
