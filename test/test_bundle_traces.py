"""Traces: contracts, and that what is taught is the teacher's way."""

import numpy as np
import pytest

from qwen_vla_ros.contract_reader import read_contract
from qwen_vla_ros.embodiment import ContractError, Embodiment
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import parse_target, sample_scene
from qwen_vla_ros.train.bundle.frames import TRAINING
from qwen_vla_ros.train.bundle.traces import FRAMES, Trace2DMaker, Trace3DMaker, trace_error

SIZES = {'ego': (96, 128)}


@pytest.fixture(scope='module')
def flat():
    return Trace2DMaker(SIZES).episode(TRAINING)


@pytest.fixture(scope='module')
def deep():
    return Trace3DMaker(SIZES).episode(TRAINING)


@pytest.mark.parametrize('maker', [Trace2DMaker, Trace3DMaker])
def test_a_trace_has_the_rows_and_names_of_its_contract(maker, flat, deep):
    contract = Embodiment.load(maker.embodiment)
    frames = flat if maker is Trace2DMaker else deep
    shape = (contract.horizon, len(contract.action_names(maker.layout)))
    assert len(frames) == FRAMES
    for frame in frames:
        assert frame.state.shape == (len(contract.state_names),)
        assert tuple(frame.images) == maker.views == tuple(c.view for c in contract.cameras)
        assert {taught.actions.shape for taught in frame.taught} == {shape}


def test_a_trace_in_space_begins_at_the_gripper_and_ends_over_the_object(deep):
    scene = sample_scene(TRAINING)
    near = []
    for frame in deep:
        tip = arm.forward(frame.state.astype(np.float64))[0]
        for taught in frame.taught:
            np.testing.assert_allclose(taught.actions[0], tip, atol=1e-5)
            name = parse_target(taught.instruction, scene.names)
            goal = np.array(scene.named(name).position)
            near.append(np.linalg.norm(taught.actions[-1] - goal))
            assert near[-1] <= max(np.linalg.norm(taught.actions[0] - goal), 0.03)
    assert np.median(near) < 0.03


def test_both_traces_are_the_same_way(flat, deep):
    maker = Trace2DMaker(SIZES)
    maker.episode(TRAINING)
    for one, other in zip(flat, deep, strict=True):
        ways = np.stack([taught.actions for taught in other.taught]).astype(np.float64)
        seen = maker.traces(maker._world, ways)
        np.testing.assert_allclose([t.actions for t in one.taught], seen, atol=1e-4)
        np.testing.assert_array_equal(one.images['ego'], other.images['ego'])


def test_the_error_is_a_mean_distance():
    true = np.zeros((2, 16, 3))
    assert trace_error(true + (0.03, 0.0, 0.04), true) == pytest.approx(0.05)
    flat = np.zeros((16, 2))
    assert trace_error(flat + (0.0, 0.4), flat) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ("{u: '1', v: '1'}", "{u: '1', v: m}", 'two names of unit'),
        ("v: '1'}", "v: '1'}\n      output: {type: Path, topic: plan}", 'drawn, not commanded'),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path, old, new, said):
    text = Embodiment.load('trace_2d').text
    assert old in text
    file = tmp_path / 'trace_2d.yaml'
    file.write_text(text.replace(old, new))
    with pytest.raises(ContractError, match=said):
        read_contract(file)
