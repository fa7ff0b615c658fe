"""
The policy as a lifecycle node: camera images and joint states in, joint trajectories out.

configure loads contract and policy and compares them; activate lets the arm move; a trajectory
reaches 0.3 s ahead and ends at rest, so an arm whose node dies stops by itself. Subscriptions
store, one worker infers, a fast timer watches, a slower one commands (pilot.py holds all that).
"""

import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpHandle, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from qwen_vla_ros.clock_watch import BACK_NS, PAUSE_NS, ClockWatch
from qwen_vla_ros.compatibility.listening import Listening
from qwen_vla_ros.compatibility.registry import arming_problems, refuse_incompatible
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk as ActionChunkMessage
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.nodes.arm_models import capsules_of, kinematics_of
from qwen_vla_ros.nodes.arming import ArmingServices
from qwen_vla_ros.nodes.inputs import input_topics
from qwen_vla_ros.nodes.motion import STOP, Motion
from qwen_vla_ros.nodes.outputs import Outputs
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.pilot import RUNNING, Arming, Pilot
from qwen_vla_ros.nodes.policy_report import chunk_message, diagnostics_message, status_message
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.nodes.qos_check import GraphCheck, Wanted
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.policy import Policy, load_policy, refuse_mismatch
from qwen_vla_ros.protocols.clients import policy_at
from qwen_vla_ros.remote import PolicyUnavailable, RemotePolicy

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WATCH_S, STATUS_S, GRAPH_S, DIAGNOSTICS_S = 0.02, 0.1, 0.5, 1.0
NUMBERS = re.compile(r'[-\d.]+')  # ages and the like: they make no new cause


@dataclass(frozen=True)
class PolicySettings:
    """Parameters of the policy node."""

    robot: str = parameter('widowx', 'name or path of the contract')
    policy: str = parameter(
        'remote', "'remote': its own process, 'local': this one, or openpi://..."
    )
    address: str = parameter('127.0.0.1:8766', 'where qwen-vla serve listens (remote)')
    token: str = parameter('', "the server's token, if it has one (remote)")
    checkpoint: str = parameter('', 'folder or hub id of the checkpoint (local)')
    device: str = parameter('auto', "'auto', 'cpu' or 'cuda' (local)")
    layout: str = parameter('', "action layout of the contract; '' takes its default")
    instruction: str = parameter('', 'first sentence; later ones come on ~/instruction')
    command_rate: float = parameter(0.0, 'commands a second; 0 takes the contract', 0.0, 200.0)
    point_step: float = parameter(0.05, 's between two points of a command', 0.005, 0.2)
    replan: float = parameter(0.2, 's from one inference to the next, at least', 0.0, 10.0)
    splice: str = parameter('', "how chunks are joined; '' takes the contract's safety.splice")
    stage: str = parameter('full', 'first stage: dry-run, shadow, scaled or full')
    speed: float = parameter(0.25, "share of the speed in stage 'scaled'", 0.01, 1.0)
    ramp: float = parameter(2.0, 's from standstill to that speed, and on to full', 0.0, 30.0)
    dead_man: float = parameter(
        0.0, 's, topic dead_man must be heard this often; 0: none', 0.0, 5.0
    )
    connect_timeout: float = parameter(2.0, 's to wait for the model process', 0.1, 60.0)
    log_steps: str = parameter('', "new folder for every call's inputs and outputs (local)")
    log_steps_gb: float = parameter(2.0, 'its size; the oldest steps go', 0.01, 1000.0)
    autostart: bool = parameter(False, 'configure and activate without being told')


class PolicyNode(LifecycleNode):
    """Topics, timers, one worker and the life cycle around a Pilot."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters and say INACTIVE; nothing is loaded yet."""
        super().__init__('policy', **options)
        self.settings = declare(self, PolicySettings)
        self._pilot: Pilot | None = None
        self._policy: Policy | None = None
        self._outputs: Outputs | None = None
        self._arming: ArmingServices | None = None
        self._reason, self._model_absent = '', False
        self._worker: threading.Thread | None = None
        self._end, self._active = threading.Event(), threading.Event()
        self._entities: list[tuple[Any, Any]] = []
        self._told: tuple[Any, ...] = ()
        self._failures = 0  # goals that the servers of actions gave up
        self._sending = threading.Lock()  # an older motion never leaves after a newer one
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._status = self.create_publisher(PolicyStatus, '~/status', LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', STREAM)
        self._timer(STATUS_S, self._publish_status)
        self._timer(DIAGNOSTICS_S, self._publish_diagnostics)
        if self.settings.autostart:
            self._autostart_timer = self._timer(0.5, self._autostart)

    def close(self) -> None:
        """End worker and policy; called before the node is destroyed."""
        self._teardown()

    # Life cycle ----------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load contract and policy, compare them by name, listen."""
        return self._guarded(self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the arm move."""
        return self._guarded(self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the arm to rest and send nothing more."""
        return self._guarded(self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything."""
        return self._guarded(self._teardown)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything."""
        return self._guarded(self._teardown)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything; the node can be configured again."""
        return self._guarded(self._teardown)

    def _guarded(self, work: Any) -> TransitionCallbackReturn:
        """Do a transition; rclpy would swallow what it raises."""
        try:
            work()
        except QwenVlaError as error:
            self._reason = str(error)
            self._model_absent = isinstance(error, PolicyUnavailable)
            self.get_logger().error(self._reason, throttle_duration_sec=5.0)
        except Exception:
            self._reason = traceback.format_exc().strip().splitlines()[-1]
            self.get_logger().error(traceback.format_exc())
        else:
            self._reason = ''
            return SUCCESS
        if work == self._configure:
            self._teardown()
        return FAILURE

    def _configure(self) -> None:
        settings = self.settings
        embodiment = Embodiment.load(settings.robot)
        layout = settings.layout or embodiment.default_layout
        self._policy = self._load_policy(embodiment, layout)
        refuse_mismatch(self._policy.metadata, embodiment, layout)
        for finding in refuse_incompatible(self._policy.metadata, embodiment, layout):
            self.get_logger().warning(str(finding))
        clock = ClockWatch(self._now_ns, self.get_parameter('use_sim_time').value)
        self._pilot = Pilot(
            embodiment,
            self._policy,
            layout,
            clock,
            embodiment.safety.lookahead_s,
            settings.point_step,
            *kinematics_of(embodiment, layout),
            splice=settings.splice,
            replan_s=settings.replan,
            arming=Arming(settings.stage, settings.speed, settings.ramp),
            capsules=capsules_of(embodiment, layout),
            dead_man_s=settings.dead_man or embodiment.safety.dead_man_s,
        )
        self._listening = Listening(embodiment)
        self._pilot.incompatible = lambda: arming_problems(
            self._listening, self._policy.metadata, embodiment, layout, self._now_ns()
        )
        self._pilot.instruct(settings.instruction)
        self._outputs = Outputs(self, self._pilot.groups, self._pilot.names, clock)
        self._failures = 0
        wants_dead_man = bool(settings.dead_man or embodiment.safety.dead_man_s)
        self._arming = ArmingServices(self, self._pilot, self._send_now, wants_dead_man)
        self._listen(embodiment)
        self._end.clear()
        self._worker = threading.Thread(target=self._work, name='inference', daemon=True)
        self._worker.start()

    def _listen(self, embodiment: Embodiment) -> None:
        inputs = input_topics(embodiment)
        for source, kind, topic in inputs:
            self._subscribe(kind, topic, partial(self._store, source), SENSOR)
        self._subscribe(String, '~/instruction', self._on_instruction, LATCHED)
        instruction = Wanted('instruction', String, '~/instruction', LATCHED, optional=True)
        self._graph = GraphCheck(self, [*(Wanted(*item, SENSOR) for item in inputs), instruction])
        self._explained: dict[str, str] = {}
        self._own(self._timer(GRAPH_S, self._look_at_graph), self.destroy_timer)
        self._chunks = self._own(
            self.create_publisher(ActionChunkMessage, '~/chunk', STREAM), self.destroy_publisher
        )
        self._refusals = self._own(
            self.create_publisher(ActionChunkMessage, '~/refused', STREAM), self.destroy_publisher
        )
        rate = self.settings.command_rate or embodiment.safety.command_rate_hz
        for period, callback in ((WATCH_S, self._watch), (1.0 / rate, self._command)):
            self._own(self._timer(period, callback), self.destroy_timer)
        leap = JumpThreshold(
            min_forward=Duration(nanoseconds=PAUSE_NS), min_backward=Duration(nanoseconds=-BACK_NS)
        )
        handle = self.get_clock().create_jump_callback(leap, post_callback=self._on_leap)
        self._own(handle, JumpHandle.unregister)

    def _activate(self) -> None:
        self._pilot.activate()
        self._active.set()
        self._publish_status()

    def _deactivate(self) -> None:
        self._active.clear()
        with self._sending:
            self._send(self._pilot.deactivate())
        self._publish_status()

    def _teardown(self) -> None:
        """The one way back to the beginning: from cleanup, shutdown, errors and failures."""
        self._end.set()
        self._active.set()
        if self._worker is not None:
            self._worker.join(timeout=10)
        self._worker = None
        self._active.clear()
        if self._arming is not None:
            self._arming.close()
        if self._outputs is not None:
            self._outputs.close()
        for entity, destroy in reversed(self._entities):
            destroy(entity)
        self._entities.clear()
        close = getattr(self._policy, 'close', None)
        if close is not None:
            close()
        self._policy = self._pilot = self._outputs = self._arming = None

    def _load_policy(self, embodiment: Embodiment, layout: str) -> Policy:
        settings = self.settings
        if settings.policy == 'remote':
            if settings.log_steps:
                raise QwenVlaError(
                    'policy node: log_steps is for policy:=local; a model in its own process logs '
                    'with qwen-vla serve --log-steps DIR'
                )
            return RemotePolicy(
                settings.address,
                token=settings.token or None,
                connect_timeout_s=settings.connect_timeout,
                robot=embodiment.name,
            )
        if settings.policy == 'local':
            if not settings.checkpoint:
                raise QwenVlaError('policy node: policy:=local needs checkpoint:=<folder>')
            policy = load_policy(settings.checkpoint, embodiment, settings.device, layout)
            if settings.log_steps:
                policy.log_steps(Path(settings.log_steps), settings.log_steps_gb)
            return policy
        if '://' in settings.policy:
            token, wait_s = settings.token or None, settings.connect_timeout
            return policy_at(settings.policy, embodiment, layout, token, connect_timeout_s=wait_s)
        raise QwenVlaError(
            f"policy node: policy:={settings.policy} is unknown; choose 'remote', 'local' or an "
            'address such as openpi://127.0.0.1:8000'
        )

    def _autostart(self) -> None:
        """Configure and activate; keep trying only while the model process is not there yet."""
        if self._pilot is None and self.trigger_configure() != SUCCESS:
            if self._model_absent:
                return
            self.get_logger().fatal(
                'autostart given up; mend the cause, then start the node again or configure it by '
                'hand (ros2 lifecycle set)'
            )
        elif self.trigger_activate() != SUCCESS:
            self.get_logger().fatal('autostart given up; mend the cause and activate by hand')
        self._autostart_timer.cancel()

    # Streams -------------------------------------------------------------------------------------

    def _store(self, source: str, message: Any) -> None:
        self._listening.hear(source, message, self._now_ns())
        try:
            self._pilot.push(source, message)
        except QwenVlaError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)

    def _on_instruction(self, message: String) -> None:
        self._pilot.instruct(message.data)
        self.get_logger().info(f'instruction: {message.data!r}')
        self._publish_status()

    def _work(self) -> None:
        """Infer while active, not more often than replan says."""
        while not self._end.is_set():
            if not self._active.wait(0.1):
                continue
            begin = time.monotonic()
            try:
                chunk = self._pilot.think()
                refused = self._pilot.take_refused()
                if refused is not None and self.context.ok():
                    self._refusals.publish(chunk_message(*refused))
                if chunk is not None and self.context.ok():
                    self._command()
                    self._chunks.publish(chunk_message(chunk))
                    self._send_whole()
            except Exception:  # a defect must be seen, and must not end the thread unseen
                if not self.context.ok():  # Ctrl-C came between the question above and publish()
                    return
                self.get_logger().error(traceback.format_exc())
                self._end.wait(0.5)
                continue
            spent = time.monotonic() - begin
            pause = 0.005 if chunk is None else self.settings.replan - spent
            self._end.wait(max(0.002, pause))

    def _on_leap(self, jump: TimeJump) -> None:
        """Look at once: what was sent just before a leap of /clock lies in the wrong time."""
        if self._outputs is not None:
            self._watch()

    def _watch(self) -> None:
        with self._sending:
            self._send(self._pilot.watch())
            if self._outputs.failures > self._failures:
                self._failures = self._outputs.failures
                self._send(self._pilot.fault(self._outputs.problem))
        stage = self._pilot.stages.stage
        causes = NUMBERS.sub('', f'{self._pilot.missing} {self._pilot.reason.split(":")[0]}')
        told = (self._pilot.stage, stage, causes)
        if told != self._told:
            self._told = told
            text = f'{self._pilot.stage} ({stage}) {self._pilot.reason}'.strip()
            if self._pilot.stage == RUNNING:
                self.get_logger().info(text)
            else:
                self.get_logger().warning(text)
            self._publish_status()

    def _look_at_graph(self) -> None:
        """Ask who publishes; what is wrong is logged once, and told while the topic is silent."""
        problems = self._graph.problems()
        self._pilot.explain(problems)
        for source, problem in problems.items():
            if self._explained.get(source) != problem and not problem.startswith('no publisher'):
                self.get_logger().warning(f'{source}: {problem}')
        self._explained = problems

    def _command(self) -> None:
        """Send the next lookahead: at the command rate, and as soon as a chunk is there."""
        with self._sending:
            self._send(self._pilot.command())

    def _send_whole(self) -> None:
        """Send a new chunk to the outputs that take whole ones."""
        with self._sending:
            if self._outputs.takes_chunks:
                self._send(self._pilot.command(whole=True))
            follow = self._pilot.take_follow()
            if follow is not None:
                self._guard(
                    lambda: self._outputs.follow(
                        follow.chunk, follow.now_ns, follow.pose, follow.frame
                    )
                )

    def _send_now(self, motion: Motion | None) -> None:
        with self._sending:
            self._send(motion)
        self._publish_status()

    def _send(self, motion: Motion | None) -> None:
        if motion is not None:
            self._guard(lambda: self._outputs.send(motion))

    def _guard(self, send: Callable[[], None]) -> None:
        """Send; what an output refuses is a fault: nothing went out, the arm comes to rest."""
        try:
            send()
        except QwenVlaError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            motion = self._pilot.fault(str(error))
            if motion is not None and motion.part == STOP:
                self._outputs.hold(motion.now_ns)

    def _publish_status(self) -> None:
        if self.context.ok():
            reason = self._reason or (self._outputs.problem if self._outputs else '')
            self._status.publish(status_message(self._pilot, reason, self._now_ns()))

    def _publish_diagnostics(self) -> None:
        name = self.get_fully_qualified_name()
        message = diagnostics_message(name, self._pilot, self._reason, self._now_ns())
        self._diagnostics.publish(message)

    # Wiring --------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _timer(self, period_s: float, callback: Any) -> Any:
        """Return a timer of the steady clock: a stopped /clock must not stop the watch."""
        return self.create_timer(period_s, callback, clock=self._steady)

    def _own(self, entity: Any, destroy: Any) -> Any:
        """Remember what teardown has to destroy."""
        self._entities.append((entity, destroy))
        return entity

    def _subscribe(self, kind: type, topic: str, callback: Any, qos: Any) -> None:
        self._own(self.create_subscription(kind, topic, callback, qos), self.destroy_subscription)


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(PolicyNode, args, gently=True, settings=PolicySettings))


if __name__ == '__main__':
    main()
