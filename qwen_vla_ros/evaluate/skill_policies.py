"""The policies of a stage: a checkpoint's, one model for all its robots, or the scripted."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import named_policy, serve_policy
from qwen_vla_ros.policy import LocalPolicy, ModelPolicies, Policy

MOST_WORDS = 32  # tokens of an answer


class Policies:
    """Opened when the first skill asks; args as of `qwen-vla eval skills`."""

    def __init__(self, args: argparse.Namespace, checkpoint: Path | None) -> None:
        """Take a stage; checkpoint None: the scripted policy that args.policy names."""
        self._args, self._checkpoint = args, checkpoint
        self._loaded: ModelPolicies | None = None
        self._scripted: dict[str, Policy] = {}
        self._processor: Any = None

    def open(self, robot: str) -> Policy:
        """Return the policy of a robot, by its contract's name."""
        if self._checkpoint is not None:
            return self._model().open(robot)
        if robot not in self._scripted:
            self._scripted[robot] = named_policy(self._args.policy, Embodiment.load(robot))
        return self._scripted[robot]

    @property
    def teacher(self) -> bool:
        """Whether the skills are to be shown by their scripted teachers."""
        return self._checkpoint is None and self._args.policy == 'expert'

    def image_sizes(self) -> dict[str, tuple[int, int]]:
        """Return (h, w) of the model's pictures by view."""
        return dict(self._any().model.config.inputs.image_sizes)

    def answers(self, asked: Sequence[tuple[Sequence[np.ndarray], str]]) -> list[str]:
        """Return the model's answers to (pictures, question) pairs."""
        from qwen_vla_ros.model.answer import answer_all
        from qwen_vla_ros.model.checkpoint import load_tokenizer
        from qwen_vla_ros.model.processor import Processor

        model = self._any().model
        if self._processor is None:
            self._processor = Processor(load_tokenizer(self._checkpoint), model.config)
        return answer_all(model, self._processor, asked, MOST_WORDS)

    def _any(self) -> LocalPolicy:
        """Return the policy of some robot of the checkpoint: they share the model."""
        policies = self._model()
        return policies.open(policies.metadata['robots'][0])

    def _model(self) -> ModelPolicies:
        """Return the checkpoint, read once."""
        if self._checkpoint is None:
            raise QwenVlaError(f'--policy {self._args.policy}: it holds no model')
        if self._loaded is None:
            given = {**vars(self._args), 'checkpoint': self._checkpoint, 'robot': None}
            self._loaded = serve_policy(argparse.Namespace(**given))
        return self._loaded
