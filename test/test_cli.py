"""The command line: one line for bad input, exit codes, and imports that stay away."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen_vla_ros import cli, kernel_hints
from qwen_vla_ros.doctor import PASS, WARN, compare, examine
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.ros_environment import profile_variable

ROOT = Path(__file__).parents[1]


def command(*words: str) -> list[str]:
    return [sys.executable, '-m', 'qwen_vla_ros.cli', *words]


def test_hints_at_kernels_are_left_out_and_other_warnings_of_transformers_are_not() -> None:
    pytest.importorskip('transformers.integrations.hub_kernels')  # who gives them
    hints, others = logging.getLogger(kernel_hints.LOGGER), logging.getLogger('transformers')
    hints.setLevel(logging.NOTSET)
    assert cli.main(['schema']) == 0
    assert not hints.isEnabledFor(logging.WARNING)
    assert others.isEnabledFor(logging.WARNING)


def test_help_is_quick_and_needs_neither_ros_nor_torch_nor_simulator() -> None:
    program = (
        'import sys; sys.argv = ["qwen-vla", "--help"]\n'
        'from qwen_vla_ros.cli import main\n'
        'try: main()\n'
        'except SystemExit as end: assert end.code == 0\n'
        'loaded = {"rclpy", "torch", "mujoco", "numpy", "cv2"} & set(sys.modules)\n'
        'sys.exit(f"loaded {loaded}" if loaded else 0)'
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'demo' in done.stdout
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['demo', '--seeds', 'many'], "--seeds 'many'"),
        (['demo', '--seeds', '1000000'], 'training scenes'),
        (['demo', '--episodes', '-1'], '--episodes -1'),
        (['demo', '--policy', 'expert', '--domain-id', '300'], '--domain-id 300'),
        (['serve', '--robot', 'absent.yaml', '--policy', 'constant'], 'absent.yaml'),
        (['serve', '--checkpoint', '/absent/folder'], '/absent/folder'),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.startswith('qwen-vla: ')
    assert message.count('\n') == 1


@pytest.mark.parametrize(
    'words',
    [
        ['eval', 'sim', '--policy', 'constant'],
        ['eval', 'sim', '--policy', 'constant', '--robot', 'mobile_base'],
        ['eval', 'suite', '--policy', 'constant'],
        ['eval', 'skills', '--policy', 'constant'],
    ],
)
def test_a_file_in_the_place_of_a_folder_is_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').touch()
    assert cli.main([*words, '--seeds', '0:1', '--out', str(tmp_path / 'file')]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'qwen-vla: {tmp_path}/file') and message.count('\n') == 1


def test_live_without_a_screen_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(['demo', '--live', '--policy', 'expert']) == 2
    assert 'no screen' in capsys.readouterr().err


def test_a_bar_in_a_log_has_few_lines() -> None:
    program = (
        'from qwen_vla_ros import cli\n'
        'cli.main(["schema"])\n'
        'from tqdm import tqdm\n'
        'import time\n'
        'bar = tqdm(total=30)\n'
        'for number in range(30):\n'
        '    time.sleep(0.02)\n'
        '    bar.set_postfix({"step": number}, refresh=False)\n'
        '    bar.update()\n'
        'bar.close()'
    )
    words = [sys.executable, '-c', program]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count('it/s') == 2  # begin and end


def test_unknown_command_is_code_2() -> None:
    done = subprocess.run(command('dance'), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr


def test_interrupt_is_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, '_doctor', interrupt)
    assert cli.main(['doctor']) == 130
    assert 'interrupted' in capsys.readouterr().err


def test_missing_library_is_told_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise ModuleNotFoundError("No module named 'rclpy'", name='rclpy')

    monkeypatch.setattr(cli, '_doctor', fail)
    assert cli.main(['doctor']) == 2
    assert 'qwen_vla_ros[ros]' in capsys.readouterr().err


def test_a_defect_of_ours_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ModuleNotFoundError("No module named 'mistyped'", name='mistyped')

    monkeypatch.setattr(cli, '_doctor', fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(['doctor'])


def test_serve_says_where_and_ends_without_an_error() -> None:
    words = command('serve', '--policy', 'constant', '--port', '0')
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert 'serving constant on ws://127.0.0.1:' in child.stdout.readline()
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGTERM)
            assert child.wait(10) == 0, 'launch calls any other code an error'
            assert 'Traceback' not in child.stderr.read()
        finally:
            child.kill()  # else one that does not end would hold the tests for good


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_that_came_before_a_server_waits_ends_it_too(name: str) -> None:
    code = (
        'import os, signal\n'
        'from qwen_vla_ros.evaluate.processes import EndOfServing\n'
        'ended = EndOfServing()\n'
        f'os.kill(os.getpid(), signal.{name})\n'
        'print("handled", flush=True)\n'
        'ended.wait()\n'
        'print("ended")\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout.split()) == (0, ['handled', 'ended']), run.stderr


def test_doctor_passes_what_is_here() -> None:
    levels = {finding.subject: finding.level for finding in examine()}
    assert levels['Python'] == PASS
    assert levels['contract'] == PASS


def test_doctor_names_the_profile_that_our_nodes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv('RMW_IMPLEMENTATION', raising=False)
    found = {finding.subject: finding for finding in examine()}['DDS profile']
    assert found.level == PASS
    assert f'use {ROOT / "config/dds/fastdds.xml"} by themselves' in found.found
    assert f'export {profile_variable()}' in found.found
    monkeypatch.setattr('qwen_vla_ros.doctor.dds_profile', lambda: None)
    found = {finding.subject: finding for finding in examine()}['DDS profile']
    assert found.level == WARN and f'set {profile_variable()}' in found.remedy


def test_doctor_reads_the_size_of_a_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / 'profile.xml'
    profile.write_text('<dds><segment_size>16777216</segment_size></dds>')
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', str(profile))
    monkeypatch.delenv('RMW_IMPLEMENTATION', raising=False)
    assert {f.subject: f for f in examine()}['DDS profile'].level == PASS
    profile.write_text('<dds><segment_size>524288</segment_size></dds>')
    found = {f.subject: f for f in examine()}['DDS profile']
    assert found.level == WARN and str(ROOT / 'config/dds/fastdds.xml') in found.remedy


def test_doctor_tells_a_broken_contract_once() -> None:
    findings = compare('/absent/robot.yaml')
    assert [(f.subject, f.level) for f in findings] == [('contract', 'refuse')]
    assert findings[0].found.startswith("robot '/absent/robot.yaml': no such file")


def test_doctor_tells_a_checkpoint_that_cannot_be_read_once(tmp_path: Path) -> None:
    refused = [f.subject for f in compare('widowx', tmp_path) if f.level == 'refuse']
    assert refused == ['checkpoint']


def test_doctor_compares_a_new_robot_with_no_checkpoint_that_was_not_asked_for() -> None:
    findings = compare('test/scara.yaml')
    assert [f.subject for f in findings] == ['contract', 'checkpoint', 'description']
    assert findings[1].found == (
        'not compared: the bundled one was not trained for scara; '
        'give --checkpoint DIR to compare with yours'
    )
    assert 'refuse' not in {f.level for f in findings}
    asked = compare('test/scara.yaml', ROOT / 'checkpoints' / 'small')
    assert {'robot', 'joint names'} <= {f.subject for f in asked if f.level == 'refuse'}


def test_bundled_checkpoint_names_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from qwen_vla_ros.evaluate import choose_policy

    monkeypatch.setattr(choose_policy, 'BUNDLED', Path('checkpoints') / 'absent')
    with pytest.raises(QwenVlaError, match='checkpoints/absent'):
        choose_policy.bundled_checkpoint()
