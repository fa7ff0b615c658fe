"""A drive of the simulated base through `qwen-vla record`: its driver says the same again."""

import json

import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.msg import ActionChunk
from ros_lab import Lab, wait_for
from std_msgs.msg import String

from qwen_vla_ros.cli import main
from qwen_vla_ros.nodes.qos import LATCHED, STREAM
from qwen_vla_ros.sim.rooms.drive import MAX_ANGULAR, MAX_LINEAR
from qwen_vla_ros.sim.rooms.tasks import sample_task

SEED = 21  # the goal is 2 m away
CHUNKS = 40
LATE_S = 0.04  # two periods of the odometry
CLI = ('-m', 'qwen_vla_ros.cli')


@pytest.mark.slow
def test_a_recorded_drive_evaluates_to_the_same_waypoints(tmp_path, capsys):
    lab, chunks, bag = Lab(63, tmp_path), [], tmp_path / 'bag'
    try:
        lab.start_node('base_sim_node', seed=SEED)
        words = ['--policy', 'expert', '--robot', 'mobile_base', '--house', str(SEED)]
        lab.start('serve', *CLI, 'serve', *words, '--port', '0')
        wait_for(lambda: ' on ws://' in lab.log('serve'), 30.0, 'the server')
        address = lab.log('serve').rpartition('ws://')[2].strip()
        words = ['--robot', 'mobile_base', '--one-bag', '--out', str(bag)]
        lab.start('record', *CLI, 'record', *words)
        wait_for(lambda: 'recording to' in lab.log('record'), 30.0, 'the recorder')
        lab.node.create_subscription(ActionChunk, 'policy/chunk', chunks.append, STREAM)
        sentence = lab.node.create_publisher(String, 'policy/instruction', LATCHED)
        lab.start_node('policy_node', robot='mobile_base', autostart=True, address=address)
        sentence.publish(String(data=sample_task(SEED).instruction))
        wait_for(lambda: len(chunks) > CHUNKS, 60.0, 'chunks')
        assert lab.stop('record') == 0
    finally:
        lab.close()
    words = ['--policy', 'expert', '--house', str(SEED), '--no-film']
    assert main(['eval', 'bag', str(bag), *words, '--out', str(tmp_path / 'out')]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / 'out' / 'summary.json').read_text())['runs']['expert']
    same = found['same_as_recorded']
    assert same['matched'] >= 0.9 * same['recorded'] >= 0.8 * CHUNKS, told
    # Where the node asked before the newest odometry was there, the pose is up to LATE_S older.
    assert same['equal'] >= 0.8 * same['matched'], told
    assert max(same['max']['dx'], same['max']['dy']) < LATE_S * MAX_LINEAR, same
    assert same['max']['dtheta'] < LATE_S * MAX_ANGULAR, same
    assert found['error']['skill'] > 0.5, told
