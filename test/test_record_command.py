"""`qwen-vla record` over DDS with a robot: keys, services, labels, a kill, and what is read."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('rosbags')
from fake_robot import small_contract
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from std_srvs.srv import SetBool, Trigger

from qwen_vla_ros.cli import main
from qwen_vla_ros.data.bag import BagEpisodes
from qwen_vla_ros.data.bag_files import open_bag
from qwen_vla_ros.data.episode_notes import read_notes
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.qos import LATCHED

ROBOT = """
import array, os, sys, time
sys.path.insert(0, 'test')
import rclpy
from fake_robot import FakeRobot

def noisy(message):  # pictures that do not compress
    if hasattr(message, 'encoding'):
        message.data = array.array('B', os.urandom(len(message.data)))

rclpy.init()
robot = FakeRobot(rclpy.create_node('robot'))
robot.spoil = noisy
time.sleep(300)
"""


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(31, tmp_path_factory.mktemp('record'))
    lab.start('robot', '-c', ROBOT)  # a process: its reader is killed
    lab.contract = small_contract(lab.folder)
    yield lab
    lab.close()


def command(lab, out, *words):
    return [
        '-m',
        'qwen_vla_ros.cli',
        'record',
        '--robot',
        str(lab.contract),
        '--out',
        str(out),
        *words,
    ]


def started(lab, out):
    lab.start('record', *command(lab, out, '--instruction', "it's a test: yes"))
    wait_for(lambda: 'recording to' in lab.log('record'), 20.0, 'the recorder')


def test_services_make_episodes_that_are_read_again(lab, tmp_path):
    started(lab, tmp_path)
    assert lab.call(Trigger, 'recorder/stop').message == 'no episode is being recorded'
    for number in range(3):
        assert lab.call(Trigger, 'recorder/start').success
        assert not lab.call(Trigger, 'recorder/start').success
        time.sleep(1.3)
        if number == 2:
            assert lab.call(Trigger, 'recorder/discard').success
        else:
            answer = lab.call(SetBool, 'recorder/label', SetBool.Request(data=number == 0))
            assert answer.success
            assert '"it\'s a test: yes"' in answer.message
    assert lab.stop('record') == 0
    notes = [read_notes(tmp_path / f'episode_000{number}') for number in range(2)]
    assert [note.success for note in notes] == [True, False]
    assert [note.state for note in notes] == ['kept', 'kept']
    assert read_notes(tmp_path / 'discarded' / 'episode_0002').state == 'discarded'
    assert 40 < notes[0].messages['/joint_states'] < 90
    episodes = open_dataset(tmp_path, flawed=True)
    assert episodes.bags == (tmp_path / 'episode_0000', tmp_path / 'episode_0001')
    sample = next(episodes.stream(0))
    assert sample.instruction == "it's a test: yes"
    assert sample.images['ego'].shape == (48, 64, 3)


def test_the_sentence_may_come_from_the_status_of_the_policy(lab, tmp_path):
    status = lab.node.create_publisher(PolicyStatus, 'policy/status', LATCHED)
    status.publish(PolicyStatus(stage='RUNNING', instruction='push the can'))
    lab.start('record', *command(lab, tmp_path))
    wait_for(status.get_subscription_count, 20.0, 'the recorder')
    wait_for(lambda: lab.call(Trigger, 'recorder/start').success, 10.0, 'a start')
    time.sleep(0.7)
    assert '"push the can"' in lab.call(Trigger, 'recorder/stop').message
    assert lab.stop('record') == 0
    assert read_notes(tmp_path / 'episode_0000').instruction == 'push the can'
    lab.node.destroy_publisher(status)


def test_a_kill_loses_the_running_episode_at_most(lab, tmp_path, capsys):
    started(lab, tmp_path)
    lab.call(Trigger, 'recorder/start')
    time.sleep(0.5)
    lab.call(Trigger, 'recorder/stop')
    before = {file: file.read_bytes() for file in (tmp_path / 'episode_0000').iterdir()}
    lab.call(Trigger, 'recorder/start')
    running = tmp_path / 'episode_0001'
    wait_for(lambda: (running / 'episode_0001.mcap').stat().st_size > 1.05e6, 20.0, 'a chunk')
    lab.stop('record', signal.SIGKILL)
    assert {file: file.read_bytes() for file in before} == before
    assert read_notes(running).state == 'recording'
    with open_bag(running) as reader:
        assert 'are lost' in reader.lost
        count = reader.message_count
        assert count > 50
    with pytest.raises(QwenVlaError, match="'qwen-vla record --mend"):
        BagEpisodes([running])
    assert main(['record', '--out', str(tmp_path), '--list']) == 0
    assert 'cut off' in capsys.readouterr().out
    assert main(['record', '--mend', str(running)]) == 0
    assert f'{count} messages are in it now' in capsys.readouterr().out
    assert read_notes(running).state == 'kept'
    assert len(list(BagEpisodes([running], flawed=True).stream(0))) >= 1
    assert (running / 'episode_0001.mcap.cut').is_file()


def test_keys_start_label_discard_and_quit(lab, tmp_path):
    master, slave = pty.openpty()
    output = (tmp_path / 'log').open('w')
    child = subprocess.Popen(
        [sys.executable, *command(lab, tmp_path / 'out')],
        stdin=slave,
        stdout=output,
        stderr=output,
        env=lab.environment,
    )
    try:

        def told(words):
            wait_for(lambda: words in (tmp_path / 'log').read_text(), 20.0, words)

        told('recording to')
        os.write(master, b'ipour the tea\n')
        time.sleep(0.3)
        os.write(master, b' ')
        told('episode 0 began')
        time.sleep(0.5)
        os.write(master, b'y')
        told('success')
        os.write(master, b' ')
        told('episode 1 began')
        os.write(master, b'd')
        told('episode 1 is discarded')
        os.write(master, b'q')
        assert child.wait(timeout=15) == 0
    finally:
        child.kill()
        os.close(master)
        os.close(slave)
    notes = read_notes(tmp_path / 'out' / 'episode_0000')
    assert (notes.instruction, notes.success) == ('pour the tea', True)


def test_a_disk_that_is_nearly_full_refuses_an_episode(lab, tmp_path):
    words = ('--stop-free-gb', '99999', '--seconds', '1')
    lab.start('full', *command(lab, tmp_path, *words))
    assert lab.children['full'].wait(timeout=20) == 2
    assert 'are kept free (stop_free_gb); make room' in lab.log('full')
    lab.children.pop('full')


def test_what_is_no_recording_is_told(tmp_path, capsys):
    assert main(['record', '--out', str(tmp_path), '--list']) == 2
    assert 'there is no episode in it' in capsys.readouterr().err
    assert main(['record', '--mend', str(tmp_path)]) == 2
    assert 'no .mcap file in it' in capsys.readouterr().err
    assert main(['record']) == 2
    assert 'say where to, with --out' in capsys.readouterr().err
