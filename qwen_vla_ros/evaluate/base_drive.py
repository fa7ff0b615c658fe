"""
What a base is sent in a bag's time: the speeds that its output makes of each chunk.

The plan is that of the node (navigation_commands.py); here its messages are only noted. A layout
that sends paths or goals commands no speeds: whoever follows them makes those.
"""

from collections import deque

import numpy as np

from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import ActionGroup
from qwen_vla_ros.navigation_commands import is_stop, rows_of_chunk, velocities, waypoint_poses
from qwen_vla_ros.nodes.motion import Follow
from qwen_vla_ros.output_kinds import BaseRows
from qwen_vla_ros.timeline import Timeline
from qwen_vla_ros.types import ActionChunk

Speed = tuple[float, float, float]
KEPT = 1000  # speeds that were sent, 50 s at 20 Hz
ORIGIN = (0.0, 0.0, 0.0)


class BaseDrive:
    """One base of a contract. Times are those of the bag, int ns."""

    def __init__(self, group: ActionGroup) -> None:
        """Stand; group: the base's, of kind waypoint."""
        kind = output_of(group.output.type)
        self.group, self.options = group, kind.filled(group.output.options)
        self.streams = 'rate_hz' in self.options
        self._period_ns = round(1e9 / self.options['rate_hz']) if self.streams else 0
        self._timeline = Timeline()
        self._sent: deque[tuple[int, Speed]] = deque(maxlen=KEPT)
        self._follow: Follow | None = None

    def follow(self, follow: Follow) -> None:
        """Begin a chunk; CommandRefused for waypoints that this base cannot drive."""
        self.advance(follow.now_ns)
        self._follow = follow
        speed = self._timeline.speed
        self._put(
            rows_of_chunk(
                follow.chunk, self.group.names, follow.pose, follow.frame, follow.now_ns, speed
            )
        )

    def hold(self, now_ns: int) -> None:
        """Come to rest within the limits, as the node makes a base."""
        self.advance(now_ns)
        if self._follow is None:
            return
        frame, pose, still = self._follow.frame, self._follow.pose, np.zeros((1, 3))
        self._put(BaseRows(frame, pose, np.zeros(1), still, now_ns, now_ns, self._timeline.speed))

    def advance(self, now_ns: int) -> None:
        """Send what is due."""
        while (due_ns := self._timeline.next_ns) is not None and due_ns <= now_ns:
            sent = self._timeline.take(due_ns)
            self._sent.append((sent.at_ns, sent.speed))

    def speed_at(self, time_ns: int) -> Speed | None:
        """Return what was sent (vx, vy in m/s, wz in rad/s) for an instant; None: nothing."""
        for at_ns, speed in reversed(self._sent):
            if at_ns <= time_ns:
                return speed if time_ns - at_ns < self._period_ns else None
        return None

    def poses(self, chunk: ActionChunk) -> np.ndarray:
        """Return the waypoints [H, 3] (x, y in m, yaw in rad) from where the base observed."""
        return waypoint_poses(self._at_origin(chunk), self.options['relative_to'])

    def stops(self, chunk: ActionChunk) -> bool:
        """Return whether a chunk says STOP."""
        return is_stop(self._at_origin(chunk), self.poses(chunk), self.options)

    def stood(self, poses: np.ndarray) -> bool:
        """Return whether a base that was at poses [N, 3], N >= 2, stood since the first."""
        begin = BaseRows('', tuple(poses[0]), np.arange(len(poses)), poses, 0, 0)
        return is_stop(begin, poses, self.options)

    def _at_origin(self, chunk: ActionChunk) -> BaseRows:
        return rows_of_chunk(chunk, self.group.names, ORIGIN, '', chunk.start_ns)

    def _put(self, rows: BaseRows) -> None:
        if self.streams:
            plan = velocities(rows, self.options, lambda at_ns, speed: None)
            self._timeline.put(plan.timed, rows.now_ns)
            self.advance(rows.now_ns)
