"""
1 when no injected fault led to an unsafe command, at any stage, over real ROS; else 0.

    python -m benchmarks.faults [--stage full] [--only text] [--driver jtc-humble] [--table out.md]
    python -m benchmarks.faults --endurance 30
    python -m benchmarks.faults --list             the names that --only can hold

fault_campaign/campaign.py says what is judged. It runs in a process of its own, whose libraries
are found before it starts, and hands its result over in a file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import Result, main
from qwen_vla_ros.nodes.ros_environment import ros_environment

ROOT = Path(__file__).parents[1]


def run() -> Result:
    """Run the campaign with the words of the command line."""
    words = [word for word in sys.argv[1:] if word != '--json'] if _is_program() else []
    with TemporaryDirectory() as folder:
        file = Path(folder) / 'result.json'
        code = campaign([*words, '--result', str(file)])
        if code or not file.exists():  # it was refused, or asked for its help or its list
            sys.exit(code)
        return Result(**json.loads(file.read_text()))


def campaign(words: list[str]) -> int:
    """Run the campaign on a ROS domain of its own; return its exit code."""
    environment = ros_environment(150 + os.getpid() % 60)
    paths = [str(ROOT), *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
    environment['PYTHONPATH'] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, '-m', 'benchmarks.fault_campaign.campaign', *words]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _is_program() -> bool:
    return __name__ == '__main__'


if __name__ == '__main__':
    if '--endurance' in sys.argv[1:]:
        sys.exit(campaign(sys.argv[1:]))
    main(run)
