"""
launch and launch_ros where they are not installed: the constructors that we use, by signature.

The signatures are those of launch 1.0 to 3.7 and launch_ros 0.19 to 0.28 (Humble to Kilted), so a
misspelt or unknown argument fails here as it would there. Nothing runs.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

ACTION = ('condition',)
PROCESS = ('cmd', 'name', 'cwd', 'env', 'additional_env', 'output', 'on_exit', *ACTION)
# module -> class -> (positional arguments, keyword arguments)
KNOWN: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    'launch': {
        'LaunchDescription': (('entities',), ()),
        'LaunchContext': ((), ()),
        'LaunchDescriptionEntity': ((), ()),
    },
    'launch.actions': {
        'DeclareLaunchArgument': (('name',), ('default_value', 'description', 'choices', *ACTION)),
        'ExecuteProcess': ((), PROCESS),
        'IncludeLaunchDescription': (('source',), ('launch_arguments', *ACTION)),
        'OpaqueFunction': ((), ('function', 'args', 'kwargs', *ACTION)),
        'SetEnvironmentVariable': (('name', 'value'), ACTION),
    },
    'launch.conditions': {'IfCondition': (('predicate',), ())},
    'launch.launch_description_sources': {'PythonLaunchDescriptionSource': (('path',), ())},
    'launch.substitutions': {
        'Command': (('command',), ('on_stderr',)),
        'EnvironmentVariable': (('name',), ('default_value',)),
        'FindExecutable': ((), ('name',)),
        'LaunchConfiguration': (('name',), ('default',)),
        'PathJoinSubstitution': (('parts',), ()),
        'PythonExpression': (('expression',), ()),
    },
    'launch_ros': {},
    'launch_ros.actions': {
        'Node': (
            (),
            (
                *('package', 'executable', 'name', 'namespace', 'parameters', 'remappings'),
                *('ros_arguments', 'arguments', 'output', *ACTION),
            ),
        )
    },
    'launch_ros.parameter_descriptions': {'ParameterValue': (('value',), ('value_type',))},
    'launch_ros.substitutions': {
        'ExecutableInPackage': ((), ('package', 'executable')),
        'FindPackageShare': (('package',), ()),
    },
}


def _class(name: str, positional: tuple[str, ...], keywords: tuple[str, ...]) -> type:
    def construct(self: Any, *args: Any, **options: Any) -> None:
        assert len(args) <= len(positional), f'{name} takes {positional}, got {args}'
        assert set(options) <= {*positional, *keywords}, f'{name} takes no {sorted(options)}'
        for key in (*positional, *keywords):
            setattr(self, key, None)
        self.__dict__.update(zip(positional, args, strict=False))
        self.__dict__.update(options)

    return type(name, (), {'__init__': construct})


@contextmanager
def double() -> Iterator[None]:
    """Put the doubles in the place of launch and launch_ros, and take them away again."""
    ours = {
        name
        for name in sys.modules
        if name.split('.')[0] in ('launch', 'launch_ros')
        or name in ('qwen_vla_ros.bringup', 'qwen_vla_ros.interbotix')
    }
    kept = {name: sys.modules.pop(name) for name in ours}
    for place, classes in KNOWN.items():
        module = ModuleType(place)
        for name, signature in classes.items():
            setattr(module, name, _class(name, *signature))
        sys.modules[place] = module
    try:
        yield
    finally:
        for name in (*KNOWN, 'qwen_vla_ros.bringup', 'qwen_vla_ros.interbotix'):
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def written(value: Any) -> str:
    """Return a value with its substitutions as text."""
    if isinstance(value, (list, tuple)):
        return ''.join(map(written, value))
    if isinstance(value, dict):
        return ''.join(written(pair) for pair in value.items())
    kind = type(value).__name__
    if kind == 'PathJoinSubstitution':
        return '/'.join(map(written, value.parts))
    if kind == 'FindPackageShare':
        return f'<{value.package}>'
    if kind == 'LaunchConfiguration':
        return f'$({written(value.name)})'
    if any(kind in classes for classes in KNOWN.values()):
        return f'{kind}({written(list(vars(value).values()))})'
    return str(value)
