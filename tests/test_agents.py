"""The agents as objects: options, prediction, counting, parameters, seeds."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from agents_toys import DRIFT, SWIMMER, Drift, TwoParts
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

import es_rl
from es_rl.agents import AGENTS, GPES, NRES, PES, TES, FullES
from es_rl.envs import make_task
from es_rl.estimators import ESTIMATORS
from es_rl.optimizers import make_optimizer
from es_rl.tasks import NonFiniteLossError
from es_rl.trainer import Trainer

FULLES = {k: v for k, v in SWIMMER.items() if k != "unroll_length"}


def make_agent(algorithm: str = "nres", env: Any = "Swimmer-v5", **changes: Any) -> Any:
    options = FULLES if algorithm in ("fulles", "ars") else SWIMMER
    return AGENTS[algorithm]("LinearPolicy", env, **{**options, **changes})


def drift_agent(algorithm: str = "nres", **changes: Any) -> Any:
    # n_threads=0: rows live in this process, where their steps can be counted
    options = {"engine": "gymnasium", "n_threads": 0, "horizon": None, **changes}
    return make_agent(algorithm, DRIFT, **options)


def theta_of(agent: Any) -> Any:
    return agent.policy.core.theta.copy()


class Record(BaseCallback):
    """Keeps what a callback sees, and stops training after `stop_at` calls."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.timesteps: list[int] = []
        self.dones: list[Any] = []
        self.lengths: list[int] = []
        self.rollouts = [0, 0]
        self.ended = False

    def _on_rollout_start(self) -> None:
        self.rollouts[0] += 1

    def _on_rollout_end(self) -> None:
        self.rollouts[1] += 1

    def _on_training_end(self) -> None:
        self.ended = True

    def _on_step(self) -> bool:
        self.timesteps.append(self.model.num_timesteps)
        dones, infos = self.locals["dones"], self.locals["infos"]
        self.dones.append(dones)
        assert len(dones) == len(infos)
        for done, info in zip(dones, infos, strict=True):
            assert ("episode" in info) == done
            if done:
                self.lengths.append(info["episode"]["l"])
        return self.stop_at is None or self.n_calls < self.stop_at


def test_the_core_imports_neither_torch_nor_stable_baselines3() -> None:
    code = (
        "import sys, es_rl, es_rl.trainer, es_rl.estimators, es_rl.envs;"
        "assert not {'torch', 'stable_baselines3'} & set(sys.modules);"
        "import es_rl.agents; assert 'stable_baselines3' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("algorithm", list(AGENTS))
def test_an_agent_is_an_sb3_algorithm_for_every_estimator(algorithm: str) -> None:
    assert set(AGENTS) == set(ESTIMATORS)
    agent = make_agent(algorithm)
    assert isinstance(agent, BaseAlgorithm)
    assert agent.algorithm == algorithm
    assert isinstance(agent.get_env(), DummyVecEnv)


@pytest.mark.parametrize("algorithm", list(AGENTS))
def test_learn_makes_the_updates_of_the_core_trainer(algorithm: str) -> None:
    agent = make_agent(algorithm, optimizer="momentum", optimizer_kwargs={"momentum": 0.5})
    agent.learn(2000)
    env = gym.make("Swimmer-v5")
    policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
    task = make_task("Swimmer-v5", policy)
    options = FULLES if algorithm in ("fulles", "ars") else SWIMMER
    kept = {k: v for k, v in options.items() if k != "learning_rate"}
    trainer = Trainer(
        ESTIMATORS[algorithm](task, **kept),
        make_optimizer("momentum", policy.num_params, SWIMMER["learning_rate"], momentum=0.5),
        policy.theta,
    )
    assert trainer.run(total_steps=2000) == "total_steps"
    np.testing.assert_array_equal(agent.policy.core.theta, trainer.theta)
    assert agent.num_timesteps == trainer.total_steps
    assert agent.sequential_steps == trainer.sequential_steps
    assert np.any(trainer.theta)


@pytest.mark.parametrize("algorithm", list(AGENTS))
def test_every_executed_environment_step_and_finished_episode_is_announced(algorithm: str) -> None:
    agent = drift_agent(algorithm)
    agent.get_env()
    callback = Record()
    before = Drift.steps_executed
    agent.learn(1500, callback=callback)
    # the first evaluation environment was reset, not stepped
    assert agent.num_timesteps == Drift.steps_executed - before
    assert callback.timesteps[-1] == agent.num_timesteps
    assert callback.n_calls == agent.sequential_steps
    steps = np.diff([0, *callback.timesteps])
    assert (steps >= 0).all()
    assert steps.max() <= {"tes": 12}.get(algorithm, 8)
    assert min(callback.lengths) >= 1
    assert max(callback.lengths) <= 30
    assert sum(int(d.sum()) for d in callback.dones) == len(callback.lengths) == agent._episode_num
    assert callback.dones[0].shape == ((4,) if algorithm == "tes" else (8,))
    assert callback.rollouts[0] == callback.rollouts[1]
    assert callback.ended


def test_finished_episodes_are_those_that_the_environment_ended() -> None:
    # FullES finishes all that it begins, and rows of Drift end by themselves or after 30 steps
    agent = drift_agent("fulles")
    callback = Record()
    ended = Drift.episodes_ended
    agent.learn(600, callback=callback)
    windows = callback.rollouts[0] - 1
    assert len(callback.lengths) == 8 * windows
    assert sum(callback.lengths) == agent.num_timesteps
    by_themselves = Drift.episodes_ended - ended
    at_the_limit = sum(length == 30 for length in callback.lengths)
    assert 0 <= len(callback.lengths) - by_themselves <= at_the_limit


def test_returns_are_those_of_the_perturbed_rows() -> None:
    # with no learning and vanishing noise, every row plays the policy itself: it pushes 0.25
    agent = drift_agent(sigma=1e-12, learning_rate=1e-30)
    agent.policy.load_from_vector(np.array([0.0, 0.25]))
    agent.learn(500)
    assert len(agent.ep_info_buffer) > 10
    for info in agent.ep_info_buffer:
        assert info["r"] == pytest.approx(0.25 * info["l"])


def test_learn_stops_at_the_first_window_that_reaches_the_budget() -> None:
    agent = make_agent(staggering="lockstep")
    assert agent.learn(1) is agent
    assert agent.num_timesteps == 80
    agent.learn(80, reset_num_timesteps=False)
    assert agent.num_timesteps == 160
    agent.learn(81, reset_num_timesteps=False)
    assert agent.num_timesteps == 320
    assert agent.sequential_steps == 40


def test_a_start_that_uses_up_the_budget_is_announced_and_makes_no_update() -> None:
    agent = make_agent()
    callback = Record()
    agent.learn(1, callback=callback)
    # stratified over the positions 0, 10, 20 and 30
    assert agent.num_timesteps == 2 * (0 + 10 + 20 + 30)
    assert callback.n_calls == agent.sequential_steps == 30
    assert not np.any(agent.policy.core.theta)


def test_learning_again_restarts_the_counters_and_keeps_theta_and_particles() -> None:
    once, twice = make_agent(), make_agent()
    once.learn(1000)
    twice.learn(600)
    halfway = twice.num_timesteps
    twice.learn(1000 - halfway)
    assert twice.num_timesteps == once.num_timesteps - halfway
    assert twice.sequential_steps == (once.num_timesteps - halfway) // 8
    np.testing.assert_array_equal(twice.policy.core.theta, once.policy.core.theta)


@pytest.mark.parametrize("stop_at", [3, 30, 31, 40, 45])
def test_training_ends_with_the_window_at_which_a_callback_returned_false(stop_at: int) -> None:
    agent = make_agent()
    callback = Record(stop_at)
    agent.learn(100_000, callback=callback)
    # the start takes 30 sequential steps, every window 10
    windows = max(0, -(-(stop_at - 30) // 10))
    assert callback.n_calls == stop_at
    assert agent.sequential_steps == 30 + 10 * windows
    assert agent.num_timesteps == 120 + 80 * windows
    assert bool(np.any(agent.policy.core.theta)) == (windows > 0)
    assert callback.ended


@pytest.mark.parametrize("policy", ["LinearPolicy", "MlpPolicy"])
@pytest.mark.parametrize("clip", [False, True])
def test_predict_is_the_core_policy_s_predict(policy: str, clip: bool) -> None:
    options: dict[str, Any] = {"clip_actions": clip}
    options |= (
        {"bias": True} if policy == "LinearPolicy" else {"hidden": (5,), "activation": "relu"}
    )
    agent = NRES(policy, "Swimmer-v5", init_scale=30.0, seed=1, policy_kwargs=options)
    env = gym.make("Swimmer-v5")
    kind = es_rl.LinearPolicy if policy == "LinearPolicy" else es_rl.MlpPolicy
    core = kind(env.observation_space, env.action_space, **options)
    core.theta = agent.policy.theta.numpy()
    batch = np.random.default_rng(0).normal(size=(6, *env.observation_space.shape))
    actions, state = agent.predict(batch, deterministic=True)
    assert state is None
    np.testing.assert_array_equal(actions, core.predict(batch)[0])
    np.testing.assert_array_equal(agent.predict(batch[2])[0], actions[2])
    assert actions.dtype == np.float64
    assert (np.abs(actions).max() > 1.0) != clip


def test_batches_of_dict_observations_are_predicted_one_by_one() -> None:
    agent = PES("LinearPolicy", TwoParts, n_pairs=2, horizon=5, init_scale=1.0, n_threads=0, seed=0)
    env = DummyVecEnv([TwoParts, TwoParts, TwoParts])
    env.seed(0)
    batch = env.reset()
    actions, _ = agent.predict(batch)
    singles = [
        agent.predict({"place": batch["place"][i], "kind": batch["kind"][i]})[0] for i in range(3)
    ]
    np.testing.assert_array_equal(actions, singles)
    assert set(actions) <= {1, 2}
    agent.learn(100)
    assert agent.num_timesteps >= 100


def test_a_linear_policy_starts_at_zero_and_an_mlp_does_not() -> None:
    assert not np.any(theta_of(make_agent()))
    mlp = NRES("MlpPolicy", "Swimmer-v5", seed=0)
    (weights, bias), *_ = mlp.policy.core.layers()
    # 64 by 8 weights of variance 1/8, from a truncated normal: their standard deviation is
    # within 10% in all but a 1e-3 share of draws
    assert weights.std() == pytest.approx(8**-0.5, rel=0.1)
    assert not np.any(bias)


def test_predict_tells_a_gymnasium_reset_from_an_observation() -> None:
    agent = make_agent()
    with pytest.raises(ValueError, match="pass its first element"):
        agent.predict(gym.make("Swimmer-v5").reset())


def test_theta_stays_float64() -> None:
    agent = make_agent(init_scale=1.0)
    agent.learn(500)
    assert agent.policy.theta.dtype == torch.float64
    assert agent.get_parameters()["policy"]["theta"].dtype == torch.float64
    with pytest.raises(ValueError, match="float64 on the CPU"):
        agent.policy.float()
    agent.policy.to("cpu")
    assert list(agent.policy.state_dict()) == ["theta"]


def test_parameters_can_be_taken_and_put_back() -> None:
    agent = make_agent(learning_rate=1e-6)
    agent.learn(500)
    parameters, theta = agent.get_parameters(), theta_of(agent)
    agent.learn(500, reset_num_timesteps=False)
    assert not np.array_equal(theta_of(agent), theta)
    agent.set_parameters(parameters)
    np.testing.assert_array_equal(theta_of(agent), theta)
    # training goes on from the parameters that were put in, by a small step
    agent.set_parameters({"policy": {"theta": torch.full((16,), 5.0, dtype=torch.float64)}})
    agent.learn(1, reset_num_timesteps=False)
    assert 0 < np.abs(theta_of(agent) - 5.0).max() < 1e-3
    with pytest.raises(ValueError, match="this agent has those of policy alone"):
        agent.set_parameters({"critic": {}})
    with pytest.raises(ValueError, match="do not fit"):
        agent.set_parameters({"policy": {"theta": torch.zeros(3, dtype=torch.float64)}})
    with pytest.raises(ValueError, match="do not fit"):
        agent.set_parameters({"policy": {}})
    agent.set_parameters({"policy": {}}, exact_match=False)


def test_copies_of_a_policy_are_independent_and_whole() -> None:
    agent = make_agent(init_scale=1.0)
    twin = copy.deepcopy(agent.policy)
    before = theta_of(agent)
    twin.load_from_vector(np.zeros(twin.core.num_params))
    np.testing.assert_array_equal(theta_of(agent), before)
    twin.load_state_dict(agent.policy.state_dict())
    np.testing.assert_array_equal(twin.core.theta, before)
    np.testing.assert_array_equal(twin.parameters_to_vector(), before)


def test_a_policy_file_is_es_rl_s_own(tmp_path: Any) -> None:
    agent = make_agent(init_scale=1.0, policy_kwargs={"bias": True})
    path = tmp_path / "policy.npz"
    agent.policy.save(path)
    core = es_rl.load_policy(path)
    observation = np.arange(8.0)
    np.testing.assert_array_equal(core.predict(observation)[0], agent.predict(observation)[0])
    loaded = type(agent.policy).load(path)
    np.testing.assert_array_equal(loaded.core.theta, core.theta)


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    results = []
    for seed in (3, 3, 4):
        agent = make_agent(seed=seed, init_scale=1.0)
        agent.learn(400)
        results.append(theta_of(agent))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_setting_the_seed_later_is_like_having_it_from_the_start() -> None:
    first, second = make_agent(seed=7), make_agent(seed=None)
    second.set_random_seed(7)
    first.learn(400)
    second.learn(400)
    np.testing.assert_array_equal(theta_of(first), theta_of(second))


def test_a_new_seed_in_the_middle_restarts_the_particles_under_todays_theta() -> None:
    agent = make_agent()
    agent.learn(400)
    theta, steps = theta_of(agent), agent.num_timesteps
    agent.set_random_seed(99)
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps == steps + 120  # a new start, by which the budget is used up
    np.testing.assert_array_equal(theta_of(agent), theta)
    agent.set_random_seed(99)
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps == steps + 120 + 80  # the seed is the same, so there is none


def test_unseeded_agents_differ() -> None:
    agents = [make_agent(seed=None) for _ in range(2)]
    for agent in agents:
        agent.learn(300)
    assert not np.array_equal(theta_of(agents[0]), theta_of(agents[1]))


def test_a_learning_rate_function_follows_the_progress_remaining() -> None:
    seen: list[float] = []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return 0.5

    agent = make_agent(learning_rate=schedule, staggering="lockstep")
    constant = make_agent(learning_rate=0.5, staggering="lockstep")
    seen.clear()
    agent.learn(320, log_interval=None)
    constant.learn(320)
    assert list(dict.fromkeys(seen)) == [1.0, 0.75, 0.5, 0.25]
    np.testing.assert_array_equal(theta_of(agent), theta_of(constant))
    frozen = make_agent(learning_rate=lambda progress: 0.0, init_scale=1.0)
    before = theta_of(frozen)
    frozen.learn(300)
    np.testing.assert_array_equal(theta_of(frozen), before)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_step_that_was_refused_leaves_no_trace() -> None:
    rate = 1e-6
    agent = drift_agent(
        optimizer="momentum", learning_rate=lambda progress: rate, env_kwargs={"scale": 1e6}
    )
    agent.learn(300)
    theta = theta_of(agent)
    optimizer = agent._ready().optimizer
    before = optimizer.state_dict()
    assert np.any(before["velocity"])
    rate = 1e308
    with pytest.raises(FloatingPointError, match="would make parameters NaN or infinite"):
        agent.learn(300, reset_num_timesteps=False)
    np.testing.assert_array_equal(theta_of(agent), theta)
    np.testing.assert_equal(agent._ready().optimizer.state_dict(), before)
    rate = 1e-6
    agent.learn(300, reset_num_timesteps=False)
    assert np.isfinite(theta_of(agent)).all()


def test_a_window_that_fails_leaves_theta_and_training_can_begin_afresh() -> None:
    class Spoiled(Drift):
        spoiled = False

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, float("nan") if self.spoiled else reward, *rest

    agent = make_agent(env=Spoiled, n_threads=0, optimizer="adam", learning_rate=0.01)
    agent.learn(300)
    theta, steps = theta_of(agent), agent.num_timesteps
    Spoiled.spoiled = True
    with pytest.raises(NonFiniteLossError, match="Spoiled"):
        agent.learn(300, reset_num_timesteps=False)
    Spoiled.spoiled = False
    np.testing.assert_array_equal(theta_of(agent), theta)
    assert agent.num_timesteps == steps
    agent.learn(300, reset_num_timesteps=False)
    assert agent.num_timesteps >= steps + 300
    assert not np.array_equal(theta_of(agent), theta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_pairs": 0}, "n_pairs=0"),
        ({"unroll_length": -1}, "unroll_length=-1"),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"horizon": 0}, "horizon=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": "lin_0.1"}, "learning_rate='lin_0.1': .*, such as .*LinearSchedule"),
        ({"learning_rate": None}, "learning_rate=None: must be a positive number"),
        ({"optimizer": "newton"}, "optimizer='newton'"),
        ({"optimizer_kwargs": {"momentum": 0.9}}, "momentum=0.9: sgd has none"),
        ({"staggering": "none"}, "staggering='none'"),
        ({"init_scale": -1.0}, "init_scale=-1.0"),
        ({"init_scale": "a"}, "init_scale='a': must be zero or a positive"),
        ({"stats_window_size": 0}, "stats_window_size=0: must be an integer, at least 1"),
        ({"n_threads": 1.5}, "n_threads=1.5: must be an integer"),
        ({"verbose": "a"}, "verbose='a': must be an integer"),
        ({"engine": "warp"}, "engine='warp'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"seed": "a"}, "seed='a': must be an integer from 0"),
        ({"device": "cuda"}, "device='cuda'"),
        ({"device": "gpu"}, "device='gpu': .* use 'cpu'"),
        ({"policy_kwargs": {"net_arch": [64]}}, "LinearPolicy takes bias, clip_actions"),
        ({"policy_kwargs": {"bias": "no"}}, "bias='no': must be True or False"),
        ({"policy_kwargs": {"normalize_observations": 2}}, "normalize_observations=2: must be"),
        ({"policy_kwargs": {"observation_clip": "a"}}, "observation_clip='a': must be a positive"),
        ({"policy_kwargs": 3}, "policy_kwargs=3: must be a dict"),
        ({"optimizer_kwargs": [1]}, r"optimizer_kwargs=\[1\]: must be a dict"),
        ({"env_kwargs": "x"}, "env_kwargs='x': must be a dict"),
        ({"env": "Swimmer-v6"}, "Swimmer-v6"),
        ({"env": None}, "env=None"),
        ({"env_kwargs": {"wheels": 4}}, "wheels"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**options)


def test_other_options_that_cannot_be_used_are_named() -> None:
    with pytest.raises(ValueError, match="policy='CnnPolicy': choose one of LinearPolicy, Mlp"):
        NRES("CnnPolicy", "Swimmer-v5")
    with pytest.raises(ValueError, match="policy=ActorCriticPolicy: choose one of LinearPolicy"):
        NRES(ActorCriticPolicy, "Swimmer-v5")
    with pytest.raises(ValueError, match="hidden=16: must list the widths"):
        NRES("MlpPolicy", "Swimmer-v5", policy_kwargs={"hidden": 16})
    with pytest.raises(ValueError, match="noise_period=15: must be a multiple"):
        GPES("LinearPolicy", "Swimmer-v5", unroll_length=10, noise_period=15)
    with pytest.raises(ValueError, match="horizon=None"):
        FullES("LinearPolicy", Drift, n_threads=0)


def test_gpes_with_the_window_as_noise_period_is_pes_and_with_the_horizon_nres() -> None:
    results = {}
    for name, agent in {
        "pes": make_agent("pes"),
        "nres": make_agent("nres"),
        "gpes window": make_agent("gpes", noise_period=10),
        "gpes horizon": make_agent("gpes"),
        "tes": make_agent("tes"),
    }.items():
        assert isinstance(agent, (PES, NRES, GPES, TES))
        agent.learn(600)
        results[name] = theta_of(agent)
    np.testing.assert_array_equal(results["gpes window"], results["pes"])
    np.testing.assert_array_equal(results["gpes horizon"], results["nres"])
    assert len({value.tobytes() for value in results.values()}) == 3


def test_sb3_contrib_works_beside_it() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    ars = contrib.ARS("LinearPolicy", "Pendulum-v1", n_delta=1, seed=0)
    ars.learn(200)
    agent = make_agent()
    agent.learn(200)
    assert ars.policy_aliases["LinearPolicy"] is not agent.policy_aliases["LinearPolicy"]
    assert ars.num_timesteps > 0
    assert agent.num_timesteps > 0
