"""How every node of ours lives and ends: one executor thread, exit code 0 when interrupted."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.parameters import listed
from qwen_vla_ros.nodes.ros_environment import PROFILE_VARIABLES, ros_environment


def run(
    make_node: Callable[[], Node],
    args: Sequence[str] | None = None,
    gently: bool = False,
    settings: type | None = None,
) -> int:
    """
    Spin a node until interrupted; return the exit code (2: bad input, told in one line).

    A node takes ROS arguments alone: --help lists the parameters of its settings, anything else is
    refused, for nobody would notice that it did nothing.

    The node's close() is called while it still exists, after the last callback. gently: an
    interrupt waits for the end of a callback; in the middle of turning a large message into
    Python, rclpy fails on it, sometimes with a segmentation fault.
    """
    words = remove_ros_args(args)[1:] if args is None else remove_ros_args(args)
    if words:
        return _told(words, settings)
    if gently:
        signal.signal(signal.SIGINT, lambda *_: None)  # rclpy's own handler ends spin()
    environment = ros_environment()
    os.environ.update(
        {name: environment[name] for name in PROFILE_VARIABLES if name in environment}
    )
    rclpy.init(args=args)
    executor, node, code = SingleThreadedExecutor(), None, 0
    try:
        node = make_node()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # launch sends a second one
    except RuntimeError:
        if rclpy.ok():
            raise  # else the interrupt ended the context between two calls of rclpy
    except QwenVlaError as error:
        print(f'error: {error}', file=sys.stderr)
        code = 2
    finally:
        executor.shutdown()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return code


def _told(words: Sequence[str], settings: type | None) -> int:
    """Print how parameters are given; return the exit code."""
    name = Path(sys.argv[0]).stem
    usage = f'{name} --ros-args -p NAME:=VALUE ... [--params-file FILE]'
    if words[0] in ('-h', '--help'):
        print(f'usage: {usage}')
        if settings is not None:
            print(f'\nparameters and their defaults:\n{listed(settings)}')
        return 0
    print(f'error: {name} takes no {words[0]!r}; use {usage}', file=sys.stderr)
    return 2
