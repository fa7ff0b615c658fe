"""
`qwen-vla eval skills`: what checkpoints of several robots can do, skill by skill, stage by stage.

Each checkpoint is a stage, named by its folder, and drives all its robots with one set of weights.
OUT/episodes.jsonl has one line an episode, written as it ends, so a run that was stopped goes on
where it was, and further stages, skills or seeds may be added later; stages.json says which
weights a stage has, and others under its name are refused. A seed is the same world for all.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_vla_ros.compatibility.training import learnt_answers
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint, require_checkpoint
from qwen_vla_ros.evaluate.episodes import parse_seeds, write_json
from qwen_vla_ros.evaluate.kept_episodes import EPISODES, append_row, read_rows, run_cases
from qwen_vla_ros.evaluate.processes import interrupted_by_signals
from qwen_vla_ros.evaluate.skill_policies import Policies
from qwen_vla_ros.evaluate.skill_worlds import (
    ROBOTS,
    SKILLS,
    SkillWorld,
    contracts_of,
    open_skill,
    world_of,
)
from qwen_vla_ros.evaluate.skills_report import write_skills_report
from qwen_vla_ros.evaluate.skills_ros import OVER_ROS, ROS_SKILLS, run_over_ros
from qwen_vla_ros.evaluate.skills_summary import summarise_skills, table
from qwen_vla_ros.evaluate.summary import describe_machine, tell_partial
from qwen_vla_ros.sim.zero_errors import parse_zero_errors

STAGES, SUMMARY = 'stages.json', 'summary.json'
Case = tuple[str, str, int]  # stage, skill, seed
Stages = Mapping[str, Path | None]


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `eval skills`."""
    parser.add_argument('where', choices=('skills',))
    parser.add_argument(
        '--checkpoint',
        type=Path,
        nargs='+',
        metavar='DIR',
        help='checkpoint folders or names of the hub, one a stage, in their order (default: '
        'bundled)',
    )
    parser.add_argument(
        '--policy',
        choices=('model', 'expert', 'constant'),
        default='model',
        help='model: the checkpoints (default); expert: the scripted teachers; constant: still',
    )
    parser.add_argument('--seeds', default='0:100', help='worlds (default: 0:100)')
    parser.add_argument(
        '--skills', default='all', help=f'of {",".join(SKILLS)} (default: all that there are)'
    )
    parser.add_argument(
        '--rows',
        type=int,
        default=8,
        help='of a chunk that run before the next one, of the tasks pick to stack (default: 8)',
    )
    parser.add_argument(
        '--zero-errors',
        default='',
        metavar='JOINT=RAD,..',
        help='of the tasks pick to stack: an arm whose joints read so much more than they are',
    )
    parser.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    parser.add_argument(
        '--ros',
        type=int,
        default=0,
        metavar='N',
        help='also the first N seeds of pick and push through ROS, the last stage',
    )
    parser.add_argument(
        '--pace',
        type=float,
        default=1.0,
        help="with --ros: seconds of the robot's clock a second, for a machine that does not keep "
        'up (default: 1)',
    )
    parser.add_argument('--domain-id', type=int, help='with --ros (default: a free one)')
    parser.add_argument('--out', type=Path, default=Path('out/skills'), help='folder')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--dtype', choices=('auto', 'float32', 'bfloat16', 'float16'), default='auto'
    )
    parser.add_argument('--steps', type=int, help="denoising steps (default: the checkpoint's)")
    parser.add_argument('--threads', type=int, default=1, help='of a process (default: 1)')
    parser.set_defaults(attention=None, adapters=None, quantise=None, path='auto')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Run what is still missing; leave episodes, summary, table, plot and page in --out."""
    if args.workers < 1:
        raise QwenVlaError(f'--workers {args.workers}: at least 1')
    if args.ros and args.policy != 'model':
        raise QwenVlaError(f'--ros {args.ros}: --policy {args.policy} has no tasks through ROS')
    if not 0.05 <= args.pace <= 1.0:
        raise QwenVlaError(f'--pace {args.pace}: choose from 0.05 to 1')
    most = Embodiment.load('widowx').horizon - 1
    if not 1 <= args.rows <= most:
        raise QwenVlaError(f'--rows {args.rows}: choose from 1 to {most}')
    seeds, stages = parse_seeds(args.seeds), name_stages(args)
    skills = chosen_skills(args.skills, args.policy)
    settings = {'rows': args.rows, 'zero_errors': parse_zero_errors(args.zero_errors)}
    _keep_stages(args.out, stages, settings)
    wanted = [
        (stage, skill, seed)
        for stage, folder in stages.items()
        for skill in possible_skills(stage, folder, skills)
        for seed in seeds
    ]
    last = list(stages)[-1]
    over_ros = [
        (last, skill + OVER_ROS, seed) for skill in ROS_SKILLS for seed in seeds[: args.ros]
    ]
    path = args.out / EPISODES
    done = read_rows(path, case_of) if path.exists() else {}
    started = time.monotonic()
    try:
        with interrupted_by_signals():
            for row in _rows(args, stages, wanted, over_ros, done):
                done[case_of(row)] = row
                append_row(path, row)
    finally:
        wanted += over_ros
        found = [done[case] for case in wanted if case in done]
        _write(args.out, stages, found, len(wanted), time.monotonic() - started)
    return 0 if found else 1


def _rows(
    args: argparse.Namespace,
    stages: Stages,
    wanted: Sequence[Case],
    over_ros: Sequence[Case],
    done: Mapping[Case, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the episodes that are missing: in gymnasium as they end, then those through ROS."""
    missing = [case for case in wanted if case not in done]
    given = argparse.Namespace(**{k: v for k, v in vars(args).items() if not callable(v)})
    rows = run_cases(_Runner, (given, stages), missing, args.workers)
    yield from tqdm(rows, total=len(missing), unit='episode', disable=None)
    missing = [case for case in over_ros if case not in done]
    if missing:
        stage = missing[0][0]
        cases = [(skill, seed) for _, skill, seed in missing]
        yield from run_over_ros(args, stage, stages[stage], cases)


def case_of(row: Mapping[str, Any]) -> Case:
    """Return what an episode is of."""
    return str(row['stage']), str(row['skill']), int(row['seed'])


def name_stages(args: argparse.Namespace) -> dict[str, Path | None]:
    """
    Return stage -> folder; the scripted policy is a stage of its own, without one.

    A stage has the last part of its folder's path that tells all of them apart; a run's own
    folder of the name `checkpoint` is not one.
    """
    if args.policy != 'model':
        if args.checkpoint:
            raise QwenVlaError(f'--policy {args.policy} takes no --checkpoint')
        return {args.policy: None}
    given = args.checkpoint or [bundled_checkpoint()]
    for folder in given:
        require_checkpoint(folder)
    folders = [_found(folder) for folder in given]
    whole = [folder.resolve() for folder in given]
    paths = [(path.parent if path.name == 'checkpoint' else path).parts for path in whole]
    for end in range(1, min(map(len, paths))):
        names = [parts[-end] for parts in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, folders, strict=True))
    raise QwenVlaError('--checkpoint: the same folder is given twice')


def _found(folder: Path) -> Path:
    """Return a checkpoint's folder, fetched when it is a name of the hub."""
    from qwen_vla_ros.model.hub import find_checkpoint

    return find_checkpoint(folder)


def chosen_skills(text: str, policy: str) -> list[str]:
    """Return the skills of a list; without a model only those that move a robot."""
    names = text.split(',')
    known = SKILLS if policy == 'model' else tuple(ROBOTS)
    if names == ['all']:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise QwenVlaError(
            f'--skills: --policy {policy} has no {", ".join(unknown)}; choose from '
            f'{", ".join(known)}, or all'
        )
    return names


def possible_skills(stage: str, folder: Path | None, skills: Sequence[str]) -> list[str]:
    """Return the skills that a checkpoint was trained for; of the others it is told why not."""
    if folder is None:
        return list(skills)
    robots = {path.stem for path in (folder / 'embodiments').glob('*.yaml')}
    found = []
    for skill in skills:
        contracts = contracts_of(skill)
        missing = [name for name in contracts if name not in robots]
        if missing:
            print(f'{stage}: no {skill}, as it was not trained for {", ".join(missing)}')
        elif not contracts and not learnt_answers(folder):
            print(f'{stage}: no {skill}, as it was not trained on answers')
        else:
            found.append(skill)
    return found


def _keep_stages(out: Path, stages: Stages, settings: Mapping[str, Any]) -> None:
    """Write down each stage's weights and settings; refuse others under a name that was used."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / STAGES
    known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    for stage, folder in stages.items():
        facts = {'checkpoint': str(folder or stage), 'weights': _weights(folder), **settings}
        before = {'zero_errors': {}, **known.get(stage, facts)}
        if before['weights'] != facts['weights']:
            raise QwenVlaError(
                f'--out {out} holds the stage {stage} with other weights '
                f'({before["checkpoint"]}); choose another folder'
            )
        for name, value in settings.items():
            if before[name] != value:
                option = name.replace('_', '-')
                raise QwenVlaError(
                    f'--out {out} holds the stage {stage} with --{option} {before[name]}, '
                    f'not {value}; choose another folder'
                )
        known[stage] = facts
    write_json(known, path)


def _weights(folder: Path | None) -> str:
    """Return the fingerprint of a checkpoint; '' of a scripted policy."""
    if folder is None:
        return ''
    from qwen_vla_ros.model.adapters import fingerprint

    return fingerprint(folder)


class _Runner:
    """A worker: one stage's model and one world are open at a time."""

    def __init__(self, args: argparse.Namespace, stages: Stages) -> None:
        self._args, self._stages = args, stages
        self._stage: str | None = None
        self._name: str | None = None
        self._world: SkillWorld | None = None

    def run(self, case: Case) -> dict[str, Any]:
        """Run a seed of a skill with a stage's policy."""
        stage, skill, seed = case
        if stage != self._stage:
            self._policies = Policies(self._args, self._stages[stage])
            self._stage = stage
        if world_of(skill) != self._name:
            self.close()
            self._world, self._name = open_skill(skill, self._args), world_of(skill)
        started = time.monotonic()
        facts = self._world.run(self._policies, skill, seed)
        took = round(time.monotonic() - started, 3)
        return {'stage': stage, 'skill': skill, 'seed': seed, **facts, 'took_s': took}

    def close(self) -> None:
        """Free the GL contexts."""
        if self._world is not None:
            self._world.close()
        self._world = None


def _write(
    out: Path, stages: Stages, rows: Sequence[Mapping[str, Any]], planned: int, seconds: float
) -> None:
    """Write and print what there is."""
    summary = {
        'date': time.strftime('%Y-%m-%d %H:%M'),
        'machine': describe_machine(),
        'checkpoints': {stage: str(folder or stage) for stage, folder in stages.items()},
        'planned_episodes': planned,
        'complete': len(rows) == planned,
        'seconds': round(seconds, 1),
        **summarise_skills(rows, list(stages)),
    }
    write_json(summary, out / SUMMARY)
    write_skills_report(summary, out)
    for line in table(summary)[1]:
        print('  '.join(f'{cell:26}' for cell in line).rstrip())
    tell_partial(len(rows), planned)
    print(f'report: {out / "report.html"}')
