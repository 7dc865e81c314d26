"""Refreshing: episodes that θ has left behind are unrolled again, as slow twins do it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from pools import HerePool
from slow_estimators import SlowEstimator
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.distributed.estimator import DistributedEstimator
from es_rl.distributed.holder import EstimatorSpec
from es_rl.drift import Drift
from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.estimators import ESTIMATORS, NRES
from es_rl.policies import LinearPolicy
from es_rl.tasks import UnrollResult

_THETA = np.array([0.6, -0.2, 0.5])
_WINDOWED = ("nres", "pes", "gpes", "tes")
_SIGMA, _SEED = 0.3, 3


def _options(name, **more):
    options = {"n_pairs": 9, "unroll_length": 4, "sigma": _SIGMA, "seed": _SEED}
    if name == "gpes":
        options["noise_period"] = 8
    return {**options, "staggering": "iid", **more}


def _make(name, system=EndingSystem, horizon=13, **more):
    return ESTIMATORS[name](LoopTask(system, horizon), **_options(name, **more))


def _path(n, size=0.15):
    """θ of each window: a walk, which stands still now and then."""
    steps = size * np.random.default_rng(7).normal(size=(n, 3))
    steps[::4] = 0.0
    return _THETA + np.cumsum(steps, axis=0)


class _SlowRefresh(SlowEstimator):
    """The slow twin, whose pairs go back to their episodes' starts when θ has moved too far."""

    def __init__(self, name, system_class, limit, **options):
        super().__init__(name, system_class, horizon=13, **options)
        self.limit, self.is_tes = limit, name == "tes"

    def reset(self, theta):
        self.last = theta
        for worker in self.workers:
            worker.path = 0.0
        return super().reset(theta)

    def _again(self, worker, theta):
        steps, episode, loss, segment = worker.tau, worker.episode, worker.loss, worker.segment
        worker.episode -= 1
        worker.begin()
        if not self.is_tes:
            worker.rows = [worker.fresh_system(), worker.fresh_system()]
            worker.alive = [True, True]
        worker.start(theta, steps)
        worker.loss = loss
        if self.is_tes and worker.episode == episode:
            worker.segment = segment  # noises of windows that were are not drawn again
        return steps

    def estimate(self, theta):
        """Return what `SlowEstimator` does, and the sequential steps."""
        before = [(w.executed, w.episodes) for w in self.workers]
        step, longest = math.dist(theta, self.last), 0
        self.last = theta
        for worker in self.workers:
            worker.path += step
            stale = worker.path > self.limit * _SIGMA * math.sqrt(3)
            if worker.running and worker.tau and stale:
                longest = max(longest, self._again(worker, theta))
                worker.path = 0.0
        counts = np.sum([(w.executed, w.episodes) for w in self.workers], axis=0)
        counts -= np.sum(before, axis=0)
        episodes = [worker.episode for worker in self.workers]
        gradient, scale, mean_loss, executed, ended = super().estimate(theta)
        for worker, episode in zip(self.workers, episodes, strict=True):
            if worker.episode != episode:
                worker.path = 0.0
        return (
            gradient, scale, mean_loss, self.unroll_length + longest,
            executed + counts[0], ended + counts[1], longest > 0,
        )  # fmt: skip


@pytest.mark.parametrize("limit", [1e-9, 0.4, 0.8])
@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("name", _WINDOWED)
def test_it_is_what_the_slow_twin_does_and_every_step_is_counted(name, system, limit):
    estimator = _make(name, system, refresh_drift=limit)
    slow = _SlowRefresh(name, system, limit, **_options(name))
    cost = estimator.reset(_THETA)
    slow.reset(_THETA)
    total, refreshed = cost.total_steps, 0
    for theta in _path(16):
        mine = estimator.estimate(theta)
        gradient, scale, mean_loss, sequential, executed, episodes, again = slow.estimate(theta)
        # sums of about a hundred products in another order
        np.testing.assert_allclose(mine.gradient, gradient, rtol=0, atol=1e-13 * scale)
        assert mine.mean_loss == pytest.approx(mean_loss, rel=1e-12)
        assert mine.sequential_steps == sequential
        assert (mine.total_steps, mine.episodes) == (executed, episodes)
        total += mine.total_steps
        assert total == estimator.task.executed
        refreshed += again
    # θ stands still in a quarter of the windows
    assert refreshed == 12 if limit < 1e-3 else 1 <= refreshed < 12


@pytest.mark.parametrize("name", _WINDOWED)
def test_a_limit_that_is_never_reached_changes_nothing(name):
    plain, lazy = _make(name), _make(name, refresh_drift=1e6)
    for theta in [None, *_path(8)]:
        results = [e.reset(_THETA) if theta is None else e.estimate(theta) for e in (plain, lazy)]
        np.testing.assert_array_equal(results[0].gradient, results[1].gradient)
        assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize("limit", [1e-9, 0.5])
@pytest.mark.parametrize("options", [{}, {"shaping": "std"}, {"adapt_sigma": 0.3}])
@pytest.mark.parametrize("name", _WINDOWED)
def test_a_resumed_run_goes_on_bit_for_bit_in_mid_episode(name, options, limit):
    estimator, again = (_make(name, refresh_drift=limit, **options) for _ in range(2))
    estimator.reset(_THETA)
    path = _path(12)
    for theta in path[:5]:
        estimator.estimate(theta)
    again.load_state_dict(estimator.state_dict())
    for theta in path[5:]:
        mine, theirs = estimator.estimate(theta), again.estimate(theta)
        np.testing.assert_array_equal(mine.gradient, theirs.gradient)
        assert mine[1:] == theirs[1:]


@pytest.mark.parametrize("options", [{}, {"shaping": "ranks"}])
@pytest.mark.parametrize("name", _WINDOWED)
def test_any_number_of_workers_gives_the_bits_of_one_process(name, options):
    given = _options(name, n_pairs=37, refresh_drift=0.5, **options)
    spec = EstimatorSpec(name, functools.partial(LoopTask, EndingSystem, 13), given)
    truth = spec.build()
    truth.reset(_THETA)
    path = _path(14)
    expected = [truth.estimate(theta) for theta in path]
    assert len({one.sequential_steps for one in expected}) > 2
    for n_workers in (1, 3):
        with DistributedEstimator(spec, HerePool(), n_workers=n_workers) as spread:
            spread.reset(_THETA)
            found = [spread.estimate(theta) for theta in path[:6]]
            state = spread.state_dict()
        with DistributedEstimator(spec, HerePool(), n_workers=4 - n_workers) as other:
            other.load_state_dict(state)
            found += [other.estimate(theta) for theta in path[6:]]
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine.gradient, theirs.gradient)
            assert mine[1:] == theirs[1:]


class Fuse:
    """A row's episode ends after ⌈θ⌉ steps; each step's loss is 1."""

    num_params, horizon, name = 1, 20, "fuse"

    def allocate(self, n_rows):
        self.taken = np.zeros(n_rows, np.int64)
        self.executed = 0

    def reset(self, rows, seeds):
        self.taken[rows] = 0

    def unroll(self, rows, thetas, n_steps):
        left = np.ceil(thetas[:, 0]).astype(np.int64) - self.taken[rows]
        steps = np.minimum(n_steps, np.maximum(left, 1))
        self.taken[rows] += steps
        self.executed += int(steps.sum())
        return UnrollResult(steps.astype(float), steps, steps >= left)

    def copy_rows(self, source, target):
        self.taken[target] = self.taken[source]


def test_an_episode_that_today_s_theta_ends_earlier_gives_its_clock_to_the_next():
    estimator = NRES(Fuse(), n_pairs=1, unroll_length=3, sigma=1e-6, refresh_drift=1.0,
                     staggering="lockstep")  # fmt: skip
    estimator.reset(np.array([9.5]))
    for _ in range(3):
        result = estimator.estimate(np.array([9.5]))
    assert (estimator.ages.tolist(), result.total_steps) == ([9], 6)
    # 4 + 4 + 1 of the 9 steps of its clock, then 3 + 1 of the window's own 3: two ends, one end
    result = estimator.estimate(np.array([3.5]))
    assert (result.total_steps, result.sequential_steps, result.episodes) == (24, 12, 3)
    assert (estimator._episode.tolist(), estimator.ages.tolist()) == ([2], [0])
    assert result.mean_loss == 1.0  # of the window's steps alone
    # the other way: what has ended is over, what runs goes on
    result = estimator.estimate(np.array([9.5]))
    assert (result.total_steps, result.sequential_steps, estimator.ages.tolist()) == (6, 3, [3])


def test_a_row_that_had_ended_lives_again_beside_its_twin():
    # of θ ± ε one row lasts a step longer than the other wherever θ + ε crosses an integer
    estimator = NRES(Fuse(), n_pairs=1, unroll_length=3, sigma=0.4, refresh_drift=0.1, seed=1,
                     staggering="lockstep")  # fmt: skip
    estimator.reset(np.array([3.0]))
    estimator.estimate(np.array([3.0]))
    assert sorted(estimator._row_ended.tolist()) == [False, True]
    estimator.estimate(np.array([10.0]))
    assert not estimator._row_ended.any()


def _hopper(engine, name, **more):
    env = make_env("Hopper-v4")
    policy = LinearPolicy(
        env.observation_space, env.action_space, clip_actions=True, normalize_observations=True
    )
    env.close()
    task = make_task("Hopper-v4", policy, engine=engine, n_threads=0 if engine != "native" else 2)
    own = {"noise_period": 14} if name == "gpes" else {}
    return ESTIMATORS[name](
        task, n_pairs=5, unroll_length=7, sigma=0.1, horizon=40, seed=3, **own, **more
    )


@pytest.mark.parametrize("name", ["nres", "pes", "tes"])
def test_engines_agree_and_statistics_take_nothing_of_what_is_repeated(name):
    results = []
    for engine in ("native", "gymnasium"):
        estimator = _hopper(engine, name, refresh_drift=0.5)
        theta = np.zeros(estimator.task.num_params)
        rng = np.random.default_rng(1)
        with estimator.task:
            counts = [estimator.reset(theta).total_steps]
            found, replayed = [], 0
            for _ in range(6):
                window = estimator.unroll_window(theta)
                estimator.absorb(window)
                found.append(estimator.gradient(window))
                replayed += window.replayed_steps
                counts.append(window.total_steps)
                theta = theta + 0.03 * rng.normal(size=theta.size)
            assert replayed > 0
            assert estimator.statistics.count == sum(counts) - replayed
            results.append((found, counts, *estimator.normalizer))
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["nres", "pes", "tes"])
def test_an_episode_that_is_unrolled_again_keeps_its_normalisation(name):
    estimator = _hopper("native", name)
    theta = np.zeros(estimator.task.num_params)
    with estimator.task:
        estimator.reset(theta)
        for _ in range(4):
            estimator.estimate(theta)
        row = 10 if name == "tes" else 0
        frozen = estimator.task.normalizers.means.copy()
        state, episodes = estimator.state_dict(), estimator._episode.copy()
        estimator.refresh(theta)
        again = estimator.state_dict()
        # θ has not moved, so neither has anything else; noise is drawn, not stored
        for key, value in state.items():
            if name == "tes" and key.startswith("task/") and len(value) == 15:
                value, again[key] = value[row:], again[key][row:]
            if name == "tes" and key == "row_ended":
                continue  # the pair's rows are copies made anew in each window
            np.testing.assert_array_equal(again[key], value, err_msg=key)
        estimator.refresh(theta + 0.5)
        same = np.flatnonzero(estimator._episode == episodes)
        assert same.size > 0
        rows = row + same if name == "tes" else 2 * same
        np.testing.assert_array_equal(estimator.task.normalizers.means[rows], frozen[rows])


def test_states_that_do_not_fit_are_refused():
    estimator = _make("nres", refresh_drift=0.5)
    estimator.reset(_THETA)
    state = estimator.state_dict()
    assert not {"drift", "drift_theta", "refresh_drift"} & set(_started("nres").state_dict())
    with pytest.raises(ValueError, match=r"^refresh_drift=0.0: the state is of .*=0.5"):
        _make("nres").load_state_dict(state)
    for key in ("drift", "drift_theta"):
        with pytest.raises(ValueError, match=f"lacks '{key}'"):
            _make("nres", refresh_drift=0.5).load_state_dict(
                {k: v for k, v in state.items() if k != key}
            )
    with pytest.raises(ValueError, match="negative"):
        _make("nres", refresh_drift=0.5).load_state_dict({**state, "drift": np.full(9, -1.0)})


def _started(name, **more):
    estimator = _make(name, **more)
    estimator.reset(_THETA)
    return estimator


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, "much"])
def test_a_limit_that_is_no_length_is_refused(value):
    with pytest.raises(ValueError, match=r"^refresh_drift=.*must be zero or a positive number"):
        _make("nres", refresh_drift=value)


@pytest.mark.parametrize("name", ["fulles", "ars"])
def test_estimators_without_running_episodes_refuse_it(name):
    options = {"n_pairs": 4, "sigma": 0.1}
    with pytest.raises(ValueError, match=r"^refresh_drift=0.5: .* begins every episode under"):
        ESTIMATORS[name](LoopTask(EndingSystem, 5), **options, refresh_drift=0.5)
    estimator = ESTIMATORS[name](LoopTask(EndingSystem, 5), **options)
    estimator.reset(_THETA)
    with pytest.raises(ValueError, match="no running episodes"):
        estimator.refresh(_THETA)


def test_the_drift_is_the_length_of_the_path_in_units_of_sigma_root_d():
    drift = Drift(2.0, 3, 4)
    drift.begin(np.zeros(4))
    drift.move(np.array([3.0, 0, 0, 0]))
    drift.restart(np.array([1]))
    drift.move(np.array([3.0, 3.0, 0, 0]))  # back and forth adds up
    drift.move(np.array([3.0, 0, 0, 0]))
    # paths 9, 6, 9; limits 2·σ·√4
    assert drift.exceeds(np.array([2.0, 2.0, 2.5])).tolist() == [True, False, False]
    assert drift.exceeds(np.array([2.25, 1.49, 2.24])).tolist() == [False, True, True]
