"""
A policy under a stopwatch: warmed up, too slow counts as failed, a failure rests a while.

Warm is a policy whose last two of at least WARM_UP_CALLS calls took about equally long; nothing of
those calls is executed, and the policy is reset after them. A model process that comes back is
cold again: a new connection begins a new warm-up.

Everything here is in s of the monotonic clock: a model's time does not follow the robot's clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen_vla_ros.errors import QwenVlaError

if TYPE_CHECKING:
    import numpy as np

    from qwen_vla_ros.policy import Policy
    from qwen_vla_ros.types import ActionChunk, Observation

RETRY_S = 0.25  # after a policy has failed
WARM_UP_CALLS = 3
STEADY_SHARE, STEADY_S = 0.5, 0.02  # two latencies this close to one another are steady


@dataclass(frozen=True)
class Inference:
    """A chunk, the time of the whole call and the model's own part of it, in s."""

    chunk: 'ActionChunk'
    call_s: float
    model_s: float


class TimedPolicy:
    """Call a policy from one thread; any thread may ask how it does."""

    def __init__(
        self,
        policy: 'Policy',
        timeout_s: float,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """
        Set up cold; timeout_s bounds every inference after the warm-up.

        stopwatch in s: the machine's; another one where a record is played faster than it was.
        """
        self._policy, self._timeout_s = policy, timeout_s
        self._stopwatch = stopwatch or time.monotonic
        self._warm = False
        self._warm_up: list[float] = []
        self._connections = self._connections_now
        self._busy_since: float | None = None
        self._failure, self._retry_at = '', 0.0
        self._generation = -1

    @property
    def lost(self) -> str:
        """Return why the process of the model is not there; '' when it is."""
        if getattr(self._policy, 'connected', True):
            return ''
        return f'model process: {self._policy.problem}'

    @property
    def _connections_now(self) -> int:
        return getattr(self._policy, 'connections', 0)

    @property
    def transport(self) -> str:
        """Return how pictures reach the model; '' when it is in this process."""
        return getattr(self._policy, 'transport', '')

    @property
    def resting(self) -> bool:
        """Return whether it is too soon to try again."""
        return self._stopwatch() < self._retry_at

    @property
    def problem(self) -> str:
        """Return why the policy is of no use at this moment; '' when it is of use."""
        busy = self._busy_since
        if self._warm and busy is not None and self._stopwatch() - busy > self._timeout_s:
            return f'policy: an inference runs longer than {self._timeout_s:g} s'
        return self._failure or ('' if self._warm else 'warming up the policy')

    def infer(
        self, observation: 'Observation', generation: int, prefix: 'np.ndarray | None' = None
    ) -> Inference | None:
        """
        Infer; None on failure, which problem then tells, and during the warm-up.

        The first calls compile and allocate, so their chunks come too late to be executed. A
        generation is one instruction: the policy is reset before the first call of each. prefix:
        see Policy.infer.
        """
        self._cool_after_reconnect()
        begin = self._stopwatch()
        try:
            if generation != self._generation:
                self._policy.reset()
                self._generation = generation
            self._busy_since = self._stopwatch()
            chunk = self._policy.infer(observation, prefix)
        except QwenVlaError as error:
            self.fail(f'policy: {error}')
            return None
        finally:
            self._busy_since = None
        seconds = self._stopwatch() - begin
        if not self._warm:
            self._note_warm_up(seconds)
            return None
        if seconds > self._timeout_s:
            self.fail(f'policy: an inference took {seconds:.2f} s (limit {self._timeout_s:g} s)')
            return None
        return Inference(chunk, seconds, getattr(self._policy, 'inference_s', None) or seconds)

    def _cool_after_reconnect(self) -> None:
        """Begin the warm-up and the policy's reset anew where the connection is another one."""
        if self._connections_now != self._connections:
            self._connections = self._connections_now
            self._warm, self._warm_up, self._generation = False, [], -1

    def _note_warm_up(self, seconds: float) -> None:
        """Become warm as soon as the latency is steady."""
        self._warm_up = [*self._warm_up, seconds][-WARM_UP_CALLS:]
        if len(self._warm_up) < WARM_UP_CALLS:
            return
        before = self._warm_up[-2]
        if abs(seconds - before) <= max(STEADY_S, STEADY_SHARE * max(seconds, before)):
            self._warm, self._generation = True, -1

    def fail(self, reason: str) -> None:
        """Note why the policy is of no use now; succeed() forgets it."""
        self._failure = reason
        self.rest()

    def rest(self) -> None:
        """Leave the policy alone for a while."""
        self._retry_at = self._stopwatch() + RETRY_S

    def succeed(self) -> None:
        """Forget a failure."""
        self._failure = ''
