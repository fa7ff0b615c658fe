"""
One way in: a path, 'format:path' or a YAML description -> the episodes of a data set.

A folder or file is recognised by what lies in it; what fits no format, or more than one, is
refused with what was looked for. spec.py draws the description.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qwen_vla_ros.data import captions, conversations, driving, hand_tracks, hdf5, rlds, vln
from qwen_vla_ros.data.hands import HandEpisodes
from qwen_vla_ros.data.remote import is_url, mirrored
from qwen_vla_ros.data.sample import Episodes
from qwen_vla_ros.data.spec import HORIZON, SetSpec, read_spec, refuse_unknown, spec_of
from qwen_vla_ros.data.units import in_units
from qwen_vla_ros.embodiment import Embodiment, did_you_mean
from qwen_vla_ros.errors import QwenVlaError

# Keys of a description that every format knows.
EVERYWHERE = ('path', 'format', 'embodiment', 'scale', 'sum_steps')
TEXT_ACTION = 'meta/text_action.json'


@dataclass(frozen=True)
class Format:
    """
    One format of data sets.

    reads    what it is, in a few words
    lacks    path -> why this is not it, or '' when it is; reads names and heads only
    open     a description -> its episodes; QwenVlaError
    takes    the keys of a description that it knows beside EVERYWHERE
    """

    reads: str
    lacks: Callable[[Path], str]
    open: Callable[[SetSpec], Episodes]
    takes: tuple[str, ...]


def open_dataset(source: str | Path | Mapping[str, Any] | SetSpec, **options: Any) -> Episodes:
    """
    Return the episodes of a data set.

    source   path, URL (remote.py), 'format:' and either, path of a YAML description, or the
             description itself
    options  keys of a description that go before what it says
    Raises QwenVlaError for what is not there, not recognised, or damaged.
    """
    spec = _described(source, options)
    if not spec.path.exists():
        raise QwenVlaError(
            f'{spec.path}: there is no such file or folder; give a bag, a folder of bags, a data '
            "set's folder or file, FORMAT:PATH, a URL, or a YAML description (docs/formats.md)"
        )
    name = spec.format or recognise(spec.path)
    if name not in FORMATS:
        raise QwenVlaError(
            f'{spec.path}: unknown format {name!r}{did_you_mean(name, FORMATS)}; '
            f'known: {", ".join(FORMATS)}'
        )
    found = FORMATS[name]
    for key in fields(SetSpec):
        if key.name in (*EVERYWHERE, *found.takes):
            continue
        if getattr(spec, key.name):
            raise QwenVlaError(f'{spec.path}: {key.name}: the format {name} has no use for it')
    return in_units(found.open(spec), spec.scale, spec.sum_steps)


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


def _described(
    source: str | Path | Mapping[str, Any] | SetSpec, options: Mapping[str, Any]
) -> SetSpec:
    """Return the description of a source, with the options over it."""
    if isinstance(source, SetSpec):
        spec = source
    elif isinstance(source, Mapping):
        spec = spec_of(source, Path(), 'data set')
    else:
        name, colon, rest = str(source).partition(':')
        if is_url(rest if name in FORMATS else str(source)):
            kind, url = (name, rest) if name in FORMATS else ('', str(source))
            spec = SetSpec(mirrored(url), kind)
        elif colon and name in FORMATS:
            spec = SetSpec(Path(rest), name)
        elif Path(source).suffix in ('.yaml', '.yml') and Path(source).is_file():
            spec = read_spec(Path(source))
        else:
            spec = SetSpec(Path(source))
    refuse_unknown(options, str(spec.path))
    return replace(spec, **options)


def _no_lerobot(path: Path) -> str:
    if not _no_text_action(path):
        return 'it is a text-action set'
    return '' if (path / 'meta' / 'info.json').is_file() else 'no meta/info.json'


def _no_text_action(path: Path) -> str:
    return '' if (path / TEXT_ACTION).is_file() else f'no {TEXT_ACTION}'


def _subtasks(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.synthetic.vision_action import SubtaskEpisodes

    return SubtaskEpisodes(spec.path, spec.horizon or HORIZON)


def _text_action(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.synthetic.text_action import TextActionEpisodes

    return TextActionEpisodes(spec.path, spec.horizon, spec.layout)


def _lerobot(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.lerobot import LeRobotEpisodes

    return LeRobotEpisodes(
        spec.path,
        spec.horizon or HORIZON,
        spec.views or None,
        spec.embodiment,
        spec.pseudo_actions,
    )


def _no_packed(path: Path) -> str:
    return '' if (path / 'cache.json').is_file() else 'no cache.json'


def _packed(spec: SetSpec) -> Episodes:
    from qwen_vla_ros.data.packed import PackedEpisodes

    return PackedEpisodes(spec.path)


def _bags(path: Path) -> list[Path]:
    """Return a bag, or the bags that lie in a folder."""
    if path.suffix in ('.mcap', '.db3') or (path / 'metadata.yaml').is_file():
        return [path]
    if any(path.glob('*.mcap')):
        return [path]  # its metadata.yaml was never written
    files = [*path.glob('*/metadata.yaml'), *path.glob('*/*.mcap')]
    return sorted({file.parent for file in files})


def _no_bag(path: Path) -> str:
    return '' if _bags(path) else 'no metadata.yaml or .mcap in it or one folder below, no .db3'


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
    return BagEpisodes(bags, contract, spec.instruction, spec.layout or None, spec.flawed)


ROWS = ('horizon', 'instruction', 'rate_hz', 'views', 'turn', 'actions', 'state')
FORMATS: dict[str, Format] = {
    'lerobot': Format(
        'LeRobot v3.0 and v2.1', _no_lerobot, _lerobot, ('horizon', 'views', 'pseudo_actions')
    ),
    'packed': Format('cache of `qwen-vla convert --to packed`', _no_packed, _packed, ()),
    'text-action': Format(
        'one arm of a synthetic text-action set',
        _no_text_action,
        _text_action,
        ('horizon', 'layout'),
    ),
    'subtasks': Format(
        'a synthetic vision-action set cut into subtasks',
        lambda path: 'asked for by name only',
        _subtasks,
        ('horizon',),
    ),
    'bag': Format(
        'rosbag2, MCAP and SQLite',
        _no_bag,
        _open_bags,
        ('horizon', 'layout', 'instruction', 'flawed'),
    ),
    'aloha': Format(
        'HDF5 of ALOHA and ACT, one file an episode', hdf5.lacks_aloha, hdf5.open_aloha, ROWS
    ),
    'robomimic': Format(
        'HDF5 of robomimic and LIBERO, many episodes a file',
        hdf5.lacks_robomimic,
        hdf5.open_robomimic,
        ROWS,
    ),
    'rlds': Format(
        'RLDS of tensorflow-datasets (OXE)', rlds.lacks, rlds.open_rlds, (*ROWS, 'split')
    ),
    'hands': Format(
        'hands: EgoDex, and MANO poses',
        hand_tracks.lacks,
        HandEpisodes,
        ('horizon', 'instruction', 'views', 'pca'),
    ),
    'vln': Format(
        'navigation by instruction: R2R and RxR of VLN-CE, StreamVLN',
        vln.lacks,
        vln.VlnEpisodes,
        ('horizon', 'split', 'rate_hz', 'views'),
    ),
    'conversations': Format(
        'conversations about pictures, and grounding: LLaVA, ShareGPT, messages, boxes',
        conversations.lacks,
        conversations.open_conversations,
        ('pictures',),
    ),
    'driving': Format(
        'questions about driving: DriveLM',
        driving.lacks,
        driving.open_driving,
        ('pictures', 'frames'),
    ),
    'captions': Format(
        'fine-grained captions', captions.lacks, captions.open_captions, ('pictures', 'frames')
    ),
}
