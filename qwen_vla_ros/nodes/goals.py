"""
Goals of one action: the newest counts, all can be cancelled, and what went wrong is kept in words.

joint_trajectory_controller and Nav2 replace the goal that runs when they accept another, which is
no failure, also where the controller calls it aborted for INVALID_GOAL (from Jazzy on); any other
error code is. A goal that they refuse leaves the older one running:
hold cancels whatever is not known to be over. Sent
from any thread; answers come in the executor's.
"""

import threading
import time
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node

TOLD_S = 3.0  # a failure is told this long, though a next goal may be accepted at once
REPLACED = -1  # INVALID_GOAL of control_msgs: what a controller tells of a goal that gave way
OVER = {GoalStatus.STATUS_ABORTED: 'aborted', GoalStatus.STATUS_CANCELED: 'cancelled'}


class _Client(ActionClient):
    """An ActionClient that may be made (ros2/rclpy#1589) and destroyed while its node spins."""

    _lock = threading.Lock()  # rclpy's executor asks for it before rclpy has made the client's own

    def destroy(self) -> None:
        """Leave the node. The handle goes with the last reference: a round that has it may end."""
        self._node.remove_waitable(self)


class GoalClient:
    """The client of one action; failures counts the goals that were given up."""

    def __init__(self, node: Node, action: type, name: str) -> None:
        """Connect to the action of a name; whether somebody serves it shows when a goal goes."""
        self._client = _Client(node, action, name)
        self._name, self._lock = name, threading.Lock()
        self._count = self._held = 0
        self._running: dict[int, Any] = {}
        self._problem = self._failure = ''
        self._failed_s = 0.0
        self.failures = 0

    def send(self, goal: Any) -> None:
        """Send a goal, which replaces the one that runs."""
        if not self._client.server_is_ready():
            self._problem = f'{self._name}: no action server; is the controller active?'
            return
        with self._lock:
            self._count += 1
            number = self._count
        answer = self._client.send_goal_async(goal)
        answer.add_done_callback(lambda future: self._on_answer(number, future))

    def hold(self) -> None:
        """Cancel every goal that is not over, those without an answer as soon as it comes."""
        with self._lock:
            self._held = self._count
            running = list(self._running.values())
        for handle in running:
            handle.cancel_goal_async()

    @property
    def problem(self) -> str:
        """Return why the newest goal is not carried out, or what failed in the last 3 s, or ''."""
        recent = time.monotonic() - self._failed_s < TOLD_S
        return self._problem or (self._failure if recent else '')

    @property
    def running(self) -> bool:
        """Return whether a goal is being carried out, as far as the server told."""
        return bool(self._running)

    def close(self) -> None:
        """Cancel and disconnect."""
        self.hold()
        self._client.destroy()

    def _on_answer(self, number: int, future: Any) -> None:
        if future.exception() is not None:
            self._tell(number, f'no answer to a goal: {future.exception()}')
            return
        handle = future.result()
        if not handle.accepted:
            self._tell(number, 'the goal was rejected; the log of its server tells why')
            return
        with self._lock:
            self._running[number] = handle
            unwanted = number <= self._held
        if unwanted:
            handle.cancel_goal_async()
        else:
            self._tell(number, '')
        result = handle.get_result_async()
        result.add_done_callback(lambda future: self._on_result(number, future))

    def _on_result(self, number: int, future: Any) -> None:
        with self._lock:
            self._running.pop(number, None)
            asked_for = number <= self._held
        if future.exception() is not None:
            self._tell(number, f'no result of a goal: {future.exception()}')
            return
        answer = future.result()
        reason = result_reason(answer.result)
        newest = number == self._count
        if not newest and getattr(answer.result, 'error_code', 0) == REPLACED:
            return
        aborted = answer.status == GoalStatus.STATUS_ABORTED and (newest or reason)
        cancelled = answer.status == GoalStatus.STATUS_CANCELED and newest and not asked_for
        if aborted or cancelled:
            told = f'{self._name}: the goal was {OVER[answer.status]}'
            with self._lock:
                self._failure = f'{told}: {reason}' if reason else told
                self._failed_s = time.monotonic()
                self.failures += 1

    def _tell(self, number: int, problem: str) -> None:
        """Keep what happened to the newest goal; what happens to a replaced one is expected."""
        with self._lock:
            if number == self._count:
                self._problem = f'{self._name}: {problem}' if problem else ''


def result_reason(result: Any) -> str:
    """
    Return the error of an action's result in words, '' when it has none.

    control_msgs and nav2_msgs (from Jazzy on) carry error_code, named by constants of the type,
    and a text.
    """
    code = getattr(result, 'error_code', 0)
    if not code:
        return ''
    kind = type(result)
    names = [name for name in dir(kind) if name.isupper() and getattr(kind, name) == code]
    text = getattr(result, 'error_string', '') or getattr(result, 'error_msg', '')
    told = names[0] if names else f'error {code}'
    return f'{told} ({text})' if text else told
