"""
Every key of a robot YAML: kind, unit, range, default and what it says.

The strict readers take which keys there are, and their ranges, from here; so do the JSON Schema
for editors and the tables in docs/contracts.md (contract_schema.py). The keys of an output are its
own options (output_kinds.py).
"""

import re
from dataclasses import dataclass, fields
from typing import Any

from qwen_vla_ros.embodiment import EULER, ROTATIONS
from qwen_vla_ros.image_encodings import ENCODINGS
from qwen_vla_ros.safety_contract import ON_LIMIT, REJECT, Safety
from qwen_vla_ros.splice import MODES

KINDS = ('abs_joint', 'delta_eef', 'gripper', 'dexterous', 'waypoint', 'trace')
ARMS = ('single', 'dual', 'none')
# '1' has no unit: a closed share from 0 to 1, a coefficient.
UNITS = ('rad', 'm', '1')
STATE_TYPES = ('JointState', 'Odometry')
WAYPOINT_UNITS = ('m', 'm', 'rad')
TRACE_UNITS = (('1', '1'), ('m', 'm', 'm'))  # in a picture, in space
DELTA_UNITS = ('m', 'm', 'm', 'rad', 'rad', 'rad')
LINE = re.compile(r'[^\n\r]+')
TOPIC = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
VIEW = re.compile(r'[a-z][a-z0-9_]*')
MAX_HORIZON = 1000
MAX_LATENCY_S = 1.0
MAX_RATE_HZ = 1000.0
MAX_PIXELS = 8192
# A plane through 10 m of air guards nothing; a capsule of that size is meant in mm.
MAX_METRES = 10.0
MAX_SPEED = 10.0
# Outside these a figure would switch its check off, or is meant in another unit (ms, degrees).
SAFETY_RANGES = {
    'max_age_s': (0.01, 2.0),
    'max_skew_s': (0.001, 1.0),
    'max_future_s': (0.001, 1.0),
    'inference_timeout_s': (0.05, 10.0),
    'command_rate_hz': (1.0, 500.0),
    'lookahead_s': (0.02, 2.0),
    'blend_s': (0.02, 2.0),
    'max_jump_rad': (0.01, 1.0),
    'max_jump_m': (0.001, 0.2),
    'max_refused_chunks': (1, 1000),
    'max_clamped_chunks': (1, 1000),
    'watchdog_s': (0.02, 2.0),
    'dead_man_s': (0.02, 2.0),
}
SAFETY_SAYS = {
    'max_age_s': 'a stream older than this counts as lost and the robot holds',
    'max_skew_s': 'views and joints of one observation lie within this',
    'max_future_s': 'stamps further ahead of the clock are refused',
    'inference_timeout_s': 'a model slower than this counts as lost',
    'command_rate_hz': 'how often commands go out',
    'lookahead_s': 'how far a command reaches; it ends at rest; more than one command period',
    'blend_s': 'shortest bridge from one chunk into the next',
    'splice': 'how chunks are joined',
    'max_jump_rad': 'first row of a chunk against the measured joints',
    'max_jump_m': 'the same for joints that slide',
    'max_refused_chunks': 'so many refused chunks in a row latch the stop',
    'max_clamped_chunks': 'the same for clamped ones, of groups with on_limit: clamp',
    'watchdog_s': 'a moving arm without a further row for so long latches the stop',
    'dead_man_s': 'a dead-man switch must be heard this often; left out: there is none',
}
SAFETY_UNITS = {'_s': 's', '_hz': 'Hz', '_rad': 'rad', '_m': 'm'}


class Required:
    """The default of a key that must be there."""


@dataclass(frozen=True)
class Key:
    """
    One key of a table.

    kind      number, whole, text, choice, flag, words, vector (of `size` numbers), units (a table
              name -> unit), postures, pairs, or a section: 'camera' for one table, 'camera*' for a
              table of such tables by name
    default   Required: it must be there; None: left out, there is none
    above     whether the number lies above low, not at it
    pattern   of a text; of the names of 'camera*'
    """

    kind: str
    says: str
    unit: str = ''
    default: Any = Required
    low: float | None = None
    high: float | None = None
    above: bool = False
    known: tuple[str, ...] = ()
    pattern: re.Pattern | None = None
    size: int = 0


def _rate(says: str) -> Key:
    return Key('number', says, 'Hz', low=0, high=MAX_RATE_HZ, above=True)


def _positive(says: str, unit: str, default: Any = Required, high: float | None = None) -> Key:
    return Key('number', says, unit, default, 0, high, above=True)


def _latency() -> Key:
    says = 'stamp - latency_offset_s is the exposure'
    return Key('number', says, 's', 0.0, -MAX_LATENCY_S, MAX_LATENCY_S)


def _topic(says: str) -> Key:
    return Key('text', says, pattern=TOPIC)


def _point(says: str) -> Key:
    return Key('vector', says, 'm', size=3)


def _safety() -> dict[str, Key]:
    """Return the keys of `safety`: its fields, with the ranges above."""
    keys = {}
    for field in fields(Safety):
        name, says = field.name, SAFETY_SAYS[field.name]
        if name == 'splice':
            keys[name] = Key('choice', says, default=field.default, known=MODES)
            continue
        kind = 'whole' if isinstance(field.default, int) else 'number'
        unit = next((u for end, u in SAFETY_UNITS.items() if name.endswith(end)), '')
        keys[name] = Key(kind, says, unit, field.default, *SAFETY_RANGES[name])
    return keys


SECTIONS: dict[str, dict[str, Key]] = {
    'contract': {
        'name': Key('text', 'what the robot is called on the command line', pattern=VIEW),
        'prompt': Key('prompt', 'the words of the embodiment prompt'),
        'rate_hz': _rate('rows of an action chunk per second'),
        'horizon': Key('whole', 'rows of an action chunk', high=MAX_HORIZON),
        'cameras': Key('camera*', 'view tag of the prompt -> one camera', pattern=VIEW),
        'state': Key('state', 'what is measured'),
        'layouts': Key('layout*', 'name -> what a policy may command'),
        'default_layout': Key('text', 'one of the layouts'),
        'description': Key(
            'text', 'URDF: beside the contract, in the folder above it, or in config', default=''
        ),
        'limits': Key('limit*', 'joint -> beyond this nothing is published; {}: no joints'),
        'workspace': Key('workspace', 'the box that the tip stays in', default=None),
        'workspaces': Key('workspace*', 'several arms: name -> the box of its tip', default=None),
        'capsules': Key('capsules', "the arm's volume", default=None),
        'park': Key('park', 'where the arm is put after a stop', default=None),
        'safety': Key('safety', 'when the robot holds, and how commands go out'),
    },
    'prompt': {
        'robot_tag': Key('text', "the robot in the paper's words, one line", pattern=LINE),
        'arms': Key('choice', 'none: a base, asked for waypoints', known=ARMS),
        'waist': Key('flag', 'the robot has one', default=False),
        'mobile_base': Key('flag', 'the robot has one', default=False),
        'control_convention': Key('flag', 'a sentence on how actions are meant', default=False),
        'normalization': Key('flag', 'a sentence on the normalisation', default=False),
    },
    'camera': {
        'topic': _topic('sensor_msgs/Image, or CompressedImage by its ending'),
        'info_topic': _topic('sensor_msgs/CameraInfo'),
        'frame_id': Key('text', 'optical frame on tf'),
        'encoding': Key('choice', 'of sensor_msgs/Image', known=ENCODINGS),
        'width': Key('whole', 'of the picture', 'px', high=MAX_PIXELS),
        'height': Key('whole', 'of the picture', 'px', high=MAX_PIXELS),
        'rate_hz': _rate('of the pictures'),
        'latency_offset_s': _latency(),
        'depth_m': Key(
            'vector', '[near, far] of depth encodings, and only of them', 'm', None, size=2
        ),
    },
    'state': {
        'topic': _topic('of the messages'),
        'type': Key(
            'choice', 'sensor_msgs or nav_msgs', default=STATE_TYPES[0], known=STATE_TYPES
        ),
        'rate_hz': _rate('of the messages'),
        'fields': Key('units', "what is measured -> unit; the order is the policy's"),
        'prefix': Key('text', "what names have here beyond the message's", default=''),
        'latency_offset_s': _latency(),
    },
    'sources': {'sources': Key('state*', 'several states by name, one a topic', pattern=VIEW)},
    'group': {
        'kind': Key('choice', 'what its channels mean', known=KINDS),
        'names': Key('units', 'channel -> unit; joints, or dx ... of the tip or base'),
        'output': Key('output', 'where it goes; left out: data, never commanded', default=None),
        'on_limit': Key(
            'choice',
            'clamp: moved into its limits; reject: refused',
            default=REJECT,
            known=ON_LIMIT,
        ),
        'frame': Key('text', 'delta_eef: along and about its axes', default=None),
        'tip': Key('text', 'delta_eef: the link that is displaced', default=None),
        'joints': Key('words', 'delta_eef: those that our kinematics move', default=None),
        'rotation': Key(
            'choice', 'delta_eef: the last three channels', default=EULER, known=ROTATIONS
        ),
    },
    'limit': {
        'position': Key(
            'vector', "[lower, upper]; left out: the description's", 'rad, m', None, size=2
        ),
        'velocity': _positive("left out: the description's", 'rad/s, m/s', None),
        'acceleration': _positive('always here', 'rad/s², m/s²'),
        'jerk': _positive('left out: not checked', 'rad/s³, m/s³', None),
    },
    'workspace': {
        'frame': Key('text', 'frame of the corners'),
        'tip': Key('text', 'link that stays inside'),
        'lower': _point('[x, y, z]'),
        'upper': _point('[x, y, z]'),
        'speed': _positive('of the tip', 'm/s', None, MAX_SPEED),
    },
    'capsules': {
        'parts': Key('capsule*', 'name -> one segment with a radius'),
        'ignore': Key('pairs', 'pairs that may touch; neighbours always may', default=()),
        'planes': Key('plane*', 'name -> what the arm stays above', default=None),
        'clearance': Key('number', 'the least gap', 'm', 0.0, 0, 1),
    },
    'capsule': {
        'link': Key('text', 'link of the description'),
        'from': _point('[x, y, z] in the link'),
        'to': _point('[x, y, z] in the link'),
        'radius': _positive('of the capsule', 'm', high=MAX_METRES),
    },
    'plane': {
        'normal': Key('vector', '[x, y, z] in the root link, away from the plane', size=3),
        'offset': Key('number', 'normal . p >= offset', 'm', low=-MAX_METRES, high=MAX_METRES),
    },
    'park': {
        'positions': Key('posture', 'joint -> position; others stay', 'rad, m'),
        'scale': Key('number', 'share of the limits on the way', '', 0.2, 0.01, 1.0),
        'via': Key('postures', 'tried where the straight way is refused', 'rad, m', ()),
    },
    'safety': _safety(),
}


def needed(section: str) -> tuple[str, ...]:
    """Return the keys that a section must have."""
    return tuple(name for name, key in SECTIONS[section].items() if key.default is Required)


def optional(section: str) -> tuple[str, ...]:
    """Return the keys that a section may leave out."""
    return tuple(name for name, key in SECTIONS[section].items() if key.default is not Required)
