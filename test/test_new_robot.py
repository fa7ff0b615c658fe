"""A robot that nobody has, from one YAML: observation, policy, executor, safety and outputs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from qwen_vla_ros.contract_schema import contract_schema
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.model.checkpoint import build_pipeline
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.nodes.pilot import HOLDING, RUNNING, Pilot
from qwen_vla_ros.policy import LocalPolicy, describe_policy
from qwen_vla_ros.transforms import Quantiles

SCARA = Path(__file__).with_name('scara.yaml')
MEASURED = {'shoulder': 0.3, 'elbow': -0.4, 'quill': 0.05, 'suction': 0.5}
POSE = {'cart_x': 1.0, 'cart_y': 2.0, 'cart_yaw': 0.0}


@pytest.fixture(scope='module')
def robot():
    return Embodiment.load(SCARA)


def random_policy(robot, layout=None):
    """Return a tiny model with random weights whose actions lie near the measured posture."""
    config = preset('tiny')
    config = replace(
        config,
        inputs=replace(config.inputs, image_sizes={'overhead': (64, 64)}),
        decoder=replace(config.decoder, horizon=robot.horizon),
    )
    tokenizer = train_tokenizer([robot.prompt('place the chip')], 512, config.inputs.views)
    stored, ids = config.to_dict(), tokenizer.get_vocab()
    stored['backbone']['text_config']['vocab_size'] = len(tokenizer)
    for key, token in (
        ('image_token_id', '<|image_pad|>'),
        ('video_token_id', '<|video_pad|>'),
        ('vision_start_token_id', '<|vision_start|>'),
        ('vision_end_token_id', '<|vision_end|>'),
    ):
        stored['backbone'][key] = ids[token]
    config = type(config).from_dict(stored)
    torch.manual_seed(0)
    model = QwenVLA(config).eval()
    spans = {
        'actions': span(robot.action_names(layout), 0.002),
        'state': span(robot.state_names, 1.0),
    }
    layout = layout or robot.default_layout
    pipeline = build_pipeline(config, Processor(tokenizer, config), robot, layout, spans)
    facts = {**describe_policy(robot, layout), 'checkpoint': 'random'}
    return LocalPolicy(model, pipeline, facts, steps=2)


def span(names, half):
    middle = np.array([MEASURED.get(name, 0.0) for name in names])
    return Quantiles(tuple(names), middle - half, middle + half)


class Flight:
    """The pilot of the policy node, with a clock in the hand and messages as they would come."""

    def __init__(self, robot, layout):
        self.now_ns, self.joints = 1_000_000_000_000, dict(MEASURED)
        policy = random_policy(robot, layout)
        lookahead_s = robot.safety.lookahead_s
        self.pilot = Pilot(robot, policy, layout, lambda: self.now_ns, lookahead_s, 0.05)
        self.pilot.instruct('place the chip')
        self.pilot.activate()
        for _ in range(100):  # until its latency is steady
            if not self.pilot._policy.problem:
                break
            self.think()

    def feed(self, pictures=True):
        self.now_ns += 20_000_000
        second, nanosecond = divmod(self.now_ns, 10**9)
        header = SimpleNamespace(
            stamp=SimpleNamespace(sec=second, nanosec=nanosecond), frame_id='odom'
        )
        arm = SimpleNamespace(
            header=header, name=[*self.joints, 'spare'], position=[*self.joints.values(), 9.0]
        )
        self.pilot.push('state.arm', arm)
        spot = SimpleNamespace(
            position=SimpleNamespace(x=POSE['cart_x'], y=POSE['cart_y'], z=0.0),
            orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0),
        )
        rest = SimpleNamespace(x=0.0, y=0.0, z=0.0)
        twist = SimpleNamespace(linear=rest, angular=rest)
        odometry = SimpleNamespace(
            header=header,
            pose=SimpleNamespace(pose=spot),
            twist=SimpleNamespace(twist=twist),
        )
        self.pilot.push('state.cart', odometry)
        if not pictures:
            return
        picture = {'encoding': 'bgr8', 'width': 64, 'height': 48, 'step': 192, 'is_bigendian': 0}
        image = SimpleNamespace(header=header, data=bytes(48 * 192), **picture)
        self.pilot.push('overhead', image)

    def think(self):
        for _ in range(5):  # the camera's stamp lies behind by its latency
            self.feed()
        return self.pilot.think()


def test_the_file_fits_the_schema():
    judge = jsonschema.Draft202012Validator(contract_schema())
    errors = judge.iter_errors(yaml.safe_load(SCARA.read_text()))
    assert [error.message for error in errors] == []


def test_its_prompt_channels_and_state_are_those_of_the_file(robot):
    assert robot.prompt('place the chip') == (
        'The robot is Suction SCARA with single arm, and mobile base. The control frequency is 12 '
        'Hz. Please predict the next 10 control actions to execute the following task: place the '
        'chip.'
    )
    assert robot.action_names() == ('shoulder', 'elbow', 'quill', 'suction')
    assert robot.action_names('place_and_drive')[4:] == ('dx', 'dy', 'dtheta')
    assert robot.state_names == (*MEASURED, *POSE)


@pytest.mark.parametrize('layout', ['place', 'place_and_drive'])
def test_a_policy_drives_it_through_executor_and_safety(robot, layout):
    flight = Flight(robot, layout)
    chunk = flight.think()
    assert chunk is not None, flight.pilot.reason
    assert chunk.names == robot.action_names(layout)
    assert chunk.actions.shape == (10, len(chunk.names))
    assert chunk.step_s == pytest.approx(1 / 12)
    assert flight.pilot.stage == RUNNING
    flight.feed()
    motion = flight.pilot.command()
    assert motion.positions.shape[1] == 4
    assert np.abs(motion.positions - list(MEASURED.values())).max() < 0.01
    assert np.abs(motion.velocities[-1]).max() < 1e-6


def test_its_base_follows_from_where_the_odometry_has_it(robot):
    flight = Flight(robot, 'place_and_drive')
    assert flight.think() is not None, flight.pilot.reason
    follow = flight.pilot.take_follow()
    assert follow.pose == tuple(POSE.values())


def test_it_holds_when_its_camera_goes_silent(robot):
    flight = Flight(robot, 'place')
    assert flight.think() is not None
    for _ in range(20):
        flight.feed(pictures=False)
        flight.pilot.watch()
    assert flight.pilot.stage == HOLDING
    assert 'overhead' in flight.pilot.reason


def test_a_joint_outside_its_limits_is_refused_by_name(robot):
    flight = Flight(robot, 'place')
    flight.joints['quill'] = 0.3  # its limit is 0.15 m, so the chunk begins far from there
    assert flight.think() is None
    refused, reason = flight.pilot.take_refused()
    assert refused.names == robot.action_names()
    assert 'quill' in reason
    assert flight.pilot.command() is None


def test_what_goes_out_has_its_topics_names_and_rates(robot):
    pytest.importorskip('trajectory_msgs.msg')
    from qwen_vla_ros.command import output_of
    from qwen_vla_ros.output_kinds import JointRows

    flight = Flight(robot, 'place')
    assert flight.think() is not None
    flight.feed()
    motion, names = flight.pilot.command(), robot.action_names()
    sent = {}
    for group in flight.pilot.groups:
        columns = [names.index(name) for name in group.names]
        rows = JointRows(
            group.names,
            motion.times_s,
            motion.positions[:, columns],
            motion.velocities[:, columns],
            motion.now_ns,
        )
        plan = output_of(group.output.type).plan(rows, group.output.options)
        sent[group.output.topic] = [timed.message for timed in plan.timed]
    (trajectory,) = sent['scara/trajectory']
    assert trajectory.joint_names == ['shoulder', 'elbow', 'quill']
    assert (trajectory.header.stamp.sec, trajectory.header.stamp.nanosec) == (0, 0)  # on receipt
    cups = sent['suction/commands']
    assert len(cups) >= 0.2 * 40
    assert all(len(cup.data) == 1 and 0.49 < cup.data[0] < 0.51 for cup in cups)
