"""The borders: only nodes/ knows rclpy, only what needs the model knows torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'qwen_vla_ros'
LIGHT = [
    'errors',
    'types',
    'embodiment',
    'observation',
    'image_decoding',
    'chunk',
    'safety',
    'row_checks',
    'safety_contract',
    'safety_reader',
    'interlocks',
    'limits',
    'workspace',
    'capsules',
    'park',
]
LIGHT += ['alignment', 'command', 'contract_reader', 'curve', 'kinematics', 'policy']
LIGHT += ['policy_server', 'remote', 'strict_values', 'wire']
LIGHT += ['image_encodings', 'sensor_reader', 'shared_pictures', 'state_reading', 'stream_counts']
LIGHT += ['cartesian_commands', 'joint_commands', 'navigation_commands', 'output_kinds']
LIGHT += ['timeline']
LIGHT += ['nodes.pilot', 'nodes.timed_policy']
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '__pycache__' not in path.parts)
TORCH_AT_TOP = ('model', 'train')
TORCH_INSIDE = ('model', 'train', 'policy.py', 'cli.py', 'evaluate')


def importers(path: Path, package: str) -> tuple[bool, bool]:
    """Return whether a file imports a package at module level, and whether anywhere."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and 'TYPE_CHECKING' in ast.dump(block.test)
        for node in ast.walk(block)
    }
    top = anywhere = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        if id(node) in guarded or not any(name.split('.')[0] == package for name in names):
            continue
        anywhere = True
        top = top or id(node) not in inside
    return top, anywhere


def parts(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_borders(path: Path) -> None:
    if parts(path) != 'nodes':
        assert not importers(path, 'rclpy')[1], 'only nodes/ may import rclpy'
    top, anywhere = importers(path, 'torch')
    if parts(path) not in TORCH_AT_TOP:
        assert not top, 'only model/ and train/ may import torch at the top of a file'
    if parts(path) not in TORCH_INSIDE:
        assert not anywhere, 'only what calls the model may import torch'


@pytest.mark.parametrize('module', LIGHT)
def test_light_modules_import_neither_ros_nor_torch(module: str) -> None:
    script = (
        f'import sys, qwen_vla_ros.{module}\n'
        "heavy = {'rclpy', 'torch', 'transformers', 'mujoco', 'cv2', 'trajectory_msgs'}\n"
        'print(*sorted(heavy & set(sys.modules)))'
    )
    found = subprocess.run(
        [sys.executable, '-c', script],
        check=False,
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []
