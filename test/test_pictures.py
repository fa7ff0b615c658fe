"""The command that makes the pictures of the documentation."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from qwen_vla_ros.seeing.pictures import PICTURES, film, main

DOCS = Path(__file__).parents[1] / 'docs'


def test_every_picture_of_the_page_is_made_by_the_command_and_is_small():
    shown = re.findall(r'\(pictures/(\w+)\.png\)', (DOCS / 'seeing.md').read_text())
    assert sorted(shown) == sorted(PICTURES)
    for name in PICTURES:
        assert (DOCS / 'pictures' / f'{name}.png').stat().st_size < 150_000


@pytest.mark.parametrize('name', [name for name in PICTURES if name != 'reach'])
def test_committed_pictures_are_those_of_the_command(name):
    """All but the one that a graphics driver rendered; text and edges may differ by a shade."""
    committed = np.asarray(Image.open(DOCS / 'pictures' / f'{name}.png').convert('RGB'), float)
    made = PICTURES[name]().astype(float)
    assert committed.shape == made.shape
    astray = float(np.abs(committed - made).mean())
    assert astray < 4.0, 'look at what python -m qwen_vla_ros.seeing.pictures makes, and commit it'


def test_a_picture_is_written_where_told(tmp_path, capsys):
    assert main(['base', '--out', str(tmp_path)]) == 0
    assert Image.open(tmp_path / 'base.png').size == (760, 520)
    assert main(['bse', '--out', str(tmp_path)]) == 2
    assert "'bse': no such picture" in capsys.readouterr().err


def test_the_view_from_afar_is_also_a_film(tmp_path):
    assert film(tmp_path / 'seam.mp4', 0.5) == 5
    with av.open(str(tmp_path / 'seam.mp4')) as file:
        frames = [frame.to_ndarray(format='rgb24') for frame in file.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (520, 760, 3)
