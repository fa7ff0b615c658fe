"""
What a check found where nothing is wrong, in a few words: the values, not what is compared.

TOLD has one function a check of registry.py; its facts are those of the check. A fact that is not
told (a policy of another's says nothing of its training) is left out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qwen_vla_ros.compatibility.clashes import Machine
from qwen_vla_ros.compatibility.listening import Live
from qwen_vla_ros.compatibility.training import Pairing


def _numpy(machine: Machine) -> str:
    ros = f'ROS {machine.distribution}' if machine.distribution else 'ROS of wheels'
    if not machine.system_ros and 'ros-rclpy' not in machine.versions:
        ros = machine.distribution or 'no ROS'
    bridge = ', cv_bridge' if machine.cv_bridge else ', no cv_bridge'
    return f'numpy {machine.versions.get("numpy", "not installed")}, {ros}{bridge}'


def _opencv(machine: Machine) -> str:
    return _versions(machine, ('opencv-python-headless', 'opencv-python')) or 'not installed'


def _distribution(machine: Machine) -> str:
    wheels = _versions(machine, ('ros-rclpy', 'ros-std-msgs'))
    return ', '.join(filter(None, (machine.distribution or 'ROS_DISTRO not set', wheels)))


def _middleware(machine: Machine) -> str:
    return machine.middleware or "RMW_IMPLEMENTATION not set: the distribution's own"


def _cuda(machine: Machine) -> str:
    driver = f'driver {machine.driver}' if machine.driver else 'no NVIDIA driver'
    torch = machine.versions.get('torch')
    built = f'torch for {f"CUDA {machine.cuda}" if machine.cuda else "the CPU"}'
    return f'{driver}, {built if torch else "no torch"}'


def _packages(machine: Machine) -> str:
    return _versions(machine, ('transformers', 'websockets')) or 'not installed'


def _disk(machine: Machine) -> str:
    return f'{machine.disk_free / 2**30:.0f} GB free here'


def _versions(machine: Machine, names: Iterable[str]) -> str:
    return ', '.join(f'{n} {machine.versions[n]}' for n in names if n in machine.versions)


def _robot(pair: Pairing) -> str:
    return f'{pair.embodiment.name}, layout {pair.layout}'


def _joint_names(pair: Pairing) -> str:
    actions, state = _names(pair.metadata, 'action_names'), _names(pair.metadata, 'state_names')
    return f'actions {actions}; state {"the same" if state == actions else state}'


def _units(pair: Pairing) -> str:
    units = [unit for group in pair.embodiment.action_groups(pair.layout) for unit in group.units]
    return f'actions {", ".join(units)}'


def _views(pair: Pairing) -> str:
    return _names(pair.metadata, 'views') or 'no camera'


def _sizes(pair: Pairing) -> str:
    told = (f'{c.view} {c.width}x{c.height} {c.encoding}' for c in pair.embodiment.cameras)
    return ', '.join(told) or 'no camera'


def _rate(pair: Pairing) -> str:
    return f'{pair.embodiment.rate_hz:g} steps a second, {pair.embodiment.horizon} a chunk'


def _prompt(pair: Pairing) -> str:
    return f'"{pair.embodiment.prompt("…", layout=pair.layout)}"'


def _description(pair: Pairing) -> str:
    return f'{pair.description} ({len(pair.limits)} joints of the contract)'


def _statistics(pair: Pairing) -> str:
    actions, state = len(pair.ranges('actions')), len(pair.ranges('state'))
    return f'q01 and q99 of {actions} actions and {state} measured'


def _statistics_units(pair: Pairing) -> str:
    told = {pair.units[n] for key in ('actions', 'state') for n in _limited(pair, key)}
    return f'they fit the limits as {" and ".join(sorted(told, reverse=True)) or "told"}'


def _statistics_limits(pair: Pairing) -> str:
    room: dict[str, float] = {}
    for key in ('actions', 'state'):
        for name in _limited(pair, key):
            (low, high), bounds = pair.ranges(key)[name], pair.limits[name]
            if math.isfinite(width := bounds.upper - bounds.lower) and width > 0:
                own = min(low - bounds.lower, bounds.upper - high) / width
                room[name] = min(own, room.get(name, own))
    if not room:
        return 'no joint with limits'
    nearest = min(room, key=room.__getitem__)
    return f'{nearest} comes nearest to a limit: {100 * room[nearest]:.0f} % of its range'


def _agreement(pair: Pairing) -> str:
    both = [name for name in pair.ranges('actions') if name in pair.ranges('state')]
    return f'{len(both)} joints are sent to where they were measured'


def _limited(pair: Pairing, key: str) -> list[str]:
    return [name for name in pair.ranges(key) if name in pair.limits and name in pair.units]


def _topics(live: Live) -> str:
    return ', '.join(stream.topic for stream in live.streams.values())


def _rates(live: Live) -> str:
    rates = {name: stream.rate_hz for name, stream in live.streams.items()}
    told = (f'{n} {rate:.1f} Hz' for n, rate in rates.items() if rate is not None)
    return ', '.join(told) or 'too few messages to tell'


def _pictures(live: Live) -> str:
    details = {n: _detail(live, n) for n in (c.view for c in live.embodiment.cameras)}
    told = (f'{n} {detail[0]}x{detail[1]}' for n, detail in details.items() if detail)
    return ', '.join(told) or 'no picture was heard'


def _live_joint_names(live: Live) -> str:
    return ', '.join(live.joints()) or 'no joint was heard'


def _live_joints(live: Live) -> str:
    told = (
        f'{n} {value:.3g} {live.pair.units.get(n, "")}'.strip()
        for n, value in live.joints().items()
    )
    return ', '.join(told) or 'no joint was heard'


def _clocks(live: Live) -> str:
    lags = {name: stream.lag_s for name, stream in live.streams.items()}
    told = (f'{n} {1e3 * lag:.0f} ms' for n, lag in lags.items() if lag is not None)
    return f'from stamp to here: {", ".join(told) or "nothing was heard"}'


def _frames(live: Live) -> str:
    told = ', '.join(camera.frame_id for camera in live.embodiment.cameras) or 'no camera'
    return told if live.frames else f'{told}; tf was not heard'


def _camera_info(live: Live) -> str:
    if live.infos is None:
        return 'not listened to'
    told = (f'{n} {info[0]}x{info[1]}' for n, info in live.infos.items() if info is not None)
    return ', '.join(told) or 'no camera'


def _detail(live: Live, source: str) -> tuple[Any, ...]:
    stream = live.streams.get(source)
    return stream.messages[-1].detail if stream is not None and stream.messages else ()


def _names(metadata: Mapping[str, Any], key: str) -> str:
    return ', '.join(metadata.get(key) or ())


TOLD: Mapping[str, Callable[[Any], str]] = {
    'numpy and ROS': _numpy,
    'OpenCV': _opencv,
    'ROS distribution': _distribution,
    'RMW': _middleware,
    'CUDA': _cuda,
    'packages': _packages,
    'disk': _disk,
    'robot': _robot,
    'joint names': _joint_names,
    'units': _units,
    'camera views': _views,
    'camera sizes': _sizes,
    'rate': _rate,
    'prompt': _prompt,
    'description': _description,
    'statistics': _statistics,
    'statistics units': _statistics_units,
    'statistics and limits': _statistics_limits,
    'actions and state': _agreement,
    'topics': _topics,
    'live rates': _rates,
    'live pictures': _pictures,
    'live joint names': _live_joint_names,
    'live joint units': _live_joints,
    'live joint positions': _live_joints,
    'clocks': _clocks,
    'frames': _frames,
    'camera_info': _camera_info,
}
