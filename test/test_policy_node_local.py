"""The policy node over DDS with the model inside it, and the release of its safety gate."""

import numpy as np
import pytest

pytest.importorskip('rclpy')
from diagnostic_msgs.msg import DiagnosticArray
from fake_robot import FakeRobot, small_contract
from qwen_vla_ros.msg import ActionChunk as RefusedChunk
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from std_srvs.srv import Trigger

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, STREAM
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer
from qwen_vla_ros.types import ActionChunk


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('local')
    lab = Lab(5, folder)
    lab.contract = small_contract(folder, ('max_refused_chunks: 10', 'max_refused_chunks: 3'))
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    robot = FakeRobot(lab.node)
    yield lab
    robot.stop()
    lab.close()


@pytest.fixture
def node(lab):
    """Start the policy node with parameters; stop it at the end, whatever happened."""

    def start(**parameters):
        lab.status = PolicyStatus()
        common = {'robot': lab.contract, 'autostart': True, 'instruction': 'touch the red block'}
        lab.start_node('policy_node', **common, **parameters)

    yield start
    assert lab.stop('policy_node') == 0
    assert 'Traceback' not in lab.log('policy_node')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Return a tiny checkpoint with random weights."""
    pytest.importorskip('torch')
    from qwen_vla_ros.model.checkpoint import TrainedRobot, save_checkpoint
    from qwen_vla_ros.train.supervised import TrainRun, build_model
    from qwen_vla_ros.transforms import Quantiles

    widowx = Embodiment.load('widowx')
    model, tokenizer = build_model(TrainRun('tiny', (), 0), widowx)
    ranges = {name: (limit.lower, limit.upper) for name, limit in widowx.limits.items()}
    statistics = {
        key: Quantiles(
            tuple(names), *(np.array([ranges[name][i] for name in names]) for i in (0, 1))
        )
        for key, names in (('actions', widowx.action_names()), ('state', widowx.state_names))
    }
    folder = tmp_path_factory.mktemp('checkpoint') / 'tiny'
    save_checkpoint(folder, model, tokenizer, [TrainedRobot(widowx, 'abs_joint', statistics)], {})
    return folder


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({}, 'policy:=local needs checkpoint:=<folder>'),
        ({'checkpoint': '/nowhere/at/all'}, '/nowhere/at/all'),
    ],
    ids=['without a checkpoint', 'without its folder'],
)
def test_a_local_policy_that_is_not_there_is_told_once(lab, node, parameters, words):
    node(policy='local', **parameters)
    wait_for(lambda: words in lab.status.reason, 20.0, f'{words} ({lab.status})')
    assert lab.status.stage == 'INACTIVE'
    wait_for(lambda: 'autostart given up' in lab.log('policy_node'), 5.0, 'the end of autostart')


def test_a_local_checkpoint_is_loaded_and_asked(lab, node, checkpoint):
    node(policy='local', checkpoint=checkpoint, device='cpu')

    def judged():
        return lab.status.chunks or lab.status.refusals

    wait_for(judged, 40.0, f'a chunk of the checkpoint, taken or refused ({lab.status})')
    assert lab.status.instruction == 'touch the red block'


class Jumping(ConstantPolicy):
    """Hold still; once told to jump, ask for a place that is a radian away."""

    jump = 0.0

    def infer(self, observation, prefix=None):
        chunk = super().infer(observation, prefix)
        rows = chunk.actions + np.float32(self.jump)
        return ActionChunk(rows, chunk.names, chunk.start_ns, chunk.step_s)


def test_a_latched_gate_holds_until_reset_safety(lab, node):
    policy, refused = Jumping(Embodiment.load(lab.contract)), []
    lab.node.create_subscription(RefusedChunk, 'policy/refused', refused.append, STREAM)
    with PolicyServer(policy, port=0) as server:
        node(address=server.address.removeprefix('ws://'))
        wait_for(lambda: lab.status.stage == 'RUNNING', 20.0, 'RUNNING')
        policy.jump = 1.0
        wait_for(lambda: '3 chunks in a row' in lab.status.reason, 8.0, 'the latch')
        policy.jump = 0.0
        wait_for(lambda: len(refused) >= 3, 2.0, 'the refused chunks')
        assert 'position of left_finger 1.03 m' in refused[0].refused
        assert len(refused[0].actions) == refused[0].horizon * len(refused[0].names)
        assert lab.status.stage == 'HOLDING'
        assert '~/reset_safety' in lab.status.reason
        chunks = lab.status.chunks
        answer = lab.call(Trigger, 'policy/reset_safety')
        assert answer.success
        assert answer.message.startswith('released: 3 chunks in a row were refused')
        wait_for(lambda: lab.status.stage == 'RUNNING', 5.0, f'RUNNING again ({lab.status})')
        wait_for(lambda: lab.status.chunks > chunks, 2.0, 'a new chunk')
        assert lab.call(Trigger, 'policy/reset_safety').message == 'nothing was latched'


class Continuing(ConstantPolicy):
    """Hold still, beginning with the rows that are given; keep what was given."""

    def __init__(self, embodiment):
        super().__init__(embodiment)
        self._metadata.update(max_prefix=4, prefix='trained')
        self.prefixes = []

    def infer(self, observation, prefix=None):
        chunk = super().infer(observation)
        self.prefixes.append(prefix)
        if prefix is not None:
            chunk.actions[: len(prefix)] = prefix
        return chunk


def test_rtc_needs_a_policy_that_continues_a_prefix(lab, node):
    with PolicyServer(ConstantPolicy(Embodiment.load(lab.contract)), port=0) as server:
        node(address=server.address.removeprefix('ws://'), splice='rtc')
        words = "splice mode 'rtc' needs a policy that continues a prefix"
        wait_for(lambda: words in lab.status.reason, 20.0, f'the refusal ({lab.status})')
        assert lab.status.stage == 'INACTIVE'


def test_rtc_sends_the_rows_that_run_meanwhile_to_the_model_process(lab, node):
    policy = Continuing(Embodiment.load(lab.contract))
    with PolicyServer(policy, port=0) as server:
        node(address=server.address.removeprefix('ws://'), splice='rtc')
        wait_for(lambda: lab.status.chunks >= 4, 20.0, f'four chunks ({lab.status})')
        assert lab.status.stage == 'RUNNING'
        assert lab.status.refusals == 0
    given = [prefix for prefix in policy.prefixes if prefix is not None]
    assert given
    assert all(prefix.dtype == np.float32 for prefix in given)
    assert all(1 <= len(prefix) <= 4 and prefix.shape[1] == 7 for prefix in given)


def test_diagnostics_tell_the_splice_and_the_delay(lab, node):
    told = {}
    lab.node.create_subscription(
        DiagnosticArray,
        '/diagnostics',
        lambda m: told.update((value.key, value.value) for value in m.status[0].values),
        10,
    )
    with PolicyServer(ConstantPolicy(Embodiment.load(lab.contract)), port=0) as server:
        node(address=server.address.removeprefix('ws://'), splice='temporal-ensemble')
        wait_for(lambda: 'delay_p95_rows' in told, 20.0, f'the delay ({told})')
    assert told['splice'] == 'temporal-ensemble'
    assert 0 <= float(told['delay_p95_rows']) < 5


SHUT_DOWN_WHILE_IT_PUBLISHES = """
import sys
from types import SimpleNamespace
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.nodes.policy_node import PolicyNode, PolicySettings

class Interrupted(PolicyNode):
    def _listen(self, embodiment):
        super()._listen(embodiment)
        chunks = self._chunks
        def publish(message):
            print('publishing', flush=True)
            self.context.try_shutdown()
            chunks.publish(message)
        self._chunks = SimpleNamespace(publish=publish)

sys.exit(run(Interrupted, None, gently=True, settings=PolicySettings))
"""


def test_a_shutdown_between_a_chunk_and_its_publishing_is_no_defect(lab):
    script = lab.folder / 'interrupted.py'
    script.write_text(SHUT_DOWN_WHILE_IT_PUBLISHES)
    with PolicyServer(ConstantPolicy(Embodiment.load(lab.contract)), port=0) as server:
        address = server.address.removeprefix('ws://')
        words = f'robot:={lab.contract} autostart:=true instruction:=touch address:={address}'
        parameters = [word for pair in words.split() for word in ('-p', pair)]
        child = lab.start('policy_node', script, '--ros-args', *parameters)
        assert child.wait(timeout=30) == 0
    assert 'publishing' in lab.log('policy_node')
    assert 'Traceback' not in lab.log('policy_node')
