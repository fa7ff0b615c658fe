"""Pictures in Rerun: what is logged (to a stand-in of the SDK), and the SDK where it is."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.seeing.frames import planar_pose
from qwen_vla_ros.seeing.picture import Caption, Dots, Lines, Picture, Tube, Words
from qwen_vla_ros.seeing.rerun_view import RerunView, told

POINTS = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
RED = np.tile([1.0, 0.0, 0.0, 1.0], (2, 1))
LINE = Lines('predicted/arm', 'base_link', POINTS, RED, 0.01)
SHAPES = (
    LINE,
    Lines('limits/arm', 'base_link', POINTS, RED, 0.01, joined=False),
    Dots('seam/arm', 'base_link', POINTS, RED, 0.02),
    Words('refused/arm', 'base_link', POINTS[0], 'why', (1, 0, 0, 1)),
    Tube('body', 'base_link', POINTS[0], POINTS[1], 0.05, (0.5, 0.5, 0.5, 1)),
)
CAPTION = Caption('touch it', 'HOLDING', 'no camera', (('model', '66 ms'),))


def located(frame):
    return planar_pose(0.0, 2.0, 0.0)


@pytest.fixture
def logged(monkeypatch):
    """The SDK replaced by what writes down what it is told."""
    found = []
    recording = SimpleNamespace(
        log=lambda path, what: found.append((path, what)),
        set_time=lambda name, timestamp: found.append((name, timestamp)),
        save=lambda path: found.append(('save', path)),
        flush=lambda: None,
        disconnect=lambda: None,
    )
    made = {
        kind: lambda *values, kind=kind, **named: (kind, values, named)
        for kind in ('LineStrips3D', 'Points3D', 'Clear', 'TextDocument')
    }
    sdk = SimpleNamespace(RecordingStream=lambda name: recording, **made)
    monkeypatch.setitem(sys.modules, 'rerun', sdk)
    return found


def test_shapes_are_placed_into_one_world(logged):
    view = RerunView('out.rrd')
    view.show(Picture(2_000_000_000, SHAPES, CAPTION), located)
    assert logged[:2] == [('save', 'out.rrd'), ('time', 2.0)]
    entities = dict(logged[2:])
    kind, (strips,), named = entities['world/predicted/arm/0']
    assert kind == 'LineStrips3D'
    np.testing.assert_allclose(strips, [[[0, 2, 0], [1, 2, 0]]])
    assert named['radii'] == 0.005
    np.testing.assert_array_equal(named['colors'], [[255, 0, 0, 255]])
    assert entities['world/refused/arm/0'][2]['labels'] == ['why']
    assert entities['words'][1] == (told(CAPTION),)


def test_what_is_no_more_is_cleared_once(logged):
    view = RerunView('out.rrd')
    view.show(Picture(0, (LINE, LINE)), located)
    view.show(Picture(0, (LINE,)), located)
    view.show(Picture(0, (LINE,)), located)
    cleared = [path for path, what in logged if str(what).startswith("('Clear'")]
    assert cleared == ['world/predicted/arm/1']


def test_the_caption_is_markdown():
    assert told(CAPTION) == '**HOLDING** touch it\n\n> no camera\n\nmodel: 66 ms'


def test_without_the_sdk_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(QwenVlaError, match=r'pip install "qwen_vla_ros\[rerun\]"'):
        RerunView('spawn')


def test_the_sdk_itself_takes_every_shape(tmp_path):
    pytest.importorskip('rerun', reason='rerun-sdk is an extra')
    view = RerunView(str(tmp_path / 'out.rrd'))
    view.show(Picture(1_000_000_000, SHAPES, CAPTION), located)
    view.show_image('ego', np.zeros((48, 64, 3), np.uint8), 1_000_000_000)
    view.show(Picture(2_000_000_000, (LINE,)), located)
    view.close()
    assert (tmp_path / 'out.rrd').read_bytes()[:4] in (b'RRF2', b'RRIO')
    with pytest.raises(QwenVlaError, match='cannot be opened'):
        RerunView(str(tmp_path / 'absent' / 'out.rrd'))
