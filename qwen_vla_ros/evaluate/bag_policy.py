"""A policy in a bag: its calls take the bag's time, which goes on while it infers."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.evaluate.bag_run import BagRun


class InBagTime:
    """A policy whose calls take bag time; asked holds the last observation and its instant."""

    def __init__(self, policy: Policy, run: 'BagRun') -> None:
        """Wear a policy during a run."""
        self._policy, self._run = policy, run
        self.calls, self.asked = 0, None
        self.inference_s: float | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the policy's own."""
        return self._policy.metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Infer, and let the bag go on meanwhile."""
        self.calls, self.asked = self.calls + 1, (observation, self._run.now_ns)
        began = time.perf_counter()
        try:
            return self._policy.infer(observation, prefix)
        except QwenVlaError as error:
            self._run.happened('policy', str(error))
            raise
        finally:
            self.inference_s = self._run.infer_until(time.perf_counter() - began)

    def reset(self) -> None:
        """Reset the policy."""
        self._policy.reset()
