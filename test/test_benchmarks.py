"""The benchmarks' own figures: the counted floor is the published one, the scripts run."""

import json
import subprocess
import sys

import pytest

from benchmarks import denoise_ops
from benchmarks.roofline import DEVICES, stages
from qwen_vla_ros.model.config import preset


def test_counted_arithmetic_equals_the_derivation_by_hand():
    """Three views of 256 tokens and 100 words, 4B, one joint step (paper 2.2; 2 x weights x N)."""
    vision, language, joint = stages(preset('4b'), 3, 512, 100, 1)
    assert vision.tflop == pytest.approx(2.22, rel=0.01)
    assert language.tflop == pytest.approx(6.35, rel=0.02)
    # 2 x 16 blocks x 24 width^2 x 884 tokens and attention; the last block skips the context.
    width, tokens = 1536, 884
    whole = 2 * 16 * 24 * width**2 * tokens + 16 * 4 * tokens**2 * width
    skipped = 2 * 21 * width**2 * 868 + 4 * 868 * tokens * width
    assert joint.tflop == pytest.approx((whole - skipped) / 1e12, rel=0.01)
    assert language.gigabytes == pytest.approx(7.14, abs=0.01)
    floor = sum(stage.floor_ms(DEVICES['H200']) for stage in (vision, language))
    assert floor == pytest.approx(10.8, abs=0.2)


def test_denoising_operators_are_halved():
    result = denoise_ops.run()
    assert result.holds, result.as_line()


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu(tmp_path):
    words = [
        '--model',
        'tiny',
        '--device',
        'cpu',
        '--sides',
        '64',
        '--steps',
        '2',
        '--rounds',
        '2',
        '--batch',
        '1',
    ]
    command = [sys.executable, '-m', 'benchmarks.on_gpu', *words, '--out', str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / 'table.json').read_text())
    assert {row['path'] for row in found['inference']} == {'transformers', 'eager'}
    assert all(row['difference'] < 1e-4 for row in found['inference'])
    assert found['training'][0]['samples_per_s'] > 0
