"""
The checkpoint's q01 and q99 against the robot's limits, and actions against state.

What a policy says is scaled by these numbers, so wrong ones move the arm elsewhere without any
other sign. A range that lies outside a joint's limits is named for what would explain it: degrees,
millimetres, two joints exchanged, a sign turned, or another robot. Where a range fits its limits
by chance none of this shows; the live checks look at the joints themselves.
"""

import math
from collections.abc import Iterator, Mapping

from qwen_vla_ros.compatibility.finding import REFUSE, WARN, Problem
from qwen_vla_ros.compatibility.training import Pairing, Ranges

DEGREE, MILLI = 180.0 / math.pi, 1000.0
BEYOND = 0.05  # share of a joint's range that q01 and q99 may lie outside
ABSOLUTE = ('abs_joint', 'gripper', 'dexterous')
MOST = {'rad': 2 * math.pi, 'm': 5.0}  # of a displacement within one chunk
Range = tuple[float, float]


def numbers(pair: Pairing) -> Iterator[Problem]:
    """Names complete, numbers finite, q01 below q99."""
    wanted = {
        'actions': pair.metadata.get('action_names') or [],
        'state': pair.metadata.get('state_names') or [],
    }
    for key, names in wanted.items():
        ranges = pair.ranges(key)
        if key == 'state' and not ranges:
            continue  # a policy without proprioception
        if lacking := [name for name in names if name not in ranges]:
            yield Problem(REFUSE, f'{key}: no statistics of {", ".join(lacking)}')
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high)) or low > high:
                yield Problem(REFUSE, f'{key} {name}: q01 {low:g}, q99 {high:g}')
            elif low == high:
                yield Problem(WARN, f'{key} {name}: never moved in training (q01 = q99 = {low:g})')


def degrees(pair: Pairing) -> Iterator[Problem]:
    """Name ranges that fit only as degrees, or only as millimetres."""
    for key, names in _outside(pair).items():
        ranges = pair.ranges(key)
        for unit, factor, wrong in (('rad', DEGREE, 'degrees'), ('m', MILLI, 'millimetres')):
            told = [
                n for n in names if pair.units.get(n) == unit and _fits(pair, ranges, n, factor)
            ]
            if told:
                text = ', '.join(f'{name} {_told(ranges[name])}' for name in told)
                yield Problem(REFUSE, f'{key}: {text} fit their limits only as {wrong}')
    yield from _far(pair)


def limits(pair: Pairing) -> Iterator[Problem]:
    """Name ranges outside the limits of their joints, and the exchange that would mend them."""
    for key, names in _outside(pair).items():
        ranges = pair.ranges(key)
        scaled = {n for n in names if _fits(pair, ranges, n, _factor(pair, n))}
        left = [name for name in names if name not in scaled]
        for name in left:
            bounds = pair.limits[name]
            text = f'{key} {name}: {_told(ranges[name])}, the limits are '
            text += f'[{bounds.lower:.4g}, {bounds.upper:.4g}] {pair.units[name]}'
            twin = _exchange(pair, ranges, name)
            if twin:
                text += f'; it fits {twin}, and that fits {name}: the two names are swapped'
            elif _within(pair, name, _mirrored(ranges[name])):
                text += '; with the sign turned it fits'
            yield Problem(REFUSE, text)


def agreement(pair: Pairing) -> Iterator[Problem]:
    """Compare where joints are sent with where they were measured."""
    actions, state = pair.ranges('actions'), pair.ranges('state')
    groups = [g for g in pair.embodiment.action_groups(pair.layout) if g.kind in ABSOLUTE]
    names = [n for g in groups for n in g.names if n in actions and n in state]
    for name in names:
        if _overlap(actions[name], state[name]):
            continue
        text = f'{name}: sent to {_told(actions[name])}, measured in {_told(state[name])}'
        twin = next((o for o in names if o != name and _crossed(actions, state, name, o)), '')
        if twin:
            text += f'; exchanged with {twin} both agree: the two names are swapped'
        elif _overlap(_mirrored(actions[name]), state[name]):
            text += '; with the sign turned they agree: the joint is flipped'
        yield Problem(REFUSE, text)


def _outside(pair: Pairing) -> Mapping[str, list[str]]:
    """Return 'actions' and 'state' -> the names whose ranges leave their limits."""
    return {
        key: [n for n in _limited(pair, key) if not _within(pair, n, pair.ranges(key)[n])]
        for key in ('actions', 'state')
    }


def _limited(pair: Pairing, key: str) -> list[str]:
    finite = (n for n, r in pair.ranges(key).items() if all(map(math.isfinite, r)))
    return [name for name in finite if name in pair.limits and name in pair.units]


def _within(pair: Pairing, name: str, told: Range) -> bool:
    bounds = pair.limits[name]
    room = BEYOND * (bounds.upper - bounds.lower)
    return bounds.lower - room <= told[0] and told[1] <= bounds.upper + room


def _factor(pair: Pairing, name: str) -> float:
    return {'rad': DEGREE, 'm': MILLI}.get(pair.units[name], 1.0)


def _fits(pair: Pairing, ranges: Ranges, name: str, factor: float) -> bool:
    """
    Tell whether a range is meant in the unit that is factor times smaller.

    The reading must be beyond what the larger unit can hold: 3 rad outside of 2 are not degrees.
    """
    low, high = ranges[name]
    bounds = pair.limits[name]
    most = max(abs(bounds.lower), abs(bounds.upper))
    large = max(abs(low), abs(high)) > 2.0 * most
    return large and _within(pair, name, (low / factor, high / factor))


def _exchange(pair: Pairing, ranges: Ranges, name: str) -> str:
    """Return the joint with which an exchange puts both into their limits; '' if none."""
    for other in ranges:
        same = other != name and other in pair.limits and pair.units[other] == pair.units[name]
        if same and _within(pair, other, ranges[name]) and _within(pair, name, ranges[other]):
            return other
    return ''


def _far(pair: Pairing) -> Iterator[Problem]:
    """Name displacements that no arm or base makes within one chunk."""
    actions = pair.ranges('actions')
    for group in pair.embodiment.action_groups(pair.layout):
        if group.kind not in ('delta_eef', 'waypoint'):
            continue
        for name, unit in zip(group.names, group.units, strict=True):
            low, high = actions.get(name, (0.0, 0.0))
            if max(abs(low), abs(high)) > MOST.get(unit, math.inf):
                wrong = 'degrees' if unit == 'rad' else 'millimetres'
                text = f'{_told((low, high))} {unit} within one chunk'
                yield Problem(REFUSE, f'actions {name}: {text}; these are {wrong}')


def _crossed(actions: Ranges, state: Ranges, one: str, other: str) -> bool:
    """Tell whether two joints disagree, and agree when one's actions are the other's."""
    apart = not _overlap(actions[other], state[other])
    agree = _overlap(actions[one], state[other]) and _overlap(actions[other], state[one])
    return apart and agree


def _overlap(one: Range, other: Range) -> bool:
    """Tell whether two ranges share at least a tenth of the smaller one."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared >= 0.1 * min(one[1] - one[0], other[1] - other[0])


def _mirrored(told: Range) -> Range:
    return (-told[1], -told[0])


def _told(told: Range) -> str:
    return f'[{told[0]:.4g}, {told[1]:.4g}]'
