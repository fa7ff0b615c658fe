"""Which topics of which message type bring what a contract's observation is made of."""

from typing import TYPE_CHECKING, NamedTuple

from sensor_msgs.msg import CompressedImage, Image, JointState

from qwen_vla_ros.errors import QwenVlaError

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment, StateSource


class Input(NamedTuple):
    """A source of the observation buffer, the class of its messages, its topic."""

    source: str
    kind: type
    topic: str


def input_topics(embodiment: 'Embodiment') -> tuple[Input, ...]:
    """
    Return the inputs of a contract: cameras, then sources of state.

    A camera whose topic ends with 'compressed' or 'compressedDepth' (image_transport's names)
    brings CompressedImage. QwenVlaError when a message package is absent.
    """
    cameras = (
        Input(
            camera.view,
            CompressedImage if camera.topic.lower().endswith(_COMPRESSED) else Image,
            camera.topic,
        )
        for camera in embodiment.cameras
    )
    states = (Input(state.name, _state_class(state), state.topic) for state in embodiment.states)
    return (*cameras, *states)


def type_name(kind: type) -> str:
    """Return 'package/msg/Type' of a message class."""
    return f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'


_COMPRESSED = ('compressed', 'compresseddepth')


def _state_class(state: 'StateSource') -> type:
    if state.type == 'JointState':
        return JointState
    try:
        from nav_msgs.msg import Odometry
    except ImportError as error:
        raise QwenVlaError(
            f'topic {state.topic}: Odometry needs nav_msgs ({error}); install ros-*-nav-msgs'
        ) from error
    return Odometry
