"""
Runs the demo's episodes as a client of robot and policy: reset, say the sentence, watch, film.

Reads its tasks from a file and writes, into a folder, the film and each episode's trace; what
happens is told on stdout, one JSON object a line. Everything runs in one thread: the node spins
while it waits.
"""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episode_trace import EpisodeTrace
from qwen_vla_ros.evaluate.episodes import Episode, Task, read_tasks
from qwen_vla_ros.evaluate.scene_view import SceneView, facts_of, outcome_of, seconds
from qwen_vla_ros.evaluate.video import RATE_HZ, Caption, Film
from qwen_vla_ros.image_decoding import decode_image
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.policy_report import chunk_from
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.srv import ResetWorld, SetStage, TaskResult
from qwen_vla_ros.stages import FULL, STAGES

ROBOT, POLICY = 'robot_sim', 'policy'
READY_S = 45.0
ANSWER_S = 5.0
ARM_S = 3.0  # for one step up of the stage
OUTCOME_S = 1.0


@dataclass(frozen=True)
class Settings:
    """The node's parameters."""

    tasks: str = parameter('', 'file of the tasks, as qwen-vla demo writes it')
    out: str = parameter('', 'folder for the film and the traces')
    live: bool = parameter(False, 'show robot and table in a window')
    limit_s: float = parameter(12.0, 'time limit of an episode in s', 0.5, 600.0)


class EpisodeNode(Node):
    """The client; run() goes through the tasks of the parameter `tasks`."""

    def __init__(self) -> None:
        """Subscribe to everything that is filmed or measured."""
        super().__init__('episode_node')
        settings = declare(self, Settings)
        self._tasks, self._out = read_tasks(Path(settings.tasks)), Path(settings.out)
        self._limit_s = settings.limit_s
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._view = SceneView(settings.live)
        self._latest: dict[str, Any] = {}
        self._trace: EpisodeTrace | None = None
        self._film: Film | None = None
        self._title, self._sentence = '', ''
        self._outcome: tuple[str, bool] | None = None
        self._say = self.create_publisher(String, f'{POLICY}/instruction', LATCHED)
        self._aim = self.create_publisher(String, f'{ROBOT}/target', STREAM)
        self._reset = self.create_client(ResetWorld, f'{ROBOT}/reset')
        self._result = self.create_client(TaskResult, f'{ROBOT}/result')
        self._release = self.create_client(Trigger, f'{POLICY}/reset_safety')
        self._arming = self.create_client(SetStage, f'{POLICY}/set_stage')
        subscribe = self.create_subscription
        subscribe(Image, 'camera/scene/image_raw', self._keep('scene'), SENSOR)
        subscribe(Image, 'camera/wrist/image_raw', self._keep('wrist'), SENSOR)
        subscribe(JointState, 'joint_states', self._on_joints, SENSOR)
        subscribe(JointTrajectory, 'arm_controller/joint_trajectory', self._on_command, STREAM)
        subscribe(JointTrajectory, 'gripper_controller/joint_trajectory', self._on_command, STREAM)
        subscribe(ActionChunk, f'{POLICY}/chunk', self._on_chunk, STREAM)
        subscribe(PolicyStatus, f'{POLICY}/status', self._on_status, LATCHED)
        self.create_timer(1.0 / RATE_HZ, self._shoot)

    def run(self) -> None:
        """Run all tasks; QwenVlaError when robot or policy do not come up or do not answer."""
        begin_s = self._now_s()
        self._wait_for_robot_and_policy()
        tell('ready', after_s=self._now_s() - begin_s)
        with Film(self._out / 'video.mp4') as film:
            for number, task in enumerate(self._tasks):
                tell('started', number=number, task=asdict(task))
                self._title = f'episode {number + 1} of {len(self._tasks)}, scene {task.seed}'
                episode = self._run_task(task, film)
                np.savez(self._out / 'traces' / f'{number:03d}.npz', **self._trace.arrays())
                tell('episode', number=number, episode=episode.to_json())
        tell('film', frames=film.frames, skipped=film.skipped)

    def close(self) -> None:
        """Leave the executor, close the window, destroy the node."""
        self._view.close()
        self._executor.shutdown()
        self.destroy_node()

    def _run_task(self, task: Task, film: Film) -> Episode:
        """Lay out the scene, give the instruction, wait for a touch or for the time limit."""
        self._speak('')
        self._spin_until(lambda: self._stage() != 'RUNNING', 2.0)
        self._call(self._release, Trigger.Request())  # what an operator does between two tasks
        self._arm_again()
        self._lay_out(task)
        self._trace = EpisodeTrace(task, self._now_s())
        self._outcome, self._film = None, film
        self._speak(task.instruction)
        answer = self._watch(task)
        episode = self._trace.finish(
            answer.first_touched or None,
            tuple(answer.touched),
            self._now_s() - self._trace.start_s,
            done=answer.success if task.kind else None,
            note='' if self._trace.running_since_s else f'the policy never ran: {self._reason()}',
        )
        self._speak('')
        self._outcome = (outcome_of(episode, task.kind), episode.success)
        self._spin_until(lambda: False, OUTCOME_S)
        self._film = None
        return episode

    def _lay_out(self, task: Task) -> None:
        """Reset the robot to the task's scene and wait for pictures and joints of it."""
        request = ResetWorld.Request(seed=task.seed, task=task.kind or task.instruction)
        answer = self._call(self._reset, request)
        if not answer.success:
            raise QwenVlaError(f'{ROBOT}: reset to seed {task.seed} refused: {answer.message}')
        if not task.kind:
            self._aim.publish(String(data=task.target))
        self._view.reset(task.seed, task.kind)
        since_s = self._now_s()
        fresh = ('scene', 'wrist', 'joints')
        arrived = self._spin_until(
            lambda: all(self._stamp_s(name) > since_s for name in fresh), ANSWER_S
        )
        if not arrived:
            raise QwenVlaError(f'{ROBOT}: no new pictures and joints within {ANSWER_S:.0f} s')

    def _watch(self, task: Task) -> TaskResult.Response:
        """Return the result once the task is decided or the time is up; swap on the way."""
        swap = task.swap
        while True:
            self._spin_until(lambda: False, 0.08)
            answer = self._call(self._result, TaskResult.Request())
            elapsed_s = self._now_s() - self._trace.start_s
            decided = answer.success if task.kind else answer.first_touched
            if decided or elapsed_s >= self._limit_s:
                return answer
            since_s = self._trace.running_since_s
            if swap is not None and since_s and self._now_s() - since_s >= swap.after_s:
                self._aim.publish(String(data=swap.target))
                self._speak(swap.instruction)
                swap = None

    def _wait_for_robot_and_policy(self) -> None:
        """Wait for services and topics; name what did not come."""
        needs: dict[str, Callable[[], bool]] = {
            f'service {ROBOT}/reset': self._reset.service_is_ready,
            f'service {ROBOT}/result': self._result.service_is_ready,
            f'service {POLICY}/reset_safety': self._release.service_is_ready,
            f'service {POLICY}/set_stage': self._arming.service_is_ready,
            'scene camera': lambda: 'scene' in self._latest,
            'wrist camera': lambda: 'wrist' in self._latest,
            'joint states': lambda: 'joints' in self._latest,
            f'{POLICY}/status of an active node': lambda: self._stage() not in ('', 'INACTIVE'),
            'input at the policy': lambda: (
                'status' in self._latest and not self._latest['status'].missing
            ),
        }
        self._spin_until(lambda: all(ready() for ready in needs.values()), READY_S)
        missing = [name for name, ready in needs.items() if not ready()]
        if missing:
            raise QwenVlaError(
                f'after {READY_S:.0f} s there is no {", no ".join(missing)}; see the logs of the '
                f'other processes. {self._reason()}'
            )

    def _arm_again(self) -> None:
        """Climb back to full speed after a fault, as an operator of a simulation may."""
        status = self._latest.get('status')
        below = FULL if status is None else status.arming
        for stage in STAGES[STAGES.index(below) + 1 :]:
            request = SetStage.Request(stage=stage, reason='simulation: the next task', force=True)
            self._spin_until(lambda r=request: self._call(self._arming, r).success, ARM_S)

    def _spin_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Handle messages until done() or the limit; return done()."""
        end_s = self._now_s() + limit_s
        while not done() and self._now_s() < end_s:
            self._executor.spin_once(timeout_sec=0.02)
        return done()

    def _call(self, client: Any, request: Any) -> Any:
        """Call a service and return its answer."""
        future = client.call_async(request)
        if not self._spin_until(future.done, ANSWER_S):
            raise QwenVlaError(f'{client.srv_name}: no answer within {ANSWER_S:.0f} s')
        return future.result()

    def _speak(self, sentence: str) -> None:
        """Publish the instruction."""
        self._sentence = sentence or self._sentence
        self._say.publish(String(data=sentence))

    def _keep(self, name: str) -> Callable[[Any], None]:
        """Return a callback that keeps the latest message."""
        return lambda message: self._latest.__setitem__(name, message)

    def _on_joints(self, message: JointState) -> None:
        """Keep and measure."""
        self._latest['joints'] = message
        self._view.take_joints(message)
        if self._trace is not None:
            self._trace.add_joint_state(message, self._stamp_s('joints'))

    def _on_command(self, message: JointTrajectory) -> None:
        """Measure."""
        if self._trace is not None:
            self._trace.add_command(message, self._now_s())

    def _on_chunk(self, message: ActionChunk) -> None:
        """Keep and measure."""
        self._view.take_chunk(chunk_from(message), self._now_s())
        if self._trace is not None:
            self._trace.add_chunk(self._now_s())

    def _on_status(self, message: PolicyStatus) -> None:
        """Keep and measure."""
        self._latest['status'] = message
        self._view.take_status(message, self._now_s())
        if self._trace is not None and self._outcome is None:
            self._trace.add_status(message, self._now_s())

    def _shoot(self) -> None:
        """Add a frame to the film, and bring the window up to date."""
        latest, now_s = self._latest, self._now_s()
        if 'joints' in latest:
            self._view.mirror(latest['joints'])
        if self._film is None or not {'scene', 'wrist', 'status'} <= set(latest):
            return
        facts = facts_of(latest['status'], now_s - self._trace.start_s)
        text, success = self._outcome or (None, False)
        caption = Caption(self._title, self._sentence, self._stage(), facts, text, success)
        scene, wrist = (decode_image(latest[view], view) for view in ('scene', 'wrist'))
        self._film.add(scene, wrist, caption, self._view.intended(now_s))

    def _stage(self) -> str:
        """Return the policy's stage; '' before it said anything."""
        status = self._latest.get('status')
        return '' if status is None else status.stage

    def _reason(self) -> str:
        """Return what the policy said last."""
        status = self._latest.get('status')
        return 'it said nothing' if status is None else f'{status.stage}: {status.reason}'

    def _stamp_s(self, name: str) -> float:
        """Return the stamp of the latest message of a name."""
        return seconds(self._latest[name].header.stamp)

    def _now_s(self) -> float:
        """Return the node's time."""
        return 1e-9 * self.get_clock().now().nanoseconds


def tell(event: str, **facts: Any) -> None:
    """Print one event as a line of JSON."""
    print(json.dumps({'event': event, **facts}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the node; exit code 2 and one line on stderr when something is wrong."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = EpisodeNode()
        try:
            node.run()
        finally:
            node.close()
    except QwenVlaError as error:
        print(f'episode_node: {error}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 0
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
