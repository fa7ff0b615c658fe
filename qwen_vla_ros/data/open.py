"""
One way in: a path, 'format:path' or a YAML description -> the episodes of a data set.

A folder or file is recognised by what lies in it; what fits no format, or more than one, is
refused with what was looked for. A description says what a data set does not tell itself:

  format: rlds                  # left out: recognised
  path: bridge/1.0.0            # relative to this file
  horizon: 16                   # rows of a chunk; left out: a bag's contract's, else the format's
  embodiment: widowx            # a contract's name or YAML; left out: what the data say
  layout: abs_joint             # bags: which actions of the contract
  instruction: fold the towel   # where the data have no words
  rate_hz: 5.0                  # where the data tell no times
  views: {ego: image_0}         # view tag -> key of its pictures
  actions: {action: [dx, dy]}   # key -> names of its channels, in order
  state: {state: [x, y]}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.data.sample import Episodes
from qwen_vla_ros.embodiment import Embodiment, did_you_mean
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.strict_values import StrictLoader

HORIZON = 16  # of a chunk where nothing tells it (the paper's fine-tuning)


@dataclass(frozen=True)
class SetSpec:
    """What a data set is and how it is read; the module tells the fields. Empty: not told."""

    path: Path
    format: str = ''
    horizon: int = 0
    embodiment: str = ''
    layout: str = ''
    instruction: str = ''
    rate_hz: float = 0.0
    views: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    state: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind by their key."""
        for key, kind in (('horizon', int), ('rate_hz', (int, float))):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= 0:
                raise QwenVlaError(f'{self.path}: {key}: {value!r} is not a positive number')
        for key in ('format', 'embodiment', 'layout', 'instruction'):
            if not isinstance(getattr(self, key), str):
                raise QwenVlaError(f'{self.path}: {key}: {getattr(self, key)!r} is not a text')
        for key in ('views', 'actions', 'state'):
            if not isinstance(getattr(self, key), Mapping):
                raise QwenVlaError(f'{self.path}: {key}: {getattr(self, key)!r} is not a table')
        for key in ('actions', 'state'):
            for name, channels in getattr(self, key).items():
                if isinstance(channels, str) or not all(isinstance(c, str) for c in channels):
                    raise QwenVlaError(f'{self.path}: {key}.{name}: write a list of names')


@dataclass(frozen=True)
class Format:
    """
    One format of data sets.

    reads    what it is, in a few words
    lacks    path -> why this is not it, or '' when it is; reads names and heads only
    open     a description -> its episodes; QwenVlaError
    takes    the keys of a description that it knows beside path, format and embodiment
    """

    reads: str
    lacks: Callable[[Path], str]
    open: Callable[[SetSpec], Episodes]
    takes: tuple[str, ...]


def open_dataset(source: str | Path | Mapping[str, Any] | SetSpec, **options: Any) -> Episodes:
    """
    Return the episodes of a data set.

    source   path, 'format:path', path of a YAML description, the description itself
    options  keys of a description that go before what it says
    Raises QwenVlaError for what is not there, not recognised, or damaged.
    """
    spec = _described(source, options)
    if not spec.path.exists():
        raise QwenVlaError(f'{spec.path}: there is no such file or folder')
    name = spec.format or recognise(spec.path)
    if name not in FORMATS:
        raise QwenVlaError(
            f'{spec.path}: unknown format {name!r}{did_you_mean(name, FORMATS)}; '
            f'known: {", ".join(FORMATS)}'
        )
    found = FORMATS[name]
    for key in fields(SetSpec):
        if key.name in ('path', 'format', 'embodiment', *found.takes):
            continue
        if getattr(spec, key.name):
            raise QwenVlaError(f'{spec.path}: {key.name}: the format {name} has no use for it')
    return found.open(spec)


def recognise(path: Path) -> str:
    """Return the name of the one format that a folder or file has; QwenVlaError if not one."""
    lacks = {name: kind.lacks(path) for name, kind in FORMATS.items()}
    fitting = [name for name, reason in lacks.items() if not reason]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise QwenVlaError(
            f'{path}: it may be {" or ".join(fitting)}; say which: {fitting[0]}:{path}'
        )
    tried = '; '.join(f'{name}: {reason}' for name, reason in lacks.items())
    raise QwenVlaError(f'{path}: not a data set that can be read ({tried})')


def read_spec(path: Path) -> SetSpec:
    """Return a YAML description; QwenVlaError names file and key."""
    try:
        told = yaml.load(path.read_text(encoding='utf-8'), StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QwenVlaError(f'{path}: cannot be read ({" ".join(str(error).split())})') from error
    return _spec(told, path.parent, str(path))


def _described(
    source: str | Path | Mapping[str, Any] | SetSpec, options: Mapping[str, Any]
) -> SetSpec:
    """Return the description of a source, with the options over it."""
    if isinstance(source, SetSpec):
        spec = source
    elif isinstance(source, Mapping):
        spec = _spec(source, Path(), 'data set')
    else:
        name, colon, rest = str(source).partition(':')
        if colon and name in FORMATS:
            spec = SetSpec(Path(rest), name)
        elif Path(source).suffix in ('.yaml', '.yml') and Path(source).is_file():
            spec = read_spec(Path(source))
        else:
            spec = SetSpec(Path(source))
    _refuse_unknown(options, str(spec.path))
    return replace(spec, **options)


def _spec(told: Any, folder: Path, where: str) -> SetSpec:
    """Return a description from what YAML gave; paths are relative to folder."""
    if not isinstance(told, Mapping) or not isinstance(told.get('path'), (str, Path)):
        raise QwenVlaError(f'{where}: path: the key is missing; write where the data set lies')
    _refuse_unknown(told, where)
    return SetSpec(**{**told, 'path': folder / told['path']})


def _refuse_unknown(told: Mapping[str, Any], where: str) -> None:
    known = [key.name for key in fields(SetSpec)]
    for key in told:
        if key not in known:
            raise QwenVlaError(f'{where}: {key}: unknown key{did_you_mean(key, known)}')


def _no_lerobot(path: Path) -> str:
    return '' if (path / 'meta' / 'info.json').is_file() else 'no meta/info.json'


def _lerobot(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.lerobot import LeRobotEpisodes

    return LeRobotEpisodes(spec.path, spec.horizon or HORIZON, spec.views or None, spec.embodiment)


def _bags(path: Path) -> list[Path]:
    """Return a bag, or the bags that lie in a folder."""
    if path.suffix in ('.mcap', '.db3') or (path / 'metadata.yaml').is_file():
        return [path]
    return sorted(file.parent for file in path.glob('*/metadata.yaml'))


def _no_bag(path: Path) -> str:
    return '' if _bags(path) else 'no metadata.yaml in it or one folder below, no .mcap, no .db3'


def _open_bags(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.bag import BagEpisodes, contract_of, open_bag

    bags = _bags(spec.path)
    if not bags:
        raise QwenVlaError(f'{spec.path}: {_no_bag(spec.path)}')
    contract = Embodiment.load(spec.embodiment) if spec.embodiment else None
    if spec.horizon:
        if contract is None:
            with open_bag(bags[0]) as reader:
                contract = contract_of(bags[0], reader)
        contract = replace(contract, horizon=spec.horizon)
    return BagEpisodes(bags, contract, spec.instruction, spec.layout or None)


FORMATS: dict[str, Format] = {
    'lerobot': Format('LeRobot v3.0 and v2.1', _no_lerobot, _lerobot, ('horizon', 'views')),
    'bag': Format(
        'rosbag2, MCAP and SQLite', _no_bag, _open_bags, ('horizon', 'layout', 'instruction')
    ),
}
