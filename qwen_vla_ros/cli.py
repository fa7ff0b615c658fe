"""
`qwen-vla`: the command line.

Each sub-command imports what it needs when it runs, so the help is instant and a machine without
ROS, torch or a simulator can use the rest. Exit codes: 0 done, 1 the run itself failed, 2 bad
input (one line on stderr), 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from qwen_vla_ros import kernel_hints
from qwen_vla_ros.errors import QwenVlaError

BAD_INPUT, INTERRUPTED = 2, 130
# What the system says of a path that was given: a file where a folder is to be, no permission.
_PATHS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_INSTALL = {
    'rclpy': "ROS 2: source your installation, or pip install 'qwen_vla_ros[ros]' where none is",
    'mujoco': "the simulator: pip install 'qwen_vla_ros[sim]'",
    'gymnasium': "the simulator: pip install 'qwen_vla_ros[sim]'",
    'torch': "the model: pip install 'qwen_vla_ros[train]'",
    'transformers': "the model: pip install 'qwen_vla_ros[train]'",
    'peft': 'LoRA adapters: pip install peft',
}

# Commands whose module declares its arguments and runs: name -> (what it is for, module).
_MODULES = {
    'train': ('train a stage or a named run', 'train.runs'),
    'init': ('join a Qwen3.5 release and a fresh decoder', 'model.initialise'),
    'plan': ('what training costs: memory, GPU hours, data', 'train.plan'),
    'record': ("record a robot's topics, episode by episode", 'data.record_command'),
    'convert': ('data sets into another format, cleaned', 'data.convert_command'),
    'card': ('what is in a data set, as one HTML page', 'data.card'),
    'data': ('one training batch of data sets, and its shapes', 'data.batch'),
    'synthesise': ('make synthetic training sets', 'data.synthetic.command'),
    'fit-hands': ('ten numbers for the pose of a hand', 'data.hand_pca'),
    'tell': ('say something to the policy node, without ros2', 'nodes.tell'),
    'check': ("an arm's home pose and signs, its camera's place", 'checks.command'),
    'ask': ('ask a checkpoint about images', 'model.ask'),
    'schema': ('the JSON Schema of robot contracts, for editors', 'contract_schema'),
}


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End with code 2; the usage is in the help."""
        self.exit(BAD_INPUT, f'{self.prog}: {message}; see {self.prog} --help\n')

    def parse_known_args(self, *given: Any, **named: Any) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is unknown here, where the sub-command is known, and not above."""
        found, unknown = super().parse_known_args(*given, **named)
        if unknown:
            self.error(f'unknown: {" ".join(unknown)}')
        return found, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return the exit code; bad input is told in one line."""
    # torch's waiting threads sleep instead of spinning: the robot's processes share the cores.
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
    os.environ.setdefault('GOMP_SPINCOUNT', '0')
    if not sys.stderr.isatty():  # a log: bars are lines there; tqdm reads this when it loads
        os.environ.setdefault('TQDM_MININTERVAL', '10')
    kernel_hints.leave_out()
    try:
        args = _parser(arguments).parse_args(arguments)
        return args.run(args)
    except QwenVlaError as error:
        print(f'qwen-vla: {error}', file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package not in _INSTALL:
            raise
        print(f'qwen-vla: {package} is not installed. For {_INSTALL[package]}', file=sys.stderr)
        return BAD_INPUT
    except _PATHS as error:
        if error.filename is None:
            raise
        print(f'qwen-vla: {error.filename}: {error.strerror}; choose another', file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print('qwen-vla: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(arguments: Sequence[str] | None) -> argparse.ArgumentParser:
    """Return the parser of all sub-commands; those with a module of their own load when asked."""
    parser = _Parser(
        prog='qwen-vla', description='A vision-language-action policy for ROS 2 robots.'
    )
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    _demo_arguments(
        _add(commands, 'demo', 'simulated robot and policy over ROS, with a report', _demo)
    )
    evaluation = _add(commands, 'eval', 'in the simulated world, from a bag, step by step', _eval)
    _serve_arguments(_add(commands, 'serve', 'serve a policy on a local socket', _serve))
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ['eval'] and words[1:2] in (['bag'], ['replay']):
        from qwen_vla_ros.evaluate.bag_command import cli_arguments as bag_arguments

        bag_arguments(evaluation, words[1])
    elif words[:2] == ['eval', 'skills']:
        from qwen_vla_ros.evaluate.skills import cli_arguments as skills_arguments

        skills_arguments(evaluation)
    else:
        _eval_arguments(evaluation)
    for name, (text, module) in _MODULES.items():
        command = _add(commands, name, text, partial(_run_module, module))
        if words[:1] == [name]:  # others stay unimported: torch alone takes seconds
            import_module(f'qwen_vla_ros.{module}').cli_arguments(command)
    _doctor_arguments(_add(commands, 'doctor', 'check this machine, name remedies', _doctor))
    return parser


def _add(
    commands: 'argparse._SubParsersAction[argparse.ArgumentParser]',
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add a sub-command."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=run)
    return parser


def _policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which policy runs."""
    parser.add_argument(
        '--policy',
        type=_policy_word,
        default='model',
        metavar='{model,expert,constant,ADDRESS}',
        help='model: a checkpoint (default); expert: colour search and scripted teacher, '
        'without a model; constant: holds still; or a server: ws://host:port, openpi://..., '
        'starvla://..., gr00t://... (docs/serving.md)',
    )
    parser.add_argument(
        '--checkpoint',
        type=Path,
        help='checkpoint folder, or organisation/name[@revision] of the hub (default: bundled)',
    )
    parser.add_argument('--robot', default='widowx', help='robot contract, name or YAML file')
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: auto)'
    )
    parser.add_argument(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
        default='auto',
        help='what the model computes in (default: bfloat16 on CUDA, float32 on a CPU)',
    )
    parser.add_argument(
        '--attention',
        choices=('joint', 'prefix'),
        help="of the action decoder (default: the checkpoint's; another one was never trained)",
    )
    parser.add_argument(
        '--adapters', type=Path, metavar='DIR', help='LoRA adapters of this checkpoint'
    )
    parser.add_argument(
        '--quantise', choices=('int8',), help='weights of the linear layers in 8 bits'
    )
    parser.add_argument('--steps', type=int, help="denoising steps (default: the checkpoint's)")
    parser.add_argument(
        '--threads', type=int, help='of the model on a CPU (default: half the cores, at most 4)'
    )
    parser.add_argument(
        '--path',
        choices=('auto', 'eager', 'graph', 'compile'),
        default='auto',
        help='how the model runs (default: auto, that is compile with CUDA graphs on a GPU, '
        'eager elsewhere)',
    )


def _policy_word(text: str) -> str:
    """Return the name of a policy or an address; argparse tells what is neither."""
    if text in ('model', 'expert', 'constant') or '://' in text:
        return text
    raise argparse.ArgumentTypeError(
        f'invalid choice: {text!r} (choose from model, expert, constant, or give an address)'
    )


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla demo`."""
    _policy_arguments(parser)
    parser.add_argument('--episodes', type=int, metavar='N', help='the first N seeds only')
    parser.add_argument(
        '--seeds', default='0:50', help='scenes, e.g. 0:50 or 1,5,9 (default: 0:50)'
    )
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='folder of the results')
    parser.add_argument('--short', action='store_true', help='8 episodes unless told otherwise')
    parser.add_argument('--live', action='store_true', help='open a viewer (needs a screen)')
    parser.add_argument(
        '--swap', action='store_true', help='name another object in the middle of every episode'
    )
    parser.add_argument(
        '--baselines',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='also run the policy without the sentence and without the images (default: on)',
    )
    parser.add_argument('--domain-id', type=int, help='ROS_DOMAIN_ID (default: a free one)')


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla eval`."""
    parser.add_argument(
        'where',
        choices=('sim', 'suite', 'skills', 'bag', 'replay'),
        help="sim: the simulated robot (widowx: touch an object; aloha: two arms' tasks; "
        'mobile_base: furnished houses), with baselines; suite: as trained and under shifts; '
        'skills, bag, replay: see `eval skills --help`, `eval bag --help`, `eval replay --help`',
    )
    _policy_arguments(parser)
    parser.add_argument('--seeds', default='0:50', help='scenes, e.g. 0:50 (default: 0:50)')
    parser.add_argument('--swap', action='store_true', help='name another object on the way')
    parser.add_argument(
        '--baselines',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='also without the sentence and without the images (default: on)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='folder of the results (default: out/eval/<robot>; of a suite out/suite/<robot>)',
    )
    suite = parser.add_argument_group('suite')
    suite.add_argument('--shifts', default='all', help='e.g. none,colour,camera (default: all)')
    suite.add_argument('--workers', type=int, default=1, help='processes (default: 1)')
    suite.add_argument(
        '--films',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='film the failures (default: on)',
    )
    suite.add_argument(
        '--against', type=Path, metavar='DIR', help='compare in pairs with this finished suite'
    )


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla serve`."""
    _policy_arguments(parser)
    parser.set_defaults(robot=None)  # every robot of the checkpoint
    parser.add_argument(
        '--log-steps',
        type=Path,
        metavar='DIR',
        help='write inputs and outputs of every call, to the bit (at most 2 GB; see eval replay)',
    )
    parser.add_argument('--host', default='127.0.0.1', help='address (default: this machine only)')
    parser.add_argument(
        '--port',
        type=int,
        help='TCP port, 0: any (default: 8766; openpi 8000, starvla 10093, gr00t 5555)',
    )
    parser.add_argument(
        '--protocol',
        choices=('qwen-vla', 'openpi', 'starvla', 'gr00t'),
        help="of the clients (default: qwen-vla; with --benchmark its client's)",
    )
    parser.add_argument(
        '--benchmark',
        metavar='NAME',
        help='for the client of a benchmark: libero, robocasa_gr1, ... (config/benchmarks)',
    )
    parser.add_argument(
        '--house',
        type=int,
        default=0,
        metavar='SEED',
        help='with --policy expert of a mobile base: the house whose map it knows, the parameter '
        'seed of base_sim (default: 0)',
    )


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla doctor`."""
    parser.add_argument('--robot', default='widowx', help='robot contract, name or YAML file')
    parser.add_argument('--checkpoint', type=Path, help='checkpoint folder (default: bundled)')
    parser.add_argument(
        '--live', type=float, metavar='SECONDS', help="listen to the robot's topics too"
    )
    parser.add_argument('--bag', type=Path, help='look at a bag of the robot too')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    parser.add_argument(
        '--model', help='tell what of this preset (4b, 2b, 0.8b, ...) or folder fits into a GPU'
    )
    parser.add_argument(
        '--gpu', metavar='GB', help="with --model: memory, e.g. 24GB (default: this machine's)"
    )
    parser.add_argument('--batch', type=int, default=1, help='with --model (default: 1)')
    parser.add_argument('--views', type=int, default=3, help='with --model (default: 3)')
    parser.add_argument(
        '--image', type=int, default=224, help='with --model: pixels an edge (default: 224)'
    )


def _run_module(module: str, args: argparse.Namespace) -> int:
    """Run a command that has a module of its own."""
    return import_module(f'qwen_vla_ros.{module}').run_from_arguments(args)


def _demo(args: argparse.Namespace) -> int:
    """Run the demo."""
    from qwen_vla_ros.evaluate.demo import run_from_arguments

    return run_from_arguments(args)


def _eval(args: argparse.Namespace) -> int:
    """Run the closed-loop evaluation, or that of a bag."""
    if args.where == 'suite':
        from qwen_vla_ros.evaluate.suite import run_from_arguments as run_suite

        return run_suite(args)
    if args.where == 'skills':
        from qwen_vla_ros.evaluate.skills import run_from_arguments as run_skills

        return run_skills(args)
    if args.where in ('bag', 'replay'):
        from qwen_vla_ros.evaluate.bag_command import run_from_arguments as run_bag

        return run_bag(args)
    from qwen_vla_ros.evaluate.simulated import run_from_arguments

    return run_from_arguments(args)


def _serve(args: argparse.Namespace) -> int:
    """Serve a policy until interrupted; the token comes from QWEN_VLA_TOKEN."""
    if args.benchmark is not None or args.protocol not in (None, 'qwen-vla'):
        from qwen_vla_ros.protocols.serving import run_from_arguments

        return run_from_arguments(args)
    from qwen_vla_ros.evaluate.choose_policy import name_policy, serve_policy
    from qwen_vla_ros.evaluate.processes import EndOfServing, interrupted_by_signals
    from qwen_vla_ros.remote import PolicyServer

    with interrupted_by_signals():
        policy = serve_policy(args)
        if args.log_steps is not None:
            if args.policy != 'model':
                raise QwenVlaError('--log-steps: only the steps of a model are logged')
            policy.log_steps(args.log_steps)
        token = os.environ.get('QWEN_VLA_TOKEN')
        port = 8766 if args.port is None else args.port
        with PolicyServer(policy, args.host, port, token) as server:
            ended = EndOfServing()
            for key, value in policy.metadata.get('engine', {}).items():
                print(f'{key:20} {value}')
            robots = ', '.join(policy.metadata.get('robots', ()))
            told = f' for {robots}' if robots else ''
            print(f'serving {name_policy(args)}{told} on {server.address}', flush=True)
            ended.wait()
    return 0


def _doctor(args: argparse.Namespace) -> int:
    """Check the machine."""
    from qwen_vla_ros.doctor import run_from_arguments

    return run_from_arguments(args)


if __name__ == '__main__':
    sys.exit(main())
