"""How a process finds out which one of several it is."""

import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.ranks import LAUNCHERS, Ranks, open_ranks, own_place


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (name for names in LAUNCHERS for name in names):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv('MASTER_ADDR', raising=False)


@pytest.mark.parametrize('names', LAUNCHERS, ids=['torchrun', 'openmpi', 'intel'])
def test_each_launcher_says_it_in_its_own_words(names, monkeypatch):
    assert own_place() == Ranks(0, 1, 0)
    for name, value in zip(names, ('4', '3', '1', '2'), strict=True):
        monkeypatch.setenv(name, value)
    assert own_place() == Ranks(3, 4, 1)


def test_processes_on_several_machines_need_a_meeting_point(monkeypatch):
    for name, value in zip(LAUNCHERS[1], ('4', '3', '1', '2'), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(QwenVlaError, match='started 4 processes, 2 of them here; set MASTER_ADDR'):
        open_ranks().__enter__()
