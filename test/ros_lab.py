"""Processes, a listener and a scripted policy for tests over real DDS (one ROS domain a lab)."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.ros_environment import ros_environment
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.types import ActionChunk

ROOT = Path(__file__).parents[1]
PERIOD_S = 6.0


def domain(offset):
    """A domain of this run's own, so that two runs on one machine do not meet."""
    return 20 + (os.getpid() * 7 + offset) % 200


class SwingPolicy:
    """Swing the waist, all other joints where they are; 'left' and 'right' move the centre."""

    def __init__(self, embodiment):
        self.metadata = {**describe_policy(embodiment), 'checkpoint': 'swing'}
        self._step_s = embodiment.step_s
        self.delay_s = 0.0

    def infer(self, observation, prefix=None):
        time.sleep(self.delay_s)
        time_s = observation.stamp_ns * 1e-9 % 1000 + np.arange(16) * self._step_s
        words = observation.instruction.split()
        centre = 0.3 * (('left' in words) - ('right' in words))
        swing = centre + 0.25 * np.sin(2 * np.pi * time_s / PERIOD_S)
        rows = np.tile(observation.state.astype(np.float64), (16, 1))
        rows[:, 0] = swing + (rows[:, 0] - swing[0]) * np.exp(-np.arange(16) * self._step_s / 1.0)
        names = tuple(self.metadata['action_names'])
        return ActionChunk(rows.astype(np.float32), names, observation.stamp_ns, self._step_s)

    def reset(self):
        """Nothing to forget."""


class Lab:
    """One ROS domain: child processes, and a node of this process that listens."""

    def __init__(self, offset, folder):
        self.environment = ros_environment(domain(offset))
        self.environment.update(
            PYTHONPATH=str(ROOT) + os.pathsep + os.environ.get('PYTHONPATH', ''),
            ROS_LOG_DIR=str(folder),
        )
        os.environ.update(self.environment)
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain(offset))
        self.node = rclpy.create_node('lab', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()
        self.folder, self.children, self._outputs = Path(folder), {}, []

    def start(self, name, *command):
        output = (self.folder / f'{name}.log').open('w')
        self._outputs.append(output)
        self.children[name] = subprocess.Popen(
            [sys.executable, *command],
            env=self.environment,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return self.children[name]

    def start_node(self, name, **parameters):
        words = [word for key, value in parameters.items() for word in ('-p', f'{key}:={value}')]
        return self.start(name, '-m', f'qwen_vla_ros.nodes.{name}', '--ros-args', *words)

    def log(self, name):
        return (self.folder / f'{name}.log').read_text()

    def stop(self, name, number=signal.SIGINT):
        child = self.children.pop(name)
        child.send_signal(number)
        try:
            return child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()  # it must not outlive the tests
            raise

    def close(self):
        try:
            for name in reversed(list(self.children)):
                self.stop(name, signal.SIGKILL if self.children[name].poll() else signal.SIGINT)
        finally:
            for child in self.children.values():
                child.kill()
            self._executor.shutdown()
            self._thread.join()
            self.node.destroy_node()
            self.context.try_shutdown()
            for output in self._outputs:
                output.close()

    def call(self, kind, name, request=None, timeout_s=8.0):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_s), f'no service {name}'
        future = client.call_async(request or kind.Request())
        wait_for(future.done, timeout_s, f'answer of {name}')
        self.node.destroy_client(client)
        return future.result()

    def set_parameter(self, node, name, value):
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        answer = self.call(SetParameters, f'{node}/set_parameters', request)
        assert answer.results[0].successful


def wait_for(condition, timeout_s=8.0, what='it'):
    """Return what a condition gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f'{what} did not happen within {timeout_s} s'
        time.sleep(0.002)


def serve(port):
    """Serve the swinging policy until stdin ends."""
    from qwen_vla_ros.remote import PolicyServer

    PolicyServer(SwingPolicy(Embodiment.load('widowx')), port=port).serve_forever()


if __name__ == '__main__':
    serve(int(sys.argv[1]))
