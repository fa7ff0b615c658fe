"""
The JSON Schema of a robot YAML, and its keys as Markdown: both out of contract_keys.py.

An editor that knows it (yaml-language-server, by the first line of each shipped contract)
completes keys and marks wrong ones while they are written. The strict reader stays the judge: that
joints have limits, that names agree, and that limits only tighten a description no schema can say.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_vla_ros.command import OUTPUTS
from qwen_vla_ros.contract_keys import (
    DELTA_UNITS,
    SECTIONS,
    STATE_TYPES,
    TRACE_UNITS,
    UNITS,
    WAYPOINT_UNITS,
    Key,
    Required,
)
from qwen_vla_ros.embodiment import config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.image_encodings import DEPTH
from qwen_vla_ros.output_kinds import BASE, JOINTS, TIP, Option, OutputKind
from qwen_vla_ros.state_reading import ODOMETRY_UNITS

Schema = dict[str, Any]
DIALECT = 'https://json-schema.org/draft/2020-12/schema'
FILE = 'embodiments/embodiment.schema.json'
TYPES = {'number': 'number', 'whole': 'integer', 'text': 'string', 'flag': 'boolean'}

TAKEN = {'delta_eef': (JOINTS, TIP), 'waypoint': (BASE,)}
UNITS_OF = {'delta_eef': DELTA_UNITS, 'waypoint': WAYPOINT_UNITS}
ONLY_DELTA = ('frame', 'tip', 'joints', 'rotation')


def contract_schema() -> Schema:
    """Return the schema of a whole contract."""
    parts = {name: _section(keys) for name, keys in SECTIONS.items() if name != 'contract'}
    parts['camera'] |= _if('encoding', DEPTH, {'required': ['depth_m']}, _without('depth_m'))
    parts['group']['allOf'] = [_of_kind(kind) for kind in SECTIONS['group']['kind'].known]
    parts['state_source'] = parts.pop('state') | _if(
        'type', STATE_TYPES[1:], _fields(ODOMETRY_UNITS), _fields({})
    )
    parts['state'] = {
        'if': {'required': ['sources']},
        'then': _ref('sources'),
        'else': _ref('state_source'),
    }
    parts['layout'] = _table(_ref('group'))
    parts['output'] = _output()
    return {
        '$schema': DIALECT,
        '$comment': 'Written by `qwen-vla schema --write`; contract_keys.py says what is in it.',
        'title': 'A robot contract of qwen_vla_ros',
        **_section(SECTIONS['contract']),
        '$defs': parts,
    }


def _section(keys: Mapping[str, Key]) -> Schema:
    """Return the schema of a table with these keys and no others."""
    return {
        'type': 'object',
        'properties': {name: _told(key) | _value(key) for name, key in keys.items()},
        'required': [name for name, key in keys.items() if key.default is Required],
        'additionalProperties': False,
    }


def _told(key: Key) -> Schema:
    """Return what an editor shows of a key."""
    told: Schema = {'description': key.says + (f' [{key.unit}]' if key.unit else '')}
    if key.default is not Required and key.default is not None:
        told['default'] = list(key.default) if isinstance(key.default, tuple) else key.default
    return told


def _value(key: Key) -> Schema:
    """Return which values a key takes."""
    if key.kind in TYPES:
        return {'type': TYPES[key.kind], **_range(key), **_text(key)}
    if key.kind == 'choice':
        return {'enum': list(key.known)}
    if key.kind == 'vector':
        return _list({'type': 'number'}, key.size)
    if key.kind == 'words':
        return _words()
    if key.kind == 'units':
        return _table({'type': 'string'})
    if key.kind == 'posture':
        return _table({'type': 'number'})
    if key.kind == 'postures':
        return {'type': 'array', 'items': _table({'type': 'number'})}
    if key.kind == 'pairs':
        return {'type': 'array', 'items': _list({'type': 'string'}, 2)}
    section = key.kind.removesuffix('*')
    if section == key.kind:
        return _ref(section)
    # `limits: {}` is a robot without joints; all other tables of tables name something.
    table = _table(_ref('state_source' if section == 'state' else section), section != 'limit')
    return table | ({'propertyNames': _text(key)} if key.pattern else {})


def _range(key: Key) -> Schema:
    if key.kind == 'whole':
        return {'minimum': 1, 'maximum': int(key.high)}
    found: Schema = {}
    if key.low is not None:
        found['exclusiveMinimum' if key.above else 'minimum'] = key.low
    if key.high is not None:
        found['maximum'] = key.high
    return found


def _text(key: Key) -> Schema:
    if key.pattern is not None:
        return {'pattern': f'^(?:{key.pattern.pattern})$'}
    return {'minLength': 1} if key.kind == 'text' and key.default != '' else {}


def _list(items: Schema, size: int) -> Schema:
    return {'type': 'array', 'items': items, 'minItems': size, 'maxItems': size}


def _words() -> Schema:
    items = {'type': 'string', 'minLength': 1}
    return {'type': 'array', 'items': items, 'minItems': 1, 'uniqueItems': True}


def _table(values: Schema, filled: bool = True) -> Schema:
    return {'type': 'object', 'additionalProperties': values, 'minProperties': int(filled)}


def _ref(section: str) -> Schema:
    return {'$ref': f'#/$defs/{section}'}


def _if(key: str, known: tuple[str, ...], then: Schema, otherwise: Schema) -> Schema:
    test = {'properties': {key: {'enum': list(known)}}, 'required': [key]}
    return {'if': test, 'then': then, 'else': otherwise}


def _without(*keys: str) -> Schema:
    return {'properties': dict.fromkeys(keys, False)}


def _fields(components: Mapping[str, str]) -> Schema:
    """Return the schema of a state's fields: components of the odometry, or joints."""
    units = sorted(set(components.values())) or list(UNITS)
    return {'properties': {'fields': {'additionalProperties': {'enum': units}}}}


def _outputs() -> list[tuple[str, OutputKind]]:
    """Return the outputs by name: the order in which modules register them may differ."""
    return sorted(OUTPUTS.items())


def _of_kind(kind: str) -> Schema:
    """Return what a kind of group asks of the rest of it."""
    rows = TAKEN.get(kind, (JOINTS,))
    fitting = [name for name, known in _outputs() if known.rows in rows]
    units = UNITS_OF.get(kind)
    names: Schema = {'additionalProperties': {'enum': list(UNITS)}}
    if units is not None:
        names = {'minProperties': len(units), 'maxProperties': len(units)}
        names['additionalProperties'] = {'enum': sorted(set(units))}
    of_output = {'properties': {'type': {'enum': fitting}}}
    then: Schema = {'properties': {'names': names, 'output': of_output}}
    if kind == 'delta_eef':
        then['required'] = ['frame']
        then['allOf'] = [_solved()]
    else:
        then['properties'] |= dict.fromkeys(ONLY_DELTA, False)
    if kind == 'trace':
        then['properties'] |= {'names': _trace_names(), 'output': False}
    test = {'properties': {'kind': {'const': kind}}, 'required': ['kind']}
    return {'if': test, 'then': then}


def _trace_names() -> Schema:
    """Return the names of a trace: in a picture or in space."""
    choices = []
    for units in TRACE_UNITS:
        count = {'minProperties': len(units), 'maxProperties': len(units)}
        choices.append(count | {'additionalProperties': {'const': units[0]}})
    return {'oneOf': choices}


def _solved() -> Schema:
    """Return that our kinematics need an arm where the output takes joints."""
    taking = [name for name, known in _outputs() if known.rows == JOINTS]
    kinds = {'properties': {'type': {'enum': taking}}, 'required': ['type']}
    test = {'properties': {'output': kinds}, 'required': ['output']}
    return {'if': test, 'then': {'required': ['tip', 'joints']}}


def _output() -> Schema:
    """Return the schema of an output: its type decides which options it takes."""
    choices = []
    for name, known in _outputs():
        options = {key: _option(option) for key, option in known.options.items()}
        then = {
            'properties': {'type': True, 'topic': True, **options},
            'required': [key for key, option in known.options.items() if option.default is None],
            'additionalProperties': False,
        }
        test = {'properties': {'type': {'const': name}}, 'required': ['type']}
        choices.append({'if': test, 'then': then})
    topic = {'description': 'its topic, or the name of its action'}
    topic |= _value(SECTIONS['camera']['topic'])
    kind = {'enum': sorted(OUTPUTS), 'description': 'see docs/outputs.md'}
    return {
        'type': 'object',
        'properties': {'type': kind, 'topic': topic},
        'required': ['type', 'topic'],
        'allOf': choices,
    }


def _option(option: Option) -> Schema:
    """Return the schema of one option of an output."""
    if option.kind == 'number':
        found: Schema = {'type': 'number', 'minimum': option.low, 'maximum': option.high}
    elif option.kind == 'choice':
        found = {'enum': list(option.known)}
    elif option.kind == 'words':
        found = _words()
    else:
        found = {'type': {'flag': 'boolean', 'word': 'string'}[option.kind]}
    if option.default not in (None, ()):
        found['default'] = option.default
    return found


def schema_text() -> str:
    """Return the schema as it stands in config/embodiments."""
    return json.dumps(contract_schema(), indent=1, ensure_ascii=False) + '\n'


def keys_as_markdown() -> str:
    """Return one table of keys for each section, as docs/contracts.md has them."""
    parts = []
    for name, keys in SECTIONS.items():
        rows = [
            f'| `{key}` | {_kind_in_words(told)} | {told.unit or "-"} | {_default_in_words(told)} '
            f'| {told.says} |'
            for key, told in keys.items()
        ]
        head = ['| key | value | unit | default | what it says |', '|---|---|---|---|---|']
        parts.append('\n'.join([f'### {HEADINGS[name]}', '', *head, *rows]))
    return '\n\n'.join(parts)


HEADINGS = {
    'contract': 'The contract',
    'prompt': '`prompt`',
    'camera': '`cameras.<view>`',
    'state': '`state`, or `state.sources.<name>`',
    'sources': '`state` with several sources',
    'group': '`layouts.<layout>.<group>`',
    'limit': '`limits.<joint>`',
    'workspace': '`workspace`, `workspaces.<arm>`',
    'capsules': '`capsules`',
    'capsule': '`capsules.parts.<name>`',
    'plane': '`capsules.planes.<name>`',
    'park': '`park`',
    'safety': '`safety`',
}


def _kind_in_words(key: Key) -> str:
    if key.kind in ('number', 'whole'):
        low = 1 if key.kind == 'whole' and key.low is None else key.low
        kind = 'number' if key.kind == 'number' else 'whole number'
        ends = [] if low is None else [f'{"above" if key.above else "from"} {low:g}']
        ends += [] if key.high is None else [f'to {key.high:g}']
        return ' '.join([kind, *ends])
    if key.kind == 'choice':
        return ', '.join(key.known)
    if key.kind == 'flag':
        return 'true, false'
    if key.kind == 'vector':
        return f'{key.size} numbers'
    words = {'units': 'name: unit', 'posture': 'joint: number', 'postures': 'list of postures'}
    words |= {'text': 'text', 'words': 'list of names', 'pairs': 'list of pairs'}
    return words.get(key.kind, 'table' if key.kind[-1] != '*' else 'tables by name')


def _default_in_words(key: Key) -> str:
    if key.default is Required:
        return '**required**'
    if key.default is None or key.default in ('', ()):
        return 'none'
    return str(key.default).lower() if isinstance(key.default, bool) else f'{key.default}'


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla schema`."""
    parser.add_argument(
        '--write', action='store_true', help=f'into config/{FILE} of this package, not to stdout'
    )
    parser.add_argument(
        '--keys', action='store_true', help='the keys as Markdown tables (docs/contracts.md)'
    )


def run_from_arguments(args: argparse.Namespace) -> int:
    """Print or write the schema."""
    if args.keys:
        print(keys_as_markdown())
        return 0
    if not args.write:
        sys.stdout.write(schema_text())
        return 0
    path: Path = config_folder() / FILE
    try:
        path.write_text(schema_text(), encoding='utf-8')
    except OSError as error:
        raise QwenVlaError(f'{path}: cannot be written: {error}') from error
    print(path)
    return 0
