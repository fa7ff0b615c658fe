"""The loader: any number of workers gives the mixture's samples; resume; workers that are lost."""

import os
from functools import partial
from itertools import islice

import pytest
from loader_sources import dies_at_once, mixture, numbered

from qwen_vla_ros.data.loader import Loader, LoaderError
from qwen_vla_ros.errors import QwenVlaError


def places(samples, count):
    return [sample.place for sample in islice(samples, count)]


def test_workers_give_what_the_mixture_gives_bad_files_named():
    bad = {'bad': (1, 4)}
    plain = mixture(**bad)
    wanted = places(plain, 40)
    for workers in (1, 3):
        with Loader(partial(mixture, **bad), workers, 2) as loader:
            assert places(loader, 40) == wanted
            assert loader.skipped == plain.skipped
            assert any('a: episode 1' in text and 'is cut' in text for text in loader.skipped)


def test_a_rank_has_its_own_draws():
    make = partial(mixture, rank=1, world=2)
    with Loader(make, 2) as loader:
        assert places(loader, 10) == places(make(), 10)


def test_a_run_resumes_at_what_was_handed_over_with_other_workers():
    wanted = places(mixture(), 30)
    with Loader(mixture, 2, 3) as loader:
        assert places(loader, 11) == wanted[:11]
        state = loader.state()
    assert state == {'seed': 3, 'world': 1, 'position': 11}
    with Loader(mixture, 1) as loader:
        loader.resume(state)
        assert places(loader, 19) == wanted[11:]
        with pytest.raises(QwenVlaError, match='made with seed'):
            loader.resume({**state, 'seed': 4})


def test_a_file_that_ends_its_reader_is_left_out_and_named():
    spot = next(place for place in places(mixture(), 60)[9:] if place.source == 'a')
    deadly = ((spot.episode, spot.frame),)
    with Loader(partial(mixture, deadly=deadly), 2) as loader:
        found = places(loader, 60)
        told = f'a: episode {spot.episode}, frame {spot.frame}: '
        assert loader.skipped == {f'{told}the worker that read it ended with code -9': 1}
    again, bad = mixture(), {(0, spot.episode, spot.frame)}
    assert found == [again.at(position, bad)[0].place for position in range(60)]
    assert spot not in found


def test_a_worker_that_hangs_is_started_anew():
    with Loader(partial(mixture, slow=((0, 1),)), 1, patience_s=1.5) as loader:
        assert len(places(loader, 60)) == 60
        told = 'a: episode 0, frame 1: the worker that read it said nothing for 1.5 s'
        assert loader.skipped[told] == 1


def test_a_fault_that_is_no_bad_data_stops_the_run_with_its_traceback():
    with (
        Loader(partial(mixture, raises=range(6)), 1) as loader,
        pytest.raises(LoaderError, match='a fault of the code'),
    ):
        places(loader, 40)


def test_a_source_with_nothing_but_bad_samples_stops_the_run():
    with (
        Loader(partial(mixture, bad=range(6)), 1) as loader,
        pytest.raises(QwenVlaError, match='100 bad samples in a row'),
    ):
        places(loader, 40)


def test_workers_that_cannot_start_are_told(monkeypatch):
    monkeypatch.setenv('LOADER_TEST_PARENT', str(os.getpid()))
    with (
        Loader(dies_at_once, 1) as loader,
        pytest.raises(LoaderError, match='ended with code 7 before its first sample'),
    ):
        next(iter(loader))


def test_workers_transform_samples():
    plain = [numbered(sample) for sample in islice(mixture(), 12)]
    with Loader(mixture, 2, transform=numbered) as loader:
        assert list(islice(loader, 12)) == plain
    with pytest.raises(QwenVlaError, match='at least 1'):
        Loader(mixture, 0)
