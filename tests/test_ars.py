"""Augmented random search: one update beside sb3-contrib's, and what makes it more than FullES."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import reference
import torch
from gymnasium import spaces
from sb3_contrib import ARS as ContribARS
from systems import EndingSystem, LoopTask

from es_rl.config_layers import resolve
from es_rl.envs import GymnasiumTask
from es_rl.estimators import ARS, FullES
from es_rl.optimizers import SGD
from es_rl.policies import LinearPolicy
from es_rl.trainer import Trainer

_THETA = np.array([0.6, -0.2, 0.5])


class Pole(gym.Env[Any, Any]):
    """Falls from a fixed start, after an episode whose length depends on the actions."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-10, 10, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._state, self._steps = np.array([0.5, -0.25, 1.0]), 0
        return self._state.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        push = np.asarray(action, np.float64)
        self._state = self._state * [1.1, 0.9, 1.0] + [0.3 * push[0], 0.2 * push[1], 0.0]
        self._steps += 1
        fell = bool(abs(self._state[0]) > 1.5)
        reward = 1.0 - float(np.sum(self._state[:2] ** 2))
        return self._state.astype(np.float32), reward, fell, self._steps >= 30, {}


@pytest.mark.parametrize(("n_top", "offset"), [(7, 0.0), (3, -1.0)])
def test_one_update_is_that_of_sb3_contrib(monkeypatch, n_top, offset):
    n, sigma, rate, seed = 7, 0.4, 0.07, 5
    noise = np.stack([reference.noise(seed, pair, 0, 0, sigma, 6) for pair in range(n)])
    contrib = ContribARS(
        "LinearPolicy", Pole(), n_delta=n, n_top=n_top, delta_std=sigma, learning_rate=rate,
        alive_bonus_offset=offset, seed=0, device="cpu",
    )  # fmt: skip
    deltas = torch.from_numpy(noise / sigma).float()
    monkeypatch.setattr("sb3_contrib.ars.ars.th.normal", lambda **_: deltas)
    contrib.learn(1)
    monkeypatch.undo()
    theirs = contrib.policy.parameters_to_vector()
    assert contrib._n_updates == 1

    # its `predict` clips actions
    policy = LinearPolicy(Pole().observation_space, Pole().action_space, clip_actions=True)
    with GymnasiumTask(lambda: Pole(), policy, n_workers=0) as task:
        estimator = ARS(
            task, n_pairs=n, sigma=sigma, top_pairs=n_top, reward_offset=-offset, horizon=30,
            seed=seed,
        )  # fmt: skip
        trainer = Trainer(estimator, SGD(6, rate), np.zeros(6))
        record = trainer.update()
    assert record.total_steps < 2 * n * 30  # some episodes end early, so the offset counts
    step = np.abs(theirs).max()
    assert step > 0.01
    # float32 weights and returns there
    np.testing.assert_allclose(trainer.theta, theirs, rtol=0, atol=3e-6 * step)


def test_weights_are_differences_over_the_deviation_of_the_best_pairs_returns():
    estimator = ARS(LoopTask(EndingSystem, 9), n_pairs=11, sigma=0.3, top_pairs=4, seed=3)
    estimator.reset(_THETA)
    window = estimator.unroll_window(_THETA)
    losses = window.parts[0].losses.reshape(-1, 2)
    best = np.argsort(losses.min(axis=1))[:4]
    noise = estimator._epsilon[best]
    d = losses[best, 0] - losses[best, 1]
    expected = d @ noise / (0.3 * 4 * losses[best].std(ddof=1))
    np.testing.assert_allclose(estimator.gradient(window), expected, rtol=1e-12)


def test_without_its_options_it_is_fulles_in_every_bit():
    made = []
    for kind in (ARS, FullES):
        estimator = kind(LoopTask(EndingSystem, 9), n_pairs=11, sigma=0.3, shaping="none", seed=3)
        estimator.reset(_THETA)
        made.append([estimator.estimate(_THETA).gradient for _ in range(3)])
    np.testing.assert_array_equal(*made)


def test_one_pair_moves_by_its_own_deviation():
    # R⁺ - R⁻ over the deviation of the two is √2 or -√2, whatever they are
    estimator = ARS(LoopTask(EndingSystem, 9), n_pairs=1, sigma=0.3, seed=3)
    estimator.reset(_THETA)
    gradient = estimator.estimate(_THETA).gradient
    np.testing.assert_allclose(np.abs(gradient), np.sqrt(2) / 0.3 * np.abs(estimator._epsilon[0]))


def test_config_shapes_by_the_returns_unless_told_otherwise():
    config = resolve({"env": "Swimmer-v4", "algo": "ars"}).config
    assert (config.shaping, config.unroll_length) == ("returns", None)
    assert resolve({"env": "Swimmer-v4", "algo": "ars", "shaping": "std"}).config.shaping == "std"
