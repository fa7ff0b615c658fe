"""
The sections `cameras` and `state` of a robot YAML, read strictly.

A robot has one source of state (`topic`, `fields` at once) or several by name (`sources`): one a
topic, as two arms or an arm on a moving base have them.
"""

from typing import Any

from qwen_vla_ros.contract_keys import (
    MAX_LATENCY_S,
    MAX_PIXELS,
    MAX_RATE_HZ,
    STATE_TYPES,
    TOPIC,
    UNITS,
    VIEW,
    needed,
    optional,
)
from qwen_vla_ros.embodiment import Camera, StateField, StateSource
from qwen_vla_ros.image_encodings import DEPTH, ENCODINGS
from qwen_vla_ros.state_reading import ODOMETRY_UNITS
from qwen_vla_ros.strict_values import StrictValues


class SensorReader(StrictValues):
    """Reads what the robot sees and feels."""

    def section(self, data: Any, path: str, name: str) -> dict[str, Any]:
        """Return a mapping with the keys of a section of contract_keys.SECTIONS."""
        return self.table(data, path, needed(name), optional(name))

    def cameras(self, data: Any, states: tuple[StateSource, ...]) -> tuple[Camera, ...]:
        """Return the views; no topic serves two of them, or the joints as well."""
        cameras = tuple(
            self.camera(view, value, f'cameras.{view}')
            for view, value in self.named(data, 'cameras').items()
        )
        taken = {state.topic for state in states}
        for camera in cameras:
            for key in ('topic', 'info_topic'):
                topic = getattr(camera, key)
                if topic in taken:
                    raise self.fail(f'cameras.{camera.view}.{key}', f'{topic!r} stands twice')
                taken.add(topic)
        return cameras

    def camera(self, view: str, data: Any, path: str) -> Camera:
        """Return one view."""
        self.word(view, path, VIEW)
        self.section(data, path, 'camera')
        encoding = self.one_of(data['encoding'], f'{path}.encoding', ENCODINGS)
        return Camera(
            view,
            self.word(data['topic'], f'{path}.topic', TOPIC),
            self.word(data['info_topic'], f'{path}.info_topic', TOPIC),
            self.word(data['frame_id'], f'{path}.frame_id'),
            encoding,
            self.whole(data['width'], f'{path}.width', MAX_PIXELS),
            self.whole(data['height'], f'{path}.height', MAX_PIXELS),
            self.rate(data['rate_hz'], f'{path}.rate_hz'),
            self.latency(data.get('latency_offset_s', 0.0), f'{path}.latency_offset_s'),
            self.depth(data.get('depth_m'), f'{path}.depth_m', encoding),
        )

    def depth(self, data: Any, path: str, encoding: str) -> tuple[float, float] | None:
        """Return (near, far) of a depth camera, None of another."""
        if (data is None) != (encoding not in DEPTH):
            problem = f'belongs to the encodings {", ".join(DEPTH)}, and only to them'
            raise self.fail(path, f'[near, far] in m {problem}; the encoding is {encoding}')
        if data is None:
            return None
        near, far = self.pair(data, path, '[near, far]')
        if not 0 <= near < far:
            raise self.fail(path, f'0 <= near < far is wanted, got {data}')
        return near, far

    def states(self, data: Any) -> tuple[StateSource, ...]:
        """Return where the measured joints come from: one source, or several by name."""
        if not (isinstance(data, dict) and 'sources' in data):
            return (self.state(data, 'state', 'state'),)
        self.section(data, 'state', 'sources')
        states = tuple(
            self.state(value, f'state.sources.{key}', f'state.{self.word(key, "state", VIEW)}')
            for key, value in self.named(data['sources'], 'state.sources').items()
        )
        names = [field.name for state in states for field in state.fields]
        for name in names:
            if names.count(name) > 1:
                raise self.fail('state.sources', f'the field {name!r} stands twice; add a prefix')
        topics = [state.topic for state in states]
        for index, topic in enumerate(topics):
            if topic in topics[:index]:
                raise self.fail(f'{states[index].name}.topic', f'{topic!r} stands twice')
        return states

    def state(self, data: Any, path: str, name: str) -> StateSource:
        """Return one source of measured joints, or of the odometry."""
        self.section(data, path, 'state')
        kind = self.one_of(data.get('type', 'JointState'), f'{path}.type', STATE_TYPES)
        prefix = data.get('prefix', '')
        if prefix != '':
            self.word(prefix, f'{path}.prefix')
        return StateSource(
            self.word(data['topic'], f'{path}.topic', TOPIC),
            self.rate(data['rate_hz'], f'{path}.rate_hz'),
            self.state_fields(data['fields'], f'{path}.fields', kind, prefix),
            self.latency(data.get('latency_offset_s', 0.0), f'{path}.latency_offset_s'),
            kind,
            name,
            prefix,
        )

    def state_fields(self, data: Any, path: str, kind: str, prefix: str) -> tuple[StateField, ...]:
        """Return the fields of a source; what follows the prefix is the message's own name."""
        for name, unit in self.named(data, path).items():
            bare = name.removeprefix(prefix)
            if not name.startswith(prefix) or not bare:
                raise self.fail(f'{path}.{name}', f'does not begin with the prefix {prefix!r}')
            if kind == 'JointState':
                self.one_of(unit, f'{path}.{name}', UNITS)
                continue
            self.one_of(bare, f'{path}.{name}', ODOMETRY_UNITS)
            if unit != ODOMETRY_UNITS[bare]:
                raise self.fail(f'{path}.{name}', f'is in {ODOMETRY_UNITS[bare]}, got {unit!r}')
        return tuple(StateField(name, unit) for name, unit in data.items())

    def pair(self, data: Any, path: str, wanted: str) -> tuple[float, float]:
        """Return two numbers."""
        if not isinstance(data, list) or len(data) != 2:
            raise self.fail(path, f'{wanted} is wanted, got {data!r}')
        return self.number(data[0], path), self.number(data[1], path)

    def units(self, data: Any, path: str) -> dict[str, str]:
        """Return a table name -> unit."""
        return {
            name: self.one_of(unit, f'{path}.{name}', UNITS)
            for name, unit in self.named(data, path).items()
        }

    def rate(self, value: Any, path: str) -> float:
        """Return a rate in Hz."""
        return self.number(value, path, 0, MAX_RATE_HZ, above=True)

    def latency(self, value: Any, path: str) -> float:
        """Return by how much, in s, stamps differ from the exposure."""
        return self.number(value, path, -MAX_LATENCY_S, MAX_LATENCY_S)
