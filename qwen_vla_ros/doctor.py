"""
`qwen-vla doctor`: what this machine has, and whether checkpoint and robot fit, with remedies.

The checks of the fit stand in compatibility/. With --model it tells what of a model fits into a
GPU instead (model/memory.py).
"""

import argparse
import ctypes.util
import importlib
import importlib.util
import os
import platform
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from qwen_vla_ros.compatibility.clashes import this_machine
from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN, Finding
from qwen_vla_ros.compatibility.registry import (
    clash_findings,
    description_findings,
    static_findings,
)
from qwen_vla_ros.compatibility.report import as_json, exit_code, print_table
from qwen_vla_ros.compatibility.training import Pairing, read_training, robots_of
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.ros_environment import (
    PROFILE_VARIABLES,
    dds_profile,
    profile_variable,
)

LEAST_SEGMENT = 8 * 2**20  # bytes of Fast DDS shared memory that hold several camera images


def examine(robot: str = 'widowx', checkpoint: Path | None = None) -> list[Finding]:
    """Return the findings of all checks, in the order of the table; never raises."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ('Python', _python),
        ('ROS 2', _ros),
        ('messages', _messages),
        ('DDS profile', _dds_profile),
        ('ROS network', _network),
        ('torch', lambda: _library('torch', 'train')),
        ('transformers', lambda: _library('transformers', 'train')),
        ('simulator', lambda: _library('mujoco', 'sim')),
        ('GL library', _graphics),
        ('memory', _memory),
    )
    findings = [_guarded(subject, check) for subject, check in checks]
    return [*findings, *clash_findings(this_machine()), *compare(robot, checkpoint)]


def compare(robot: str, checkpoint: Path | None = None) -> list[Finding]:
    """
    Return what contract, checkpoint and description say; never raises.

    A contract or a checkpoint that cannot be read is told once. Without a checkpoint the bundled
    one is compared only with a robot that it drives: to another it says nothing.
    """
    contract = _guarded('contract', lambda: _contract(robot))
    if contract.level == REFUSE:
        return [contract]
    try:
        pair = pairing(robot, checkpoint)
    except QwenVlaError as error:
        return [
            contract,
            Finding('checkpoint', WARN if checkpoint is None else REFUSE, str(error)),
        ]
    if not pair.trained:
        return [contract, _not_compared(pair.embodiment.name), *description_findings(pair)]
    told = [_guarded('checkpoint', lambda: _checkpoint(robot, checkpoint)), *static_findings(pair)]
    if any(finding.level == REFUSE for finding in told[1:]):
        told = told[1:]  # these say in what it differs
    return [contract, *told]


def pairing(robot: str, checkpoint: Path | None = None) -> Pairing:
    """
    Return what a checkpoint says of itself beside a contract; QwenVlaError if either fails.

    Without a checkpoint, of a robot that the bundled one does not drive: the contract alone.
    """
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
    from qwen_vla_ros.policy import describe_policy

    embodiment = Embodiment.load(robot)
    folder = Path(checkpoint or bundled_checkpoint())
    if checkpoint is None and embodiment.name not in robots_of(folder):
        return Pairing(describe_policy(embodiment), embodiment, embodiment.default_layout)
    if not folder.is_dir():  # a name of the hub: only this needs torch
        from qwen_vla_ros.model.hub import find_checkpoint

        folder = find_checkpoint(folder)
    metadata = read_training(folder, embodiment.name)
    return Pairing(metadata, embodiment, embodiment.default_layout)


def run_from_arguments(args: argparse.Namespace) -> int:
    """
    Print the table; 2 when something is refused, else 0: a warning stops nothing.

    --live SECONDS listens to the robot too, --bag looks at a record of it, --json prints for
    programs, --model tells what fits a GPU instead.
    """
    if args.model is not None:
        return _memory_of_model(args)
    if args.gpu is not None:
        raise QwenVlaError('--gpu: of which model? Add --model, e.g. --model 4b')
    findings = examine(args.robot, args.checkpoint)
    if args.live is not None:
        findings += listen(args.robot, args.checkpoint, args.live)
    if args.bag is not None:
        findings += look_at_bag(args.robot, args.checkpoint, args.bag)
    if args.json:
        print(as_json(findings))
    else:
        print_table(findings)
    return exit_code(findings)


def listen(robot: str, checkpoint: Path | None, seconds: float) -> list[Finding]:
    """Listen to the robot's topics for some seconds; return the findings of the live checks."""
    if not 1.0 <= seconds <= 600.0:
        raise QwenVlaError(f'--live {seconds:g}: give 1 to 600 seconds')
    from qwen_vla_ros.nodes.live_listener import listen_for

    return listen_for(pairing(robot, checkpoint), seconds)


def look_at_bag(robot: str, checkpoint: Path | None, bag: Path) -> list[Finding]:
    """Play a bag's inputs once; return what the checks of the running robot say of it."""
    from qwen_vla_ros.compatibility.bag_checks import BagEars
    from qwen_vla_ros.evaluate.bag_source import INPUT, BagSource

    pair = pairing(robot, checkpoint)
    source, ears = BagSource(bag, pair.embodiment), BagEars(pair)
    for event in source.events((INPUT,)):
        ears.hear(event.source, event.message, event.time_ns)
    damaged = [Finding('bag', REFUSE, source.damage)] if source.damage else []
    return [*damaged, *ears.findings()]


def _memory_of_model(args: argparse.Namespace) -> int:
    """Print what of a model fits into a GPU's memory."""
    from qwen_vla_ros.model.memory import Load, describe, gpu_memory

    load = Load(args.batch, args.views, args.image)
    print(describe(args.model, *gpu_memory(args.gpu), load))
    return 0


def _guarded(subject: str, check: Callable[[], Finding]) -> Finding:
    """Return the check's finding; what it raises is a finding too."""
    try:
        return check()
    except QwenVlaError as error:
        return Finding(subject, REFUSE, str(error))
    except Exception as error:  # a broken library may raise anything on import
        return Finding(subject, REFUSE, f'{type(error).__name__}: {error}')


def _python() -> Finding:
    """Tell the interpreter's version."""
    found = f'{platform.python_version()} on {platform.platform(terse=True)}'
    return Finding('Python', PASS, found)


def _ros() -> Finding:
    """Check that rclpy imports, and which distribution it is of."""
    if importlib.util.find_spec('rclpy') is None:
        return Finding(
            'ROS 2',
            REFUSE,
            'rclpy is not installed',
            "source /opt/ros/<distribution>/setup.bash, or without ROS: pip install 'qwen_vla_ros"
            "[ros]'",
        )
    module = importlib.import_module('rclpy')
    distribution = os.environ.get('ROS_DISTRO', 'from Python packages')
    return Finding('ROS 2', PASS, f'rclpy ({distribution}) in {Path(module.__file__).parent}')


def _messages() -> Finding:
    """Check that our own messages were compiled."""
    try:
        importlib.import_module('qwen_vla_ros.msg').PolicyStatus()
    except (ImportError, AttributeError) as error:
        return Finding(
            'messages',
            REFUSE,
            f'qwen_vla_ros.msg does not load ({error})',
            'build the package with colcon, or pip install it where a C compiler is',
        )
    return Finding('messages', PASS, 'qwen_vla_ros.msg, qwen_vla_ros.srv')


def _dds_profile() -> Finding:
    """Check that camera images fit into Fast DDS' shared memory."""
    middleware = os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    if 'fastrtps' not in middleware:
        return Finding('DDS profile', PASS, f'{middleware} needs none')
    names = [name for name in PROFILE_VARIABLES if os.environ.get(name)]
    own = dds_profile()
    remedy = (
        f'set {profile_variable()} to {own or "a profile"} with a shared-memory segment of 16 MB '
        'where cameras publish'
    )
    if not names and own is not None:
        text = (
            f'our nodes, demo and launch files use {own} by themselves; where the driver of a '
            f'camera starts, export {profile_variable()} with this path, or its images are lost'
        )
        return Finding('DDS profile', PASS, text)
    if not names:
        text = 'none set: images of 640x480 and more are lost between processes, silently'
        return Finding('DDS profile', WARN, text, remedy)
    path = os.environ[names[0]]
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        return Finding('DDS profile', REFUSE, f'{path}: {error}', remedy)
    sizes = [int(node.text or 0) for node in root.iter() if node.tag.endswith('segment_size')]
    if not sizes or max(sizes) < LEAST_SEGMENT:
        return Finding('DDS profile', WARN, f'{path}: segment_size {sizes or "not set"}', remedy)
    return Finding('DDS profile', PASS, f'{path}: segment of {max(sizes) >> 20} MB')


def _network() -> Finding:
    """Tell how far this machine's ROS nodes are seen."""
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    found = f'domain {domain}, discovery {reach}'
    if not domain.isdigit() or int(domain) > 232:
        return Finding('ROS network', REFUSE, found, 'set ROS_DOMAIN_ID to 0..232')
    return Finding('ROS network', PASS, found)


def _library(name: str, extra: str) -> Finding:
    """Check that a library imports."""
    if importlib.util.find_spec(name) is None:
        remedy = f"pip install 'qwen_vla_ros[{extra}]'"
        return Finding(name, WARN, 'not installed', remedy)
    module = importlib.import_module(name)
    found = str(getattr(module, '__version__', 'installed'))
    if name == 'torch':
        found += f', CUDA {"yes" if module.cuda.is_available() else "no"}'
        found += f', {module.get_num_threads()} threads'
    return Finding(name, PASS, found)


def _graphics() -> Finding:
    """Check that a library is there with which the simulator can draw without a screen."""
    found = [name for name in ('EGL', 'OSMesa') if ctypes.util.find_library(name)]
    if not found:
        remedy = 'apt install libegl1 libgl1-mesa-dri, or libosmesa6 (then MUJOCO_GL=osmesa)'
        return Finding('GL library', WARN, 'neither EGL nor OSMesa', remedy)
    chosen = os.environ.get('MUJOCO_GL', 'chosen by the simulator')
    return Finding('GL library', PASS, f'{", ".join(found)}; MUJOCO_GL {chosen}')


def _memory() -> Finding:
    """Check the memory that is free now."""
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < 3.0:
        text = f'{free:.1f} GB free'
        return Finding('memory', WARN, text, 'the demo takes up to 3 GB: end other programs')
    return Finding('memory', PASS, f'{free:.1f} GB free')


def _contract(robot: str) -> Finding:
    """Check that the robot's contract is read without an error."""
    from qwen_vla_ros.embodiment import Embodiment

    contract = Embodiment.load(robot)
    return Finding('contract', PASS, f'{contract.name} ({contract.source})')


def _not_compared(name: str) -> Finding:
    """Say that no checkpoint was looked at, and how to ask for it."""
    found = (
        f'not compared: the bundled one was not trained for {name}; '
        'give --checkpoint DIR to compare with yours'
    )
    return Finding('checkpoint', PASS, found)


def _checkpoint(robot: str, checkpoint: Path | None) -> Finding:
    """Check that the checkpoint loads and fits the contract."""
    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
    from qwen_vla_ros.policy import load_policy

    folder = checkpoint or bundled_checkpoint()
    load_policy(folder, Embodiment.load(robot), 'cpu')
    return Finding('checkpoint', PASS, f'{folder} fits {robot}')
