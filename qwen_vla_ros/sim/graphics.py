"""
Which OpenGL draws without a screen: EGL where a device answers, else OSMesa, else none.

MuJoCo reads MUJOCO_GL once, while it is imported, so this is asked before. A value that the user
has set stays. Without any OpenGL the physics still run and rendering says what to install.
"""

import ctypes
import ctypes.util
import os
import sys
from types import ModuleType

from qwen_vla_ros.errors import QwenVlaError

REMEDY = (
    'apt install libegl1 libgl1-mesa-dri, or apt install libosmesa6 and set MUJOCO_GL=osmesa '
    '(before mujoco is first imported)'
)


def load_mujoco() -> ModuleType:
    """Return mujoco, told to render off-screen; QwenVlaError says what to install."""
    if sys.platform == 'linux' and not os.environ.get('MUJOCO_GL'):
        os.environ['MUJOCO_GL'] = _choose()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise QwenVlaError(f'simulation: {error}; pip install "qwen_vla_ros[sim]"') from error
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise QwenVlaError(f'simulation: mujoco does not load ({error}); {REMEDY}') from error
    return mujoco


def _choose() -> str:
    """Return the first backend that this machine has."""
    if egl_answers():
        return 'egl'
    return 'osmesa' if ctypes.util.find_library('OSMesa') else 'disable'


def egl_answers() -> bool:
    """Tell whether libEGL loads and has at least one device (a GPU or Mesa's software)."""
    try:
        egl = ctypes.CDLL('libEGL.so.1')
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b'eglQueryDevicesEXT')
    if not address:
        return False
    kind = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    )
    count = ctypes.c_int()
    return bool(kind(address)(0, None, ctypes.byref(count))) and count.value > 0
