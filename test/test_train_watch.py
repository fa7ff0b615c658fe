"""What a run tells of itself: where its code came from."""

import os
import subprocess
import sys
from pathlib import Path

from qwen_vla_ros.train.watch import git_state

ROOT = Path(__file__).parents[1]


def test_a_checkout_tells_its_commit_and_what_was_changed():
    told = git_state()
    if (ROOT / '.git').exists():
        assert len(told['commit']) == 40 and told['changed_files'] >= 0


def test_a_copy_that_is_no_checkout_says_so(tmp_path):
    copied = tmp_path / 'train' / 'deep' / 'watch.py'
    copied.parent.mkdir(parents=True)
    copied.write_text((ROOT / 'qwen_vla_ros' / 'train' / 'watch.py').read_text())
    program = 'import watch; print(watch.git_state())'
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=copied.parent,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "'why': 'not run from a checkout'" in done.stdout, done.stderr
    assert "'version': " in done.stdout and "'commit': " in done.stdout
