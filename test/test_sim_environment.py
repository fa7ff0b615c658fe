"""The gymnasium face of the tabletop."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import ENVIRONMENT_ID, TabletopEnv, run_episode
from qwen_vla_ros.sim.expert import ExpertPolicy
from qwen_vla_ros.types import ActionChunk, Observation


@pytest.fixture
def env() -> Iterator[TabletopEnv]:
    env = TabletopEnv(images=False)
    yield env
    env.close()


class Fixed:
    """A policy that always answers with the same rows."""

    metadata: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, rows: int, names: tuple[str, ...], step_s: float = 0.2) -> None:
        self.chunk = np.zeros((rows, len(names)), np.float32), names, step_s

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        actions, names, step_s = self.chunk
        return ActionChunk(actions, names, observation.stamp_ns, step_s)

    def reset(self) -> None:
        """Nothing to forget."""


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_it_is_registered_and_keeps_gymnasiums_rules() -> None:
    made = gymnasium.make(ENVIRONMENT_ID, size=(48, 64))
    check_env(made.unwrapped, skip_render_check=True)
    made.close()


def test_an_observation_has_what_a_robot_gives() -> None:
    env = TabletopEnv()
    env.reset(seed=2)
    seen = env.observation()
    assert {view: image.shape for view, image in seen.images.items()} == {
        'ego': (480, 640, 3),
        'cam_right_wrist': (480, 640, 3),
    }
    assert seen.state_names == arm.JOINT_NAMES and seen.state.dtype == np.float32
    assert seen.embodiment == 'widowx' and env.target in seen.instruction
    env.close()


def test_a_step_reaches_the_action_after_0_2_s(env: TabletopEnv) -> None:
    env.reset(seed=0)
    goal = env.world.positions() + [0.1, 0, 0, 0, 0, 0, 0]
    fields, reward, terminated, truncated, facts = env.step(goal)
    assert facts['elapsed_s'] == pytest.approx(0.2)
    assert fields['state'] == pytest.approx(goal, abs=0.01)
    assert (reward, terminated, truncated) == (0.0, False, False)


def test_an_action_that_is_not_finite_is_refused(env: TabletopEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(QwenVlaError, match='bad action'):
        env.step(np.full(7, np.nan))


def test_the_same_seed_gives_the_same_task(env: TabletopEnv) -> None:
    first, second = (env.reset(seed=11)[1] | {'said': env.instruction} for _ in range(2))
    assert first == second


def test_a_sentence_sets_the_target(env: TabletopEnv) -> None:
    _, facts = env.reset(seed=5)
    name = facts['objects'][2]
    env.reset(seed=5, options={'instruction': f'go to the {name}'})
    assert env.target == name and env.instruction == f'go to the {name}'


def test_the_expert_ends_an_episode_with_reward(env: TabletopEnv) -> None:
    result = run_episode(ExpertPolicy(env.world.object_positions), 1, env=env)
    assert result['success'] and result['first_touched'] == result['target']
    assert result['elapsed_s'] < 5 and result['inferences'] > 1


def test_touching_another_object_ends_the_episode_without_success(env: TabletopEnv) -> None:
    _, facts = env.reset(seed=1)
    told, target = facts['objects'][:2]
    result = run_episode(
        ExpertPolicy(env.world.object_positions), 1, target, f'touch the {told}', env=env
    )
    assert not result['success'] and result['first_touched'] == told
    assert result['elapsed_s'] < 5


def test_an_idle_policy_is_truncated_after_12_s(env: TabletopEnv) -> None:
    policy = ExpertPolicy(env.world.object_positions)
    result = run_episode(policy, 1, instruction='wait', replan_steps=15, env=env)
    assert result['first_touched'] is None and result['elapsed_s'] == pytest.approx(12.0)


@pytest.mark.parametrize(
    ('policy', 'reason'),
    [
        (Fixed(16, arm.JOINT_NAMES[:6]), 'absolute joints'),
        (Fixed(1, arm.JOINT_NAMES), 'at least 2 rows'),
        (Fixed(16, arm.JOINT_NAMES, 0.1), '0.2 s apart'),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(
    env: TabletopEnv, policy: Fixed, reason: str
) -> None:
    with pytest.raises(QwenVlaError, match=reason):
        run_episode(policy, 0, env=env)
