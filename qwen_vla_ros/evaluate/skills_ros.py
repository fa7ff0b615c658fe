"""
Skills through ROS: robot, model and policy node as in the demo, before the table of tasks.

The same seeds as in gymnasium are the same tasks; here the robot does not wait for the policy.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.demo import Demo, choose_domain
from qwen_vla_ros.evaluate.episodes import table_task

OVER_ROS = ', over ROS'
ROS_SKILLS = ('pick', 'push')


def run_over_ros(
    args: argparse.Namespace,
    stage: str,
    checkpoint: Path | None,
    cases: Sequence[tuple[str, int]],
) -> Iterator[dict[str, Any]]:
    """
    Run (skill, seed) with a stage's policy; yield an episode each once all have ended.

    What was done before something failed is yielded, then QwenVlaError says what it was.
    """
    tasks = [table_task(seed, skill.removesuffix(OVER_ROS)) for skill, seed in cases]
    given = {
        **vars(args),
        'checkpoint': checkpoint,
        'robot': 'widowx',
        'out': args.out / 'ros' / stage,
        'live': False,
        'baselines': False,
    }
    demo = Demo(argparse.Namespace(**given), tasks, choose_domain(args.domain_id))
    demo.run()
    for (skill, seed), episode in zip(cases, demo.result.episodes, strict=False):
        kept = ('instruction', 'target', 'success', 'elapsed_s', 'refusals', 'note')
        facts = {name: getattr(episode, name) for name in kept}
        yield {'stage': stage, 'skill': skill, 'seed': seed, **facts, 'pace': args.pace}
    if demo.result.failure:
        raise QwenVlaError(f'--ros: {demo.result.failure}')
