"""Any Gymnasium environment as a task: windows, counts, sources and options."""

from __future__ import annotations

import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from gymnasium_tasks import assert_same, full, linear, open_task, started

from es_rl.envs.gymnasium_task import GymnasiumTask
from es_rl.estimators import GPES, NRES, PES, TES, FullES
from es_rl.policies import MlpPolicy
from es_rl.tasks import UnrolledTask

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"]


# --- windows ---------------------------------------------------------------------------------


def test_a_window_has_the_closed_form_loss_of_its_environment():
    with open_task("Line-v0", limit=3.0) as task:
        assert isinstance(task, UnrolledTask)
        assert (task.num_params, task.horizon, task.name) == (1, 20, "Line-v0")
        task.allocate(3)
        rows, seeds = np.arange(3), np.array([4, 4, 2**64 - 1], np.uint64)
        task.reset(rows, seeds)
        starts = [1.0 + np.random.Generator(np.random.PCG64(int(s))).random() for s in seeds]
        thetas = np.array([[-0.5], [0.25], [0.0]])
        first = task.unroll(rows, thetas, np.array([4, 30, 0]))
        # x_t = x_0 (1 + θ)^t
        assert first.steps_taken[0] == 4
        np.testing.assert_allclose(
            first.loss_sum[0], sum((starts[0] * 0.5**t) ** 2 for t in range(1, 5)), rtol=1e-14
        )
        # the first t with x_0 1.25^t > 3
        last = int(np.floor(np.log(3.0 / starts[1]) / np.log(1.25))) + 1
        np.testing.assert_array_equal(first.steps_taken, [4, last, 0])
        np.testing.assert_allclose(
            first.loss_sum[1], sum((starts[1] * 1.25**t) ** 2 for t in range(1, last + 1)), 1e-14
        )
        np.testing.assert_array_equal(first.ended, [False, True, False])
        # an ended row takes no step; the others go on where they stood
        second = task.unroll(rows, thetas, full(3, 2))
        np.testing.assert_array_equal(second.steps_taken, [2, 0, 2])
        np.testing.assert_array_equal(second.ended, [False, True, False])
        assert second.loss_sum[1] == 0.0
        np.testing.assert_allclose(second.loss_sum[2], 2 * starts[2] ** 2, rtol=1e-14)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_windows_are_bit_for_bit_those_of_a_plain_loop(env_id):
    """Two windows past the registered time limit, which must not cut them."""
    policy = linear(env_id)
    env = gym.make(env_id, max_episode_steps=-1, disable_env_checker=True)
    limit = gym.spec(env_id).max_episode_steps
    windows = [7, min(limit, 300) + 3]
    with GymnasiumTask(env_id, policy, n_workers=0) as task:
        assert task.horizon == limit
        rows, thetas = started(task, 2)
        results = [task.unroll(rows, thetas, full(2, n)) for n in windows]
    for row in rows:
        observation, _ = env.reset(seed=11 + int(row))
        ended = False
        for window, result in zip(windows, results, strict=True):
            total, taken = 0.0, 0
            while taken < window and not ended:
                action = policy.act(thetas[row], observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                total -= float(reward)
                taken += 1
                ended = terminated or truncated
            assert (result.loss_sum[row], result.steps_taken[row]) == (total, taken)
            assert result.ended[row] == ended


def test_max_episode_steps_sets_the_horizon_and_ends_nothing():
    with open_task("Line-v0", max_episode_steps=5) as task:
        rows, thetas = started(task, 1)
        assert task.horizon == 5
        assert task.unroll(rows, thetas, full(1, 9)).steps_taken[0] == 9
    with open_task("Line-v0", max_episode_steps=-1) as task:
        assert task.horizon is None


def scenario(env_id, n_workers):
    """Unroll rows in odd orders and amounts, copy and reset some; return all that came out."""
    results = []
    with open_task(env_id, n_workers) as task:
        rows, thetas = started(task, 7)
        order = np.array([6, 0, 3, 1, 5, 2, 4])
        results += task.unroll(order, thetas, np.array([3, 9, 0, 4, 12, 1, 6]))
        task.copy_rows(np.array([6, 6, 2]), np.array([0, 1, 5]))
        results += task.unroll(rows, thetas, full(7, 5))
        task.reset(np.array([3, 0]), np.array([77, 78], np.uint64))
        results += task.unroll(order, thetas, full(7, 4))
        results += task.get_state().values()
    return results


@pytest.mark.parametrize(("env_id", "n_workers"), [("CartPole-v1", 2), ("Hopper-v4", 3)])
def test_results_do_not_depend_on_the_number_of_workers(env_id, n_workers):
    assert_same(scenario(env_id, 0), scenario(env_id, n_workers))


def test_discrete_and_layered_policies_act_as_their_predict_does():
    env = gym.make("CartPole-v1")
    policy = MlpPolicy(env.observation_space, env.action_space, hidden=(5,))
    policy.theta = policy.initial_theta(1.0, seed=3)
    with GymnasiumTask("CartPole-v1", policy, n_workers=0) as task:
        task.allocate(1)
        task.reset(np.array([0]), np.array([9], np.uint64))
        length = task.unroll(np.array([0]), policy.theta[None], full(1, 500)).steps_taken[0]
    observation, _ = env.reset(seed=9)
    steps, ended = 0, False
    while not ended:
        observation, _, ended, _, _ = env.step(policy.predict(observation)[0])
        steps += 1
    assert steps == length


# --- counts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counting_tasks(tmp_path_factory):
    """Return (task, file of steps) without and with a worker; episodes last 3 to 20 steps."""
    counts = [tmp_path_factory.mktemp("steps") / "count" for _ in range(2)]
    for count in counts:
        count.touch()
    with (
        open_task("Line-v0", 0, limit=3.0, count=str(counts[0])) as here,
        open_task("Line-v0", 1, limit=3.0, count=str(counts[1])) as worker,
    ):
        yield [(here, counts[0]), (worker, counts[1])]


@pytest.mark.parametrize("estimator", [FullES, TES, PES, NRES, GPES])
def test_estimators_are_charged_for_the_steps_that_environments_took(estimator, counting_tasks):
    """Many episodes end inside a window; without and with a worker, the gradients agree."""
    options = {"n_pairs": 4, "sigma": 0.2, "seed": 3}
    if estimator is not FullES:
        options["unroll_length"] = 4
    if estimator is GPES:
        options["noise_period"] = 8
    theta = np.array([0.1])
    gradients = []
    for task, count in counting_tasks:
        before = count.stat().st_size
        method = estimator(task, **options)
        total = method.reset(theta).total_steps
        for _ in range(4):
            estimate = method.estimate(theta)
            total += estimate.total_steps
            gradients.append(estimate.gradient)
        assert total == count.stat().st_size - before
    assert_same(gradients[:4], gradients[4:])
    assert np.abs(gradients).min() > 0


# --- sources and options ---------------------------------------------------------------------


MODULE = """
    import gymnasium as gym
    from toy_environments import Line
    class Mine(Line):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, -2.0, *rest
    if "Mine-v0" not in gym.registry:
        gym.register("Mine-v0", entry_point=Mine, max_episode_steps=7)
"""


def test_environments_come_from_modules_specs_and_callables(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = linear("Line-v0")

    def check(task, name, horizon):
        with task:
            rows, thetas = started(task, 2)
            assert (task.name, task.env_id, task.horizon) == (name, name, horizon)
            assert (task.unroll(rows, thetas, full(2, 9)).loss_sum == 18.0).all()

    with pytest.raises(gym.error.NameNotFound):
        GymnasiumTask("Mine-v0", policy)
    check(GymnasiumTask("Mine-v0", policy, n_workers=1, import_modules=["my_envs"]), "Mine-v0", 7)
    check(GymnasiumTask("my_envs:Mine-v0", policy, n_workers=0), "my_envs:Mine-v0", 7)
    check(GymnasiumTask(gym.spec("Mine-v0"), policy, n_workers=0), "Mine-v0", 7)
    Mine = sys.modules["my_envs"].Mine
    check(GymnasiumTask(lambda limit: Mine(limit), policy, n_workers=1, limit=99.0), "Mine", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_workers": -1}, "n_workers=-1"),
        ({"n_workers": 0, "step_timeout": 1.0}, "step_timeout=1.0"),
        ({"step_timeout": 0.0}, "step_timeout=0.0"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"max_episode_steps": 2.5}, "max_episode_steps=2.5"),
        ({"policy": "CartPole-v1"}, "policy does not fit Line-v0"),
    ],
)
def test_bad_options_are_named(options, message):
    policy = linear(options.pop("policy", "Line-v0"))
    with pytest.raises(ValueError, match=message):
        GymnasiumTask("Line-v0", policy, **options)


def test_bad_arguments_are_named():
    rows = np.arange(2)
    with open_task("Line-v0") as task:
        with pytest.raises(RuntimeError, match="allocate rows first"):
            task.get_state()
        with pytest.raises(RuntimeError, match="allocate rows first"):
            task.unroll(rows, np.zeros((2, 1)), full(2, 1))
        with pytest.raises(ValueError, match="n_rows=0"):
            task.allocate(0)
        task.allocate(2)
        with pytest.raises(ValueError, match="seeds"):
            task.reset(rows, np.zeros(3, np.uint64))
        with pytest.raises(ValueError, match="from 0 to 1"):
            task.reset(np.array([2]), np.zeros(1, np.uint64))
        with pytest.raises(ValueError, match="only once"):
            task.reset(np.array([1, 1]), np.zeros(2, np.uint64))
        with pytest.raises(ValueError, match="reset them first"):
            task.copy_rows(rows[:1], rows[1:])
        task.reset(rows, np.zeros(2, np.uint64))
        with pytest.raises(ValueError, match=r"thetas of shape \(2, 3\)"):
            task.unroll(rows, np.zeros((2, 3)), full(2, 1))
        with pytest.raises(ValueError, match="not negative"):
            task.unroll(rows, np.zeros((2, 1)), full(2, -1))
        with pytest.raises(ValueError, match="2 source rows for 1 target"):
            task.copy_rows(rows, rows[:1])
