"""What the colours mean, for every view: time ahead goes from yellow (now) to violet (the end)."""

import numpy as np

# Rising in lightness towards now, so that a grey print still tells what comes first.
_AHEAD = np.array(
    [
        [1.00, 0.93, 0.25],
        [1.00, 0.66, 0.18],
        [0.96, 0.36, 0.36],
        [0.74, 0.20, 0.60],
        [0.45, 0.18, 0.78],
    ]
)
DONE = (0.25, 0.85, 0.95, 1.0)  # what the robot did
LEFT = (0.72, 0.75, 0.80, 0.75)  # what it left of a chunk
SEAM = (1.0, 1.0, 1.0, 1.0)  # where one chunk gave over to the next
REFUSED = (1.0, 0.16, 0.16, 1.0)
HELD = (1.0, 0.55, 0.10, 1.0)
LIMIT = (0.45, 0.62, 0.82, 0.55)
BODY = (0.62, 0.66, 0.72, 1.0)
WRITTEN = (0.95, 0.96, 0.98, 1.0)
STAGES = {
    'RUNNING': (72, 187, 120),
    'WATCHING': (99, 179, 237),
    'PARKING': (99, 179, 237),
    'HOLDING': (237, 137, 54),
    'WAITING': (236, 201, 75),
    'INACTIVE': (160, 174, 192),
    'SILENT': (229, 62, 62),
}


def ahead(shares: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Return colours [N, 4] of times ahead [N] as shares of the horizon, 0 now to 1 the end."""
    at = np.clip(np.asarray(shares, np.float64), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_AHEAD))
    rgb = np.stack([np.interp(at, stops, channel) for channel in _AHEAD.T], 1)
    return np.concatenate([rgb, np.full((len(at), 1), alpha)], 1)


def plain(colour: tuple[float, float, float, float], count: int) -> np.ndarray:
    """Return one colour for many points [count, 4]."""
    return np.tile(np.asarray(colour, np.float64), (count, 1))
