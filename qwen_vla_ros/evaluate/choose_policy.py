"""The policy that `--policy`, `--checkpoint`, `--robot`, ... ask for."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import ConstantPolicy, ModelPolicies, Policy, describe_policy

BUNDLED = Path('checkpoints') / 'small'
_SHARE = Path('share') / 'qwen_vla_ros'


def choose_policy(args: argparse.Namespace) -> Policy:
    """Return the policy that the command line asks for."""
    embodiment = Embodiment.load(args.robot or 'widowx')
    if args.policy != 'model':
        return named_policy(args.policy, embodiment, getattr(args, 'house', 0))
    from qwen_vla_ros.policy import load_policy

    return load_policy(args.checkpoint or bundled_checkpoint(), embodiment, **_ways(args))


def named_policy(name: str, embodiment: Embodiment, house: int = 0) -> Policy:
    """
    Return 'constant', 'expert', or the policy at an address (scheme://host:port) for a robot.

    house: the map that a base's expert knows; the token of a server comes from QWEN_VLA_TOKEN.
    """
    if name == 'constant':
        return _still(embodiment)
    if name == 'expert':
        return _expert(embodiment, house)
    from qwen_vla_ros.protocols.clients import policy_at

    return policy_at(name, embodiment, token=os.environ.get('QWEN_VLA_TOKEN'))


def serve_policy(args: argparse.Namespace) -> Policy | ModelPolicies:
    """
    Return the policy to be served: of a checkpoint that of every robot, one model for all.

    With --robot the checkpoint must fit it.
    """
    if args.policy != 'model':
        return choose_policy(args)
    from qwen_vla_ros.policy import load_policies, refuse_mismatch

    policies = load_policies(args.checkpoint or bundled_checkpoint(), **_ways(args))
    if args.robot is not None:
        embodiment = Embodiment.load(args.robot)
        metadata = policies.open(embodiment.name).metadata
        refuse_mismatch(metadata, embodiment, embodiment.default_layout)
    return policies


def _ways(args: argparse.Namespace) -> dict[str, Any]:
    """Return how the model is to run, and set torch's threads."""
    from qwen_vla_ros.model.engine import EngineOptions

    use_threads(args.threads)
    names = ('device', 'steps', 'dtype', 'attention', 'adapters', 'quantise')
    ways = {name: getattr(args, name) for name in names}
    return {**ways, 'options': EngineOptions(path=args.path)}


def _still(embodiment: Embodiment) -> Policy:
    """Return the policy that holds the joints, or lets a base stand."""
    if not _is_base(embodiment):
        return ConstantPolicy(embodiment)
    from qwen_vla_ros.sim.rooms.expert import StandingPolicy

    return StandingPolicy(describe_policy(embodiment))


def _expert(embodiment: Embodiment, house: int) -> Policy:
    """Return the scripted policy of the simulated robot that has the contract's joints."""
    if _is_base(embodiment):
        from qwen_vla_ros.sim.rooms.expert import RoomsExpert
        from qwen_vla_ros.sim.rooms.tasks import sample_task

        task = sample_task(house)
        return RoomsExpert(lambda: (task.house, task.start), describe_policy(embodiment))
    from qwen_vla_ros.sim.aloha import vx300s

    if embodiment.action_names() == vx300s.JOINT_NAMES:
        from qwen_vla_ros.evaluate.colour_places import places_in_view
        from qwen_vla_ros.sim.aloha.expert import BimanualExpert

        facts = describe_policy(embodiment)
        return BimanualExpert(places_in_view, facts, embodiment.horizon, embodiment.step_s)
    from qwen_vla_ros.evaluate.colour_search import ColourSearchPolicy

    return ColourSearchPolicy(embodiment)


def _is_base(embodiment: Embodiment) -> bool:
    """Return whether a policy moves a base and nothing else."""
    return all(group.kind == 'waypoint' for group in embodiment.action_groups())


def use_threads(count: int | None) -> None:
    """
    Set torch's threads; None takes half the cores, at most 4.

    The robot's own processes need the rest, and a small model is slower on many threads.
    """
    import torch

    if count is not None and count < 1:
        raise QwenVlaError(f'--threads {count}: at least 1')
    torch.set_num_threads(count or min(4, max(1, (os.cpu_count() or 1) // 2)))


def bundled_checkpoint() -> Path:
    """Return the checkpoint that comes with the package; QwenVlaError tells where it looked."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    places = [
        Path(__file__).resolve().parents[2] / BUNDLED,
        *(Path(prefix) / _SHARE / BUNDLED for prefix in (*prefixes, sys.prefix) if prefix),
    ]
    for place in places:
        if (place / 'config.json').is_file():
            return place
    raise QwenVlaError(
        f'no bundled checkpoint in {", ".join(map(str, places))}; train one (qwen-vla train small '
        '--out DIR) and pass --checkpoint, or try --policy expert'
    )


def require_checkpoint(folder: Path) -> None:
    """
    Raise QwenVlaError unless the folder looks like a checkpoint (no torch needed).

    `organisation/name` that is no folder may be of the hub: the model's process looks there.
    """
    if not folder.exists() and len(folder.parts) == 2 and not folder.is_absolute():
        return
    if (folder / 'model.safetensors.index.json').is_file():
        weights = 'model.safetensors.index.json'
    else:
        weights = 'model.safetensors'
    for name in ('config.json', weights, 'statistics.json'):
        if not (folder / name).is_file():
            raise QwenVlaError(
                f'--checkpoint {folder}: there is no {name}; give the folder of a checkpoint'
            )


def policy_words(args: argparse.Namespace) -> list[str]:
    """Return the same choice as words of a command line, for a child process."""
    words = ['--policy', args.policy, '--robot', str(args.robot), '--device', args.device]
    words += ['--path', args.path]
    if args.policy == 'model':
        folder = args.checkpoint or bundled_checkpoint()
        words += ['--checkpoint', str(folder.resolve() if folder.is_dir() else folder)]
        words += ['--dtype', args.dtype]
        if args.adapters:
            words += ['--adapters', str(args.adapters.resolve())]
    for name in ('steps', 'threads', 'attention', 'quantise'):
        if getattr(args, name) is not None:
            words += [f'--{name}', str(getattr(args, name))]
    return words


def name_policy(args: argparse.Namespace) -> str:
    """Return what the report calls the policy."""
    if args.policy != 'model':
        return args.policy
    return str(args.checkpoint or bundled_checkpoint())
