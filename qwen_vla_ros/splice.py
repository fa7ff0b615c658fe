"""
How one plan leads onto the next, and what a seam must keep to.

  hold-finish        each chunk is finished at rest, the next is asked for then (synchronous)
  blend              onto the new chunk where it is due now, by a C2 bridge
  rtc                the chunk was sampled to continue the rows that run meanwhile; old and new
                     are faded over where they agree, up to the last of these rows (real-time
                     chunking, arXiv 2512.05964)
  temporal-ensemble  onto the weighted average of all chunks that overlap

Of a difference (p, v, a) at the seam, a bridge of T s reaches no further beyond the old and new
paths than 0.2 |v| T + 0.0173 |a| T^2.
"""

from collections.abc import Sequence

import numpy as np

from qwen_vla_ros.curve import through_knots
from qwen_vla_ros.motion_plan import Plan, joined, standing

HOLD_FINISH, BLEND, RTC, ENSEMBLE = 'hold-finish', 'blend', 'rtc', 'temporal-ensemble'
MODES = (HOLD_FINISH, BLEND, RTC, ENSEMBLE)
MAX_STRETCH = 4.0  # a seam takes at most this many times blend_s
# Peak acceleration of the bridge: 10/sqrt(3) * difference / T^2 and 3.94 * velocity / T.
POSITION_BRIDGE_PEAK = 10.0 / 3.0**0.5
VELOCITY_BRIDGE_PEAK = 3.94
# Times the limits; the same shares that SafetyGate grants to rows.
VELOCITY_TOLERANCE, ACCELERATION_TOLERANCE = 1.5, 3.8
CHECK_S = 0.02
SHORTEST_STOP_S, STOP_PEAK = 0.05, 1.5
C2_TOLERANCE = 1e-6  # of position, velocity and acceleration, relative beyond 1


def seam_seconds(difference: np.ndarray, blend_s: float, acceleration: np.ndarray | None) -> float:
    """Return T >= blend_s that keeps the bridge of [3, A] under half of the limits [A]."""
    if acceleration is None:
        return blend_s
    share = acceleration / 2
    position = POSITION_BRIDGE_PEAK * np.abs(difference[0])
    velocity = VELOCITY_BRIDGE_PEAK * np.abs(difference[1])
    needed = (velocity + np.sqrt(velocity**2 + 4 * share * position)) / (2 * share)
    return float(np.clip(needed.max(), blend_s, MAX_STRETCH * blend_s))


def onto(
    running: Plan,
    plan: Plan,
    start_ns: int,
    blend_s: float,
    acceleration: np.ndarray | None,
    monotone: np.ndarray,
) -> Plan:
    """Return the running plan until start_ns, from then on the way onto the new one."""
    difference = running.motion(start_ns) - plan.path.motion(start_ns)
    return joined(
        running, plan, start_ns, seam_seconds(difference, blend_s, acceleration), monotone
    )


def continued(
    running: Plan,
    plan: Plan,
    now_ns: int,
    prefix_rows: int,
    blend_s: float,
    acceleration: np.ndarray | None,
) -> Plan:
    """
    Return the running plan faded into one that begins with its own rows.

    A fade between two plans that meet in the same rows changes none of them, so no error is handed
    on from chunk to chunk, as it would be by a bridge that the next prefix contains. A chunk that
    comes after its prefix is faded in over the time that a bridge would take, while the old one
    lasts.
    """
    last_ns = plan.path.start_ns + round((prefix_rows - 1) * plan.row_ns)
    seconds = (last_ns - now_ns) * 1e-9
    if last_ns - now_ns < plan.row_ns / 2:
        difference = running.motion(now_ns) - plan.path.motion(now_ns)
        seconds = seam_seconds(difference, blend_s, acceleration)
    if running.end_ns > now_ns:
        seconds = min(seconds, (running.end_ns - now_ns) * 1e-9)
    return joined(running, plan, now_ns, seconds, np.ones(running.path.final.shape, bool))


def landed(
    plan: Plan,
    now_ns: int,
    blend_s: float,
    acceleration: np.ndarray | None,
    monotone: np.ndarray,
) -> Plan:
    """Return a plan of a chunk that comes to rest at its last row, and stays there."""
    start_ns = max(now_ns, plan.end_ns - round(blend_s * 1e9))
    hold = standing(plan.path.final, plan.end_ns, plan.progress(plan.end_ns))
    found = onto(plan, hold, start_ns, blend_s, acceleration, monotone)
    return Plan(
        found.path,
        found.seam,
        observed_ns=plan.observed_ns,
        rest_ns=found.seam.end_ns,
        consumed=hold.consumed,
    )


def stopped(
    motion: np.ndarray,
    now_ns: int,
    blend_s: float,
    acceleration: np.ndarray | None,
    consumed: float,
) -> Plan:
    """Return the way from a motion [3, A] to rest, within the limits; without any in blend_s."""
    seconds = blend_s
    if acceleration is not None:
        seconds = max(float(np.max(STOP_PEAK * np.abs(motion[1]) / acceleration)), SHORTEST_STOP_S)
    knots = np.zeros((2, *motion.shape))
    knots[0] = motion
    knots[1, 0] = motion[0] + motion[1] * seconds / 2 + motion[2] * seconds**2 / 12
    way = through_knots(now_ns, seconds, knots)
    return Plan(way, rest_ns=now_ns + round(seconds * 1e9), consumed=consumed)


def seam_problem(
    plan: Plan,
    running: Plan,
    names: Sequence[str],
    velocity: np.ndarray | None,
    acceleration: np.ndarray | None,
) -> str:
    """
    Return what is wrong with the newest seam of a plan; '' when nothing is.

    At its start position, velocity and acceleration go on; from there to its end no step of
    CHECK_S exceeds the velocity limits [A], no second difference the acceleration limits [A].
    """
    start_ns, end_ns = plan.seam.start_ns, plan.seam.end_ns
    before = running.motion(start_ns)
    jump = np.abs(plan.motion(start_ns) - before) / np.maximum(1.0, np.abs(before))
    if not (jump <= C2_TOLERANCE).all():
        order, column = np.unravel_index(np.argmax(np.nan_to_num(jump, nan=np.inf)), jump.shape)
        what = ('position', 'velocity', 'acceleration')[order]
        return f'{what} of {names[column]} jumps by {jump[order, column]:.3g} at the seam'
    times = np.arange(start_ns - round(CHECK_S * 1e9), end_ns + 1, round(CHECK_S * 1e9))
    rows = plan.motions(times)[:, 0]
    speeds = np.diff(rows, axis=0) / CHECK_S
    return _over('/s', speeds, velocity, VELOCITY_TOLERANCE, names) or _over(
        '/s^2', np.diff(speeds, axis=0) / CHECK_S, acceleration, ACCELERATION_TOLERANCE, names
    )


def _over(
    unit: str,
    found: np.ndarray,
    limits: np.ndarray | None,
    tolerance: float,
    names: Sequence[str],
) -> str:
    if limits is None or not len(found):
        return ''
    ratio = np.abs(found) / limits
    if (ratio <= tolerance).all():
        return ''
    row, column = np.unravel_index(np.argmax(ratio), ratio.shape)
    return (
        f'the seam would ask {abs(found[row, column]):.3g} {unit} of {names[column]} '
        f'(limit {limits[column]:.3g}, tolerance {tolerance:g})'
    )
