"""
A policy in the seat that another project's client knows: samples in, keyed arrays out.

Time is that of the client's steps, not of the wall: each request is `execute` steps after the one
before, so a policy that looks back sees the spacing it was trained on however slow the simulator
is. A policy forgets (reset) when the sentence changes, when the client says so, and with every
connection; openpi's messages have no word for a new episode.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import PolicyMismatch
from qwen_vla_ros.protocols.layout import WireLayout
from qwen_vla_ros.wire import ProtocolError

if TYPE_CHECKING:
    from qwen_vla_ros.policy import Policy

MAX_ENVIRONMENTS = 64


class Seat:
    """A policy and the keys of a client; open() gives every connection its own memory."""

    def __init__(
        self,
        policy: 'Policy',
        layout: WireLayout,
        execute: int = 1,
        rotations: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        robot: str = '',
    ) -> None:
        """
        Compare what the client sends with what the policy needs; PolicyMismatch names it.

        execute: steps between two requests. rotations: of the policy, see WireLayout.write().
        facts: further metadata of the greeting. robot: whose policy, of a model for several.
        """
        self.layout, self.execute = layout, execute
        self.policy, self.rotations, self._robot = policy, dict(rotations or {}), robot
        opened = self.open_policy()
        self.metadata = {**opened.metadata, **(facts or {})}
        refuse_unfit(opened.metadata, layout)

    def open(self) -> 'Session':
        """Return the seat of one connection."""
        return Session(self)

    def open_policy(self) -> 'Policy':
        """Return a policy with a memory of its own, where there can be several."""
        opens = getattr(self.policy, 'open', None)
        return self.policy if opens is None else opens(self._robot)

    @property
    def many(self) -> bool:
        """Return whether every environment can have a policy of its own."""
        return getattr(self.policy, 'open', None) is not None


class Session:
    """One connection: a policy for each environment of its batches."""

    def __init__(self, seat: Seat) -> None:
        """Start with no environment."""
        self._seat = seat
        self._places: list[_Place] = []

    def answer(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return key -> actions for each sample, in order."""
        seat = self._seat
        if not 0 < len(samples) <= MAX_ENVIRONMENTS:
            raise ProtocolError(f'{len(samples)} samples; 1 to {MAX_ENVIRONMENTS} are served')
        if len(samples) > 1 and not seat.many:
            raise QwenVlaError(
                f'{len(samples)} environments in one request, but this policy has one memory; '
                'send one environment at a time'
            )
        while len(self._places) < len(samples):
            self._places.append(_Place(seat.open_policy()))
        return [
            place.answer(sample, seat)
            for place, sample in zip(self._places, samples, strict=False)
        ]

    def reset(self) -> None:
        """Forget: a new episode begins in every environment."""
        for place in self._places:
            place.forget()


class _Place:
    """One environment: its policy, what it is told, and how many steps it has made."""

    def __init__(self, policy: 'Policy') -> None:
        self._policy = policy
        self.forget()

    def forget(self) -> None:
        self._policy.reset()
        self._sentence: str | None = None
        self._steps = 0

    def answer(self, sample: Any, seat: Seat) -> dict[str, Any]:
        facts = self._policy.metadata
        step_ns = round(1e9 / facts['rate_hz'])
        observation = seat.layout.read(sample, self._steps * step_ns, facts['embodiment'])
        if self._sentence not in (None, observation.instruction):
            self.forget()
            observation = seat.layout.read(sample, 0, facts['embodiment'])
        self._sentence = observation.instruction
        chunk = self._policy.infer(observation)
        if not np.isfinite(chunk.actions).all():
            raise QwenVlaError('the policy returned a number that is not finite')
        self._steps += seat.execute
        return seat.layout.write(chunk, seat.rotations)


def refuse_unfit(metadata: Mapping[str, Any], layout: WireLayout) -> None:
    """Raise PolicyMismatch that names what a client lacks for a policy, or would lack of it."""
    name = metadata.get('checkpoint', metadata.get('embodiment', '?'))
    views = sorted(set(metadata['views']) - set(layout.views))
    known = set(metadata['action_names'])
    actions = [channel for channel in layout.action_names if channel not in known]
    problems = []
    if views:
        problems.append(f'it looks at {", ".join(views)}, which the client does not send')
    takes_state = metadata.get('state_input', 'none') != 'none'
    if takes_state and tuple(metadata['state_names']) != layout.state_names:
        problems.append(
            f'it needs the state {", ".join(metadata["state_names"])}, the client sends '
            f'{", ".join(layout.state_names) or "none"}'
        )
    if actions:
        problems.append(f'the client wants {", ".join(actions)}, which it does not command')
    if problems:
        raise PolicyMismatch(
            f'policy {name} does not fit the client of {layout.source}: {"; ".join(problems)}; '
            'choose a checkpoint trained for it'
        )
