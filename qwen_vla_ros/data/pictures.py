"""Encoded pictures (JPEG, PNG) in memory or in files -> uint8 [h, w, 3] RGB."""

from pathlib import Path

import numpy as np

from qwen_vla_ros.errors import QwenVlaError


def decoded(data: bytes | np.ndarray) -> np.ndarray:
    """Return the picture of encoded bytes; QwenVlaError when they are damaged or of none."""
    import cv2

    raw = np.frombuffer(data, np.uint8)
    found = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    if found is None:
        raise QwenVlaError(f'{raw.size} bytes that are no readable JPEG or PNG')
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def picture_of(path: Path) -> np.ndarray:
    """Return the picture of a file; QwenVlaError names it."""
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise QwenVlaError(f'{path}: {error.strerror}') from error
    except QwenVlaError as error:
        raise QwenVlaError(f'{path}: {error}') from error
