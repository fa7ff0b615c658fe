"""
The language model's state after a prompt, kept so that the same prompt is read only once.

Wears the methods that Qwen3.5's layers call on a cache. Recorded by one pass over the prompt, then
read only: every later pass goes on from it and leaves it as it is, so nothing is ever copied. Full
attention layers keep keys and values, gated-delta layers their recurrent and convolution states.
Exact, and useful only where the prompt stands before the images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class PromptState:
    """Keys, values and recurrent states of every layer after the first tokens."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]] | None = None) -> None:
        """Start empty, to be recorded; or take the tensors of a recorded one."""
        self._recording = layers is None
        self._pairs: dict[int, tuple[Tensor | None, Tensor | None]] = dict(enumerate(layers or ()))

    def finish(self) -> None:
        """End the recording: later passes read only."""
        self._recording = False

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return per layer (keys, values) or (convolution state, recurrent state)."""
        return [self._pairs[index] for index in sorted(self._pairs)]

    # What the layers of transformers' Qwen3.5 call -----------------------------------------------

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tokens so far [B, heads, T, E]."""
        if self._recording:
            self._pairs[layer] = (keys, values)
            return keys, values
        before = self._pairs[layer]
        return torch.cat((before[0], keys), dim=-2), torch.cat((before[1], values), dim=-2)

    def get_conv_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        """Return the last inputs of the causal convolution; None while recording."""
        return None if self._recording else self._pairs[layer][0]

    def get_recurrent_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        """Return the recurrent state [B, heads, key, value]; None while recording."""
        return None if self._recording else self._pairs[layer][1]

    def is_recording_past(self, layer: int) -> bool:
        """Return True: a single token goes the way of many, which writes nothing in place."""
        return True

    def update_conv_state(self, inputs: Tensor, layer: int, conv_kernel_size: int) -> Tensor:
        """Return the convolution's inputs with those before them in front."""
        if self._recording:
            kept = functional.pad(inputs, (conv_kernel_size, 0))[..., -conv_kernel_size:]
            self._pairs[layer] = (kept, None)
            return inputs
        return torch.cat((self._pairs[layer][0], inputs), dim=-1)

    def update_recurrent_state(self, state: Tensor, layer: int) -> None:
        """Keep the state after the recorded prompt; later passes change nothing."""
        if self._recording:
            self._pairs[layer] = (self._pairs[layer][0], state)
