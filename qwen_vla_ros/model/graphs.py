"""Functions of tensors replayed as CUDA graphs: no launch cost, one capture a set of shapes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UPS = 3


@dataclass(frozen=True)
class _Recording:
    graph: 'torch.cuda.CUDAGraph'
    inputs: tuple[Tensor | None, ...]
    output: Tensor


class GraphedCall:
    """
    A function of tensors (or None) that returns one tensor, captured once for each set of shapes.

    The function may not read anything back to the host. Weights may change in place between
    calls, not be replaced. The result is overwritten by the next call of the same shapes.
    """

    def __init__(self, function: Callable[..., Tensor], keep: int = 8) -> None:
        """Keep at most `keep` recordings, the least recently used goes first."""
        self._function, self._keep = function, keep
        self._recordings: OrderedDict[tuple, _Recording] = OrderedDict()

    @property
    def captures(self) -> int:
        """Return how many recordings are held."""
        return len(self._recordings)

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Copy the inputs in place of the recorded ones and replay."""
        key = shapes_of(inputs)
        if key not in self._recordings:
            self._recordings[key] = self._capture(inputs)
            if len(self._recordings) > self._keep:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        found = self._recordings[key]
        for kept, new in zip(found.inputs, inputs, strict=True):
            if kept is not None:
                kept.copy_(new, non_blocking=True)
        found.graph.replay()
        return found.output

    def _capture(self, inputs: Sequence[Tensor | None]) -> _Recording:
        kept = tuple(None if value is None else value.clone() for value in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(*kept)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._function(*kept)
        return _Recording(graph, kept, output)


def shapes_of(inputs: Sequence[Tensor | None]) -> tuple:
    """Return what a recording depends on: shape and dtype of every input."""
    return tuple(None if value is None else (*value.shape, value.dtype) for value in inputs)
