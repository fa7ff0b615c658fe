"""`qwen-vla eval skills`: stages side by side, kept as they go, judged as in gymnasium."""

import argparse
import json

import numpy as np
import pytest

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episode_trace import EpisodeTrace
from qwen_vla_ros.evaluate.episodes import read_tasks, table_task, write_tasks
from qwen_vla_ros.evaluate.kept_episodes import EPISODES
from qwen_vla_ros.evaluate.skill_pictures import distances
from qwen_vla_ros.evaluate.skill_worlds import SKILLS
from qwen_vla_ros.evaluate.skills import chosen_skills, name_stages, possible_skills
from qwen_vla_ros.evaluate.skills_summary import IN_SIGHT, summarise_skills, table
from qwen_vla_ros.nodes.robot_kinds import kind_of
from qwen_vla_ros.sim.tasks.environment import TasksEnv
from qwen_vla_ros.sim.tasks.expert import TaskExpert
from qwen_vla_ros.sim.tasks.goals import KINDS, PICK


def skills(out, *words):
    return main(['eval', 'skills', '--policy', 'expert', '--out', str(out), *words])


def episodes(stage, skill, successes, **more):
    return [
        {'stage': stage, 'skill': skill, 'seed': seed, 'success': bool(success), **more}
        for seed, success in enumerate(successes)
    ]


def test_a_run_goes_on_where_it_was_and_takes_further_skills(tmp_path, capsys):
    assert skills(tmp_path, '--skills', 'touch', '--seeds', '0:1') == 0
    first = (tmp_path / EPISODES).read_text()
    assert skills(tmp_path, '--skills', 'touch', '--seeds', '0:2', '--workers', '1') == 0
    rows = [json.loads(line) for line in (tmp_path / EPISODES).read_text().splitlines()]
    assert (tmp_path / EPISODES).read_text().startswith(first)
    assert [(row['stage'], row['skill'], row['seed']) for row in rows] == [
        ('expert', 'touch', 0),
        ('expert', 'touch', 1),
    ]
    summary = json.loads((tmp_path / 'summary.json').read_text())
    found = summary['lines']['touch']['stages']['expert']
    assert summary['complete'] and (found['success'], found['episodes']) == (2, 2)
    assert '| touch | 2 of 2 [34, 100] % | – |' in (tmp_path / 'table.md').read_text()
    assert 'data:image/png' in (tmp_path / 'report.html').read_text()
    assert 'touch' in capsys.readouterr().out
    assert skills(tmp_path, '--skills', 'touch', '--seeds', '0:1', '--rows', '2') == 2
    assert 'holds the stage expert with --rows 8, not 2' in capsys.readouterr().err
    off = ('--skills', 'pick', '--seeds', '0:1', '--zero-errors', 'shoulder=0.05')
    assert skills(tmp_path, *off) == 2
    assert "with --zero-errors {}, not {'shoulder': 0.05}" in capsys.readouterr().err


def test_a_teacher_whose_arm_reads_wrong_misses(tmp_path):
    off = ('--skills', 'pick', '--seeds', '0:2', '--zero-errors', 'shoulder=0.15,waist=0.15')
    assert skills(tmp_path, *off) == 0
    rows = [json.loads(line) for line in (tmp_path / EPISODES).read_text().splitlines()]
    assert [row['success'] for row in rows] == [False, False]


def test_weights_that_were_trained_further_are_refused(tmp_path, capsys):
    (tmp_path / 'stages.json').write_text(
        json.dumps({'expert': {'checkpoint': 'expert', 'weights': 'of yesterday'}})
    )
    assert skills(tmp_path, '--skills', 'touch', '--seeds', '0:1') == 2
    assert 'holds the stage expert with other weights' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (('--skills', 'juggle'), '--policy expert has no juggle; choose from pick, push'),
        (('--skills', 'questions'), '--policy expert has no questions'),
        (('--workers', '0'), '--workers 0: at least 1'),
        (('--rows', '16'), '--rows 16: choose from 1 to 15'),
        (('--pace', '2'), '--pace 2.0: choose from 0.05 to 1'),
        (('--ros', '2'), '--policy expert has no tasks through ROS'),
        (('--checkpoint', 'a'), '--policy expert takes no --checkpoint'),
    ],
)
def test_what_cannot_be_is_told(tmp_path, capsys, words, told):
    assert skills(tmp_path, '--seeds', '0:1', *words) == 2
    assert told in capsys.readouterr().err


def checkpoint(folder):
    folder.mkdir(parents=True)
    for name in ('config.json', 'model.safetensors', 'statistics.json'):
        (folder / name).write_text('{}')
    return folder


def test_stages_have_the_names_that_tell_their_folders_apart(tmp_path):
    folders = [checkpoint(tmp_path / name / 'checkpoint') for name in ('t2a', 'cpt')]
    args = argparse.Namespace(policy='model', checkpoint=folders)
    assert name_stages(args) == {'t2a': folders[0], 'cpt': folders[1]}
    args.checkpoint = [folders[0], folders[0]]
    with pytest.raises(QwenVlaError, match='the same folder is given twice'):
        name_stages(args)


@pytest.mark.parametrize('where', ['skills', 'suite'])
def test_a_checkpoint_that_is_nowhere_is_one_line_and_nothing_is_made(
    where, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.chdir(tmp_path)
    words = ['eval', where, '--checkpoint', 'checkpoints/familie', '--seeds', '0:1']
    assert main([*words, '--out', 'out']) == 2
    told = capsys.readouterr().err
    assert told.startswith('qwen-vla: checkpoints/familie: no such folder here')
    assert told.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_what_a_stage_was_not_trained_for_is_left_out_and_told(tmp_path, capsys):
    folder = checkpoint(tmp_path / 't2a')
    (folder / 'embodiments').mkdir()
    for name in ('widowx', 'trace_2d'):
        (folder / 'embodiments' / f'{name}.yaml').write_text('')
    assert chosen_skills('all', 'model') == list(SKILLS)
    found = possible_skills('t2a', folder, SKILLS)
    assert found == ['pick', 'push', 'place', 'stack', 'touch']
    told = capsys.readouterr().out.splitlines()
    assert 't2a: no traces, as it was not trained for trace_3d' in told
    assert 't2a: no questions, as it was not trained on answers' in told
    (folder / 'training.json').write_text('{"text": {"weight": 0.1}}')
    assert possible_skills('t2a', folder, SKILLS)[-1] == 'questions'


def test_stages_are_compared_on_the_same_worlds():
    rows = episodes('cpt', 'pick', [0, 0, 0, 0, 0, 0, 1])
    rows += episodes('sft', 'pick', [1, 1, 1, 1, 1, 1, 0, 1])
    line = summarise_skills(rows, ['cpt', 'sft', 'rl'])['lines']['pick']
    assert line['stages']['cpt']['success_rate'] == pytest.approx(1 / 7)
    (step,) = line['steps']
    assert (step['before'], step['after'], step['worlds']) == ('cpt', 'sft', 7)
    assert (step['only_first'], step['only_second']) == (6, 1)
    assert step['p'] == pytest.approx(2 * 8 / 2**7)


def test_a_robot_that_refuses_what_it_is_told_is_told():
    rows = episodes('sft', 'navigation', [0, 1], inferences=240, refused=232)
    rows += episodes('rl', 'navigation', [0, 1], inferences=240, refused=3)
    found = {**summarise_skills(rows, ['sft', 'rl']), 'checkpoints': {'sft': '', 'rl': ''}}
    _, ((_, first, second, *_),) = table(found)
    assert first == '1 of 2 [9, 91] %, 97 % of chunks refused'
    assert second == '1 of 2 [9, 91] %'


def test_goals_in_sight_are_a_line_of_their_own():
    rows = episodes('sft', 'navigation', [1, 1], in_sight=True)
    rows += [{**row, 'seed': 9, 'success': False, 'in_sight': False} for row in rows[:1]]
    lines = summarise_skills(rows, ['sft'])['lines']
    counts = {name: (line['stages']['sft']['success'], line['stages']['sft']['episodes'])
              for name, line in lines.items()}  # fmt: skip
    assert counts == {'navigation': (2, 3), IN_SIGHT: (2, 2)}


def test_questions_count_by_kind_beside_chance_and_traces_by_distance():
    asked = [
        {'kind': 'colour', 'right': True, 'answer': 'red'},
        {'kind': 'presence', 'right': False, 'answer': 'yes'},
        {'kind': 'presence', 'right': True, 'answer': 'yes'},
        {'kind': 'presence', 'right': False, 'answer': 'no'},
    ]
    rows = [{'stage': 'sft', 'skill': 'questions', 'seed': 0, 'asked': asked}]
    for stage, ways in (('cpt', (0.4, 0.2)), ('sft', (0.1, 0.1))):
        rows += [
            {'stage': stage, 'skill': 'traces', 'seed': seed,
             'traces': {'space [m]': {'distance': far, 'beside': {'still': 0.5}}}}
            for seed, far in enumerate(ways)
        ]  # fmt: skip
    found = summarise_skills(rows, ['cpt', 'sft'])
    lines = found['lines']
    assert lines['questions, colour']['stages']['sft']['success'] == 1
    assert lines['questions, presence']['beside'] == {'same answer': pytest.approx(2 / 3)}
    assert lines['questions']['beside'] == {'same answer': pytest.approx(3 / 4)}
    trace = lines['traces, space [m]']
    assert trace['unit'] == 'm' and trace['beside'] == {'still': 0.5}
    assert trace['stages']['cpt']['mean'] == pytest.approx(0.3)
    (step,) = trace['steps']
    assert (step['nearer'], step['farther'], step['p']) == (2, 0, 0.5)
    assert step['difference'] == pytest.approx(-0.2)
    head, cells = table({**found, 'checkpoints': {'cpt': '', 'sft': ''}})
    assert head == ['skill', 'cpt', 'sft', 'beside', 'cpt → sft']
    assert cells[1] == ['questions, colour', '–', '1 of 1 [21, 100] %', 'same answer 100 %', '–']
    assert cells[-1][3:] == ['still 0.5', '-0.2, p 0.5']


def test_a_trace_s_distance_stands_beside_a_straight_line_and_rest():
    right = np.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [6.0, 0.0, 0.0]])
    assert distances(right + [0, 1, 0], right) == pytest.approx((1.0, 4 / 3, 11 / 3))
    shares = np.array([[0.5, 0.5], [0.5, 0.6]])
    moved = shares + [0.01, 0.0]
    assert distances(moved, shares) == pytest.approx((6.4, 0.0, 24.0))


@pytest.fixture(scope='module')
def tasks():
    kind = kind_of(Embodiment.load('widowx'), 'tasks')
    world = kind.open()
    yield kind, world
    world.close()


def test_a_seed_is_the_same_task_over_ros_and_in_gymnasium(tasks, tmp_path):
    kind, world = tasks
    env = TasksEnv(images=False)
    for seed, name in enumerate(KINDS):
        env.reset(seed=seed, options={'kind': name})
        assert kind.reset(world, seed, name) == (env.goal.instruction, env.goal.target)
        assert world.goal == env.goal and world.scene == env.world.scene
        asked = table_task(seed, name)
        assert (asked.instruction, asked.target) == (env.goal.instruction, env.goal.target)
    write_tasks([asked], tmp_path / 'tasks.json')
    assert read_tasks(tmp_path / 'tasks.json') == [asked]
    env.close()


def test_the_robot_s_world_says_when_a_task_is_done(tasks):
    kind, world = tasks
    _, target = kind.reset(world, 0, PICK)
    begun = kind.result(world, target)
    assert (begun.success, begun.done, begun.target) == (False, False, target)
    last = world.positions()
    for row in TaskExpert(world, world.goal):
        for part in np.linspace(0.05, 1.0, 20):
            world.set_targets(last + part * (row.joints - last), (row.joints - last) / 0.2)
            world.step(0.01)
        last = row.joints
    world.step(0.6)
    found = kind.result(world, target)
    assert found.success and found.done and target in found.touched


def test_a_task_s_success_is_what_the_world_says():
    trace = EpisodeTrace(table_task(0, PICK), 0.0)
    target = trace.task.final_target
    assert not trace.finish(target, (target,), 24.0, done=False).success
    assert trace.finish('another thing', (), 9.0, done=True).success


def test_the_world_of_tasks_is_the_widowx_s(tasks):
    kind, world = tasks
    with pytest.raises(QwenVlaError, match='the world tasks has pick, place, push, stack'):
        kind.reset(world, 0, 'juggle')
    with pytest.raises(QwenVlaError, match='draws its task from the seed'):
        kind.aim(world, 'red block')
    with pytest.raises(QwenVlaError, match='with world tasks widowx'):
        kind_of(Embodiment.load('aloha'), 'tasks')
    with pytest.raises(QwenVlaError, match="world 'moon'"):
        kind_of(Embodiment.load('widowx'), 'moon')
