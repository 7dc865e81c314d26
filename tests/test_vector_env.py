"""The native vector environment is Gymnasium's own, bit for bit, only faster."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import es_rl.envs
from es_rl.envs import MujocoVectorEnv
from es_rl.envs.making import make_env
from es_rl.envs.registration import NATIVE_ENVS

MODES = list(AutoresetMode)


@pytest.fixture(autouse=True)
def _gymnasiums_own_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what RL Zoo does to the whole process when another test imports it."""
    lineage = gym.wrappers.TimeLimit.__mro__
    own = next(c for c in lineage if c.__module__.startswith("gymnasium."))
    monkeypatch.setattr(gym.wrappers, "TimeLimit", own)


def twin(env_id: str, n: int, mode: AutoresetMode, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: make_env(env_id, **kwargs)] * n, autoreset_mode=mode)


def assert_same_course(
    ours: MujocoVectorEnv, theirs: SyncVectorEnv, n_steps: int, dtype: type, seed: int = 7
) -> int:
    """Step both with the same random actions; return how many episodes ended."""
    rng = np.random.default_rng(seed)
    ended = 0
    a, b = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
    np.testing.assert_array_equal(a, b)
    space = ours.single_action_space
    assert isinstance(space, gym.spaces.Box)
    for _ in range(n_steps):
        actions = rng.uniform(space.low, space.high, (ours.num_envs, *space.shape)).astype(dtype)
        first, second = ours.step(actions), theirs.step(actions)
        for x, y in zip(first[:4], second[:4], strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        over = first[2] | first[3]
        ended += int(over.sum())
        if ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and over.any():
            np.testing.assert_array_equal(first[4]["_final_obs"], second[4]["_final_obs"])
            for i in np.flatnonzero(over):
                np.testing.assert_array_equal(first[4]["final_obs"][i], second[4]["final_obs"][i])
        if ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            x = ours.reset(options={"reset_mask": over})[0]
            y = theirs.reset(options={"reset_mask": over})[0]
            np.testing.assert_array_equal(x, y)
    return ended


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("env_id", ["Hopper-v4", "Swimmer-v5"])
def test_every_autoreset_mode_is_the_one_of_sync_vector_env(
    env_id: str, mode: AutoresetMode
) -> None:
    kwargs = {"max_episode_steps": 40}
    ours = MujocoVectorEnv(env_id, 5, n_threads=2, autoreset_mode=mode, **kwargs)
    theirs = twin(env_id, 5, mode, **kwargs)
    assert assert_same_course(ours, theirs, 120, np.float64) >= 10
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "env_id", ["Ant-v5", "HalfCheetah-v4", "Reacher-v5", "Walker2d-v5", "Pusher-v5"]
)
def test_single_precision_actions_give_gymnasiums_rewards(env_id: str) -> None:
    ours = MujocoVectorEnv(env_id, 3)
    theirs = twin(env_id, 3, AutoresetMode.NEXT_STEP)
    assert_same_course(ours, theirs, 40, np.float32)
    ours.close()
    theirs.close()


def test_seeds_are_given_per_copy_and_go_on_without_one() -> None:
    ours, theirs = MujocoVectorEnv("Swimmer-v4", 3), twin("Swimmer-v4", 3, MODES[0])
    for seed in (3, None, [5, None, 9], None):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    np.testing.assert_array_equal(
        ours.reset(seed=11)[0][2], make_env("Swimmer-v4").reset(seed=13)[0]
    )
    unseeded = MujocoVectorEnv("Swimmer-v4", 2).reset()[0]
    assert (unseeded[0] != unseeded[1]).any()
    with pytest.raises(ValueError, match="2 seeds for num_envs=3"):
        ours.reset(seed=[1, 2])


def test_generators_and_their_seeds_are_told_for_each_copy() -> None:
    ours, theirs = MujocoVectorEnv("Swimmer-v4", 3), twin("Swimmer-v4", 3, MODES[0])
    assert len(set(ours.np_random_seed)) == 3
    for seed in (3, None, [5, None, 9]):
        ours.reset(seed=seed)
        theirs.reset(seed=seed)
        assert ours.np_random_seed == theirs.np_random_seed
        states = [[g.bit_generator.state for g in envs.np_random] for envs in (ours, theirs)]
        assert states[0] == states[1]


def test_make_vec_finds_every_native_environment() -> None:
    assert len(NATIVE_ENVS) == 21
    for env_id in NATIVE_ENVS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            envs = gym.make_vec(f"es_rl/{env_id}", num_envs=2, n_threads=1)
        assert isinstance(envs.unwrapped, MujocoVectorEnv)
        assert envs.spec is not None
        assert envs.spec.id == f"es_rl/{env_id}"
        observations, _ = envs.reset(seed=0)
        assert envs.observation_space.contains(observations)
        observations, rewards, terminations, truncations, _ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        assert rewards.shape == terminations.shape == truncations.shape == (2,)
        assert terminations.dtype == truncations.dtype == np.bool_
        envs.close()
        envs.close()
        assert envs.closed


def test_vector_wrappers_of_gymnasium_work_on_it() -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(
        MujocoVectorEnv("Swimmer-v5", 4, max_episode_steps=5)
    )
    envs.reset(seed=0)
    info: dict[str, Any] = {}
    for _ in range(5):
        *_, info = envs.step(np.zeros((4, 2)))
    assert info["episode"]["l"].tolist() == [5, 5, 5, 5]


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="num_envs=0"):
        MujocoVectorEnv("Swimmer-v5", 0)
    with pytest.raises(ValueError, match="unknown environment 'Swimer-v5'; did you mean"):
        MujocoVectorEnv("Swimer-v5", 1)
    envs = MujocoVectorEnv("Swimmer-v5", 2, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(np.zeros((2, 2)))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        envs.step(np.zeros((2, 3)))
    envs.step(np.zeros((2, 2)))
    with pytest.raises(RuntimeError, match="copies \\[0, 1\\] are over"):
        envs.step(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True, True]})
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.zeros(2, bool)})


def test_it_is_exported() -> None:
    assert es_rl.envs.MujocoVectorEnv is MujocoVectorEnv
