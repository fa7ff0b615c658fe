"""Drivers whose messages need a vendor's package: on wheels those of vendor_types are built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.output_kinds import OutputUnavailable, message_class

TYPES = (
    'interbotix_xs_msgs/srv/RobotInfo',
    'control_msgs/action/FollowJointTrajectory',
    'nav2_msgs/action/FollowPath',
    'tf2_msgs/msg/TFMessage',
)
LONGEST_S = 120
FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def environment():
    """The environment of a process that has the types, built where they are not installed."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(FOLDER)])}
    try:
        for name in TYPES:
            message_class(name)
    except OutputUnavailable:
        sys.path.insert(0, str(FOLDER / 'vendor_types'))
        from build import built

        prefix = built()
        site = next(prefix.glob('lib/python*/site-packages'))
        environment['PYTHONPATH'] += os.pathsep + str(site)
        environment['AMENT_PREFIX_PATH'] = f'{prefix}{os.pathsep}{sys.prefix}'
        environment['LD_LIBRARY_PATH'] = ''
    return environment


def run(environment, *words):
    command = [sys.executable, *words]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


@pytest.mark.parametrize('name', ['interbotix', 'trajectory_action', 'nav2', 'tf'])
def test_a_driver_answers_as_the_vendors_does(environment, name):
    """The checks run in a process of their own, which finds the types' libraries at its start."""
    start = (
        'import os, sys; from qwen_vla_ros.nodes.ros_environment import ros_environment;'
        'os.execvpe(sys.executable, [sys.executable, *sys.argv[1:]], ros_environment())'
    )
    check = str(FOLDER / 'vendor_types' / f'check_{name}.py')
    run(environment, '-c', start, '-m', 'pytest', '-x', check)


# A goal that gives way late brakes late: what is asked of actions here does not make them brake.
FAULTS = {
    'interbotix': 'scene: lost',
    'forward-jazzy': 'scene: lost',
    'action-humble': 'model: answers NaN',
    'action-jazzy': 'model: answers NaN',
}


@pytest.mark.parametrize(('driver', 'fault'), FAULTS.items())
def test_the_stack_passes_faults_at_each_driver(environment, driver, fault):
    words = ('--stage', 'full', '--only', fault, '--driver', driver)
    assert '0 unsafe, 0 not handled' in run(environment, '-m', 'benchmarks.faults', *words)
