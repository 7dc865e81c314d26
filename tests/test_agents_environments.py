"""What can be passed as `env`: reproduced exactly, or refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from agents_toys import DRIFT, SWIMMER, Drift
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformReward,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from es_rl.agents import NRES
from es_rl.agents.vec_env import NativeVecEnv
from es_rl.envs import GymnasiumTask, MujocoTask, MujocoVectorEnv


def make_agent(env: Any, **changes: Any) -> Any:
    return NRES("LinearPolicy", env, **{**SWIMMER, **changes})


def trained(env: Any, **changes: Any) -> Any:
    agent = make_agent(env, **changes)
    agent.learn(300)
    return agent.policy.core.theta


def task_of(agent: Any) -> Any:
    return agent._ready().estimator.task.task


def heavier() -> Any:
    env = gym.make("Swimmer-v5")
    env.unwrapped.model.body_mass[:] *= 2.0  # type: ignore[attr-defined]
    return env


def heavy_pendulum() -> Any:
    env = gym.make("Pendulum-v1")
    env.unwrapped.m = 2.0  # type: ignore[attr-defined]
    return env


def plain_vec_env() -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("Swimmer-v5")])


FACES = {
    "environment": lambda: gym.make("Swimmer-v5"),
    "monitored": lambda: Monitor(RecordEpisodeStatistics(gym.make("Swimmer-v5"))),
    "rendering": lambda: gym.make("Swimmer-v5", render_mode="rgb_array"),
    "spec": lambda: gym.spec("Swimmer-v5"),
    "callable": lambda: lambda: gym.make("Swimmer-v5"),
    "monitored callable": lambda: lambda: Monitor(gym.make("Swimmer-v5")),
    "DummyVecEnv": lambda: make_vec_env("Swimmer-v5", n_envs=2),
    "wrapped VecEnv": lambda: VecMonitor(VecCheckNan(plain_vec_env())),
    "idle VecNormalize": lambda: VecNormalize(
        make_vec_env("Swimmer-v5"), norm_obs=False, norm_reward=False
    ),
    "NativeVecEnv": lambda: NativeVecEnv("Swimmer-v5", n_envs=3),
    "MujocoVectorEnv": lambda: MujocoVectorEnv("Swimmer-v5", num_envs=3),
    "make_vec": lambda: gym.make_vec("Swimmer-v5", num_envs=2, vectorization_mode="sync"),
    "es_rl make_vec": lambda: gym.make_vec("es_rl/Swimmer-v5", num_envs=2),
    "SyncVectorEnv": lambda: gym.vector.SyncVectorEnv([lambda: gym.make("Swimmer-v5")] * 2),
}


@pytest.mark.parametrize("name", list(FACES))
def test_every_way_to_name_an_environment_trains_natively_on_it(name: str) -> None:
    face = FACES[name]()
    agent = make_agent(face)
    agent.learn(300)
    np.testing.assert_array_equal(agent.policy.core.theta, trained("Swimmer-v5"))
    assert isinstance(task_of(agent), MujocoTask)
    env = agent.get_env()
    if "VecEnv" in name:
        assert env is face
        assert agent.n_envs == face.num_envs
    if isinstance(face, gym.Env):
        assert env.envs[0].unwrapped is face.unwrapped
    env.close()
    if face is not env and hasattr(face, "close"):
        face.close()


def test_environments_in_other_processes_are_asked_for_their_spec() -> None:
    face = gym.vector.AsyncVectorEnv([lambda: gym.make("Swimmer-v5", frame_skip=2)])
    assert make_agent(face).env_kwargs == {"frame_skip": 2}
    face.close()


def test_a_subproc_vec_env_is_asked_for_its_spec() -> None:
    face = SubprocVecEnv([lambda: gym.make("Swimmer-v5", frame_skip=2)])
    agent = make_agent(face)
    assert agent.env_kwargs == {"frame_skip": 2}
    np.testing.assert_array_equal(
        trained(face), trained("Swimmer-v5", env_kwargs={"frame_skip": 2})
    )
    face.close()


def test_keyword_arguments_and_time_limits_are_kept() -> None:
    kwargs = {"frame_skip": 2, "ctrl_cost_weight": 0.5}
    plain = trained("Swimmer-v5")
    by_id = trained("Swimmer-v5", env_kwargs=kwargs)
    made = trained(gym.make("Swimmer-v5", **kwargs))
    np.testing.assert_array_equal(by_id, made)
    assert not np.array_equal(by_id, plain)
    for face in (
        gym.make("Swimmer-v5", max_episode_steps=25),
        TimeLimit(gym.make("Swimmer-v5"), 25),
        make_vec_env("Swimmer-v5", env_kwargs={"max_episode_steps": 25}),
        gym.make_vec("Swimmer-v5", max_episode_steps=25, vectorization_mode="sync"),
        lambda: gym.make("Swimmer-v5", max_episode_steps=25),
    ):
        agent = make_agent(face, horizon=None)
        assert agent._ready().estimator.horizon == 25
    limited = trained("Swimmer-v5", horizon=None, env_kwargs={"max_episode_steps": 25})
    np.testing.assert_array_equal(limited, trained("Swimmer-v5", horizon=25))


def test_both_engines_train_alike() -> None:
    agent = make_agent("Swimmer-v5", engine="gymnasium", n_threads=0)
    assert isinstance(task_of(agent), GymnasiumTask)
    agent.learn(300)
    np.testing.assert_array_equal(agent.policy.core.theta, trained("Swimmer-v5"))
    with pytest.raises(ValueError, match="engine='native'"):
        make_agent("CartPole-v1", engine="native")


def test_a_callable_makes_the_copies_whatever_it_does() -> None:
    native, twin = make_agent(heavier), make_agent(heavier, engine="gymnasium", n_threads=0)
    assert isinstance(task_of(native), MujocoTask)
    for agent in (native, twin):
        agent.learn(300)
    np.testing.assert_array_equal(native.policy.core.theta, twin.policy.core.theta)
    assert not np.array_equal(native.policy.core.theta, trained("Swimmer-v5"))

    def doubled() -> Any:
        return TransformReward(gym.make("Swimmer-v5"), lambda reward: 2.0 * reward)

    agent = make_agent(doubled, n_threads=0, learning_rate=0.25)
    assert isinstance(task_of(agent), GymnasiumTask)
    agent.learn(300)
    np.testing.assert_allclose(agent.policy.core.theta, trained("Swimmer-v5"), rtol=1e-6)


def test_a_callable_gets_its_keyword_arguments() -> None:
    agent = make_agent(Drift, n_threads=0, env_kwargs={"bonus": 7.0}, learning_rate=1e-9)
    agent.learn(500)
    assert all(info["r"] > 5.0 * info["l"] for info in agent.ep_info_buffer)
    assert agent.get_env().envs[0].unwrapped.bonus == 7.0


def test_worker_processes_give_what_one_process_gives() -> None:
    here, workers = (make_agent(lambda: Drift(bonus=0.5), n_threads=n, horizon=20) for n in (0, 2))
    for agent in (here, workers):
        agent.learn(600)
    np.testing.assert_array_equal(here.policy.core.theta, workers.policy.core.theta)
    assert here.num_timesteps == workers.num_timesteps


REFUSED = {
    "reward wrapper": (
        lambda: TransformReward(gym.make("Swimmer-v5"), lambda reward: 2 * reward),
        "is wrapped in .*TransformReward.* pass a callable",
    ),
    "observation wrapper inside a Monitor": (
        lambda: Monitor(NormalizeObservation(gym.make("Swimmer-v5"))),
        "NormalizeObservation",
    ),
    "wrapper inside a VecEnv": (
        lambda: make_vec_env("Swimmer-v5", wrapper_class=NormalizeObservation),
        "NormalizeObservation",
    ),
    "VecNormalize": (
        lambda: VecNormalize(make_vec_env("Swimmer-v5"), norm_obs=False),
        "VecNormalize changes what the policy sees or earns",
    ),
    "VecNormalize of observations": (
        lambda: VecMonitor(VecNormalize(plain_vec_env(), norm_reward=False)),
        "VecNormalize changes what the policy sees or earns",
    ),
    "VecFrameStack": (
        lambda: VecFrameStack(make_vec_env("Swimmer-v5"), 2),
        "VecFrameStack may change",
    ),
    "vector wrapper": (
        lambda: gym.wrappers.vector.NormalizeReward(
            gym.make_vec("Swimmer-v5", vectorization_mode="sync")
        ),
        "NormalizeReward may change",
    ),
    "wrappers of make_vec": (
        lambda: gym.make_vec(
            "Swimmer-v5",
            vectorization_mode="sync",
            wrappers=[lambda env: FrameStackObservation(env, 2)],
        ),
        "may change",
    ),
    "changed model": (heavier, "model of this Swimmer-v5 was changed after it was made"),
    "changed attribute inside a VecEnv": (
        lambda: DummyVecEnv([lambda: Monitor(heavy_pendulum())]),
        "m of this Pendulum-v1 was changed after it was made",
    ),
    "changed attribute inside a SyncVectorEnv": (
        lambda: gym.vector.SyncVectorEnv([lambda: gym.make("Pendulum-v1"), heavy_pendulum]),
        "m of this Pendulum-v1 was changed after it was made",
    ),
    "unregistered": (Drift, "has no spec to make copies from"),
    "different copies": (
        lambda: DummyVecEnv([lambda: gym.make(DRIFT), lambda: gym.make(DRIFT, bonus=1.0)]),
        "its copies are of different environments",
    ),
    "not an environment": (lambda: 3, "pass an environment's id"),
    "a callable of something else": (lambda: dict, "returned a dict"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_training_could_not_reproduce_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make_agent(make())


def test_an_environment_in_use_is_not_mistaken_for_a_changed_one() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    for _ in range(5):
        env.step(1)
    make_agent(env, n_threads=0)


def test_keyword_arguments_for_a_made_environment_are_refused() -> None:
    with pytest.raises(ValueError, match=r"env_kwargs=.*made already"):
        make_agent(gym.make("Swimmer-v5"), env_kwargs={"frame_skip": 2})


def test_set_env_goes_on_with_the_same_environment_and_restarts_on_another(tmp_path: Any) -> None:
    agent, other = make_agent("Swimmer-v5"), make_agent("Swimmer-v5")
    for one in (agent, other):
        one.learn(300)
    face = make_vec_env("Swimmer-v5", n_envs=2)
    agent.set_env(face)
    assert agent.get_env() is face
    for one in (agent, other):
        one.learn(1, reset_num_timesteps=False)
    np.testing.assert_array_equal(agent.policy.core.theta, other.policy.core.theta)
    before, theta = agent.num_timesteps, agent.policy.core.theta.copy()
    agent.set_env("Swimmer-v4")
    agent.learn(1, reset_num_timesteps=False)
    # a new start, which uses up the budget
    assert agent.num_timesteps == before + 120
    np.testing.assert_array_equal(agent.policy.core.theta, theta)
    with pytest.raises(ValueError, match="do not match"):
        agent.set_env("HalfCheetah-v5")
    with pytest.raises(ValueError, match="VecNormalize"):
        agent.set_env(VecNormalize(make_vec_env("Swimmer-v5")))


def test_making_an_old_version_is_quiet(capfd: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    NRES("LinearPolicy", "HalfCheetah-v4", n_pairs=1, horizon=20, unroll_length=10).learn(50)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not list(tmp_path.iterdir())
