"""Evaluation: plain Gymnasium episodes, and the same numbers from a task's rows."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from systems import LastingSystem, LoopTask

from es_rl.evaluation import Evaluation, evaluate, evaluate_on_task
from es_rl.policies import LinearPolicy
from es_rl.tasks import NonFiniteLossError, UnrollResult

_LIMIT = 12


class Drift(gym.Env):
    """x ← x + action from a random start; the reward is 1 - x²; ends where |x| > 2."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float64)

    def __init__(self, breaks_at=None):
        self.breaks_at = breaks_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = float(self.np_random.normal()), 0
        return np.array([self.x, 1.0]), {}

    def step(self, action):
        self.x += float(action[0])
        self.steps += 1
        reward = float("nan") if self.steps == self.breaks_at else 1 - self.x**2
        return np.array([self.x, 1.0]), reward, abs(self.x) > 2, False, {}


@pytest.fixture(autouse=True)
def _registered():
    gym.register("EsRlTestDrift-v0", entry_point=Drift, max_episode_steps=_LIMIT)
    gym.register("EsRlTestEndless-v0", entry_point=Drift)
    yield
    for name in ("EsRlTestDrift-v0", "EsRlTestEndless-v0"):
        del gym.registry[name]


def _policy(theta, **options):
    policy = LinearPolicy(Drift.observation_space, Drift.action_space, **options)
    policy.theta = np.array(theta)
    return policy


class EnvironmentRows:
    """Rows that are environments, stepped one after another."""

    num_params, horizon, name = 2, _LIMIT, "drift"

    def __init__(self, policy):
        self.policy = policy

    def allocate(self, n_rows):
        self.rows = [Drift() for _ in range(n_rows)]
        self.seen = [None] * n_rows

    def reset(self, rows, seeds):
        for row, seed in zip(rows, seeds, strict=True):
            self.seen[row], _ = self.rows[row].reset(seed=int(seed))

    def unroll(self, rows, thetas, n_steps):
        loss, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        ended = np.zeros(rows.size, bool)
        for i, row in enumerate(rows):
            while taken[i] < n_steps[i] and not ended[i]:
                action = self.policy.act(thetas[i], self.seen[row])
                self.seen[row], reward, ended[i], _, _ = self.rows[row].step(action)
                loss[i] -= reward
                taken[i] += 1
        return UnrollResult(loss, taken, ended)


def _by_hand(theta, seed):
    env, steps, total = Drift(), 0, 0.0
    (x, _), _ = env.reset(seed=seed)
    ended = False
    while not ended and steps < _LIMIT:
        _, reward, ended, _, _ = env.step([theta[0] * x + theta[1]])
        x, total, steps = env.x, total + reward, steps + 1
    return total, steps


@pytest.mark.parametrize("theta", [[-0.5, 0.1], [0.2, 0.3]])
def test_rewards_and_lengths_are_those_of_the_episodes(theta):
    result = evaluate(_policy(theta), "EsRlTestDrift-v0", n_episodes=7, seed=30)
    expected = [_by_hand(theta, 30 + i) for i in range(7)]
    np.testing.assert_allclose(result.rewards, [total for total, _ in expected], rtol=1e-13)
    assert result.lengths.tolist() == [steps for _, steps in expected]
    assert result.steps == result.lengths.sum()
    assert result.mean == result.rewards.mean()
    assert result.std == result.rewards.std()


def test_episodes_reach_the_limit_and_end_early_in_these_tests():
    assert _by_hand([-0.5, 0.1], 30)[1] == _LIMIT
    assert _by_hand([0.2, 0.3], 30)[1] < _LIMIT


@pytest.mark.parametrize("theta", [[-0.5, 0.1], [0.2, 0.3]])
def test_rows_of_a_task_give_the_very_same_numbers(theta):
    policy = _policy(theta)
    one = evaluate(policy, "EsRlTestDrift-v0", n_episodes=9, seed=5)
    other = evaluate_on_task(EnvironmentRows(policy), policy.theta, n_episodes=9, seed=5)
    np.testing.assert_array_equal(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.lengths, other.lengths)


def test_clipping_follows_the_policy():
    clipped, raw = (_policy([-3.0, 0.0], clip_actions=clip) for clip in (True, False))
    results = [
        evaluate(policy, "EsRlTestDrift-v0", n_episodes=5, seed=0).rewards
        for policy in (clipped, raw)
    ]
    assert (results[0] > results[1]).any()


def test_an_episode_without_loss_has_the_reward_zero_and_not_minus_zero():
    class Nothing(LoopTask):
        def unroll(self, rows, thetas, n_steps):
            none = np.zeros(rows.size)
            return UnrollResult(none, n_steps, none.astype(bool))

    result = evaluate_on_task(Nothing(LastingSystem, 5), np.zeros(3), n_episodes=2)
    assert not np.signbit(result.rewards).any()


def test_progress_is_told_after_each_episode():
    told = []
    result = evaluate(
        _policy([-0.5, 0.1]), "EsRlTestDrift-v0", n_episodes=3, on_episode=lambda *a: told.append(a)
    )
    assert told == [(i + 1, reward) for i, reward in enumerate(result.rewards)]


def test_keyword_arguments_reach_the_environment_and_nan_rewards_are_not_averaged():
    with pytest.raises(NonFiniteLossError, match=r"pair 0 \(mean row\) became nan at step 3"):
        evaluate(_policy([-0.5, 0.1]), "EsRlTestDrift-v0", env_kwargs={"breaks_at": 3})


def test_nan_rewards_on_a_task_are_not_averaged():
    class Broken(LastingSystem):
        def step(self, theta):
            return (np.inf if self.steps == 3 else super().step(theta)[0]), False

    with pytest.raises(NonFiniteLossError, match="evaluation on Broken: the loss of pair 0"):
        evaluate_on_task(LoopTask(Broken, 9), np.zeros(3), n_episodes=2)


def test_an_environment_that_might_never_end_is_refused():
    with pytest.raises(ValueError, match="EsRlTestEndless-v0: it has no time limit"):
        evaluate(_policy([-0.5, 0.1]), "EsRlTestEndless-v0")
    limited = evaluate(
        _policy([-0.5, 0.1]), "EsRlTestEndless-v0", n_episodes=2,
        env_kwargs={"max_episode_steps": 4},
    )  # fmt: skip
    assert limited.lengths.max() == 4
    with pytest.raises(ValueError, match="needs a finite horizon"):
        evaluate_on_task(LoopTask(LastingSystem, None), np.zeros(3), n_episodes=2)


def test_a_policy_for_another_environment_is_refused():
    space = gym.spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match="policy does not fit EsRlTestDrift-v0: its observation"):
        evaluate(LinearPolicy(space, Drift.action_space), "EsRlTestDrift-v0")
    with pytest.raises(ValueError, match="policy does not fit EsRlTestDrift-v0: its action space"):
        evaluate(LinearPolicy(Drift.observation_space, space), "EsRlTestDrift-v0")


@pytest.mark.parametrize("n_episodes", [0, -1])
def test_no_episodes_are_refused(n_episodes):
    with pytest.raises(ValueError, match=f"episodes={n_episodes}: must be a positive"):
        evaluate(_policy([0.0, 0.0]), "EsRlTestDrift-v0", n_episodes=n_episodes)
    with pytest.raises(ValueError, match=f"episodes={n_episodes}: must be a positive"):
        evaluate_on_task(LoopTask(LastingSystem, 5), np.zeros(3), n_episodes=n_episodes)


def test_theta_of_another_size_is_refused_by_a_task():
    with pytest.raises(ValueError, match=r"theta has shape \(1,\), the task takes \(3,\)"):
        evaluate_on_task(LoopTask(LastingSystem, 5), np.zeros(1), n_episodes=2)


def test_an_evaluation_is_plain_numbers():
    result = Evaluation(np.array([1.0, 3.0]), np.array([4, 6]))
    assert (result.mean, result.std, result.steps) == (2.0, 1.0, 10)
