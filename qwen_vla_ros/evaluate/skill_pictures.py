"""
Questions and traces: single pictures of the held-out seeds, each asked on its own.

A trace is as far from the teacher's as its rows are on average, in pixels of 640x480 or in m;
beside it stand a straight line to the teacher's end at an even pace, and staying at the start.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.skill_policies import Policies
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim.cameras import SIZE
from qwen_vla_ros.train.bundle.frames import HELD_OUT, Frame, Maker, Taught
from qwen_vla_ros.train.bundle.questions import kind_of, score
from qwen_vla_ros.train.bundle.shards import Order
from qwen_vla_ros.train.bundle.traces import trace_error
from qwen_vla_ros.types import Observation

QUESTIONS = 'questions:QuestionsMaker'
TRACES = {'image [px]': 'traces:Trace2DMaker', 'space [m]': 'traces:Trace3DMaker'}


class Pictures:
    """Makes the pictures in the sizes of a stage's model; makers are kept for the next seed."""

    def __init__(self) -> None:
        """Make nothing yet."""
        self._makers: dict[tuple[Any, ...], Maker] = {}

    def run(self, policies: Policies, skill: str, seed: int) -> dict[str, Any]:
        """Ask everything of a seed; return `asked` of questions, `traces` of traces."""
        if skill == 'questions':
            maker = self._maker(QUESTIONS, policies)
            return {'asked': _answered(policies, maker.episode(HELD_OUT + seed), maker.views)}
        found = {}
        for name, kind in TRACES.items():
            maker = self._maker(kind, policies)
            policy = policies.open(maker.embodiment)
            found[name] = _traced(policy, maker, maker.episode(HELD_OUT + seed))
        return {'traces': {name: traces for name, traces in found.items() if traces}}

    def close(self) -> None:
        """Forget the makers; their worlds go with them."""
        self._makers.clear()

    def _maker(self, kind: str, policies: Policies) -> Maker:
        sizes = policies.image_sizes()
        key = kind, *sorted(sizes.items())
        if key not in self._makers:
            self._makers[key] = Order(kind, sizes, HELD_OUT, 1).make()
        return self._makers[key]


def _answered(
    policies: Policies, frames: list[Frame], views: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return what was asked, of which kind, what is right, what was said, and whether it is."""
    pairs = [(frame, taught) for frame in frames for taught in frame.taught]
    asked = [([frame.images[view] for view in views], one.instruction) for frame, one in pairs]
    given = policies.answers(asked) if asked else []
    return [
        {
            'question': taught.instruction,
            'kind': kind_of(taught.instruction),
            'answer': taught.text,
            'given': said,
            'right': score(taught.instruction, taught.text, said),
        }
        for (_, taught), said in zip(pairs, given, strict=True)
    ]


def _traced(policy: Policy, maker: Maker, frames: list[Frame]) -> dict[str, Any]:
    """Return the mean distances of a seed's traces; {} where there is none."""
    rows = [_distances(policy, maker, frame, taught) for frame, taught in _sentences(frames)]
    if not rows:
        return {}
    distance, straight, still = np.mean(rows, 0).tolist()
    return {'distance': distance, 'beside': {'straight line': straight, 'no motion': still}}


def _sentences(frames: list[Frame]) -> Iterator[tuple[Frame, Taught]]:
    for frame in frames:
        for taught in frame.taught:
            yield frame, taught


def _distances(
    policy: Policy, maker: Maker, frame: Frame, taught: Taught
) -> tuple[float, float, float]:
    """Return how far the policy, a straight line and standing still are from the teacher."""
    policy.reset()
    chunk = policy.infer(_observation(maker, frame.images, frame.state, taught.instruction))
    return distances(chunk.actions, taught.actions)


def distances(rows: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Return the mean distance of rows [H, A] from the right ones, of a straight line, of rest."""
    line = np.linspace(right[0], right[-1], len(right))
    still = np.broadcast_to(right[0], right.shape)
    scale = SIZE[1] if right.shape[1] == 2 else 1.0  # of widths of the picture, or of m
    errors = [scale * trace_error(way, right) for way in (rows, line, still)]
    return errors[0], errors[1], errors[2]


def _observation(
    maker: Maker, images: Mapping[str, np.ndarray], state: np.ndarray | None, words: str
) -> Observation:
    return Observation(
        images=images,
        state=state,
        state_names=Embodiment.load(maker.embodiment).state_names,
        instruction=words,
        stamp_ns=0,
        embodiment=maker.embodiment,
        sources_ns=dict.fromkeys(images, 0),
    )
