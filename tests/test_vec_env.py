"""Stable-Baselines3 trains on the native vector environment."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from es_rl.agents.vec_env import NativeVecEnv
from es_rl.envs.making import make_env


def test_steps_and_resets_are_those_of_dummy_vec_env() -> None:
    ours = NativeVecEnv("Hopper-v5", n_envs=3, max_episode_steps=20)
    theirs = DummyVecEnv([lambda: make_env("Hopper-v5", max_episode_steps=20)] * 3)
    for env in (ours, theirs):
        env.seed(4)
    np.testing.assert_array_equal(ours.reset(), theirs.reset().astype(np.float64))
    rng = np.random.default_rng(0)
    dones = 0
    for _ in range(60):
        actions = rng.uniform(-1.0, 1.0, (3, 3))
        a, b = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1].astype(np.float32), b[1])
        np.testing.assert_array_equal(a[2], b[2])
        for mine, other in zip(a[3], b[3], strict=True):
            assert ("terminal_observation" in mine) == ("terminal_observation" in other)
            if "terminal_observation" in mine:
                dones += 1
                np.testing.assert_array_equal(
                    mine["terminal_observation"], other["terminal_observation"]
                )
                assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
    assert dones >= 6
    ours.close()
    theirs.close()


def test_ppo_learns_to_balance_on_it() -> None:
    torch.set_num_threads(1)
    env = VecNormalize(NativeVecEnv("InvertedPendulum-v5", n_envs=8))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=0, device="cpu")
    model.learn(1_024)
    early = np.mean([episode["r"] for episode in model.ep_info_buffer])
    model.learn(8_192, reset_num_timesteps=False)
    late = np.mean([episode["r"] for episode in model.ep_info_buffer])
    # an untrained policy balances for about 8 steps; 9,000 steps bring PPO far above that
    assert early < 15
    assert late > 2 * early
    env.close()
