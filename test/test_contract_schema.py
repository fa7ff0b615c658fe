"""The schema for editors: shipped contracts fit it; it refuses what the reader refuses."""

import copy
import json

import jsonschema
import pytest
import yaml

from qwen_vla_ros import cli
from qwen_vla_ros.contract_keys import SECTIONS, Required
from qwen_vla_ros.contract_schema import FILE, contract_schema, keys_as_markdown, schema_text
from qwen_vla_ros.embodiment import ContractError, Embodiment, config_folder
from qwen_vla_ros.strict_values import StrictLoader

FOLDER = config_folder() / 'embodiments'
CONTRACTS = sorted(FOLDER.glob('*.yaml'))
SCHEMA = contract_schema()
JUDGE = jsonschema.Draft202012Validator(SCHEMA)


def data_of(name):
    return yaml.load((FOLDER / f'{name}.yaml').read_text(), StrictLoader)


def test_the_schema_is_one_and_is_the_file_that_editors_read():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert (config_folder() / FILE).read_text() == schema_text(), 'run: qwen-vla schema --write'


@pytest.mark.parametrize('path', CONTRACTS, ids=lambda path: path.stem)
def test_each_shipped_contract_fits_and_names_the_schema(path):
    assert [error.message for error in JUDGE.iter_errors(data_of(path.stem))] == []
    line = path.read_text().partition('\n')[0]
    assert line == '# yaml-language-server: $schema=embodiment.schema.json'


# robot, path of keys, new value (None: the key is taken away), how the reader calls the place
WRONG = {
    'unknown key': ('widowx', 'horizn', 16, 'horizn'),
    'missing key': ('widowx', 'cameras.ego.height', None, 'cameras.ego.height'),
    'missing section': ('widowx', 'safety', None, 'safety'),
    'text for a number': ('widowx', 'rate_hz', 'fast', 'rate_hz'),
    'number for a text': ('widowx', 'prompt.robot_tag', 250, 'prompt.robot_tag'),
    'tag of two lines': ('widowx', 'prompt.robot_tag', 'a\nb', 'prompt.robot_tag'),
    'truth for a number': ('widowx', 'safety.max_skew_s', True, 'safety.max_skew_s'),
    'text for a truth': ('widowx', 'prompt.waist', 'never', 'prompt.waist'),
    'three arms': ('widowx', 'prompt.arms', 'triple', 'prompt.arms'),
    'broken pixels': ('widowx', 'cameras.ego.width', 640.5, 'cameras.ego.width'),
    'pixels beyond reason': ('widowx', 'cameras.ego.width', 640000, 'cameras.ego.width'),
    'unknown encoding': ('widowx', 'cameras.ego.encoding', 'rbg8', 'cameras.ego.encoding'),
    'depth without range': ('widowx', 'cameras.ego.encoding', '16UC1', 'cameras.ego.depth_m'),
    'range without depth': ('widowx', 'cameras.ego.depth_m', [0.3, 2.0], 'cameras.ego.depth_m'),
    'latency in ms': ('widowx', 'cameras.ego.latency_offset_s', 30.0, 'latency_offset_s'),
    'bad view': ('widowx', 'cameras.Front View', {}, 'cameras.Front View'),
    'bad topic': ('widowx', 'state.topic', 'joint states', 'state.topic'),
    'unknown unit': ('widowx', 'state.fields.waist', 'deg', 'state.fields.waist'),
    'unit of the odometry': ('mobile_base', 'state.fields.x', 'km', 'state.fields.x'),
    'rate of zero': ('widowx', 'rate_hz', 0, 'rate_hz'),
    'horizon beyond reason': ('widowx', 'horizon', 100000, 'horizon'),
    'horizon of zero': ('widowx', 'horizon', 0, 'horizon'),
    'unknown kind': ('widowx', 'layouts.abs_joint.gripper.kind', 'griper', 'gripper.kind'),
    'unknown output': ('widowx', 'layouts.abs_joint.arm.output.type', 'Joint', 'output.type'),
    'unknown option': ('widowx', 'layouts.abs_joint.arm.output.mod', 'chunk', 'output.mod'),
    'wrong option': ('widowx', 'layouts.abs_joint.arm.output.mode', 'chunks', 'output.mode'),
    'option out of range': ('aloha', 'layouts.forward.left_arm.output.rate_hz', 5000, 'rate_hz'),
    'option that must be': ('aloha', 'layouts.interbotix.left_arm.output.group', None, 'group'),
    'output of a base': ('widowx', 'layouts.abs_joint.arm.output.type', 'Path', 'output'),
    'five displacements': ('widowx', 'layouts.delta_eef.arm.names.dx', None, 'arm.names'),
    'no frame': ('widowx', 'layouts.delta_eef.arm.frame', None, 'delta_eef.arm.frame'),
    'no tip': ('widowx', 'layouts.delta_eef.arm.tip', None, 'delta_eef.arm.tip'),
    'tip of joints': ('widowx', 'layouts.abs_joint.arm.tip', 'hand', 'abs_joint.arm.tip'),
    'joints not a list': ('widowx', 'layouts.delta_eef.arm.joints', 3, 'arm.joints'),
    'turned otherwise': ('human_hands', 'layouts.hands.left_wrist.rotation', 'q', 'rotation'),
    'four waypoints': ('mobile_base', 'layouts.path.base.names.up', 'm', 'base.names'),
    'one limit': ('widowx', 'limits.waist.position', [1.0], 'limits.waist.position'),
    'velocity of zero': ('widowx', 'limits.waist.velocity', 0, 'limits.waist.velocity'),
    'no acceleration': ('widowx', 'limits.waist.acceleration', None, 'limits.waist.acc'),
    'box of two': ('widowx', 'workspace.lower', [0, 0], 'workspace.lower'),
    'capsule in mm': ('widowx', 'capsules.parts.column.radius', 50.0, 'column.radius'),
    'pair of one': ('widowx', 'capsules.ignore', [['column']], 'capsules.ignore'),
    'park too fast': ('widowx', 'park.scale', 2.0, 'park.scale'),
    'age in ms': ('widowx', 'safety.max_age_s', 150.0, 'safety.max_age_s'),
    'unknown splice': ('widowx', 'safety.splice', 'blended', 'safety.splice'),
    'broken count': ('widowx', 'safety.max_refused_chunks', 1.5, 'max_refused_chunks'),
}


@pytest.mark.parametrize('kind', WRONG)
def test_schema_and_reader_refuse_the_same(tmp_path, kind):
    robot, path, value, place = WRONG[kind]
    data = copy.deepcopy(data_of(robot))
    *tables, key = path.split('.')
    table = data
    for name in tables:
        table = table[name]
    if value is None:
        del table[key]
    else:
        table[key] = value
    assert not JUDGE.is_valid(data)
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(ContractError) as raised:
        Embodiment.load(file)
    assert place in str(raised.value)


def test_a_default_of_the_schema_is_what_the_reader_fills_in(tmp_path):
    data = data_of('widowx')
    data['safety'] = {'lookahead_s': 0.3}
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    safety = Embodiment.load(file).safety
    for name, key in SECTIONS['safety'].items():
        assert getattr(safety, name) == key.default
    told = SCHEMA['$defs']['prompt']['properties']
    assert told['waist']['default'] is False


def test_each_key_says_what_it_is():
    for keys in SECTIONS.values():
        for name, key in keys.items():
            assert key.says, name
            assert key.default is Required or f'| `{name}` |' in keys_as_markdown()


def test_the_page_of_contracts_has_every_key_as_it_is():
    page = (config_folder().parent / 'docs' / 'contracts.md').read_text()
    assert keys_as_markdown() in page, 'paste what `qwen-vla schema --keys` prints'
    for path in CONTRACTS:
        assert f'`{path.stem}`' in page


def test_the_command_prints_schema_and_keys(capsys):
    assert cli.main(['schema']) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert cli.main(['schema', '--keys']) == 0
    assert capsys.readouterr().out.startswith('### The contract\n')
