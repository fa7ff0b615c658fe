"""
Configurations of rviz and Foxglove for a contract: `python -m qwen_vla_ros.seeing.viewer_files`.

They are made from the contract, so a new robot's are one command away; those of the contracts that
come with the package lie in config/rviz and config/foxglove. rviz resolves relative topics in its
own namespace, as nav2_bringup's nav2_default_view.rviz does; Foxglove knows absolute ones only
(--namespace). Names of rviz classes and properties: ros2/rviz, rviz_default_plugins/
plugins_description.xml; of Foxglove panels: foxglove/foxglove-sdk, layouts and example layouts.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qwen_vla_ros.embodiment import Embodiment, config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.seeing.links import RobotLinks

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import StateSource

POLICY = 'policy'
WITH_FILES = ('widowx', 'aloha', 'mobile_base')


def rviz_config(embodiment: Embodiment, root: str) -> dict[str, Any]:
    """Return an rviz2 configuration; root is the URDF's root link, as tf calls it."""
    base = _odometry(embodiment)
    displays = [
        _display('Grid', 'Floor', **_grid(base is not None)),
        _display(
            'RobotModel',
            'Robot',
            **{
                'Description Source': 'Topic',
                'Description Topic': _topic('robot_description', latched=True),
                'TF Prefix': '',
                'Alpha': 0.8,
            },
        ),
        _display(
            'TF', 'Frames', False, **{'Show Names': False, 'Marker Scale': 0.2, 'Frame Timeout': 5}
        ),
        _display('MarkerArray', 'Policy', Namespaces={}, Topic=_topic(f'{POLICY}/markers')),
    ]
    if base is not None:
        displays.append(_display('Odometry', 'Odometry', False, Topic=_topic(base.topic)))
    for camera in embodiment.cameras:
        seen = f'{POLICY}/annotated/{camera.view}'
        displays.append(_image(f'Policy in {camera.view}', seen))
        displays.append(_image(f'Camera {camera.view}', camera.topic, False, 'Best Effort'))
    return {
        'Panels': [
            {'Class': 'rviz_common/Displays', 'Name': 'Displays', 'Help Height': 0},
            {'Class': 'rviz_common/Views', 'Name': 'Views'},
        ],
        'Visualization Manager': {
            'Class': '',
            'Displays': displays,
            'Enabled': True,
            'Global Options': {
                'Background Color': '40; 44; 52',
                'Fixed Frame': 'odom' if base is not None else root,
                'Frame Rate': 30,
            },
            'Name': 'root',
            'Tools': [
                {'Class': f'rviz_default_plugins/{tool}'} for tool in ('MoveCamera', 'Select')
            ],
            'Value': True,
            'Views': {'Current': _orbit(base is not None), 'Saved': None},
        },
        'Window Geometry': {'Width': 1400, 'Height': 900},
    }


def foxglove_layout(embodiment: Embodiment, root: str, namespace: str = '') -> dict[str, Any]:
    """Return a Foxglove layout: 3D, one annotated image a camera, the status, the latencies."""
    base, space = _odometry(embodiment), namespace.strip('/')
    at = f'/{space}/' if space else '/'
    panels: dict[str, Any] = {
        '3D!policy': {
            'followMode': 'follow-none',
            'followTf': 'odom' if base is not None else root,
            'topics': {
                f'{at}{POLICY}/markers': {'visible': True},
                f'{at}robot_description': {'visible': True},
            },
            'layers': {
                'grid': {'layerId': 'foxglove.Grid', 'instanceId': 'grid', 'visible': True}
            },
        },
        'RawMessages!status': {'topicPath': f'{at}{POLICY}/status'},
        'Plot!latency': {
            'title': 'Latency [s]',
            'paths': [
                {'value': f'{at}{POLICY}/status.{field}', 'enabled': True}
                for field in ('inference_s', 'overhead_s', 'chunk_age_s')
            ],
        },
        'StateTransitions!stage': {
            'paths': [
                {'value': f'{at}{POLICY}/status.{field}', 'timestampMethod': 'receiveTime'}
                for field in ('stage', 'arming', 'reason')
            ]
        },
    }
    images = []
    for camera in embodiment.cameras:
        images.append(f'Image!{camera.view}')
        topic = f'{at}{POLICY}/annotated/{camera.view}/compressed'
        panels[images[-1]] = {'imageMode': {'imageTopic': topic}}
    below = _split('row', 'StateTransitions!stage', 'Plot!latency', 50)
    left = _split('column', '3D!policy', below, 72)
    right = _stacked([*images, 'RawMessages!status'])
    return {
        'configById': panels,
        'globalVariables': {},
        'userNodes': {},
        'playbackConfig': {'speed': 1},
        'layout': _split('row', left, right, 66),
    }


def write_files(
    embodiment: Embodiment, folder: Path, namespace: str = '', frame_prefix: str = ''
) -> list[Path]:
    """Write rviz/<robot>.rviz and foxglove/<robot>.json into a folder; return both."""
    root = frame_prefix + RobotLinks(embodiment.description_path).root
    name = embodiment.name
    texts = {
        folder / 'rviz' / f'{name}.rviz': yaml.safe_dump(
            rviz_config(embodiment, root), sort_keys=False
        ),
        folder / 'foxglove' / f'{name}.json': json.dumps(
            foxglove_layout(embodiment, root, namespace), indent=2
        )
        + '\n',
    }
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise QwenVlaError(f'{folder}: cannot be written ({error})') from error
    return list(texts)


def _display(kind: str, name: str, enabled: bool = True, **properties: Any) -> dict[str, Any]:
    on = {'Enabled': enabled, 'Name': name, 'Value': enabled}
    return {'Class': f'rviz_default_plugins/{kind}', **on, **properties}


def _topic(name: str, reliability: str = 'Reliable', latched: bool = False) -> dict[str, Any]:
    return {
        'Depth': 5,
        'Durability Policy': 'Transient Local' if latched else 'Volatile',
        'History Policy': 'Keep Last',
        'Reliability Policy': reliability,
        'Value': name,
    }


def _image(
    name: str, topic: str, enabled: bool = True, reliability: str = 'Reliable'
) -> dict[str, Any]:
    return _display(
        'Image', name, enabled, **{'Normalize Range': False, 'Topic': _topic(topic, reliability)}
    )


def _grid(wide: bool) -> dict[str, Any]:
    return {'Cell Size': 0.5 if wide else 0.1, 'Plane Cell Count': 20, 'Color': '110; 116; 126'}


def _orbit(wide: bool) -> dict[str, Any]:
    return {
        'Class': 'rviz_default_plugins/Orbit',
        'Distance': 4.0 if wide else 1.4,
        'Focal Point': {'X': 0.0 if wide else 0.2, 'Y': 0.0, 'Z': 0.15},
        'Name': 'Current View',
        'Pitch': 0.6,
        'Yaw': -0.7,
        'Target Frame': '<Fixed Frame>',
        'Value': 'Orbit (rviz)',
    }


def _odometry(embodiment: Embodiment) -> 'StateSource | None':
    """Return where a robot that drives gets its pose from; None for one that stands."""
    sources = (source for source in embodiment.states if source.type == 'Odometry')
    return next(sources, None)


def _split(direction: str, first: Any, second: Any, percent: int) -> dict[str, Any]:
    return {
        'direction': direction,
        'first': first,
        'second': second,
        'splitPercentage': percent,
    }


def _stacked(panels: list[str]) -> Any:
    """Return panels one below the other, equally high."""
    if len(panels) == 1:
        return panels[0]
    return _split('column', panels[0], _stacked(panels[1:]), round(100 / len(panels)))


def main(arguments: list[str] | None = None) -> int:
    """Write the files of the given robots; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('robots', nargs='*', default=WITH_FILES, help='names or contracts')
    parser.add_argument('--out', type=Path, default=None, help='folder; default: config')
    parser.add_argument('--namespace', default='', help='of the nodes, for Foxglove')
    parser.add_argument('--frame-prefix', default='', help='of the links on tf, like wx250s/')
    args = parser.parse_args(arguments)
    try:
        for robot in args.robots:
            folder = args.out or config_folder()
            found = Embodiment.load(robot)
            for path in write_files(found, folder, args.namespace, args.frame_prefix):
                print(path)
    except QwenVlaError as error:
        print(f'viewer_files: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
