"""
Quality of service of every topic, in one place (REP-2003).

SENSOR   images and joint states: the newest counts, a lost one is not sent again
RECORDED the same for whoever writes them down: a longer queue outlasts a busy disk
COMMAND  trajectories: reliable, only the newest
LATCHED  instruction, status, contract: reliable, and the last one is given to late subscribers
STREAM   chunks, diagnostics and the clock: reliable, a short queue
VIEW     markers and annotated images: reliable, as viewers ask, and only the newest
STATIC   /tf_static: reliable, and all that was ever said
"""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliable: bool, depth: int, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


SENSOR = _profile(reliable=False, depth=5)
RECORDED = _profile(reliable=False, depth=40)
COMMAND = _profile(reliable=True, depth=1)
LATCHED = _profile(reliable=True, depth=1, latched=True)
STREAM = _profile(reliable=True, depth=10)
VIEW = _profile(reliable=True, depth=1)
STATIC = _profile(reliable=True, depth=100, latched=True)
