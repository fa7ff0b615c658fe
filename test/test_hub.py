"""A checkpoint by name: folders first, then the hub, and one clear error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import require_checkpoint
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.weights import CheckpointError


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return what was asked of the hub; it answers with a folder."""
    calls = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        calls.append((name, revision, allow_patterns))
        return str(tmp_path / 'snapshot')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_folder_that_exists_wins(asked, tmp_path):
    (tmp_path / 'org' / 'name').mkdir(parents=True)
    assert find_checkpoint('org/name') == Path('org/name')
    assert asked == []


def test_a_name_and_its_revision_go_to_the_hub(asked, tmp_path):
    assert find_checkpoint('org/name@v1.2') == tmp_path / 'snapshot'
    assert find_checkpoint('org/name') == tmp_path / 'snapshot'
    assert [call[:2] for call in asked] == [('org/name', 'v1.2'), ('org/name', None)]


def test_nothing_that_python_could_execute_is_asked_for(asked):
    find_checkpoint('org/name')
    endings = {Path(pattern).suffix for pattern in asked[0][2]}
    assert endings == {'.json', '.safetensors', '.txt', '.jinja', '.yaml'}


@pytest.mark.parametrize('source', ['/absent/folder', 'one', 'a/b/c', '../up/there'])
def test_what_cannot_be_a_name_of_the_hub_is_no_folder(asked, source):
    with pytest.raises(CheckpointError, match='no such folder'):
        find_checkpoint(source)
    assert asked == []


def test_a_demo_looks_into_folders_and_leaves_names_of_the_hub_to_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_checkpoint(Path('org/name'))
    folder = tmp_path / 'sharded'
    folder.mkdir()
    for name in ('config.json', 'statistics.json'):
        (folder / name).touch()
    with pytest.raises(QwenVlaError, match=r'there is no model\.safetensors;'):
        require_checkpoint(folder)
    (folder / 'model.safetensors.index.json').touch()
    require_checkpoint(folder)


def test_offline_is_one_line_with_the_remedy(tmp_path):
    words = ['serve', '--checkpoint', 'no-such-organisation/no-such-model']
    told = subprocess.run(
        [sys.executable, '-m', 'qwen_vla_ros.cli', *words],
        cwd=Path(__file__).parents[1],
        env={**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2
    message = told.stderr.strip().splitlines()[-1]
    assert message.startswith('qwen-vla: no-such-organisation/no-such-model: no such folder here')
    assert 'check the name and the network' in message
    assert 'Traceback' not in told.stderr
