"""
`qwen-vla tell`: what one says to a policy node, on machines that have no `ros2` command.

    instruction TEXT   the task in words; '' ends it        stage NAME --reason WHY   one step up
    estop, release     by service                           reset, park               as it says
    status [--follow]  stage, instruction, latency, and why the robot holds

The exit code is 0 when it was done, 1 when the node refused, 2 when there is no node.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.nodes.qos import LATCHED
from qwen_vla_ros.nodes.ros_environment import PROFILE_VARIABLES, ros_environment
from qwen_vla_ros.srv import SetStage
from qwen_vla_ros.stages import STAGES

FOLLOW_S = 0.05


class Teller:
    """A node for the time of one sentence; use as a context."""

    def __init__(self, policy: str, timeout_s: float) -> None:
        """Talk to the policy node of a name, with its namespace where it has one."""
        self._policy, self._timeout_s = policy.rstrip('/'), timeout_s
        environment = ros_environment()
        found = {name: environment[name] for name in PROFILE_VARIABLES if name in environment}
        os.environ.update(found)
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node('tell', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.status: PolicyStatus | None = None
        self._node.create_subscription(PolicyStatus, f'{policy}/status', self._hear, LATCHED)

    def __enter__(self) -> 'Teller':
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the node."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def listen(self) -> PolicyStatus:
        """Return the node's status; QwenVlaError when none comes."""
        self._until(lambda: self.status is not None)
        return self.status

    def instruct(self, text: str) -> str:
        """Publish an instruction; return what the node says once it has it."""
        publisher = self._node.create_publisher(String, f'{self._policy}/instruction', LATCHED)
        self._until(publisher.get_subscription_count)
        publisher.publish(String(data=text))
        self._until(lambda: self.status and self.status.instruction == text.strip())
        return line(self.status)

    def call(self, kind: Any, service: str, request: Any) -> tuple[bool, str]:
        """Call a service of the node; return whether it was done, and what it says."""
        client = self._node.create_client(kind, f'{self._policy}/{service}')
        self._until(client.service_is_ready)
        future = client.call_async(request)
        self._until(future.done)
        return future.result().success, future.result().message

    def follow(self, say: Callable[[str], None]) -> None:
        """Say every status that says something new, until interrupted."""
        told = ''
        while True:
            self._executor.spin_once(FOLLOW_S)
            if self.status is not None and (text := line(self.status, latency=False)) != told:
                told = text
                say(line(self.status))

    def _hear(self, status: PolicyStatus) -> None:
        self.status = status

    def _until(self, ready: Callable[[], Any]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise QwenVlaError(
                    f'no policy node answers as {self._policy} within {self._timeout_s:g} s; '
                    'is it running, on this ROS_DOMAIN_ID, under this name (--node)?'
                )
            self._executor.spin_once(0.02)


def line(status: PolicyStatus, latency: bool = True) -> str:
    """Return a status in one line."""
    parts = [f'{status.stage} ({status.arming})', repr(status.instruction)]
    if latency and status.inference_s > 0:
        parts.append(f'model {status.inference_s * 1e3:.0f} ms')
    if status.shadow:
        parts.append(f'shadow: {status.shadow}')
    return ', '.join(parts) + (f': {status.reason}' if status.reason else '')


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla tell`."""
    parser.add_argument('--node', default='policy', help='name of the node (default: policy)')
    parser.add_argument('--timeout', type=float, default=5.0, metavar='S', help='s (default: 5)')
    words = parser.add_subparsers(dest='word', required=True, metavar='WHAT')
    said = words.add_parser('instruction', help="the task in words; '' ends it")
    said.add_argument('text')
    stage = words.add_parser('stage', help='how much reaches the robot: one step up at a time')
    stage.add_argument('stage', choices=STAGES)
    stage.add_argument('--reason', required=True, help='why; it is logged and kept')
    stage.add_argument('--force', action='store_true', help='leave the shadow uncompared')
    for word, text in (
        ('estop', 'press the emergency stop of the service'),
        ('release', 'release it; then reset'),
        ('reset', 'free the safety latch'),
        ('park', 'come to rest, go to the park posture, stay there'),
    ):
        words.add_parser(word, help=text)
    status = words.add_parser('status', help='what the node does, and why')
    status.add_argument('--follow', action='store_true', help='until Ctrl-C')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Say it; return the exit code."""
    with Teller(args.node, args.timeout) as teller:
        if args.word == 'instruction':
            print(teller.instruct(args.text))
            return 0
        if args.word == 'status':
            print(line(teller.listen()))
            if args.follow:
                teller.follow(lambda text: print(text, flush=True))
            return 0
        done, told = teller.call(*_request(args))
        print(told, file=sys.stdout if done else sys.stderr)
        return 0 if done else 1


def _request(args: argparse.Namespace) -> tuple[Any, str, Any]:
    """Return type, name and request of the service that a word is for."""
    if args.word == 'stage':
        wanted = SetStage.Request(stage=args.stage, reason=args.reason, force=args.force)
        return SetStage, 'set_stage', wanted
    if args.word in ('estop', 'release'):
        return SetBool, 'estop', SetBool.Request(data=args.word == 'estop')
    service = {'reset': 'reset_safety', 'park': 'park'}[args.word]
    return Trigger, service, Trigger.Request()
