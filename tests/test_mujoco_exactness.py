"""The native engine against the Gymnasium environment itself: the same bits everywhere.

Seeds are fixed and nothing is compared with a tolerance: a single differing bit is a failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from mujoco_cases import CASES, ENV_IDS, case_name, unstable_half_cheetah
from numpy.testing import assert_array_equal

import es_rl
from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.envs.mujoco.make import make_engine
from es_rl.envs.mujoco.quiet import quiet

STEPS = 40
SEEDS = (3, 5, 2**63 + 11)


def actions(env: gym.Env[Any, Any], rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw `n` actions, some of them outside of the bounds, which environments do not clip."""
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    return rng.uniform(-1.5, 1.5, size=(n, *space.shape)) * space.high.astype(np.float64)


@pytest.mark.parametrize(("env_id", "env_kwargs"), CASES, ids=case_name)
def test_observations_rewards_and_terminations_are_gymnasiums(
    env_id: str, env_kwargs: dict[str, Any]
) -> None:
    env = make_env(env_id, **env_kwargs)
    engine, _ = make_engine(env_id, n_threads=1, **env_kwargs)
    engine.allocate(3)
    row, others = np.array([1]), np.array([0, 2])
    engine.reset(others, np.array([7, 8], np.uint64))
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        expected, _ = env.reset(seed=seed)
        engine.reset(row, np.array([seed], np.uint64))
        assert_array_equal(engine.observe(row)[0], expected)
        for action in actions(env, rng, STEPS):
            # other rows' steps leave their own derived quantities in the thread's mjData
            engine.step(others, actions(env, rng, 2))
            expected, reward, terminated, truncated, _ = env.step(action)
            observations, rewards, ended, diverged = engine.step(row, action[None])
            assert_array_equal(observations[0], expected)
            assert rewards[0] == reward
            assert ended[0] == terminated
            assert not diverged[0]
            assert_array_equal(engine.observe(row)[0], expected)
            if terminated or truncated:
                break
    engine.close()
    env.close()


def unroll_in_python(
    env: gym.Env[Any, Any], policy: es_rl.policies.Policy, theta: np.ndarray, seed: int
) -> tuple[float, int, bool]:
    """Return (sum of losses, steps, terminated) of one episode of at most `STEPS` steps."""
    observation, _ = env.reset(seed=seed)
    loss = 0.0
    for step in range(1, STEPS + 1):
        observation, reward, terminated, _, _ = env.step(policy.act(theta, observation))
        loss -= float(reward)
        if terminated:
            return loss, step, True
    return loss, STEPS, False


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_windows_sum_the_losses_of_an_episode_in_gymnasium(env_id: str, kind: str) -> None:
    env = make_env(env_id)
    spaces = env.observation_space, env.action_space
    policy = (
        es_rl.LinearPolicy(*spaces, bias=True)
        if kind == "linear"
        else es_rl.MlpPolicy(*spaces, hidden=(9, 8), clip_actions=True)
    )
    thetas = np.array([policy.initial_theta(0.5, seed=seed) for seed in range(len(SEEDS))])
    seeds = np.array(SEEDS, np.uint64)
    rows = np.array([4, 0, 2])
    with make_task(env_id, policy, engine="native", n_threads=2) as task:
        task.allocate(5)
        task.reset(rows, seeds)
        # several windows of unequal lengths, rows in another order each time
        loss, steps, ended = np.zeros(3), np.zeros(3, np.int64), np.zeros(3, np.bool_)
        for window in (1, 0, 16, STEPS - 17):
            order = np.flatnonzero(~ended)[::-1]
            result = task.unroll(rows[order], thetas[order], np.full(order.size, window))
            steps[order] += result.steps_taken
            ended[order] = result.ended
            loss[order] += result.loss_sum
        task.reset(rows, seeds)
        whole = task.unroll(rows, thetas, np.full(3, STEPS))
    for i, seed in enumerate(SEEDS):
        expected = unroll_in_python(env, policy, thetas[i], seed)
        assert (whole.loss_sum[i], whole.steps_taken[i], whole.ended[i]) == expected
        assert (steps[i], ended[i]) == expected[1:]
    # the same losses, added window by window: 4 roundings of sums of at most 40 terms apart
    np.testing.assert_allclose(loss, whole.loss_sum, rtol=1e-13)
    env.close()


SEVERAL_TREES = ("Pusher-v5", "Reacher-v4", "Reacher-v5")


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_islands_are_looked_for_only_where_the_model_has_several_trees(env_id: str) -> None:
    engine, _ = make_engine(env_id, n_threads=1)
    assert engine.finds_islands == (env_id in SEVERAL_TREES)


@pytest.mark.parametrize("env_id", [name for name in ENV_IDS if name not in SEVERAL_TREES])
def test_island_discovery_changes_nothing_in_a_single_tree(env_id: str) -> None:
    env = make_env(env_id)
    model: mujoco.MjModel = env.unwrapped.model  # type: ignore[attr-defined]
    trajectories = []
    for disabled in (0, int(mujoco.mjtDisableBit.mjDSBL_ISLAND)):
        model.opt.disableflags = disabled
        data, rng = mujoco.MjData(model), np.random.default_rng(0)
        data.qpos[:] += rng.uniform(-0.1, 0.1, model.nq)
        states = []
        for step in range(300):
            if step % 5 == 0:
                data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            mujoco.mj_step(model, data)
            states.append(np.concatenate([data.qpos, data.qvel]))
        trajectories.append(np.array(states))
    assert_array_equal(trajectories[0], trajectories[1])


def test_a_diverging_simulation_is_reported_and_steps_on_as_in_gymnasium(
    tmp_path: Path,
) -> None:
    unstable_xml = unstable_half_cheetah(tmp_path)
    env = make_env("HalfCheetah-v5", xml_file=unstable_xml)
    engine, _ = make_engine("HalfCheetah-v5", xml_file=unstable_xml)
    engine.allocate(1)
    row = np.array([0])
    engine.reset(row, np.array([0], np.uint64))
    env.reset(seed=0)
    data: mujoco.MjData = env.unwrapped.data  # type: ignore[attr-defined]
    n_diverged = 0
    with quiet():
        for action in actions(env, np.random.default_rng(0), 20):
            for counter in data.warning:
                counter.number = 0
            expected, reward, *_ = env.step(action)
            observations, rewards, _, diverged = engine.step(row, action[None])
            assert_array_equal(observations[0], expected)
            assert rewards[0] == reward
            assert diverged[0] == any(counter.number for counter in data.warning)
            n_diverged += int(diverged[0])
    assert n_diverged > 0
