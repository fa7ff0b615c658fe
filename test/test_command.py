"""The registry of outputs: every type a contract may name, and what a machine may lack."""

from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros import output_kinds
from qwen_vla_ros.command import OUTPUTS, output_of
from qwen_vla_ros.output_kinds import (
    BASE,
    CHUNK,
    JOINTS,
    STREAM,
    TIP,
    BaseRows,
    CommandRefused,
    JointRows,
    Option,
    OutputUnavailable,
    Plan,
    Timed,
    TipRows,
    grid,
    output,
)

S = 1_000_000_000


def test_every_output_says_what_it_takes():
    taken = {name: (kind.rows, kind.takes(kind_options(kind))) for name, kind in OUTPUTS.items()}
    assert taken == {
        'ServoTwist': (TIP, CHUNK),
        'JointTrajectory': (JOINTS, STREAM),
        'FollowJointTrajectory': (JOINTS, CHUNK),
        'JointGroupCommand': (JOINTS, STREAM),
        'JointSingleCommand': (JOINTS, STREAM),
        'Float64MultiArray': (JOINTS, STREAM),
        'Path': (BASE, CHUNK),
        'PoseStamped': (BASE, CHUNK),
        'NavigateToPose': (BASE, CHUNK),
        'FollowPath': (BASE, CHUNK),
        'TwistStamped': (BASE, CHUNK),
        'Twist': (BASE, CHUNK),
    }
    assert output_of('JointTrajectory').takes({'mode': CHUNK}) == CHUNK


def kind_options(kind):
    return {key: 'x' for key, option in kind.options.items() if option.default is None}


def test_a_new_output_is_one_function(monkeypatch):
    monkeypatch.setattr(output_kinds, 'OUTPUTS', {})

    @output('Text', 'std_msgs/msg/String', JOINTS, {'word': Option('word', 'go')})
    def text(rows, options):
        return Plan((Timed(rows.stamp_ns, f'{options["word"]} {rows.positions[0, 0]:g}'),))

    rows = JointRows(('a',), np.array([0.1]), np.array([[2.0]]), None, 7)
    plan = output_kinds.OUTPUTS['Text'].plan(rows, {})
    assert plan.timed == (Timed(7, 'go 2'),)


def test_an_unknown_output_lists_the_known_ones():
    with pytest.raises(OutputUnavailable, match=r"'Joints' is unknown; .* JointTrajectory"):
        output_of('Joints')


@pytest.mark.parametrize(
    ('name', 'remedy'),
    [
        ('JointTrajectory', r'trajectory_msgs/.* apt install .*-trajectory-msgs.* pip install'),
        ('FollowJointTrajectory', r'control_msgs/.* install ros-\$ROS_DISTRO-control-msgs'),
        ('NavigateToPose', r'nav2_msgs/.* install ros-\$ROS_DISTRO-nav2-msgs'),
        ('JointGroupCommand', "interbotix_xs_msgs/.* install Interbotix's interbotix_ros_core"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, name, remedy):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(output_kinds, 'import_module', absent)
    with pytest.raises(OutputUnavailable, match=remedy):
        OUTPUTS[name].message_class()


def test_an_option_that_must_be_there_is_named():
    with pytest.raises(OutputUnavailable, match="JointGroupCommand: the option 'group' is miss"):
        output_of('JointGroupCommand').filled({})


TIMES = np.array([0.05, 1.25])
ROWS = np.array([[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.parametrize(
    ('times', 'positions', 'velocities', 'words'),
    [
        (TIMES, [[0, 0], [0, np.nan]], None, 'positions of channel 1 in point 1 is nan'),
        (TIMES, ROWS, [[np.inf, 0], [0, 0]], 'velocities of channel 0 in point 0 is inf'),
        (TIMES, ROWS[:, :1], None, r'positions \[2, 1\] for 2 channels'),
        (TIMES[:1], ROWS, None, '1 times for 2 points'),
        ([0.1, 0.1], ROWS, None, 'must rise'),
        ([-0.1, 0.1], ROWS, None, 'must rise'),
        ([0.1, np.nan], ROWS, None, 'must rise'),
        (TIMES, ROWS, ROWS[:1], '1 velocities for 2 positions'),
        ([], np.zeros((0, 2)), None, 'points >= 1'),
    ],
)
def test_joint_rows_that_no_controller_may_get_are_refused(times, positions, velocities, words):
    with pytest.raises(CommandRefused, match=words):
        JointRows(('waist', 'elbow'), np.asarray(times), positions, velocities, 0)


def test_displacements_waypoints_and_poses_are_finite():
    broken = np.zeros((2, 6))
    broken[1, 5] = np.nan
    with pytest.raises(CommandRefused, match='displacements of channel 5 in point 1 is nan'):
        TipRows('base_link', TIMES, broken, 0, 0)
    with pytest.raises(CommandRefused, match=r'waypoints \[2, 2\] for 3 channels'):
        BaseRows('odom', (0, 0, 0), TIMES, ROWS, 0, 0)
    with pytest.raises(CommandRefused, match='pose of the base .*nan'):
        BaseRows('odom', (0, np.nan, 0), TIMES, np.zeros((2, 3)), 0, 0)


def test_plans_that_overlap_meet_the_same_instants():
    first = grid(10 * S + 7, 10 * S + 90_000_007, 50.0)
    second = grid(10 * S + 50_000_000, 11 * S, 50.0)
    assert first == [10 * S + 1_000_000 * ms for ms in (20, 40, 60, 80)] + [10 * S + 90_000_007]
    assert second[:2] == [10 * S + 60_000_000, 10 * S + 80_000_000]
    assert grid(5, 5, 50.0) == [5]


def test_the_documents_tell_every_output_with_its_options():
    text = (Path(__file__).parents[1] / 'docs' / 'outputs.md').read_text()
    lines = [line for line in text.splitlines() if line.startswith('| `')]
    shared = next(line for line in lines if line.startswith('| `Path`'))
    for name, kind in OUTPUTS.items():
        line = next(line for line in lines if f'`{name}`' in line.split('|')[1])
        told = line + (shared if 'as `Path`' in line else '')
        for key, option in kind.options.items():
            value = option.default
            if isinstance(value, bool):
                value = str(value).lower()
            elif isinstance(value, float):
                value = f'{value:g}'
            wanted = f'`{key}` ({value})' if value not in (None, ()) else f'`{key}`'
            assert wanted in told, f'{name}: {wanted}'
