"""
An action server whose goals end when their owner says so: how controllers and navigators work.

The owner checks a goal, takes it, hears of cancellations, and later calls end() from any thread.
Callbacks come in the executor's thread.
"""

import threading
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.task import Future

from qwen_vla_ros.sim.trajectory_goals import ABORTED, CANCELED, SUCCEEDED


class GoalServer:
    """The server of one action; a goal's key is the bytes of its uuid."""

    def __init__(
        self,
        node: Node,
        action: type,
        name: str,
        check: Callable[[Any], str | None],
        take: Callable[[bytes, Any], None],
        cancel: Callable[[bytes], None],
    ) -> None:
        """
        Serve an action.

        check(goal)      returns why a goal is rejected, or None
        take(key, goal)  begins an accepted goal
        cancel(key)      is asked to end a goal; it has to call end()
        """
        self._node, self._lock = node, threading.Lock()
        self._check, self._take, self._cancel = check, take, cancel
        self.action, self.name = action, name
        self._goals: dict[bytes, tuple[Any, Future]] = {}
        self._server = ActionServer(
            node,
            action,
            name,
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def end(self, key: bytes, status: str, result: Any = None) -> None:
        """End a goal: 'succeeded', 'aborted' or 'canceled'; unknown and ended keys are ignored."""
        with self._lock:
            _, future = self._goals.get(key, (None, None))
            if future is None or future.done():
                return
            future.set_result((status, result or self.action.Result()))
        if self._node.executor is not None:
            self._node.executor.wake()

    def feedback(self, key: bytes, message: Any) -> None:
        """Publish feedback of a running goal."""
        with self._lock:
            handle, future = self._goals.get(key, (None, None))
        if future is not None and not future.done() and handle.is_active:
            handle.publish_feedback(message)

    def close(self) -> None:
        """Serve no longer."""
        self._server.destroy()

    def _on_goal(self, goal: Any) -> GoalResponse:
        reason = self._check(goal)
        if reason is None:
            return GoalResponse.ACCEPT
        self._node.get_logger().error(f'{self.name}: goal rejected: {reason}')
        return GoalResponse.REJECT

    def _on_accepted(self, handle: Any) -> None:
        key = bytes(handle.goal_id.uuid)
        with self._lock:
            self._goals[key] = (handle, Future(executor=self._node.executor))
        self._take(key, handle.request)
        handle.execute()

    def _on_cancel(self, handle: Any) -> CancelResponse:
        self._cancel(bytes(handle.goal_id.uuid))
        return CancelResponse.ACCEPT

    async def _execute(self, handle: Any) -> Any:
        key = bytes(handle.goal_id.uuid)
        with self._lock:
            future = self._goals[key][1]
        status, result = await future
        if status == SUCCEEDED:
            handle.succeed()
        elif status == ABORTED:
            handle.abort()
        elif status == CANCELED:
            if (
                not handle.is_cancel_requested
            ):  # by the server itself: rclcpp has a way, rclpy none
                handle._update_state(_rclpy.GoalEvent.CANCEL_GOAL)
            handle.canceled()
        with self._lock:
            del self._goals[key]
        return result
