"""Copies and pickles of what runs on the native engine go on as the original does, bit for bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
from agents_toys import DRIFT, SWIMMER
from numpy.testing import assert_array_equal
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from es_rl import NRES, SGD, LinearPolicy, Trainer
from es_rl.agents import AGENTS
from es_rl.envs import MujocoVectorEnv, make_task
from es_rl.envs.making import make_env
from es_rl.envs.mujoco.make import make_engine


def by_cloudpickle(value: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(value))


COPIERS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}
# one of every kind of start, and of what a row carries beside its state
ENVIRONMENTS = ("Swimmer-v4", "Ant-v5", "Reacher-v5", "Pusher-v5", "Humanoid-v5")
_NORMALIZED = {"normalize_observations": True}
N_ROWS = 4
ROWS = np.arange(N_ROWS)


@pytest.fixture(params=COPIERS)
def duplicate(request: Any) -> Callable[[Any], Any]:
    return COPIERS[request.param]


def make(env_id: str, engine: str = "native", normalize: bool = False) -> tuple[Any, Any]:
    """Return a task with rows in mid-episode, and thetas (N_ROWS, d) for them."""
    env = make_env(env_id)
    policy = LinearPolicy(env.observation_space, env.action_space, normalize_observations=normalize)
    env.close()
    task = make_task(env_id, policy, engine=engine, n_threads=1 if engine == "native" else 0)
    task.allocate(N_ROWS)
    task.reset(ROWS, ROWS.astype(np.uint64))
    thetas = np.array([policy.initial_theta(0.1, seed=i) for i in range(N_ROWS)])
    task.unroll(ROWS, thetas, np.full(N_ROWS, 7))
    return task, thetas


def course(task: Any, thetas: Any) -> list[Any]:
    """Unroll, restart a row and unroll again; return all that came out."""
    results = [*task.unroll(ROWS, thetas, np.full(N_ROWS, 5))]
    task.reset(ROWS[:1], np.array([99], np.uint64))
    results += task.unroll(ROWS, thetas, np.full(N_ROWS, 5))
    return results + list(task.get_state().values())


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_task(env_id: str, duplicate: Callable[[Any], Any]) -> None:
    task, thetas = make(env_id)
    expected = course(make(env_id)[0], thetas)
    other = duplicate(task)
    # one after the other: rows that were shared would have moved twice
    for one in (other, task):
        for found, wanted in zip(course(one, thetas), expected, strict=True):
            assert_array_equal(found, wanted)
    task.close()
    other.unroll(ROWS, thetas, np.full(N_ROWS, 5))
    copy.deepcopy(task).close()


def test_a_shallow_copy_of_an_engine_has_rows_of_its_own() -> None:
    engine, _ = make_engine("Swimmer-v5", n_threads=1)
    assert copy.copy(engine).n_rows == 0
    engine.allocate(2)
    engine.reset(ROWS[:2], ROWS[:2].astype(np.uint64))
    before = engine.observe(ROWS[:2])
    other = copy.copy(engine)
    other.step(ROWS[:2], np.ones((2, 2)))
    assert_array_equal(engine.observe(ROWS[:2]), before)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_cloudpickle])  # schedules are closures
def test_a_trainer(normalize: bool, duplicate: Callable[[Any], Any]) -> None:
    def trainer() -> Trainer:
        task, thetas = make("Hopper-v5", normalize=normalize)
        estimator = NRES(task, n_pairs=4, unroll_length=5, sigma=0.1, horizon=30, seed=2)
        return Trainer(estimator, SGD(thetas.shape[1], learning_rate=0.1), theta=thetas[0])

    never, original = trainer(), trainer()
    never.run(updates=9)
    original.run(updates=4)
    for one in (duplicate(original), original):
        one.run(updates=9)
        assert_array_equal(one.theta, never.theta)
        assert one.total_steps == never.total_steps


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_vector_environment(mode: str, duplicate: Callable[[Any], Any]) -> None:
    def begun() -> MujocoVectorEnv:
        envs = MujocoVectorEnv("Hopper-v5", 3, 1, autoreset_mode=mode, max_episode_steps=9)
        envs.reset(seed=5)
        for _ in range(4):
            envs.step(np.full((3, 3), 0.3))
        return envs

    def on(envs: MujocoVectorEnv) -> list[Any]:
        # through the end of an episode, and so through a start from the copies' own generators
        return [values for _ in range(12) for values in envs.step(np.full((3, 3), -0.2))[:4]]

    expected, original = on(begun()), begun()
    other = duplicate(original)
    for envs in (other, original):
        for found, wanted in zip(on(envs), expected, strict=True):
            assert_array_equal(found, wanted)
    original.close()
    on(other)
    assert other.spec is not None
    other.close()
    assert not copy.deepcopy(original)._engine.n_rows


@pytest.mark.parametrize("copier", [copy.deepcopy, cloudpickle.dumps])
def test_a_task_on_gymnasiums_environments_says_what_to_do_instead(
    copier: Callable[[Any], Any],
) -> None:
    task, _ = make("Swimmer-v5", engine="gymnasium")
    with pytest.raises(TypeError, match=r"Swimmer-v5: a GymnasiumTask cannot be copied.*set_state"):
        copier(task)
    task.close()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_cloudpickle])
@pytest.mark.parametrize(
    ("env", "algorithm"), [*(("Hopper-v5", name) for name in AGENTS), (DRIFT, "nres")]
)
def test_an_agent(env: str, algorithm: str, duplicate: Callable[[Any], Any]) -> None:
    def agent() -> Any:
        options = {name: value for name, value in SWIMMER.items() if name != "unroll_length"}
        if algorithm not in ("fulles", "ars"):
            options["unroll_length"] = 10
        return AGENTS[algorithm](
            "LinearPolicy", env, n_threads=int(env != DRIFT), policy_kwargs=_NORMALIZED, **options
        )

    def is_at(one: Any) -> tuple[Any, ...]:
        played = [(episode["r"], episode["l"]) for episode in one.ep_info_buffer or ()]
        core = one.policy.core
        arrays = [values.tobytes() for values in (core.theta, *core.normalizer)]
        return one.num_timesteps, one.sequential_steps, one._n_updates, played, *arrays

    never, original = agent(), agent()
    fresh = duplicate(original)
    never.learn(900)
    original.learn(900)
    fresh.learn(900)
    other = duplicate(original)
    for one in (never, other, original):
        assert is_at(one) == is_at(fresh)
        one.learn(500, reset_num_timesteps=False)
    assert is_at(other) == is_at(original) == is_at(never) != is_at(fresh)
    duplicate(fresh).learn(500, reset_num_timesteps=False)


def test_an_agent_with_a_monitor_a_logger_and_code(tmp_path: Any) -> None:
    def agent(name: str) -> Any:
        env = Monitor(make_env("Swimmer-v5"), str(tmp_path / name))
        return AGENTS["nres"](
            "LinearPolicy", env, **{**SWIMMER, "learning_rate": lambda progress: 0.1 + progress}
        )

    never, original = agent("never"), agent("original")
    original.set_logger(configure(str(tmp_path), ["csv"]))
    for one in (never, original):
        one.learn(500)
    never.learn(300, reset_num_timesteps=False)
    for one in (copy.deepcopy(original), original):
        assert one.get_env().num_envs == 1
        one.learn(300, reset_num_timesteps=False)
        assert_array_equal(one.policy.core.theta, never.policy.core.theta)
    original.logger.close()
    for one in (never, original):
        one.get_env().close()
