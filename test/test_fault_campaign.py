"""The judge of the fault campaign: it must see what it is there for."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy')
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from benchmarks.fault_campaign.bounds import Bounds, rest_after
from benchmarks.fault_campaign.catalogue import (
    clock_faults,
    model_faults,
    node_faults,
    stream_faults,
)
from benchmarks.fault_campaign.robot import FAULTS, Command, Stream, Tick, understood
from qwen_vla_ros.embodiment import Embodiment

ROOT = Path(__file__).parents[1]
POSTURE = np.array([0.0, -0.6, 0.6, 0.0, 0.9, 0.0, 0.03])


@pytest.fixture(scope='module')
def bounds():
    return Bounds(Embodiment.load('widowx'))


def ticks(waist, speeds=None):
    """Return instants 10 ms apart at which the waist is, and is commanded, as told."""
    found = []
    for index, angle in enumerate(waist):
        position, velocity = POSTURE.copy(), np.zeros(7)
        position[0] = angle
        velocity[0] = 0.0 if speeds is None else speeds[index]
        found.append(Tick(index * 0.01, index * 0.01, position, velocity, position, velocity))
    return found


def command(positions, velocities, name='waist'):
    columns = [np.array(values, np.float64)[:, None] for values in (positions, velocities)]
    return Command(0.0, 'arm', (name,), *columns, '')


def streamed(positions, gaps=None):
    """Return one position after the other, at an even pace unless gaps in s are told."""
    times = np.cumsum([0.0, *(gaps or [0.02] * (len(positions) - 1))])
    return [
        Command(at, 'commands', ('waist',), np.array([[position]]), None, '')
        for at, position in zip(times, positions, strict=True)
    ]


@pytest.mark.parametrize(
    ('made', 'problem'),
    [
        (command([0.1, 0.2], [1.0, 0.0]), []),
        (command([0.1, float('nan')], [1.0, 0.0]), ['command with a number that is not finite']),
        (command([0.1, 4.0], [1.0, 0.0]), ['command beyond the position limits']),
        (command([0.1, 0.2], [4.0, 0.0]), ['command beyond the velocity limits']),
        (command([0.1, 0.2], [1.0, 0.1]), ['command that does not end at rest']),
        (command([0.1], [0.0], 'left_arm'), ["command for joints ('left_arm',)"]),
    ],
)
def test_unsafe_commands_are_seen(bounds, made, problem):
    assert bounds.unsafe_commands([made], may_move=True) == problem


@pytest.mark.parametrize(
    ('commands', 'problem'),
    [
        (streamed([0.0, 0.01, 0.021, 0.031]), []),
        (streamed([0.0, 0.1]), ['streamed positions faster than a joint']),
        (streamed([0.0, 0.1], [0.1]), []),
        (streamed([0.0, 0.0, 0.0, 0.02]), ['streamed positions that accelerate faster than']),
        (streamed([0.0, 0.0, 0.02], [0.02, 0.05]), []),  # a gap: nothing is known between
        (streamed([0.0, float('nan')]), ['command with a number that is not finite']),
        (streamed([0.0, 4.0], [9.0]), ['command beyond the position limits']),
    ],
)
def test_unsafe_streams_are_seen(bounds, commands, problem):
    found = bounds.unsafe_commands(commands, may_move=True)
    assert len(found) == len(problem)
    assert all(text.startswith(start) for text, start in zip(found, problem, strict=True))


def test_every_drivers_command_is_understood():
    point = JointTrajectoryPoint(positions=[0.1], velocities=[0.2])
    trajectory = JointTrajectory(joint_names=['waist'], points=[point])
    names, positions, velocities = understood('arm_controller/joint_trajectory', trajectory)
    assert (names, positions.tolist(), velocities.tolist()) == (('waist',), [[0.1]], [[0.2]])
    row = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for topic, message in (
        ('arm_position_controller/commands', SimpleNamespace(data=row)),
        ('commands/joint_group', SimpleNamespace(name='arm', cmd=row)),
    ):
        names, positions, velocities = understood(topic, message)
        assert names[0] == 'waist' and positions.tolist() == [row] and velocities is None
    opening = SimpleNamespace(name='gripper', cmd=0.06)
    names, positions, _ = understood('commands/joint_single', opening)
    assert names == ('left_finger',) and positions.tolist() == [[0.03]]


def test_any_command_is_unsafe_where_none_may_be_sent(bounds):
    still = command([0.1], [0.0])
    assert bounds.unsafe_commands([still], False) == ['1 commands where none may be sent']
    assert bounds.unsafe_commands([], False) == []


def test_a_jump_of_the_commanded_arm_is_seen(bounds):
    still = [0.0] * 5
    assert bounds.broken(ticks(still)) == []
    names = {text.split(' at ')[0] for text in bounds.broken(ticks([*still, 0.1]))}
    assert names == {'step', 'tip speed'}


def test_a_sudden_stop_is_seen(bounds):
    speeds = [0.5, 0.5, 0.0]
    names = {text.split(' at ')[0] for text in bounds.broken(ticks([0, 0.005, 0.01], speeds))}
    assert names == {'acceleration'}


def test_rest_is_the_end_of_the_last_motion():
    moving = ticks([0.0] * 40, [0.5] * 10 + [0.0] * 30)
    assert rest_after(moving, 0.0) == pytest.approx(0.09)
    assert rest_after(ticks([0.0] * 40, [0.5] * 40), 0.0) is None


def test_reordered_streams_swap_their_messages():
    sent = []

    class Kept:
        publish = sent.append

    stream = Stream(Kept, lambda publisher: None)
    stream.become('reordered')
    for number in range(4):
        stream.publish(number)
    assert sent == [1, 0, 3, 2]
    stream.become('')
    stream.publish(4)
    assert sent[-1] == 4


def test_every_fault_has_a_name_of_its_own_and_every_kind_of_stream_fault_is_used():
    streams = stream_faults()
    names = [f.name for f in [*streams, *model_faults(), *node_faults(), *clock_faults()]]
    assert len(set(names)) == len(names)
    assert {name.partition(': ')[2] for name in names if ': ' in name} >= set(FAULTS)


def faults_command(*words):
    return subprocess.run(
        [sys.executable, '-m', 'benchmarks.faults', *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_text_that_is_in_no_faults_name_is_refused_with_the_names():
    done = faults_command('--only', 'camera')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith("--only 'camera': no fault has this in its name; there are\n")
    assert '\n  model: killed\n' in done.stderr and 'Traceback' not in done.stderr


def test_the_campaign_tells_its_words_and_its_faults_without_a_run():
    done = faults_command('--help')
    assert done.returncode == 0 and done.stderr == '' and '--list' in done.stdout
    done = faults_command('--list', '--only', 'clock')
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout.splitlines() == [fault.name for fault in clock_faults()]
