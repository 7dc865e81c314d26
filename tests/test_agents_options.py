"""Agents with normalised observations, shaping and the like: trained, saved, and loaded."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

from es_rl.agents import AGENTS, ARS, NRES, FullES, LinearPolicy
from es_rl.estimator_options import DEFAULTS
from es_rl.policies import load_policy

_OPTIONS = {"shaping": "std", "top_pairs": 3, "reward_offset": 0.5, "noise": "orthogonal"}
_POLICY = {"normalize_observations": True, "observation_clip": 5.0, "squash_actions": True}


def _agent(kind=NRES, **more):
    own = {} if issubclass(kind, FullES) else {"unroll_length": 9}
    options = {"n_pairs": 4, "sigma": 0.1, "horizon": 20, "seed": 3, "learning_rate": 0.05}
    return kind(
        "LinearPolicy", "Hopper-v5", n_threads=1, policy_kwargs=dict(_POLICY),
        **{**options, **own, **_OPTIONS, **more},
    )  # fmt: skip


@pytest.mark.parametrize("kind", AGENTS.values())
def test_options_reach_the_estimator(kind):
    agent = _agent(kind)
    agent.learn(100)
    estimator = agent._trainer.estimator
    assert (estimator.shaping.name, estimator.shaping.n_kept) == ("std", 3)
    assert estimator.reward_offset == 0.5
    assert estimator.statistics.count > 0
    for name, value in {**DEFAULTS, **({"shaping": "returns"} if kind is ARS else {})}.items():
        assert getattr(kind("LinearPolicy", "Hopper-v5"), name) == value


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="NRES takes no argument shapping"):
        _agent(shapping="std")


def test_predictions_see_observations_as_training_does_today(tmp_path):
    agent = _agent()
    agent.learn(400)
    core = agent.policy.core
    for mine, theirs in zip(core.normalizer, agent._trainer.estimator.normalizer, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    agent.policy.save(tmp_path / "p.npz")
    x = np.random.default_rng(0).normal(size=(6, 11))
    expected = agent.predict(x)[0]
    np.testing.assert_array_equal(load_policy(tmp_path / "p.npz").predict(x)[0], expected)
    np.testing.assert_array_equal(LinearPolicy.load(tmp_path / "p.npz").predict(x)[0], expected)
    np.testing.assert_array_equal(copy.deepcopy(agent.policy).predict(x)[0], expected)
    assert np.isfinite(evaluate_policy(agent, agent.get_env(), 1, warn=False)[0])


@pytest.mark.parametrize("exclude", [None, ["particles"]])
def test_a_loaded_agent_predicts_the_same_and_keeps_what_it_knows(tmp_path, exclude):
    agent = _agent()
    agent.learn(400)
    agent.save(tmp_path / "agent", exclude=exclude)
    loaded = NRES.load(tmp_path / "agent")
    x = np.random.default_rng(0).normal(size=(6, 11))
    np.testing.assert_array_equal(loaded.predict(x)[0], agent.predict(x)[0])
    assert {name: getattr(loaded, name) for name in _OPTIONS} == _OPTIONS
    loaded.save(tmp_path / "again", exclude=exclude)
    again = NRES.load(tmp_path / "again")
    np.testing.assert_array_equal(again.predict(x)[0], agent.predict(x)[0])
    for other in (loaded, again):
        other.learn(200, reset_num_timesteps=False)
    agent.learn(200, reset_num_timesteps=False)
    if exclude is None:
        np.testing.assert_array_equal(loaded.policy.core.theta, agent.policy.core.theta)
        np.testing.assert_array_equal(
            loaded.policy.core.normalizer.scale, agent.policy.core.normalizer.scale
        )
    else:
        # the particles start afresh, but see with all that was known
        assert loaded._trainer.estimator.statistics.count > 600
        assert not np.array_equal(loaded.policy.core.theta, agent.policy.core.theta)
    np.testing.assert_array_equal(loaded.policy.core.theta, again.policy.core.theta)


def test_particles_that_start_afresh_keep_the_statistics():
    agent = _agent()
    agent.learn(400)
    before = agent._trainer.estimator.statistics.count
    agent.set_random_seed(11)
    agent.learn(100, reset_num_timesteps=False)
    assert agent._trainer.estimator.statistics.count > before


def test_files_of_before_the_options_go_on_without_a_new_start(tmp_path):
    agent = _agent(**DEFAULTS)
    agent.learn(200)
    agent.save(tmp_path / "agent", exclude=list(DEFAULTS))
    loaded = NRES.load(tmp_path / "agent")
    agent.learn(200, reset_num_timesteps=False)
    loaded.learn(200, reset_num_timesteps=False)
    np.testing.assert_array_equal(loaded.policy.core.theta, agent.policy.core.theta)


def test_parameters_hold_the_statistics():
    agent, other = _agent(), _agent(seed=4)
    agent.learn(300)
    parameters = agent.get_parameters()
    assert set(parameters["policy"]) == {"theta", "observation_mean", "observation_scale"}
    other.set_parameters(parameters)
    x = np.random.default_rng(0).normal(size=(6, 11))
    np.testing.assert_array_equal(other.predict(x)[0], agent.predict(x)[0])
    assert all(value.dtype == torch.float64 for value in parameters["policy"].values())
