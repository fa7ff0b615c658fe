"""
A frozen dataclass is the list of a node's parameters: default, range and description per field.

    @dataclass(frozen=True)
    class Settings:
        rate_hz: float = parameter(20.0, 'commands a second', 1.0, 100.0)

    settings = declare(node, Settings)
"""

from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from qwen_vla_ros.errors import QwenVlaError

Settings = TypeVar('Settings')


def parameter(
    default: Any,
    description: str,
    lower: float | None = None,
    upper: float | None = None,
    changeable: bool = False,
) -> Any:
    """Return a dataclass field that declare() turns into a ROS parameter, bounds included."""
    facts = {'description': description, 'lower': lower, 'upper': upper, 'changeable': changeable}
    return field(default=default, metadata=facts)


def declare(node: Node, kind: type[Settings]) -> Settings:
    """
    Declare every field as a parameter and return the dataclass filled.

    QwenVlaError names a value of the wrong kind, and a parameter that is one of ours but for its
    spelling; others that this node does not have are warned of (a file may serve several nodes).
    """
    _refuse_unknown(node, [item.name for item in fields(kind)])
    values = {}
    for item in fields(kind):
        descriptor = _descriptor(item)
        if not node.has_parameter(item.name):
            _declare(node, item, descriptor)
        values[item.name] = node.get_parameter(item.name).value
    return kind(**values)


def listed(kind: type) -> str:
    """Return the parameters of a dataclass as lines of help."""
    return '\n'.join(
        f'  {item.name + ":=" + str(item.default):<28} {item.metadata["description"]}'
        for item in fields(kind)
    )


def _refuse_unknown(node: Node, known: list[str]) -> None:
    for name in getattr(node, '_parameter_overrides', {}):
        if name in known or node.has_parameter(name) or name.startswith('qos_overrides'):
            continue
        told = f'{node.get_name()} has no parameter {name!r}'
        if near := get_close_matches(name, known, n=1):
            raise QwenVlaError(f'{told}; did you mean {near[0]!r}?')
        node.get_logger().warning(f'{told}; it has {", ".join(known)}')


def _declare(node: Node, item: Any, descriptor: ParameterDescriptor) -> None:
    try:
        node.declare_parameter(item.name, item.default, descriptor)
    except InvalidParameterTypeException as error:
        wanted = type(item.default).__name__
        hint = ' (write 3.0, not 3)' if wanted == 'float' else ''
        raise QwenVlaError(
            f'parameter {item.name} of {node.get_name()}: expected {wanted}{hint}; {error}'
        ) from error
    except InvalidParameterValueException as error:
        bounds = item.metadata
        raise QwenVlaError(
            f'parameter {item.name} of {node.get_name()}: outside '
            f'{bounds["lower"]:g} .. {bounds["upper"]:g}'
        ) from error


def _descriptor(item: Any) -> ParameterDescriptor:
    """Return the descriptor of a field."""
    facts = item.metadata
    descriptor = ParameterDescriptor(
        name=item.name, description=facts['description'], read_only=not facts['changeable']
    )
    if facts['lower'] is not None:
        bounds = {'from_value': facts['lower'], 'to_value': facts['upper']}
        if isinstance(item.default, float):
            descriptor.floating_point_range = [FloatingPointRange(**bounds, step=0.0)]
        else:
            descriptor.integer_range = [IntegerRange(**bounds, step=1)]
    return descriptor
