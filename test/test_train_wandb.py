"""--wandb with the real package, offline: what is told, a run that goes on, what is refused."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from qwen_vla_ros.train.run_folder import claim
from qwen_vla_ros.train.watch import Watch

SETTINGS = {'stage': 't2a'}
FRAMES = [np.full((8, 12, 3), shade, np.uint8) for shade in (0, 255)]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Keep runs where they are made; nobody is logged in."""
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('NETRC', str(tmp_path / 'none'))
    monkeypatch.delenv('WANDB_API_KEY', raising=False)


def test_figures_pictures_and_films_are_told_and_the_run_goes_on(tmp_path):
    picture = tmp_path / 'curve.png'
    cv2.imwrite(str(picture), FRAMES[0])
    out = tmp_path / 'run'
    out.mkdir()
    watch = Watch(out, 0, 'lab', SETTINGS)
    watch.tell(1, {'action': 0.5, 'source_loss': {'table': 0.25}})
    watch.picture(1, 'held_out', picture)
    watch.film(1, 'table', FRAMES, 5.0)
    watch.close()
    name = (out / 'wandb' / 'run-id').read_text()
    (made,) = (out / 'wandb').glob(f'offline-run-*-{name}')
    told = (made / f'run-{name}.wandb').read_bytes()
    assert all(word in told for word in (b'action', b'source_loss/table', b'0.25', b'stage'))
    media = sorted(path.suffix for path in (made / 'files' / 'media').rglob('*.*'))
    assert media == ['.gif', '.png']

    again = Watch(out, 1, 'lab', SETTINGS)
    again.tell(2, {'action': 0.4})
    again.close()
    assert (out / 'wandb' / 'run-id').read_text() == name
    lines = (out / 'log.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 2]

    Watch(out, 0, 'lab', SETTINGS).close()  # from the beginning: another run
    assert (out / 'wandb' / 'run-id').read_text() != name


def test_a_stranger_is_told_how_to_log_in_and_keeps_the_folder(tmp_path):
    out = tmp_path / 'run'
    words = ['train', 't2a', '--demo', '--wandb', 'lab', '--out', str(out)]
    done = subprocess.run(
        [sys.executable, '-m', 'qwen_vla_ros.cli', *words],
        env={**os.environ, 'WANDB_MODE': 'online', 'HOME': str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert '--wandb lab: No API key configured' in done.stderr
    assert 'WANDB_MODE=offline' in done.stderr and 'Traceback' not in done.stderr
    claim(out, 't2a')  # refuses nothing
