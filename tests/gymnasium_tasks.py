"""Tasks of Gymnasium environments, and what the tests of them start with."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from es_rl.envs.gymnasium_task import GymnasiumTask
from es_rl.envs.mujoco.quiet import quiet
from es_rl.policies import LinearPolicy


def linear(source):
    """Return a linear policy that fits an environment."""
    with quiet():
        env = gym.make(source) if isinstance(source, str) else source()
    return LinearPolicy(env.observation_space, env.action_space)


def open_task(source, n_workers=0, **options):
    """Return a task with a linear policy."""
    return GymnasiumTask(source, linear(source), n_workers=n_workers, **options)


def some_thetas(task, n_rows, scale=0.1):
    return scale * np.random.default_rng(5).standard_normal((n_rows, task.num_params))


def full(n_rows, value):
    return np.full(n_rows, value, np.int64)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def started(task, n_rows, n_steps=0, seed=11):
    """Allocate, reset and unroll; return (rows, thetas)."""
    rows = np.arange(n_rows)
    thetas = some_thetas(task, n_rows)
    task.allocate(n_rows)
    task.reset(rows, np.arange(seed, seed + n_rows, dtype=np.uint64))
    if n_steps:
        task.unroll(rows, thetas, full(n_rows, n_steps))
    return rows, thetas
