"""The choice of an off-screen OpenGL."""

import os
import subprocess
import sys

import pytest

from qwen_vla_ros.sim import graphics


def run(code: str, gl: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter under a MUJOCO_GL."""
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'MUJOCO_GL': gl},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ('egl', 'osmesa', 'chosen'),
    [(True, None, 'egl'), (False, 'libOSMesa.so', 'osmesa'), (False, None, 'disable')],
)
def test_egl_is_preferred_then_osmesa_then_none(
    monkeypatch: pytest.MonkeyPatch, egl: bool, osmesa: str | None, chosen: str
) -> None:
    monkeypatch.setattr(graphics, 'egl_answers', lambda: egl)
    monkeypatch.setattr(graphics.ctypes.util, 'find_library', lambda name: osmesa)
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    graphics.load_mujoco()
    assert os.environ['MUJOCO_GL'] == chosen


def test_a_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MUJOCO_GL', 'osmesa')
    graphics.load_mujoco()
    assert os.environ['MUJOCO_GL'] == 'osmesa'


def test_without_opengl_physics_run_and_rendering_says_what_to_install() -> None:
    code = (
        'from qwen_vla_ros.sim.world import TabletopWorld\n'
        'world = TabletopWorld(); world.step(0.01); print("stepped", flush=True)\n'
        'world.render("ego")'
    )
    done = run(code, 'disable')
    assert 'stepped' in done.stdout
    assert 'QwenVlaError' in done.stderr and 'apt install libegl1' in done.stderr


def test_an_impossible_choice_is_answered_with_the_remedy() -> None:
    done = run('import qwen_vla_ros.sim.world', 'nonsense')
    assert 'nonsense' in done.stderr and 'apt install libegl1' in done.stderr
