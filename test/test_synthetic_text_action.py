"""The text-action set: equal files by any workers, resumed, read as samples, words that hold."""

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.synthetic import generate, set_files, text_action
from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.command import run_from_arguments
from qwen_vla_ros.data.synthetic.families import FAMILIES
from qwen_vla_ros.data.synthetic.generate import (
    Block,
    make_block,
    make_episode,
)
from qwen_vla_ros.data.synthetic.report import rejected_shares, write_report
from qwen_vla_ros.data.synthetic.runners import in_processes, over_ray
from qwen_vla_ros.data.synthetic.text_action import Order, TextActionEpisodes, synthesise
from qwen_vla_ros.data.synthetic.turns import matrices
from qwen_vla_ros.errors import QwenVlaError

TWO = ('ur5e', 'xarm7')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A set of two arms, each family once."""
    folder = tmp_path_factory.mktemp('set')
    synthesise(Order(folder, 12, 5, TWO), in_processes(1))
    return folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('arm', ARMS)
def test_every_family_is_done_by_every_arm_without_a_collision(arm, family):
    episode = make_episode(arm, list(FAMILIES).index(family), 1, tuple(FAMILIES))
    model = generate.model_of(arm)
    joints = episode.columns['action'][:, :-1].astype(np.float64)
    assert model.collision(joints) == ''
    assert (joints >= model.lower - 1e-6).all() and (joints <= model.upper + 1e-6).all()
    assert (np.abs(episode.columns['observation.velocity']) <= model.speed + 1e-6).all()
    tips = episode.columns['observation.tip']
    positions, rotations = model.poses(joints)
    assert np.abs(tips[:, :3] - positions).max() < 1e-5
    assert np.abs(matrices(tips[:, 3:]) - rotations).max() < 1e-5
    assert set(episode.columns['step']) == set(range(len(episode.steps)))
    assert 2.0 < episode.length / 50 < 40.0


def test_files_are_equal_whoever_makes_them(made, tmp_path):
    synthesise(Order(tmp_path / 'again', 12, 5, TWO), in_processes(2))
    assert contents(tmp_path / 'again') == contents(made)


def test_another_seed_gives_other_sentences():
    first = [make_block(Block('tm12', 0, 2, seed)) for seed in (0, 1)]
    assert first[0][0].instruction != first[1][0].instruction


def test_a_cut_run_goes_on_after_its_last_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_action, 'EPISODES_A_FILE', 2)
    monkeypatch.setattr(text_action, 'BLOCK', 2)
    whole, cut = (
        Order(tmp_path / 'whole', 5, 3, ('ur5e',)),
        Order(tmp_path / 'cut', 5, 3, ('ur5e',)),
    )
    synthesise(whole, in_processes(1))

    def dies(make, blocks):
        yield from islice(in_processes(1)(make, blocks), 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(cut, dies)
    assert set_files.finished_files(cut.folder / 'ur5e', 5, 2)[0] == 2
    asked = []

    def counts(make, blocks):
        asked.extend(blocks)
        return in_processes(1)(make, blocks)

    assert synthesise(cut, counts)[0] == 1
    assert [(block.first, block.count) for block in asked] == [(4, 1)]
    assert contents(cut.folder) == contents(whole.folder)


def test_a_folder_of_another_seed_is_refused(made):
    with pytest.raises(QwenVlaError, match='choose another folder'):
        synthesise(Order(made, 12, 6, TWO), in_processes(1))


def test_a_whole_trajectory_is_one_sample_without_pictures(made):
    episodes = open_dataset(made / 'xarm7')
    assert isinstance(episodes, TextActionEpisodes)
    assert len(episodes) == 6 and episodes.frames(2) == 1
    sample = episodes.sample(2, 0)
    assert not sample.images and sample.mask.all() and sample.embodiment == 'xarm7'
    assert sample.action_names == text_action.DELTA_NAMES
    assert sample.actions[0, :6] == pytest.approx(0, abs=1e-6)
    rows = episodes.columns(2)
    moved = rows['observation.tip'][-1, :3] - rows['observation.tip'][0, :3]
    assert sample.actions[-1, :3] == pytest.approx(moved, abs=1e-6)
    assert sample.actions[:, 6].tolist() == rows['action'][:, -1].tolist()


def test_with_a_horizon_every_row_is_a_sample_of_its_own_chunk(made):
    episodes = open_dataset(made / 'ur5e', horizon=8, layout='abs_joint')
    rows = episodes.columns(0)['action']
    assert episodes.frames(0) == len(rows)
    sample = episodes.sample(0, 5)
    assert sample.actions.tolist() == rows[5:13].tolist()
    assert sample.action_names == (*(f'joint{n}' for n in range(1, 7)), 'gripper')
    last = episodes.sample(0, len(rows) - 1)
    assert last.mask[:, 0].tolist() == [True] + [False] * 7
    assert sample.stamp_ns == 100_000_000
    assert len(list(islice(episodes.stream(0), 3))) == 3


def test_the_set_is_a_lerobot_set_too(made):
    episodes = open_dataset(f'lerobot:{made / "ur5e"}', horizon=4)
    ours = TextActionEpisodes(made / 'ur5e', 4, 'abs_joint')
    assert len(episodes) == len(ours)
    for frame in (0, 30):
        theirs, sample = episodes.sample(1, frame), ours.sample(1, frame)
        assert theirs.instruction == sample.instruction
        assert theirs.actions.tolist() == sample.actions.tolist()


def test_bad_layouts_and_broken_files_are_named(made, tmp_path):
    with pytest.raises(QwenVlaError, match='layout'):
        TextActionEpisodes(made / 'ur5e', 4, 'joints')
    (tmp_path / 'broken').mkdir()
    copy = tmp_path / 'broken' / 'ur5e'
    shutil.copytree(made / 'ur5e', copy)
    file = copy / 'data/chunk-000/file-000.parquet'
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(QwenVlaError, match='episode 1: cannot be read'):
        TextActionEpisodes(copy).sample(1, 0)
    with pytest.raises(QwenVlaError, match='frame'):
        TextActionEpisodes(made / 'ur5e').sample(6, 0)


@pytest.mark.parametrize(
    ('file', 'damage', 'said'),
    [
        ('data/chunk-000/file-000.parquet', ('drop', 'action'), "'action' is missing"),
        ('data/chunk-000/file-000.parquet', ('nan', 'observation.tip'), 'is nan, not a number'),
        ('meta/episodes/chunk-000/file-000.parquet', ('drop', 'length'), 'length'),
        ('meta/episodes/chunk-000/file-000.parquet', ('cut',), 'cannot be read'),
        ('meta/info.json', ('text', '"fps": 50', '"fps": 30'), 'fps 30'),
        ('meta/info.json', ('text', '"v3.0"', '"v9.0"'), "codebase_version 'v9.0'"),
        ('meta/tasks.parquet', ('cut',), 'cannot be read'),
    ],
)
def test_damage_is_told_in_one_line(made, tmp_path, file, damage, said):
    copy = tmp_path / 'set' / 'ur5e'
    shutil.copytree(made / 'ur5e', copy)
    path, (kind, *what) = copy / file, damage
    if kind == 'cut':
        path.write_bytes(path.read_bytes()[:300])
    elif kind == 'text':
        path.write_text(path.read_text().replace(*what))
    else:
        _rewrite(path, kind, what[0])
    with pytest.raises(QwenVlaError, match=said) as refused:
        open_dataset(f'text-action:{copy}').sample(1, 0)
    assert '\n' not in str(refused.value)


def _rewrite(path, kind, name):
    """Drop a column of a parquet file, or make its numbers NaN; row groups stay."""
    file = parquet.ParquetFile(path)
    changed = []
    for table in map(file.read_row_group, range(file.num_row_groups)):
        if kind == 'drop':
            changed.append(table.drop_columns([name]))
        else:
            flat = pyarrow.array(np.full(table.num_rows * 7, np.nan, np.float32))
            lists = pyarrow.FixedSizeListArray.from_arrays(flat, 7)
            changed.append(table.set_column(table.column_names.index(name), name, lists))
    with parquet.ParquetWriter(path, changed[0].schema) as writer:
        for table in changed:
            writer.write_table(table)


def test_what_a_sentence_says_is_where_the_goals_lie():
    for number in range(24):
        episode = make_episode('ur10e', number, 2, tuple(FAMILIES))
        goals = np.reshape(episode.told['goals'], (-1, 3))
        said = [
            (int(ahead), int(aside) * (1 if word == 'left' else -1))
            for ahead, aside, word in re.findall(
                r'(\d+) cm ahead and (\d+) cm to the (left|right)', episode.instruction
            )
        ]
        assert (round(100 * goals[0, 0]), round(100 * goals[0, 1])) in [*said, *_middle(episode)]


def _middle(episode):
    """Places straight ahead, which a sentence tells otherwise."""
    return [(int(x), 0) for x in re.findall(r'(\d+) cm ahead in the middle', episode.instruction)]


def test_the_arm_goes_to_the_goals():
    episode = make_episode('franka_panda', 0, 4, tuple(FAMILIES))
    goals = np.reshape(episode.told['goals'], (-1, 3))
    tips = episode.columns['observation.tip'][:, :3]
    opening = episode.columns['action'][:, -1]
    grasped = tips[int(np.argmax(opening < opening[0]))]
    assert grasped == pytest.approx(goals[0], abs=1e-3)
    released = tips[len(opening) - 1 - int(np.argmax(opening[::-1] < opening[-1]))]
    assert released == pytest.approx(goals[1], abs=1e-3)


def test_the_report_shows_every_arm_and_shares_of_refusals(made):
    table = set_files.episode_table(made / 'ur5e')
    shares = rejected_shares(table)
    assert list(shares) == list(FAMILIES)
    for family, reasons in shares.items():
        row = list(FAMILIES).index(family)
        refused = table['rejected'].to_pylist()[row]
        for reason, share in reasons.items():
            assert share == refused.count(reason) / (len(refused) + 1)
    page = write_report(made).read_text()
    assert page.count('<img') == 2 and 'UR5e' in page and 'xArm7' in page
    (made / 'report.html').unlink()


def test_orders_are_checked(tmp_path):
    for wrong, said in (
        ({'arms': ('kuka',)}, 'unknown arm'),
        ({'families': ('juggle',)}, 'unknown family'),
        ({'episodes': 3}, 'one for each of 6 arms'),
    ):
        with pytest.raises(QwenVlaError, match=said):
            Order(**{'folder': tmp_path, 'episodes': 12, 'seed': 0, **wrong})
    with pytest.raises(QwenVlaError, match='at least one'):
        run_from_arguments(type('Args', (), {'workers': 0}))


class FakeRay:
    """What over_ray() asks of ray, with threads instead of a cluster."""

    def __init__(self):
        self.pool, self.address = ThreadPoolExecutor(2), None

    def is_initialized(self):
        return self.address is not None

    def init(self, address, log_to_driver):
        self.address = address

    def cluster_resources(self):
        return {'CPU': 2.0}

    def remote(self, function):
        def call(*arguments):
            future = self.pool.submit(function, *arguments)
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=call)


def test_ray_is_given_the_same_blocks(made, tmp_path, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, 'ray', ray)
    synthesise(Order(tmp_path / 'set', 12, 5, TWO), over_ray('auto'))
    assert ray.address == 'auto'
    assert contents(tmp_path / 'set') == contents(made)


def test_without_ray_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(QwenVlaError, match=r'pip install .*\[ray\]'):
        over_ray('auto')
