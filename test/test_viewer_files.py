"""The configurations of rviz and Foxglove fit the contracts and what viz_node publishes."""

import json
from pathlib import Path

import pytest
import yaml

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.viewer_files import WITH_FILES, main, write_files

CONFIG = Path(__file__).parents[1] / 'config'
# Displays, tools and views of ros2/rviz, rviz_default_plugins/plugins_description.xml.
RVIZ_CLASSES = {'Grid', 'RobotModel', 'TF', 'MarkerArray', 'Image', 'Odometry', 'Orbit'}
RVIZ_CLASSES |= {'MoveCamera', 'Select'}
FOXGLOVE_PANELS = {'3D', 'Image', 'RawMessages', 'Plot', 'StateTransitions'}


def published(embodiment):
    """The topics of viz_node and of the policy node that a viewer may ask for, and the robot's."""
    views = [f'policy/annotated/{camera.view}' for camera in embodiment.cameras]
    return {
        *('policy/markers', 'policy/status', 'robot_description'),
        *views,
        *(f'{view}/compressed' for view in views),
        *(camera.topic for camera in embodiment.cameras),
        *(state.topic for state in embodiment.states),
    }


@pytest.fixture(params=WITH_FILES)
def embodiment(request):
    return Embodiment.load(request.param)


def test_committed_files_are_those_of_the_contract(embodiment, tmp_path):
    for path in write_files(embodiment, tmp_path):
        committed = CONFIG / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), (
            'run python -m qwen_vla_ros.seeing.viewer_files'
        )


def test_every_contract_with_a_committed_file_is_known():
    assert {path.stem for path in (CONFIG / 'rviz').glob('*.rviz')} == set(WITH_FILES)
    assert {path.stem for path in (CONFIG / 'foxglove').glob('*.json')} == set(WITH_FILES)


def test_rviz_shows_what_is_published_in_a_frame_that_exists(embodiment):
    text = (CONFIG / 'rviz' / f'{embodiment.name}.rviz').read_text()
    manager = yaml.safe_load(text)['Visualization Manager']
    displays = manager['Displays']
    classes = [d['Class'] for d in (*displays, *manager['Tools'], manager['Views']['Current'])]
    assert {name.removeprefix('rviz_default_plugins/') for name in classes} <= RVIZ_CLASSES
    topics = [d.get('Topic', d.get('Description Topic')) for d in displays]
    values = {topic['Value'] for topic in topics if topic}
    assert values <= published(embodiment)
    assert {'policy/markers', 'robot_description'} <= values
    assert {f'policy/annotated/{camera.view}' for camera in embodiment.cameras} <= values
    frame = manager['Global Options']['Fixed Frame']
    assert frame in ('odom', RobotLinks(embodiment.description_path).root)
    best_effort = {t['Value'] for t in topics if t and t['Reliability Policy'] == 'Best Effort'}
    assert best_effort == {camera.topic for camera in embodiment.cameras}


def test_foxglove_shows_what_is_published(embodiment):
    layout = json.loads((CONFIG / 'foxglove' / f'{embodiment.name}.json').read_text())
    panels = layout['configById']
    assert {name.partition('!')[0] for name in panels} <= FOXGLOVE_PANELS
    assert sorted(leaves(layout['layout'])) == sorted(panels)
    for topic in topics_of(panels):
        assert topic.partition('.')[0].removeprefix('/') in published(embodiment), topic


def test_a_namespace_stands_before_every_topic_of_foxglove(tmp_path):
    words = ['--namespace', '/left', '--frame-prefix', 'wx250s/']
    assert main(['widowx', '--out', str(tmp_path), *words]) == 0
    rviz = yaml.safe_load((tmp_path / 'rviz' / 'widowx.rviz').read_text())
    frame = rviz['Visualization Manager']['Global Options']['Fixed Frame']
    assert frame == 'wx250s/base_link'
    layout = json.loads((tmp_path / 'foxglove' / 'widowx.json').read_text())
    topics = topics_of(layout['configById'])
    assert topics
    assert all(topic.startswith('/left/') for topic in topics)


def test_an_unknown_robot_is_told_in_one_line(tmp_path, capsys):
    assert main(['widwx', '--out', str(tmp_path)]) == 2
    assert "did you mean 'widowx'" in capsys.readouterr().err


def leaves(node):
    if isinstance(node, str):
        return [node]
    return [*leaves(node['first']), *leaves(node['second'])]


def topics_of(panels):
    found = []
    for panel in panels.values():
        found += list(panel.get('topics', {}))
        found += [path['value'] for path in panel.get('paths', ())]
        found += [panel[key] for key in ('topicPath',) if key in panel]
        found += [panel['imageMode']['imageTopic']] if 'imageMode' in panel else []
    return found
