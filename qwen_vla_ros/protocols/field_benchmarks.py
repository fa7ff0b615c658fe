"""
The field's benchmarks as data: config/benchmarks/<name>.yaml, one a benchmark.

Policy side: a contract of ours with its layout, at the benchmark's rate and horizon; it gives the
prompt's words and the names, units and kinds of the actions. Client side: for every protocol that
one of its clients speaks, the keys and units of that client's code (layout.py, conversions.py).
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from qwen_vla_ros.embodiment import Embodiment, config_folder, did_you_mean
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import PolicyMismatch, describe_policy
from qwen_vla_ros.protocols.conversions import WAYS, ActionPart
from qwen_vla_ros.protocols.layout import WireLayout
from qwen_vla_ros.protocols.seat import Seat
from qwen_vla_ros.strict_values import StrictLoader, StrictValues
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.policy import Policy

PROTOCOLS = ('openpi', 'starvla', 'gr00t')


@dataclass(frozen=True)
class FieldBenchmark:
    """
    One benchmark.

    robot, layout     contract of ours
    rate_hz, horizon  of the policy: rows of a chunk, and how many a second
    execute           rows that its client executes before it asks again
    episodes          of a whole run; None where it is not published
    max_steps         suite (or 'default') -> steps that end an episode
    metrics           metric -> its definition there
    clients           protocol -> keys of the client
    success_radius_m  of navigation
    also_hz           further rates that data sets of it are written with
    """

    name: str
    title: str
    robot: str
    layout: str
    rate_hz: float
    horizon: int
    execute: int
    episodes: int | None
    max_steps: Mapping[str, int]
    metrics: Mapping[str, str]
    clients: Mapping[str, WireLayout]
    success_radius_m: float | None = None
    also_hz: tuple[float, ...] = ()

    @classmethod
    def load(cls, name: str) -> 'FieldBenchmark':
        """Read a benchmark by name; QwenVlaError names file, key path and remedy."""
        return _read(name)

    @property
    def embodiment(self) -> Embodiment:
        """Return the contract at the benchmark's rate and horizon."""
        contract = Embodiment.load(self.robot)
        return replace(contract, rate_hz=self.rate_hz, horizon=self.horizon)

    def client(self, protocol: str | None = None) -> WireLayout:
        """Return a client's keys; without a protocol of the first one."""
        if protocol is None:
            return next(iter(self.clients.values()))
        if protocol not in self.clients:
            raise QwenVlaError(
                f'{self.title}: no client of it speaks {protocol}; known: '
                f'{", ".join(self.clients)}'
            )
        return self.clients[protocol]

    def prompt(self, instruction: str) -> str:
        """Return the words that a policy of this benchmark is trained on (paper 2.3)."""
        return self.embodiment.prompt(instruction, layout=self.layout)

    def describe(self, views: tuple[str, ...]) -> dict[str, Any]:
        """Return the metadata of a policy for it that looks at these views."""
        return {**describe_policy(self.embodiment, self.layout), 'views': list(views)}

    def seat(self, policy: 'Policy', protocol: str | None = None, robot: str = '') -> Seat:
        """
        Return a policy in the seat that a client of this benchmark knows.

        robot: which of a model's robots; without it the benchmark's contract, else the only one.
        PolicyMismatch names what does not fit.
        """
        groups = self.embodiment.action_groups(self.layout)
        if not robot and self.robot in policy.metadata.get('robots', ()):
            robot = self.robot
        facts = {'benchmark': self.name, 'execute': self.execute}
        rotations = {name: group.rotation for group in groups for name in group.names}
        seat = Seat(policy, self.client(protocol), self.execute, rotations, facts, robot)
        self._refuse_unfit(seat.metadata)
        return seat

    def _refuse_unfit(self, metadata: Mapping[str, Any]) -> None:
        """Raise PolicyMismatch where a policy means its channels otherwise than the benchmark."""
        wanted = describe_policy(self.embodiment, self.layout)
        problems = []
        rates = (self.rate_hz, *self.also_hz)
        if not any(abs(metadata['rate_hz'] - rate) <= 0.01 * rate for rate in rates):
            told = ' or '.join(f'{rate:g}' for rate in rates)
            problems.append(f'its rate is {metadata["rate_hz"]:g} Hz, that of the data {told}')
        if metadata['horizon'] < self.execute:
            problems.append(f'it gives {metadata["horizon"]} rows, {self.execute} are executed')
        for key in ('action_units', 'action_kinds'):
            own = dict(zip(metadata['action_names'], metadata.get(key, ()), strict=False))
            due = dict(zip(wanted['action_names'], wanted[key], strict=True))
            problems += [
                f'{name} is {own[name]}, not {due[name]}'
                for name in due
                if name in own and own[name] != due[name]
            ]
        if problems:
            raise PolicyMismatch(
                f'policy {metadata.get("checkpoint", "?")} does not fit {self.title}: '
                f'{"; ".join(problems)}; choose a checkpoint trained for it'
            )


class StillPolicy:
    """Move nothing: no displacement, joints where they are, grippers open; to try a client."""

    def __init__(self, benchmark: FieldBenchmark, views: tuple[str, ...]) -> None:
        """Wear the metadata of a policy for the benchmark."""
        self._benchmark, self._views = benchmark, views
        self._groups = benchmark.embodiment.action_groups(benchmark.layout)
        self._limits = benchmark.embodiment.limits
        self.metadata = {**benchmark.describe(views), 'checkpoint': 'constant'}

    def open(self, robot: str = '') -> 'StillPolicy':
        """Return another one, for another client."""
        return StillPolicy(self._benchmark, self._views)

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return H equal rows; joints that the client does not measure are refused by name."""
        measured = dict(zip(observation.state_names, observation.state, strict=True))
        row = [
            self._value(group.kind, name, measured)
            for group in self._groups
            for name in group.names
        ]
        actions = np.tile(np.asarray(row, np.float32), (self._benchmark.horizon, 1))
        names = tuple(self.metadata['action_names'])
        return ActionChunk(actions, names, observation.stamp_ns, 1 / self._benchmark.rate_hz)

    def reset(self) -> None:
        """Nothing to forget."""

    def _value(self, kind: str, name: str, measured: Mapping[str, float]) -> float:
        if kind in ('delta_eef', 'waypoint'):
            return 0.0
        if kind == 'gripper':
            return float(self._limits[name].upper)
        if name not in measured:
            raise QwenVlaError(f'still policy: the client does not measure {name}')
        return float(measured[name])


def known_benchmarks() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(path.stem for path in (config_folder() / 'benchmarks').glob('*.yaml'))


def read_client(path: Path, protocol: str) -> WireLayout:
    """Return the keys of a client from a file of its own; QwenVlaError names what is wrong."""
    try:
        data = yaml.load(path.read_text(encoding='utf-8'), StrictLoader)
    except (OSError, yaml.YAMLError) as error:
        raise QwenVlaError(
            f'{path}: not readable ({error}); known keys: {", ".join(known_benchmarks())}'
        ) from error
    return _client(StrictValues(str(path)), protocol, data)


def _read(name: str) -> FieldBenchmark:
    data = _table(name)
    read = StrictValues(f'benchmarks/{name}.yaml')
    given = {field.name: field.default for field in fields(FieldBenchmark)}
    required = [key for key, default in given.items() if default is MISSING]
    read.table(data, '', required, [key for key in given if key not in required])
    clients = read.named(data['clients'], 'clients')
    return FieldBenchmark(
        **{
            **data,
            'also_hz': tuple(data.get('also_hz', ())),
            'clients': {
                read.one_of(protocol, f'clients.{protocol}', PROTOCOLS): _client(
                    read, protocol, table
                )
                for protocol, table in clients.items()
            },
        }
    )


def _table(name: str) -> dict[str, Any]:
    """Return the keys of a file, upon those of the file that it is like."""
    path = config_folder() / 'benchmarks' / f'{Path(name).name}.yaml'
    known = known_benchmarks()
    if name not in known:
        raise QwenVlaError(
            f'benchmark {name!r}: unknown{did_you_mean(name, known)}; known: {", ".join(known)}'
        )
    data = yaml.load(path.read_text(encoding='utf-8'), StrictLoader)
    like = data.pop('like', None)
    return {**_table(like), **data} if like else data


def _client(read: StrictValues, protocol: str, data: Any) -> WireLayout:
    path = f'clients.{protocol}'
    read.table(data, path, ('source', 'views', 'instruction', 'actions'), ('state',))
    state = {key: tuple(names) for key, names in data.get('state', {}).items()}
    return WireLayout(
        protocol=protocol,
        source=data['source'],
        views={view: _keys(keys) for view, keys in read.named(data['views'], path).items()},
        instruction=_keys(data['instruction']),
        actions=tuple(
            _part(read, f'{path}.actions[{index}]', part)
            for index, part in enumerate(data['actions'])
        ),
        state=state,
    )


def _keys(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _part(read: StrictValues, path: str, data: Any) -> ActionPart:
    optional = [field.name for field in fields(ActionPart) if field.default is not MISSING]
    read.table(data, path, ('keys', 'names'), optional)
    read.one_of(data.get('way', 'absolute'), f'{path}.way', WAYS)
    lists = ('keys', 'names', 'full_scale', 'send')
    return ActionPart(**{k: tuple(v) if k in lists else v for k, v in data.items()})
