"""A bag of a base: the same policy says the same; waypoints, stops and speeds compared."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_lab import write
from base_bag_lab import NAMES, ROBOT, drive, expert

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bag_command import evaluate, measure
from qwen_vla_ros.evaluate.bag_report import verdict
from qwen_vla_ros.evaluate.bag_run import RunOptions
from qwen_vla_ros.evaluate.bag_source import BagSource
from qwen_vla_ros.evaluate.floor_ways import distances_to, placed, seen_from
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.sim.rooms.expert import StandingPolicy

PLAIN = RunOptions('')
SECONDS = 22.0


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write(tmp_path_factory.mktemp('driven') / 'bag', drive(SECONDS))


def run(bag, policy=None, schedule='auto'):
    result, _ = measure(BagSource(bag, ROBOT), {'it': policy or expert()}, [PLAIN], schedule)
    return result, result['runs']['it']


@pytest.fixture(scope='module')
def again(bag):
    return run(bag)


def test_the_same_policy_says_the_same_to_the_bit(again):
    result, found = again
    same = found['same_as_recorded']
    assert same['recorded'] == same['matched'] == same['equal'] >= 60
    assert same['max'] == dict.fromkeys(NAMES, 0.0)
    assert [f for f in result['findings'] if f['level'] == 'refuse'] == []
    assert set(found['event_counts']) == {'stage'}


def test_velocities_are_the_recorded_ones(again):
    _, found = again
    assert found['commands']['compared'] > 100
    assert found['commands']['max'] == {'linear_x': 0.0, 'angular_z': 0.0}
    assert found['commanded']['path_m'] == pytest.approx(found['measured']['path_m'], rel=0.05)


def test_waypoints_are_where_the_base_drove(again):
    _, found = again
    error = found['error']
    assert error['skill'] > 0.9
    assert len(error['distance_by_step']) == ROBOT.horizon
    assert max(error['distance_by_step']) < 0.2
    assert error['rms']['dtheta'] < 0.3
    assert found['path']['mean_m'] < 0.05


def test_it_stops_where_the_base_stood(again):
    _, found = again
    stop = found['stop']
    assert stop['both'] >= 1
    assert stop['only_said'] == 0
    assert stop['agreement'] > 0.9


def test_a_policy_that_stands_foresees_nothing_and_says_stop_on_the_way(bag):
    _, found = run(bag, StandingPolicy(describe_policy(ROBOT)))
    assert found['error']['skill'] == pytest.approx(0.0, abs=1e-6)
    assert found['error']['rms'] == pytest.approx(found['error']['still_rms'])
    assert found['stop']['only_said'] > found['stop']['both'] >= 1
    assert found['commanded']['path_m'] == 0.0
    assert 'no better than standing still' in verdict('it', found)


class Turned:
    """The expert with its turns the wrong way round."""

    def __init__(self):
        self._expert = expert()
        self.metadata = self._expert.metadata

    def infer(self, observation, prefix=None):
        chunk = self._expert.infer(observation)
        return replace(chunk, actions=chunk.actions * np.float32([1, -1, -1]))

    def reset(self):
        """Nothing to forget."""


def test_a_turned_sign_is_named(bag):
    result, found = run(bag, Turned())
    told = [f for f in result['findings'] if f['subject'] == 'directions']
    assert told[0]['level'] == 'refuse'
    assert 'dtheta goes against' in ' '.join(f['found'] for f in told)
    assert found['agreement']['dx'] > 0.5


def test_as_the_node_would_ask_it_drives_the_same_way(bag):
    _, found = run(bag, schedule='free')
    assert found['chunks'] > 60
    assert found['path']['mean_m'] < 0.05


def test_the_report_is_one_file_with_the_way_and_the_error_of_each_waypoint(bag, tmp_path):
    evaluate(BagSource(bag, ROBOT), {'expert': expert()}, [PLAIN], tmp_path, film=False)
    page = (tmp_path / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 2
    assert 'expert: error by waypoint, RMS' in page
    assert '<td class="n">4 s</td>' in page
    assert 'STOP is as driven in' in page
    told = json.loads((tmp_path / 'summary.json').read_text())['runs']['expert']
    assert (told['of'], set(told['error']['rms'])) == ('base', set(NAMES))
    assert not (tmp_path / 'joints.png').exists()


def test_splicing_is_refused_in_words(bag):
    with pytest.raises(QwenVlaError, match='chunks of a base are not spliced'):
        measure(BagSource(bag, ROBOT), {'it': expert()}, [RunOptions('', 'blend')])


def test_poses_seen_from_one_and_placed_there_are_the_same():
    start, poses = np.array([1.0, 2.0, np.pi / 2]), np.array([[1.0, 3.0, np.pi], [0.0, 2.0, 0.0]])
    seen = seen_from(start, poses)
    np.testing.assert_allclose(seen, [[1, 0, np.pi / 2], [0, 1, -np.pi / 2]], atol=1e-12)
    np.testing.assert_allclose(placed(start, seen), poses, atol=1e-12)


def test_the_distance_to_a_line_is_that_to_its_nearest_piece():
    line = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
    found = distances_to(line, np.array([[1.0, 0.5], [3.0, 1.0], [-3.0, 4.0]]))
    np.testing.assert_allclose(found, [0.5, 1.0, 5.0])
