"""A stage whose samples are read ahead by processes is trained to the same weights."""

from functools import partial

import pytest
import stage_lab

from qwen_vla_ros.cli import main
from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.data.mixture import Mixture
from qwen_vla_ros.data.synthetic.runners import in_processes
from qwen_vla_ros.data.synthetic.text_action import Order, synthesise
from qwen_vla_ros.train.sources import open_sources, training_mixture, weighed


def test_workers_build_the_mixture_of_the_arguments(tmp_path):
    synthesise(Order(tmp_path / 'words', 4, 0, ('ur5e',)), in_processes(1))
    told, recipe = (f'synthetic={tmp_path / "words" / "ur5e"}',), stage_lab.recipe('t2a')
    sources, families, _ = weighed(open_sources(told, recipe), recipe)
    wanted = iter(Mixture(sources, recipe.seed, families, rank=1, world=2))
    with Loader(partial(training_mixture, told, recipe, 1, 2), 1) as loader:
        for ours, theirs, _ in zip(loader, wanted, range(3), strict=False):
            assert ours.place == theirs.place
            assert (ours.actions == theirs.actions).all()


@pytest.mark.slow
def test_a_stage_with_readers_has_the_weights_of_one_without(tmp_path):
    words = tmp_path / 'words'
    synthesise(Order(words, 4, 0, ('xarm7',)), in_processes(1))
    states = []
    for readers in ('0', '1'):
        out = tmp_path / f'run{readers}'
        line = f'train t2a --preset tiny --data synthetic={words / "xarm7"} --batch 2 --steps 2'
        assert (
            main([*line.split(), '--out', str(out), '--readers', readers, '--threads', '1']) == 0
        )
        state = next((out / 'checkpoint').glob('*.safetensors'))
        states.append(state.read_bytes())
    assert states[0] == states[1]
