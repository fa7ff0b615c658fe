"""
The home pose: what the joints read when the arm stands in a pose that a person can see.

For Interbotix arms that is the description's zero: upper arm upright, forearm level, hand level
and straight ahead, held there by hand or by the vendor's own command. A joint that is off by a
part of a turn was mounted or calibrated so; one that is off by a little, loosely.

judge_nudge compares what a joint was asked to move with what was then measured: its own sign and
scale, and that no other joint took its place. Angles in rad, fingers in m.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qwen_vla_ros.errors import QwenVlaError

PASS, REFUSE = 'pass', 'refuse'
NEAR_RAD, NEAR_M = 0.05, 0.003
# Of a nudge: the least share that must be seen, and the most of it that another joint may show.
SEEN, OTHERS = 0.5, 0.3
_PARTS = {'a quarter turn': math.pi / 2, 'half a turn': math.pi, 'a whole turn': 2 * math.pi}


@dataclass(frozen=True)
class Finding:
    """One line of a check: verdict 'pass' or 'refuse', what was seen, and the remedy."""

    name: str
    verdict: str
    seen: str
    remedy: str = ''

    @property
    def ok(self) -> bool:
        """Return whether it passed."""
        return self.verdict == PASS


def check_home(
    measured: Mapping[str, float],
    home: Mapping[str, float],
    units: Mapping[str, str],
    near_rad: float = NEAR_RAD,
    near_m: float = NEAR_M,
) -> list[Finding]:
    """
    Return a finding for every joint of home.

    units ('rad' or 'm') by joint; near_rad, near_m: how far a joint may be off. Raises
    QwenVlaError for a joint that is not measured.
    """
    missing = [name for name in home if name not in measured]
    if missing:
        raise QwenVlaError(f'home pose: {", ".join(missing)} not among the joint states')
    found = []
    for name, wanted in home.items():
        off, unit = measured[name] - wanted, units.get(name, 'rad')
        near = near_m if unit == 'm' else near_rad
        seen = (
            f'{measured[name]:+.4f} {unit}, home {wanted:+.4f}, off by {off:+.4f} (at most {near})'
        )
        if not math.isfinite(off):
            found.append(Finding(name, REFUSE, seen, 'the driver reads no number: see its log'))
        elif abs(off) <= near:
            found.append(Finding(name, PASS, seen))
        else:
            found.append(
                Finding(name, REFUSE, seen, _home_remedy(off, wanted, measured[name], unit))
            )
    return found


def judge_nudge(
    name: str,
    asked: float,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Finding:
    """Return whether a joint moved as it was asked to (rad or m, not 0), and no other did."""
    moved = {joint: after[joint] - before[joint] for joint in before if joint in after}
    if name not in moved:
        raise QwenVlaError(f'nudge: {name} is not among the joint states')
    own = moved.pop(name)
    seen = f'asked {asked:+.4f}, moved {own:+.4f}'
    share = own / asked
    most = max(moved, key=lambda joint: abs(moved[joint]), default='')
    other = abs(moved.get(most, 0.0)) > OTHERS * abs(asked)
    if share <= -SEEN:
        return Finding(name, REFUSE, seen, 'its sign is reversed: the motor or the contract is')
    if share < SEEN and other:
        remedy = f'{most} moved instead ({moved[most]:+.4f}): the order of the joints is another'
        return Finding(name, REFUSE, seen, remedy)
    if share < SEEN:
        remedy = 'it hardly moved: torque, operating mode, profile or a controller that refuses'
        return Finding(name, REFUSE, seen, remedy)
    if share > 2.0 - SEEN:
        return Finding(name, REFUSE, seen, 'it moved further than asked: degrees, or a gear ratio')
    if other:
        return Finding(name, REFUSE, seen, f'{most} moved as well ({moved[most]:+.4f})')
    return Finding(name, PASS, seen)


def _home_remedy(off: float, wanted: float, measured: float, unit: str) -> str:
    if unit == 'm':
        return 'calibrate the gripper, or check the lengths of its crank in motor_configs'
    if wanted and abs(measured + wanted) < NEAR_RAD:
        return 'its sign is reversed: check Drive_Mode in motor_configs'
    if wanted and abs(math.radians(measured) - wanted) < NEAR_RAD:
        return 'it reads degrees where radians are wanted'
    for name, part in _PARTS.items():
        if abs(abs(off) - part) < 2 * NEAR_RAD:
            return f'it is off by {name}: the horn was mounted so, or Homing_Offset is wrong'
    return 'put the arm into its home pose; if it stands there, calibrate this joint'
