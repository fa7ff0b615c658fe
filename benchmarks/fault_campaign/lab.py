"""A policy node, a model process and a robot that can be broken, on a domain of their own."""

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import rclpy
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.srv import SetStage
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from benchmarks.fault_campaign.robot import STREAMS, FaultyRobot
from qwen_vla_ros.embodiment import config_folder
from qwen_vla_ros.nodes.qos import LATCHED, STREAM
from qwen_vla_ros.nodes.simulated_drivers import DRIVERS
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS
from qwen_vla_ros.stages import COMMANDING, FULL, STAGES

ROOT = Path(__file__).parents[2]
DEAD_MAN_S, DEAD_MAN_PERIOD_S = 0.3, 0.05
MOVING = 0.1  # rad/s, at full speed
PATIENCE_S = 20.0


class Lab:
    """Everything that a campaign needs; close() at the end."""

    def __init__(
        self, folder: Path, simulated_time: bool = False, driver: str = 'jtc-jazzy'
    ) -> None:
        """Start all processes; logs go to the folder. driver: one of CAMPAIGN_DRIVERS."""
        self.folder, self.simulated_time = folder, simulated_time
        self.contract = contract_for(driver, folder)
        self.statuses: deque[tuple[float, PolicyStatus]] = deque(maxlen=5000)
        rclpy.init()
        overrides = [
            Parameter('seed', value=1),
            Parameter('use_clock', value=simulated_time),
            Parameter('driver', value=driver.replace('action-', 'jtc-')),
        ]
        self.robot = FaultyRobot(parameter_overrides=overrides)
        self.node = rclpy.create_node('campaign')
        self.node.create_subscription(PolicyStatus, 'policy/status', self._hear, LATCHED)
        self._estop = self.node.create_publisher(Bool, 'estop', LATCHED)
        self._dead_man = self.node.create_publisher(Bool, 'dead_man', STREAM)
        self.holding_switch = True
        self.node.create_timer(DEAD_MAN_PERIOD_S, self._hold_switch)
        self._executor = SingleThreadedExecutor()
        for node in (self.robot, self.node):
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()
        self.start_model('0')
        self.start_node()

    # Processes -----------------------------------------------------------------------------------

    def start_model(self, port: str = '') -> None:
        """Start the model process, at its old port when none is given."""
        port = port or self.address.rpartition(':')[2]
        command = [sys.executable, '-m', 'benchmarks.fault_campaign.model', port]
        with (self.folder / 'model.log').open('a') as log:
            self.model = subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=log)
        self.address = self.model.stdout.readline().decode().strip()

    def start_node(self) -> None:
        """Start the policy node, as armed as a simulation's."""
        parameters = {
            'autostart': 'true',
            'robot': str(self.contract),
            'instruction': 'swing',
            'address': self.address,
            'use_sim_time': str(self.simulated_time).lower(),
            'stage': FULL,
            'ramp': '0.5',
            'dead_man': str(DEAD_MAN_S),
        }
        words = [word for key, value in parameters.items() for word in ('-p', f'{key}:={value}')]
        module = 'qwen_vla_ros.nodes.policy_node'
        with (self.folder / 'node.log').open('a') as log:
            self.policy_node = subprocess.Popen(
                [sys.executable, '-m', module, '--ros-args', *words],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def tell_model(self, fault: str) -> None:
        """Let the policy misbehave; '' mends it."""
        self.model.stdin.write(f'{fault}\n'.encode())
        self.model.stdin.flush()

    def close(self) -> None:
        """End all processes that were started here."""
        for child in (self.policy_node, self.model):
            child.send_signal(signal.SIGCONT)
            child.terminate()
        for child in (self.policy_node, self.model):
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
        self._executor.shutdown()
        self._thread.join()
        self.robot.close()
        self.robot.destroy_node()
        self.node.destroy_node()
        rclpy.try_shutdown()

    # People --------------------------------------------------------------------------------------

    def press_estop(self, pressed: bool) -> None:
        """Press or release the emergency stop by topic."""
        self._estop.publish(Bool(data=pressed))

    def _hold_switch(self) -> None:
        if self.holding_switch:
            self._dead_man.publish(Bool(data=True))

    def call(self, kind: Any, name: str, request: Any = None, timeout_s: float = 5.0) -> Any:
        """Call a service; None when nobody answers in time."""
        client = self.node.create_client(kind, name)
        try:
            if not client.wait_for_service(timeout_s):
                return None
            future = client.call_async(request or kind.Request())
            return future.result() if wait_until(future.done, timeout_s) else None
        finally:
            self.node.destroy_client(client)

    # What is seen --------------------------------------------------------------------------------

    @property
    def status(self) -> PolicyStatus:
        """Return the newest status."""
        return self.statuses[-1][1] if self.statuses else PolicyStatus()

    def _hear(self, message: PolicyStatus) -> None:
        self.statuses.append((time.monotonic(), message))

    def first_status(self, since: float, fits: Callable[[PolicyStatus], bool]) -> float | None:
        """Return s from `since` to the first status that fits."""
        for at, status in list(self.statuses):
            if at >= since and fits(status):
                return at - since
        return None

    def is_well(self, stage: str) -> bool:
        """Return whether the node does in a stage what it is for, a moving arm included."""
        if not self.statuses or time.monotonic() - self.statuses[-1][0] > 0.5:
            return False
        if self.status.arming != stage:
            return False
        if stage not in COMMANDING:
            return self.status.stage == 'WATCHING'
        threshold = MOVING if stage == FULL else MOVING / 5
        speed = abs(self.robot.ticks[-1].velocity[0]) if self.robot.ticks else 0.0
        return self.status.stage == 'RUNNING' and speed > threshold

    def recover(self, stage: str) -> bool:
        """Mend everything, and bring the node to a stage as a person would."""
        self.mend()
        deadline, tried = time.monotonic() + PATIENCE_S, 0.0
        while not self.is_well(stage):
            if time.monotonic() > deadline:
                return False
            if time.monotonic() - tried > 0.4:
                tried = time.monotonic()
                if 'reset_safety' in self.status.reason:
                    self.call(Trigger, 'policy/reset_safety')
                elif self.status.arming and self.status.arming != stage:
                    self._step_towards(stage)
            time.sleep(0.02)
        return True

    def _step_towards(self, stage: str) -> None:
        now, goal = STAGES.index(self.status.arming), STAGES.index(stage)
        request = SetStage.Request(stage=STAGES[min(now + 1, goal)])
        request.reason, request.force = f'campaign at {stage}', True
        self.call(SetStage, 'policy/set_stage', request)

    def mend(self) -> None:
        """Take every fault back."""
        for name in STREAMS:
            if self.robot.streams[name].fault:
                self.robot.streams[name].become('')
        self.robot.clock_stands = False
        self.holding_switch = True
        self.press_estop(False)
        if self.model.poll() is not None:
            self.start_model()
        if self.policy_node.poll() is not None:
            self.start_node()
        for child in (self.model, self.policy_node):
            child.send_signal(signal.SIGCONT)
        self.tell_model('')


# action-<distribution>: trajectories as goals of FollowJointTrajectory.
CAMPAIGN_DRIVERS = (*DRIVERS, *(f'action-{name}' for name in DISTRIBUTIONS))
OUTPUTS = {
    'forward': (
        '{type: Float64MultiArray, topic: arm_position_controller/commands}',
        '{type: Float64MultiArray, topic: gripper_position_controller/commands}',
    ),
    'interbotix': (
        '{type: JointGroupCommand, topic: commands/joint_group, group: arm}',
        '{type: JointSingleCommand, topic: commands/joint_single, joint: gripper, '
        'conversion: opening}',
    ),
    'action': (
        '{type: FollowJointTrajectory, topic: arm_controller/follow_joint_trajectory}',
        '{type: FollowJointTrajectory, topic: gripper_controller/follow_joint_trajectory}',
    ),
}


def contract_for(driver: str, folder: Path) -> Path:
    """Write the WidowX' contract with the outputs that a driver takes; return the file."""
    text = (config_folder() / 'embodiments' / 'widowx.yaml').read_text()
    kind = driver.partition('-')[0]
    for name, output in zip(('arm', 'gripper'), OUTPUTS.get(kind, ()), strict=False):
        own = f'output: {{type: JointTrajectory, topic: {name}_controller/joint_trajectory}}'
        assert own in text
        text = text.replace(own, f'output: {output}')
    path = folder / 'widowx.yaml'
    path.write_text(text)
    return path


def wait_until(condition: Callable[[], Any], timeout_s: float) -> bool:
    """Return whether a condition became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
