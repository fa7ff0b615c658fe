"""One model object drives several robots, each with its views, layout, statistics and noise."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import TrainedRobot, load_checkpoint, save_checkpoint
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.initialise import fit_robots
from qwen_vla_ros.model.processor import train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.policy import PolicyMismatch, load_policies, load_policy
from qwen_vla_ros.remote import PolicyServer, PolicyUnavailable, RemotePolicy
from qwen_vla_ros.transforms import Quantiles
from qwen_vla_ros.types import Observation

ROBOTS = ('widowx', 'aloha', 'mobile_base')


def quantiles(names):
    return Quantiles(tuple(names), -np.ones(len(names)), np.ones(len(names)))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a checkpoint of random weights for three robots."""
    contracts = [Embodiment.load(name) for name in ROBOTS]
    texts = [c.prompt('go there') for c in contracts]
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp('several') / 'checkpoint'
    robots = [
        TrainedRobot(
            contract,
            contract.default_layout,
            {
                'actions': quantiles(contract.action_names()),
                'state': quantiles(contract.state_names),
            },
        )
        for contract in contracts
    ]
    config = fit_robots(preset('tiny'), robots)
    tokenizer = train_tokenizer(texts, 400, config.inputs.views)
    save_checkpoint(place, QwenVLA(config).eval(), tokenizer, robots, {})
    return place


def observation(name, seed=0, stamp_ns=1):
    contract, rng = Embodiment.load(name), np.random.default_rng(seed)
    return Observation(
        {
            camera.view: rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in contract.cameras
        },
        rng.uniform(-1, 1, len(contract.state_names)).astype(np.float32),
        contract.state_names,
        'go there',
        stamp_ns,
        contract.name,
    )


@pytest.mark.parametrize('name', ROBOTS)
def test_one_model_gives_every_robot_chunks_of_its_own_layout(folder, name):
    policies = load_policies(folder, 'cpu')
    contract, policy = Embodiment.load(name), policies.open(name)
    chunk = policy.infer(observation(name))
    assert chunk.names == tuple(contract.action_names())
    assert chunk.actions.shape == (contract.horizon, len(contract.action_names()))
    assert chunk.step_s == pytest.approx(contract.step_s)
    alone = load_policy(folder, contract, 'cpu').infer(observation(name))
    np.testing.assert_array_equal(chunk.actions, alone.actions)


def test_the_model_is_there_once(folder):
    policies = load_policies(folder, 'cpu')
    engines = {id(policies.open(name)._engine) for name in ROBOTS}
    assert len(engines) == 1


def test_three_robots_at_one_server_do_not_disturb_one_another(folder):
    alone = {}
    for name in ROBOTS:
        policy = load_policies(folder, 'cpu').open(name)
        alone[name] = [policy.infer(observation(name, i, i + 1)).actions for i in range(3)]
    with PolicyServer(load_policies(folder, 'cpu'), port=0) as server:
        clients = {name: RemotePolicy(server.address, robot=name) for name in ROBOTS}
        try:
            assert {n: c.metadata['embodiment'] for n, c in clients.items()} == {
                name: Embodiment.load(name).name for name in ROBOTS
            }
            for index in range(3):
                for name, client in clients.items():
                    chunk = client.infer(observation(name, index, index + 1))
                    np.testing.assert_allclose(chunk.actions, alone[name][index], atol=1e-5)
                clients['aloha'].infer(observation('aloha', 9, 9 + index))
                clients['aloha'].reset()
                for again in range(index + 1):
                    clients['aloha'].infer(observation('aloha', again, again + 1))
        finally:
            for client in clients.values():
                client.close()


def test_a_robot_that_it_was_not_trained_for_is_refused_by_name(folder):
    other = SimpleNamespace(name='franka')
    with pytest.raises(PolicyMismatch, match='drives aloha, mobile_base, widowx'):
        load_policy(folder, other, 'cpu')
    with pytest.raises(QwenVlaError, match='name one of them'):
        load_checkpoint(folder, 'cpu').robot()
    with (
        PolicyServer(load_policies(folder, 'cpu'), port=0) as server,
        pytest.raises(PolicyUnavailable, match="'franka' is none of them"),
    ):
        RemotePolicy(server.address, robot='franka', connect_timeout_s=0.5)
