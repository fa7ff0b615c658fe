"""
How much 40 topics slow the model: in one process with a MultiThreadedExecutor / in its own.

40 topics with together 1,500 messages a second come from a process of their own. The model is a
torch loop on one thread, run 20 times a second; what counts is its own mean time, for a stall is
time too. In turns:

  alone     nothing else runs
  control   model in its process; beside it the policy node takes all topics, but asks another,
            trivial policy: what two busy processes cost on this machine, whoever they are
  ours      the same, and the node asks this model through the policy server
  baseline  model, 40 subscriptions and a MultiThreadedExecutor in one process

ours / control is what being asked by the node costs (limit 1.1), baseline / ours the ratio. A
model in its own process has the first core; topics and node have the others (a woken thread would
else be put beside the one that woke it). The process of the baseline may use all cores.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import Result, main
from benchmarks.node_overhead import child
from benchmarks.traffic import (
    JOINTS,
    SMALL_HZ,
    SMALL_SIZE,
    SMALL_TOPICS,
    VIEWS,
    image_topic,
    small_topic,
)
from qwen_vla_ros.embodiment import Embodiment

PERIOD_S, SECONDS, ROUNDS, SKIP = 0.05, 6.0, 3, 10
GOAL, LIMIT = 1.4, 1.1
FORMS = ('alone', 'control', 'ours', 'baseline')


def contract(folder: Path) -> Path:
    """Write a robot of one small camera and 39 sources of joints; its path."""
    widowx = Embodiment.load('widowx')
    before, rest = widowx.text.split('\ncameras:\n')
    after = rest[rest.index('# What a policy may command') :]
    after = after.replace(
        f'description: {widowx.description}', f'description: {widowx.description_path}'
    )
    lines = [
        'cameras:',
        f'  {VIEWS[0]}: {{topic: {image_topic(VIEWS[0])}, info_topic: camera/info, frame_id: a,',
        f'    encoding: rgb8, width: {SMALL_SIZE[0]}, height: {SMALL_SIZE[1]}, '
        f'rate_hz: {SMALL_HZ}}}',
        'state:',
        '  sources:',
    ]
    for index in range(SMALL_TOPICS - 1):
        prefix = f'a{index}_' if index else ''
        fields = ', '.join(
            f'{prefix}{name}: {"m" if "finger" in name else "rad"}' for name in JOINTS
        )
        lines.append(
            f'    arm{index}: {{topic: {small_topic(index)}, rate_hz: {SMALL_HZ}, '
            f'prefix: "{prefix}", fields: {{{fields}}}}}'
        )
    path = folder / 'forty_topics.yaml'
    path.write_text('\n'.join([before, *lines, after]))
    return path


class TorchLoop:
    """A network of many small operators, as a model of a robot is at batch 1."""

    def __init__(self) -> None:
        """Build it on one thread; the times of all calls are kept."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._torch = torch
        self._layers = [torch.randn(128, 128) / 11 for _ in range(8)]
        self._input = torch.randn(16, 128)
        self.times: list[float] = []

    def __call__(self) -> None:
        """Run it once."""
        torch = self._torch
        torch.get_num_threads()  # in a thread new to torch this makes set_num_threads() hold
        begin = time.perf_counter()
        with torch.inference_mode():
            x = self._input
            for _ in range(40):
                for layer in self._layers:
                    x = torch.nn.functional.silu(x @ layer) + x
                    x = x / x.norm(dim=-1, keepdim=True)
        self.times.append(time.perf_counter() - begin)


class TorchPolicy:
    """Hold the observed joints, after the torch loop."""

    def __init__(self, embodiment: Embodiment, loop: TorchLoop) -> None:
        """Wear the metadata of a policy that fits the contract."""
        from qwen_vla_ros.policy import ConstantPolicy

        self._inner, self._loop = ConstantPolicy(embodiment), loop
        self.metadata = self._inner.metadata

    def infer(self, observation: Any, prefix: Any = None) -> Any:
        """Run the loop, then hold."""
        self._loop()
        return self._inner.infer(observation)

    def reset(self) -> None:
        """Nothing to forget."""


# Children ---------------------------------------------------------------------------------------


def until_told() -> threading.Event:
    """Return an event that is set when standard input ends."""
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    return end


def paced(loop: TorchLoop, end: threading.Event) -> None:
    """Run the loop at its rate until the end."""
    due = time.monotonic()
    while not end.is_set():
        loop()
        due = max(due + PERIOD_S, time.monotonic())
        end.wait(due - time.monotonic())


def model(robot: str, asked: bool) -> list[float]:
    """Run the model: asked through the policy server, or by itself (alone, control)."""
    loop, end = TorchLoop(), until_told()
    if asked:
        serve(TorchPolicy(Embodiment.load(robot), loop), end)
    else:
        paced(loop, end)
    return loop.times


def serve(policy: Any, end: threading.Event) -> None:
    """Serve a policy until the end; the address is the first line of output."""
    from qwen_vla_ros.remote import PolicyServer

    with PolicyServer(policy, port=0) as server:
        print(server.address.removeprefix('ws://'), flush=True)
        end.wait()


def trivial(robot: str) -> list[float]:
    """Serve a policy that does nothing."""
    from qwen_vla_ros.policy import ConstantPolicy

    serve(ConstantPolicy(Embodiment.load(robot)), until_told())
    return []


def in_one_process(robot: str) -> list[float]:
    """Run model and 40 subscriptions in one process, as is often done."""
    import rclpy
    from rclpy.callback_groups import ReentrantCallbackGroup
    from rclpy.executors import MultiThreadedExecutor

    from qwen_vla_ros.nodes.inputs import input_topics
    from qwen_vla_ros.nodes.qos import SENSOR

    end, loop = until_told(), TorchLoop()
    rclpy.init()
    node, group, newest = rclpy.create_node('baseline'), ReentrantCallbackGroup(), {}
    for source, kind, topic in input_topics(Embodiment.load(robot)):

        def keep(message: Any, source: str = source) -> None:
            if hasattr(message, 'position'):
                newest[source] = dict(zip(message.name, message.position, strict=True))
            else:
                newest[source] = np.frombuffer(message.data, np.uint8)

        node.create_subscription(kind, topic, keep, SENSOR, callback_group=group)
    executor = MultiThreadedExecutor(4)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    paced(loop, end)
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.shutdown()
    assert len(newest) == SMALL_TOPICS, f'{len(newest)} of {SMALL_TOPICS} topics arrived'
    return loop.times


# The run ----------------------------------------------------------------------------------------


def start(*words: str) -> Any:
    """Start a part in a process of its own; a model gets the first core."""
    process = child('benchmarks.isolation', *words, stdout=PIPE, stderr=DEVNULL)
    if words[0] == 'model':
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    elif words[0] == 'trivial':
        leave_first_core(process.pid)
    return process


def leave_first_core(pid: int) -> None:
    """Keep a process off the model's core."""
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores - {min(cores)})


def finish(process: Any) -> list[float]:
    """End a part; return its times."""
    output, _ = process.communicate(timeout=30)
    lines = output.strip().splitlines()
    return json.loads(lines[-1])[SKIP:] if lines else []


def policy_node(robot: str, address: str) -> Any:
    """Start the policy node as it is."""
    parameters = {
        'robot': robot,
        'autostart': 'true',
        'instruction': 'hold',
        'replan': str(PERIOD_S),
        'address': address,
    }
    words = [word for key, value in parameters.items() for word in ('-p', f'{key}:={value}')]
    name = 'qwen_vla_ros.nodes.policy_node'
    node = child(name, '--ros-args', *words, stdout=DEVNULL, stderr=DEVNULL)
    leave_first_core(node.pid)
    return node


def measure(form: str, robot: str) -> list[float]:
    """Run one of the forms for SECONDS; return the model's times."""
    if form == 'baseline':
        part = start('in_one_process', robot)
        time.sleep(SECONDS + 3.0)
        return finish(part)
    if form == 'alone':
        part = start('model', robot, '')
        time.sleep(SECONDS / 2 + 2.0)
        return finish(part)
    asked = start('model' if form == 'ours' else 'trivial', robot, 'asked')
    node = policy_node(robot, asked.stdout.readline().strip())
    part = asked if form == 'ours' else start('model', robot, '')
    time.sleep(SECONDS + 3.0)
    node.terminate()
    node.wait(timeout=20)
    if asked is not part:
        finish(asked)
    return finish(part)


def run() -> Result:
    """Run all forms in turns."""
    from qwen_vla_ros.nodes.ros_environment import ros_environment

    os.environ.update(ros_environment(100 + os.getpid() % 50))
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    with TemporaryDirectory() as folder:
        robot = str(contract(Path(folder)))
        for _ in range(ROUNDS):
            found['alone'] += measure('alone', robot)
            traffic = child('benchmarks.traffic', 'small')
            leave_first_core(traffic.pid)
            try:
                for form in FORMS[1:]:
                    found[form] += measure(form, robot)
            finally:
                traffic.stdin.close()
                traffic.wait(timeout=10)
    return result(found)


def result(found: dict[str, list[float]]) -> Result:
    """Return the ratio of means, for stalls count, and whether ours stays at its control."""
    mean = {form: float(np.mean(times)) * 1e3 for form, times in found.items()}
    told = ', '.join(
        f'{form} {mean[form]:.1f} ms (p50 {np.median(times) * 1e3:.1f}, '
        f'p95 {np.percentile(times, 95) * 1e3:.1f}, n {len(times)})'
        for form, times in found.items()
    )
    slower = mean['ours'] / mean['control']
    return Result(
        'isolation',
        mean['baseline'],
        mean['ours'],
        GOAL,
        'ms',
        f'means of the model: {told}; ours / control {slower:.2f} (limit {LIMIT}), '
        f'control / alone {mean["control"] / mean["alone"]:.2f}: what this machine adds',
        equal=slower <= LIMIT,
    )


def part(words: list[str]) -> list[float]:
    """Be one of the children; return the model's times."""
    if words[0] == 'model':
        return model(words[1], bool(words[2]))
    return trivial(words[1]) if words[0] == 'trivial' else in_one_process(words[1])


if __name__ == '__main__':
    if sys.argv[1:2] and sys.argv[1] in ('model', 'trivial', 'in_one_process'):
        print(json.dumps(part(sys.argv[1:])), flush=True)
    else:
        main(run)
