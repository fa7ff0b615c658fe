"""
Every check, what it compares, and its remedy: docs/doctor.md is held to this table.

CLASHES   versions on this machine
STATIC    checkpoint, contract and description: at `qwen-vla doctor` and when the node configures
LIVE      what the robot's topics say: at `doctor --live` and before the stage `scaled`
"""

from collections.abc import Iterable, Mapping
from typing import Any

from qwen_vla_ros.compatibility import (
    clashes,
    contract_checks,
    live_checks,
    passing,
    statistics_checks,
)
from qwen_vla_ros.compatibility.clashes import Machine
from qwen_vla_ros.compatibility.finding import (
    REFUSE,
    WARN,
    Check,
    Finding,
    Incompatible,
    refusals,
    warnings,
)
from qwen_vla_ros.compatibility.listening import Listening, Live
from qwen_vla_ros.compatibility.training import Pairing
from qwen_vla_ros.embodiment import Embodiment

_BOTH = (WARN, REFUSE)

CLASHES = (
    Check(
        'numpy and ROS',
        'numpy against what the ROS distribution and cv_bridge were compiled for',
        _BOTH,
        "pip install 'numpy<2'",
        clashes.numpy_and_ros,
    ),
    Check(
        'OpenCV',
        'OpenCV against cv_bridge',
        (WARN,),
        "pip install 'opencv-python-headless<5'",
        clashes.opencv,
    ),
    Check(
        'ROS distribution',
        'ROS_DISTRO against those that were tried, and wheels of one distribution only',
        _BOTH,
        'use Humble, Jazzy or Kilted',
        clashes.distribution,
    ),
    Check(
        'RMW',
        'RMW_IMPLEMENTATION against what is installed, and what it needs for images',
        _BOTH,
        'install its package (ros-<distribution>-<rmw>, with dashes), or unset RMW_IMPLEMENTATION',
        clashes.middleware,
    ),
    Check(
        'CUDA',
        "the driver against torch's CUDA",
        _BOTH,
        'update the driver, or install torch for an older CUDA',
        clashes.cuda,
    ),
    Check(
        'packages',
        'transformers and websockets against the oldest that work',
        (REFUSE,),
        'pip install -U the package',
        clashes.packages,
    ),
    Check(
        'disk',
        'free space here against 5 GB, for bags and compiled models',
        (WARN,),
        'free some, or record elsewhere',
        clashes.disk,
    ),
)

STATIC = (
    Check(
        'robot',
        "checkpoint's robot and layout against the contract's",
        (REFUSE,),
        'choose a checkpoint trained for this robot, or the contract it was trained with',
        contract_checks.robot,
    ),
    Check(
        'joint names',
        'names and order of actions and state, as trained, against the contract',
        (REFUSE,),
        "write the contract's names in the order of the checkpoint's embodiments/*.yaml",
        contract_checks.joint_names,
    ),
    Check(
        'units',
        'units of actions and state, as trained, against the contract',
        (REFUSE,),
        'train in SI units, as the contract has them',
        contract_checks.units,
    ),
    Check(
        'camera views',
        'views and their order, as trained, against the contract',
        (REFUSE,),
        'add the camera to the contract, or choose a checkpoint trained without it',
        contract_checks.views,
    ),
    Check(
        'camera sizes',
        'size, shape and kind of each picture, as trained, against the contract',
        _BOTH,
        "set the camera to the size of training (the checkpoint's embodiments/*.yaml)",
        contract_checks.sizes,
    ),
    Check(
        'rate',
        'steps a second and steps a chunk, as trained, against the contract',
        (REFUSE,),
        'set rate_hz and horizon of the contract as trained; they are no tuning',
        contract_checks.rate,
    ),
    Check(
        'prompt',
        'the prompt around the sentence, as trained, word for word against the contract',
        (REFUSE,),
        "copy `prompt:` from the checkpoint's embodiments/*.yaml",
        contract_checks.prompt,
    ),
    Check(
        'description',
        "joints, kinds and links of the URDF against the contract's",
        _BOTH,
        "name this robot's URDF in `description:`",
        contract_checks.description,
    ),
    Check(
        'statistics',
        'q01 and q99 of every channel: there, finite, in order, and moving',
        _BOTH,
        'compute the statistics again from the data that the policy was trained on',
        statistics_checks.numbers,
    ),
    Check(
        'statistics units',
        'q01 and q99 against the limits, read as rad and m, as degrees, as millimetres',
        (REFUSE,),
        'convert the data to rad and m, compute the statistics again, and train on them',
        statistics_checks.degrees,
    ),
    Check(
        'statistics and limits',
        "q01 and q99 against each joint's limits; swapped names and turned signs are named",
        (REFUSE,),
        "the statistics are of another robot, joint or sign: use this robot's",
        statistics_checks.limits,
    ),
    Check(
        'actions and state',
        'where each joint is sent against where it was measured in training',
        (REFUSE,),
        'mend order and signs of actions or state in the data, and train again',
        statistics_checks.agreement,
    ),
)

LIVE = (
    Check(
        'topics',
        'each topic of the contract: published, of its type, with QoS that fits',
        (REFUSE,),
        'start the driver, or remap the topic',
        live_checks.topics,
    ),
    Check(
        'live rates',
        "messages a second against the contract's: warn below 3/4 and above 4/3, refuse below 1/2",
        _BOTH,
        'set the driver to the rate of the contract, or look for lost messages (DDS profile)',
        live_checks.rates,
    ),
    Check(
        'live pictures',
        "size in each image's header against the contract's",
        (REFUSE,),
        'set the size in the driver, or remap the topics of swapped cameras',
        live_checks.pictures,
    ),
    Check(
        'live joint names',
        "joints in the messages against the contract's",
        (REFUSE,),
        'publish all joints of the contract in one message, or mend the names in the contract',
        live_checks.joint_names,
    ),
    Check(
        'live joint units',
        "positions against each joint's limits, read as rad and m, as degrees, as millimetres",
        (REFUSE,),
        'let the driver publish rad and m, with the zero of the description',
        live_checks.joint_units,
    ),
    Check(
        'live joint positions',
        'positions against the range of each joint in training; swapped and turned ones are named',
        _BOTH,
        "mend names, order and signs in the robot's driver, or use this robot's statistics",
        live_checks.joint_positions,
    ),
    Check(
        'clocks',
        'stamps, less latency_offset_s, against this clock and each other',
        (REFUSE,),
        "synchronise the clocks (chrony), or set latency_offset_s to the driver's delay",
        live_checks.clocks,
    ),
    Check(
        'frames',
        "frame_id of pictures against the contract's, and both against tf",
        (WARN,),
        'set frame_id in the driver or in the contract; publish the missing transform',
        live_checks.frames,
    ),
    Check(
        'camera_info',
        "size and frame in camera_info against the contract's",
        (WARN,),
        'calibrate the camera at the size of the contract',
        live_checks.camera_info,
    ),
)

_NEEDS_TRAINING = ('statistics', 'statistics units', 'statistics and limits', 'actions and state')


def clash_findings(machine: Machine) -> list[Finding]:
    """Return what of this machine clashes."""
    return _run(CLASHES, machine)


def static_findings(pair: Pairing) -> list[Finding]:
    """Return what checkpoint, contract and description say; without ROS."""
    told = bool(pair.trained.get('statistics'))
    return _run((c for c in STATIC if told or c.subject not in _NEEDS_TRAINING), pair)


def description_findings(pair: Pairing) -> list[Finding]:
    """Return what contract and description say, where there is no policy to compare with."""
    return _run((c for c in STATIC if c.subject == 'description'), pair)


def live_findings(live: Live) -> list[Finding]:
    """Return what the robot's topics say."""
    return _run(LIVE, live)


def arming_problems(
    listening: Listening,
    metadata: Mapping[str, Any],
    embodiment: Embodiment,
    layout: str,
    now_ns: int,
) -> list[str]:
    """Return what the live checks refuse; silent topics are left to who waits for them."""
    live = Live(Pairing(metadata, embodiment, layout), listening.streams(now_ns))
    return [str(f) for f in refusals(live_findings(live)) if f.subject != 'topics']


def refuse_incompatible(
    metadata: Mapping[str, Any], embodiment: Embodiment, layout: str
) -> list[Finding]:
    """Raise Incompatible that names every refusal of the static checks; return the warnings."""
    findings = static_findings(Pairing(metadata, embodiment, layout))
    if refused := refusals(findings):
        raise Incompatible(
            f'policy {metadata.get("checkpoint", "?")} does not fit robot {embodiment.name} '
            f'(layout {layout}). ' + ' | '.join(str(finding) for finding in refused)
        )
    return warnings(findings)


def _run(checks: Iterable[Check], facts: Any) -> list[Finding]:
    return [f for check in checks for f in check.findings(facts, passing.TOLD[check.subject])]
