"""Observation normalisation: its statistics, on which both engines and all threads agree."""

from __future__ import annotations

import numpy as np
import pytest

from es_rl.block_sums import BLOCK_PAIRS, reduce_blocks
from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.estimators import ESTIMATORS
from es_rl.normalization import Normalizer, RowNormalizers, Statistics, block_moments
from es_rl.policies import LinearPolicy, MlpPolicy

_ENV = "HalfCheetah-v4"


def _policy(env_id=_ENV, kind=LinearPolicy, **options):
    env = make_env(env_id)
    try:
        return kind(env.observation_space, env.action_space, normalize_observations=True, **options)
    finally:
        env.close()


def _moments(observations, center):
    off = observations - center
    return np.concatenate([off.sum(axis=0), (off**2).sum(axis=0)])


def _estimator(name, engine, policy, n_threads=1, n_pairs=9, **options):
    task = make_task(_ENV, policy, engine=engine, n_threads=n_threads)
    own = {} if name == "fulles" else {"unroll_length": 7}
    return ESTIMATORS[name](task, n_pairs=n_pairs, sigma=0.1, horizon=20, seed=3, **own, **options)


def test_merged_statistics_are_those_of_all_observations_together():
    rng = np.random.default_rng(0)
    batches = [rng.normal(50.0, [1e-3, 1.0, 20.0], (n, 3)) for n in (1, 5, 300)]
    statistics = Statistics(3)
    for batch in batches:
        statistics.merge(len(batch), _moments(batch, statistics.mean))
    everything = np.concatenate(batches)
    assert statistics.count == 306
    np.testing.assert_allclose(statistics.mean, everything.mean(axis=0), rtol=1e-13)
    # 50 is 50,000 standard deviations from 0, where the first sums were taken
    np.testing.assert_allclose(statistics.squares / 306, everything.var(axis=0), rtol=1e-6)
    normalizer = statistics.normalizer()
    seen = (everything - normalizer.mean) * normalizer.scale
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(seen.std(axis=0), 1, rtol=1e-6)


def test_before_the_first_observation_nothing_is_changed_and_a_constant_one_is_seen_as_zero():
    statistics = Statistics(2)
    np.testing.assert_array_equal(statistics.normalizer().scale, 1.0)
    statistics.merge(4, _moments(np.array([[3.0, 1], [3, 2], [3, 3], [3, 4]]), np.zeros(2)))
    normalizer = statistics.normalizer()
    assert normalizer.scale[0] == 0.0
    assert normalizer.scale[1] == pytest.approx(1 / np.sqrt(1.25))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_observation_that_is_no_number_is_named(bad):
    moments = np.zeros(6)
    moments[4] = bad
    with pytest.raises(FloatingPointError, match="observation 1 became NaN or infinite"):
        Statistics(3).merge(1, moments)


@pytest.mark.parametrize("n_pairs", [1, BLOCK_PAIRS, 2 * BLOCK_PAIRS + 3])
@pytest.mark.parametrize("per_worker", [2, 3])
def test_sums_of_whole_blocks_may_be_made_anywhere(n_pairs, per_worker):
    moments = np.random.default_rng(1).normal(size=(per_worker * n_pairs, 4))
    total = reduce_blocks(block_moments(moments, n_pairs), 1.0)
    np.testing.assert_allclose(total, moments.sum(axis=0), rtol=1e-12)
    parts = []
    for first in range(0, n_pairs, BLOCK_PAIRS):
        pairs = np.arange(first, min(first + BLOCK_PAIRS, n_pairs))
        rows = np.concatenate([np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel(),
                               *([2 * n_pairs + pairs] * (per_worker == 3))])  # fmt: skip
        parts.append(block_moments(moments[rows], pairs.size))
    np.testing.assert_array_equal(reduce_blocks(np.concatenate(parts), 1.0), total)


@pytest.mark.parametrize("kind", [LinearPolicy, MlpPolicy])
@pytest.mark.parametrize("name", ["nres", "tes", "fulles"])
def test_both_engines_and_any_number_of_threads_give_the_same_bits(name, kind):
    options = {"hidden": (5,)} if kind is MlpPolicy else {}
    policy = _policy(kind=kind, clip_actions=True, observation_clip=2.0, **options)
    results = []
    for engine, n_threads in (("native", 1), ("native", 2), ("gymnasium", 0)):
        estimator = _estimator(name, engine, policy, n_threads)
        with estimator.task:
            theta = policy.initial_theta(0.1, seed=2)
            estimator.reset(theta)
            gradients = [estimator.estimate(theta).gradient for _ in range(4)]
            results.append((gradients, *estimator.normalizer, estimator.statistics.count))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_statistics_are_those_of_the_observations_acted_on():
    policy = _policy()
    estimator = _estimator("nres", "gymnasium", policy, 0, n_pairs=3)
    seen = []
    act_on = policy.act_on
    policy.act_on = lambda theta, flat, view: (seen.append(flat), act_on(theta, flat, view))[1]
    with estimator.task:
        theta = policy.initial_theta(0.1, seed=2)
        cost = estimator.reset(theta).total_steps
        cost += sum(estimator.estimate(theta).total_steps for _ in range(3))
    assert estimator.statistics.count == cost == len(seen)
    np.testing.assert_allclose(estimator.statistics.mean, np.mean(seen, axis=0), rtol=1e-10)
    np.testing.assert_allclose(estimator.normalizer.scale, 1 / np.std(seen, axis=0), rtol=1e-9)


@pytest.mark.parametrize("name", ["nres", "pes", "tes"])
def test_an_episode_keeps_the_statistics_of_its_beginning_in_all_its_rows(name):
    estimator = _estimator(name, "native", _policy(), staggering="iid")
    task = estimator.task
    with task:
        theta = np.zeros(estimator.task.num_params)
        estimator.reset(theta)
        begun = {}  # of each pair's running episode
        changed = 0
        for _ in range(6):
            latest = estimator.normalizer.mean.copy()
            before = estimator._episode.copy()
            estimator.estimate(theta)
            for pair in range(estimator.n_pairs):
                mean = task.normalizers.means[2 * pair]
                np.testing.assert_array_equal(mean, task.normalizers.means[2 * pair + 1])
                if name == "tes":
                    np.testing.assert_array_equal(
                        mean, task.normalizers.means[2 * estimator.n_pairs + pair]
                    )
                if estimator._episode[pair] != before[pair]:
                    begun[pair] = latest
                    changed += 1
                if pair in begun:
                    np.testing.assert_array_equal(mean, begun[pair])
        assert changed > estimator.n_pairs


@pytest.mark.parametrize("engine", ["native", "gymnasium"])
@pytest.mark.parametrize("name", ["nres", "tes", "fulles"])
def test_resumed_run_goes_on_bit_for_bit(name, engine):
    policy = _policy()
    theta = policy.initial_theta(0.1, seed=2)
    n_threads = 1 if engine == "native" else 0
    estimator = _estimator(name, engine, policy, n_threads)
    again = _estimator(name, engine, policy, n_threads)
    with estimator.task, again.task:
        estimator.reset(theta)
        for _ in range(3):
            estimator.estimate(theta)
        again.load_state_dict(estimator.state_dict())
        for _ in range(3):
            mine, theirs = estimator.estimate(theta), again.estimate(theta)
            np.testing.assert_array_equal(mine.gradient, theirs.gradient)
        for mine, theirs in zip(estimator.normalizer, again.normalizer, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_state_of_the_other_setting_is_refused():
    plain = LinearPolicy(_policy().observation_space, _policy().action_space)
    states = {}
    for on, policy in ((True, _policy()), (False, plain)):
        estimator = _estimator("fulles", "native", policy)
        with estimator.task:
            estimator.reset(np.zeros(policy.num_params))
            states[on] = estimator.state_dict()
    for on, policy in ((True, _policy()), (False, plain)):
        with pytest.raises(ValueError, match=f"^normalize_observations={on}: the state is of"):
            _estimator("fulles", "native", policy).load_state_dict(states[not on])
        _estimator("fulles", "native", policy).load_state_dict(states[on])


def test_state_of_rows_that_did_not_normalise_is_refused():
    normalizers = RowNormalizers(3)
    normalizers.allocate(2)
    state = normalizers.get_state()
    normalizers.freeze(np.array([1]), Normalizer(np.ones(3), np.zeros(3)))
    again = RowNormalizers(3)
    again.allocate(2)
    again.set_state(normalizers.get_state())
    np.testing.assert_array_equal(again.means, normalizers.means)
    np.testing.assert_array_equal(again.scales, [[1, 1, 1], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"'observation_means': expected .*, got missing"):
        again.set_state({k: v for k, v in state.items() if k != "observation_means"})
    with pytest.raises(ValueError, match="'observation_scales': expected"):
        again.set_state({**state, "observation_scales": np.ones((3, 3))})
