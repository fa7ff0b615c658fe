"""What a node is started with: what it would not notice is refused, what it has is listed."""

import subprocess
import sys

import pytest

pytest.importorskip('rclpy')


def start(*words):
    command = [sys.executable, '-m', 'qwen_vla_ros.nodes.viz_node', *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_words_that_a_node_would_ignore_are_refused():
    ended = start('--robot', 'aloha')
    assert (ended.returncode, ended.stdout) == (2, '')
    assert ended.stderr.startswith("error: viz_node takes no '--robot'; use viz_node --ros-args")


def test_help_lists_the_parameters():
    ended = start('--help')
    assert ended.returncode == 0
    assert '  robot:=widowx' in ended.stdout


def test_a_misspelt_parameter_is_refused_by_name():
    ended = start('--ros-args', '-p', 'robott:=aloha')
    assert ended.returncode == 2
    assert ended.stderr == "error: viz has no parameter 'robott'; did you mean 'robot'?\n"
