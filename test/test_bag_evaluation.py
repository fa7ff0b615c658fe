"""A bag through the pilot: the same commands again, planted faults named, bad bags told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_lab import NAMES, ROBOT, START, Lab, S, Wave, drive, write
from fake_robot import small_contract
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from qwen_vla_ros.cli import main
from qwen_vla_ros.data.bag import open_bag, read
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bag_command import evaluate, measure
from qwen_vla_ros.evaluate.bag_report import verdict
from qwen_vla_ros.evaluate.bag_run import Latency, RunOptions
from qwen_vla_ros.evaluate.bag_source import BagSource, Shifts, chunk_of

PLAIN = RunOptions('')


@pytest.fixture(scope='module')
def driven():
    return drive(5.0, Wave(noise=0.01))


@pytest.fixture(scope='module')
def bag(driven, tmp_path_factory):
    return write(tmp_path_factory.mktemp('driven') / 'bag', driven)


def run(bag, policy=None, shifts=None, options=PLAIN, schedule='auto'):
    source = BagSource(bag, ROBOT, shifts=shifts)
    result, _ = measure(source, {'wave': policy or Wave(noise=0.01)}, [options], schedule)
    return result, next(iter(result['runs'].values()))


@pytest.fixture(scope='module')
def again(bag):
    return run(bag)


def refused(result):
    return {f['subject'] for f in result['findings'] if f['level'] == 'refuse'}


def test_the_same_policy_says_the_same_to_the_bit(again):
    result, found = again
    same = found['same_as_recorded']
    assert same['recorded'] == same['matched'] == same['equal'] >= 20
    assert max(same['max'].values()) == 0.0
    assert refused(result) == set()
    assert found['event_counts'] == {'stage': found['event_counts']['stage']}


def test_a_checkpoint_says_the_same_to_the_bit_though_calls_left_no_trace(tmp_path):
    torch = pytest.importorskip('torch')
    from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
    from qwen_vla_ros.policy import load_policy

    torch.set_num_threads(1)
    policy = load_policy(bundled_checkpoint(), ROBOT, 'cpu')
    ready = np.array([-0.085, -0.37, 0.32, 0.0, 1.588, 0.0, 0.029])  # where it was trained
    messages = drive(3.0, policy, sentence='touch the red block', home=ready)
    chunks = [item for item in messages if item[1] == '/policy/chunk']
    for discarded in chunks[1:6:2]:  # as a chunk that came too late: asked for, not recorded
        messages.remove(discarded)
    policy.reset()
    _, found = run(write(tmp_path / 'bag', messages), policy)
    same = found['same_as_recorded']
    assert same['recorded'] == same['matched'] == same['equal'] >= 8
    assert found['chunks'] > found['refused']


def test_commands_are_the_recorded_ones_up_to_one_tick_of_the_executor(again):
    # A chunk is led in at the instant at which the recorder heard it, not that of the node: a
    # command may differ by what the joint travels in that time (here 20 ms at 0.4 rad/s).
    _, found = again
    assert found['commands']['compared'] > 80
    assert max(found['commands']['max'].values()) < 0.02 * 0.4


def without_sentence(driven):
    return [item for item in driven if not item[1].endswith('/instruction')]


def test_the_sentence_may_be_known_from_the_status_alone(driven, tmp_path):
    messages = [
        (at, topic, kind, replace(message, instruction='swing') if kind == 'status' else message)
        for at, topic, kind, message in without_sentence(driven)
    ]
    source = BagSource(write(tmp_path / 'bag', messages), ROBOT)
    assert source.has_sentence
    _, found = run(tmp_path / 'bag', schedule='free')
    assert found['chunks'] > 10


def test_a_bag_without_a_sentence_is_refused_in_words(driven, tmp_path):
    bag = write(tmp_path / 'bag', without_sentence(driven))
    with pytest.raises(QwenVlaError, match=r'no instruction in it; give --instruction'):
        run(bag)
    _, found = run(bag, options=replace(PLAIN, instruction='swing'))
    assert found['chunks'] > 10


def test_report_is_one_file_with_what_was_measured(bag, tmp_path):
    evaluate(BagSource(bag, ROBOT), {'wave': Wave()}, [PLAIN], tmp_path)
    page = (tmp_path / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 2
    assert 'data:video/mp4;base64,' in page
    assert 'id="timeline"' in page
    assert '="http' not in page
    assert '<b>wave foresees the motion with a skill of ' in page
    told = json.loads((tmp_path / 'summary.json').read_text())['runs']['wave']
    assert set(told['error']['rms']) == set(NAMES)
    assert len(told['error']['rms_by_step']['waist']) == ROBOT.horizon
    assert {'age_s', 'skew_s'} <= set(told['inputs']['sources']['ego'])


def test_the_verdict_is_a_sentence(again):
    _, found = again
    assert verdict('it', {**found, 'refused': found['chunks']}).startswith('it would not have')
    assert 'never asked' in verdict('it', {**found, 'chunks': 0})
    stood = {**found, 'error': {**found['error'], 'skill': None}}
    assert 'the robot stood still' in verdict('it', stood)
    stopped = verdict('it', {**found, 'refused': 2, 'event_counts': {'latched': 1}})
    assert 'chunks are refused, safety stops the robot 1 times' in stopped


def test_another_policy_is_measured_against_the_recorded_motion(bag):
    class Still(Wave):
        def infer(self, observation, prefix=None):
            chunk = super().infer(observation, prefix)
            return replace(chunk, actions=np.repeat(chunk.actions[:1], len(chunk.actions), 0))

    _, found = run(bag, Still())
    assert found['error']['skill'] == pytest.approx(0.0, abs=1e-6)
    assert found['same_as_recorded']['equal'] == 0
    assert found['error']['rms']['waist'] == pytest.approx(found['error']['still_rms']['waist'])


def test_manners_are_compared_side_by_side(bag):
    manners = [RunOptions('', splice) for splice in ('blend', 'hold-finish')]
    source = BagSource(bag, ROBOT)
    result, _ = measure(source, {'wave': Wave()}, manners, 'free')
    assert list(result['runs']) == ['wave, blend', 'wave, hold-finish']
    chunks = [found['chunks'] for found in result['runs'].values()]
    assert chunks[0] > 2 * chunks[1] > 0


def test_latency_and_jitter_are_in_the_time_of_the_bag(bag):
    options = RunOptions('', latency=Latency(0.3, 0.05))
    _, found = run(bag, options=options, schedule='free')
    assert 0.3 <= found['latency_s']['p50'] < 0.4
    assert found['latency_s']['p95'] > found['latency_s']['p50']


def test_a_run_is_the_same_every_time(bag):
    options = RunOptions('', latency=Latency(0.1, 0.05, seed=3))
    first, second = (run(bag, options=options, schedule='free')[1] for _ in range(2))
    assert first['error'] == second['error']
    assert first['events'] == second['events']


def test_what_safety_would_refuse_is_told_with_its_time(bag):
    class Wild(Wave):
        def infer(self, observation, prefix=None):
            chunk = super().infer(observation, prefix)
            late = observation.stamp_ns > START + 3 * S
            return replace(chunk, actions=chunk.actions + np.float32(0.5 * late))

    result, found = run(bag, Wild(), schedule='free')
    events = [e for e in found['events'] if e['kind'] == 'refused']
    assert found['refused'] == len(events) > 0
    assert all((e['time_ns'] - result['first_ns']) * 1e-9 > 3.0 for e in events)
    assert 'limit' in events[0]['text']


def test_predictions_are_written_for_rviz(bag, tmp_path):
    pytest.importorskip('rclpy')
    evaluate(BagSource(bag, ROBOT), {'wave': Wave()}, [PLAIN], tmp_path, write_bag=True)
    with open_bag(tmp_path / 'bag') as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        wanted = [c for c in reader.connections if c.topic == '/evaluation/chunk']
        _, _, message = next(read(tmp_path / 'bag', reader, wanted))
        assert chunk_of(message).names == NAMES
    told = json.loads((tmp_path / 'summary.json').read_text())['runs']['wave']
    assert counts['/evaluation/chunk'] == told['chunks']
    assert counts['/evaluation/markers'] > 40


# Planted faults ----------------------------------------------------------------------------------


def test_swapped_cameras_are_named(bag):
    shifts = Shifts(swap={'ego': 'cam_right_wrist', 'cam_right_wrist': 'ego'})
    result, _ = run(bag, shifts=shifts)
    assert refused(result) == {'cameras in place'}


@pytest.mark.parametrize('shifts', [{'stamp_s': {'ego': -0.12}}, {'delay_s': {'ego': 0.12}}])
def test_a_late_camera_is_named_by_its_header(bag, shifts):
    result, _ = run(bag, shifts=Shifts(**shifts))
    assert 'clocks' in refused(result)
    assert any('ego' in f['found'] for f in result['findings'] if f['subject'] == 'clocks')


def test_a_late_camera_whose_stamps_hide_it_is_named_by_its_pictures(bag):
    shifts = Shifts(delay_s={'ego': 0.15}, stamp_s={'ego': 0.15})
    result, _ = run(bag, shifts=shifts)
    told = {f['subject']: f['found'] for f in result['findings']}
    assert refused(result) == {'pictures in time'}
    assert 'ego shows motion 0.1' in told['pictures in time']


def test_wrong_statistics_are_named(bag):
    class Shifted(Wave):
        def infer(self, observation, prefix=None):
            chunk = super().infer(observation, prefix)
            return replace(chunk, actions=chunk.actions * np.float32(1.4))

    result, found = run(bag, Shifted())
    assert 'first rows' in refused(result)
    assert found['refused'] > 0


def test_a_flipped_joint_is_named(driven, tmp_path):
    turned = []
    for time_ns, topic, kind, message in driven:
        if kind == 'joints':
            row = message.position.copy()
            row[0] = -row[0]
            message = Lab().joints(time_ns - 2_000_000, row)
        turned.append((time_ns, topic, kind, message))
    result, _ = run(write(tmp_path / 'bag', turned))
    told = [f for f in result['findings'] if f['subject'] == 'directions']
    assert [f['level'] for f in told] == ['refuse']
    assert told[0]['found'].startswith('waist goes against')


# Bad bags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('plugin', 'mode'),
    [
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, None),
    ],
)
def test_other_storages_give_the_same(driven, tmp_path, plugin, mode):
    bag = write(tmp_path / 'bag', driven, plugin, mode)
    same = run(bag)[1]['same_as_recorded']
    assert same['equal'] == same['recorded'] >= 20


def test_a_cut_bag_is_evaluated_as_far_as_it_goes_and_told(tmp_path, capsys):
    bag, cut = write(tmp_path / 'bag', drive(7.0)), tmp_path / 'cut.mcap'
    data = next(bag.glob('*.mcap')).read_bytes()
    cut.write_bytes(data[: 3 * len(data) // 4])  # a file of two chunks
    words = ['--robot', str(small_contract(tmp_path)), '--policy', 'constant', '--no-film']
    code = main(['eval', 'bag', str(cut), *words, '--out', str(tmp_path / 'out')])
    told = capsys.readouterr()
    assert code == 1, told.err
    assert 'not whole: cut.mcap: cut off' in told.out
    found = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert 1.0 < found['seconds'] < 6.5
    assert found['notices']
    assert found['runs']['constant']['chunks'] > 2


def test_files_of_one_bag_are_one_record(driven, tmp_path):
    folder = tmp_path / 'split'
    folder.mkdir()
    for number, part in enumerate((driven[:300], driven[300:])):
        written = write(tmp_path / f'part{number}', part)
        next(written.glob('*.mcap')).rename(folder / f'bag_{number}.mcap')
    same = run(folder)[1]['same_as_recorded']
    assert same['equal'] == same['recorded'] >= 20


def test_damage_inside_leaves_a_report_of_what_was_read(bag, tmp_path):
    source = BagSource(bag, ROBOT)
    whole = source._read

    def torn(kinds):
        for count, event in enumerate(whole(kinds)):
            if count == 300 and kinds and 'input' in kinds:
                source.damage = f'{bag}: damaged inside'
                return
            yield event

    source._read = torn
    result = evaluate(source, {'wave': Wave()}, [PLAIN], tmp_path, film=False)
    assert result['damage'] == f'{bag}: damaged inside'
    assert 0 < result['runs']['wave']['chunks'] < 20
    assert 'damaged inside' in (tmp_path / 'report.html').read_text()


def test_an_empty_bag_and_a_missing_topic_are_told(driven, tmp_path):
    with pytest.raises(QwenVlaError, match='the bag is empty|there is no such|cannot be read'):
        BagSource(write(tmp_path / 'empty', []), ROBOT)
    without = [item for item in driven if 'wrist' not in item[1]]
    with pytest.raises(QwenVlaError, match='camera/wrist/image_raw .* is not in it'):
        BagSource(write(tmp_path / 'bag', without), ROBOT)


def test_an_unknown_source_of_a_fault_is_told(bag):
    with pytest.raises(QwenVlaError, match='top: no source of widowx'):
        BagSource(bag, ROBOT, shifts=Shifts(delay_s={'top': 0.1}))
