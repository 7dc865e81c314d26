"""The estimators against their slow twins, what they cost, and what they refuse."""

from __future__ import annotations

import itertools
import re

import linear_quadratic as lq
import numpy as np
import pytest
import reference
from slow_estimators import SlowEstimator
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.block_sums import BLOCK_PAIRS
from es_rl.estimators import ESTIMATORS, GPES, NRES, PES, TES, FullES
from es_rl.tasks import NonFiniteLossError, UnrollResult

_THETA = np.array([0.6, -0.2, 0.5])
_PLAIN = [name for name in ESTIMATORS if name != "ars"]  # which shapes; it has its own tests
_ONLINE = ("nres", "pes", "gpes", "tes")


def _random_settings(name, seed):
    """Settings that meet every border: K ∤ T, W ∤ T, W > T, K > T, N that is no multiple."""
    rng = np.random.default_rng(seed)
    unroll_length = int(rng.integers(1, 9))
    settings = {
        "n_pairs": int(rng.integers(1, 2 * BLOCK_PAIRS + 4)),
        "sigma": float(rng.choice([0.05, 0.3, 1.0])),
        "horizon": int(rng.integers(1, 25)),
        "seed": int(rng.integers(2**63)),
    }
    if name != "fulles":
        settings["unroll_length"] = unroll_length
        settings["staggering"] = str(rng.choice(["stratified", "iid", "lockstep"]))
        if rng.random() < 0.2 and name != "tes":
            settings["horizon"] = None
    if name == "gpes" and rng.random() < 0.9:
        settings["noise_period"] = unroll_length * int(rng.integers(1, 5))
    return settings


def _make(name, task, settings):
    options = {k: v for k, v in settings.items() if k != "horizon"}
    return ESTIMATORS[name](task, **options)


def _assert_twins(name, system_class, settings, n_updates=6):
    task = LoopTask(system_class, settings["horizon"])
    fast = _make(name, task, settings)
    slow = SlowEstimator(name, system_class, **settings)
    rng = np.random.default_rng(0)
    theta = _THETA.copy()
    start = fast.reset(theta)
    executed, episodes = slow.reset(theta)
    assert (start.total_steps, start.episodes) == (executed, episodes)
    assert start.sequential_steps == slow.starts.max()
    assert task.executed == executed
    for _ in range(n_updates):
        before = task.executed
        mine = fast.estimate(theta)
        gradient, scale, mean_loss, executed, episodes = slow.estimate(theta)
        # the two add the same numbers in another order
        np.testing.assert_allclose(mine.gradient, gradient, rtol=0, atol=1e-13 * (1 + scale))
        assert abs(mine.mean_loss - mean_loss) <= 1e-13 * (1 + abs(mean_loss))
        assert (mine.total_steps, mine.episodes) == (executed, episodes)
        assert task.executed - before == executed
        longest = max((getattr(w, "longest", 0) for w in slow.workers), default=0)
        assert mine.sequential_steps == (longest or slow.unroll_length)
        # θ moves in the middle of episodes: each window must use today's θ and the episode's ε
        theta = theta + 0.1 * rng.normal(size=3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("system_class", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("name", _PLAIN)
def test_estimator_agrees_with_its_slow_twin_on_random_settings(name, system_class, seed):
    _assert_twins(name, system_class, _random_settings(name, 1000 * seed + 7))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        # the last noise of an episode serves fewer steps
        ("gpes", {"unroll_length": 2, "noise_period": 6, "horizon": 16}),
        # a noise boundary inside a window, since windows do not start with the episode
        ("gpes", {"unroll_length": 3, "noise_period": 6, "horizon": 10}),
        ("pes", {"unroll_length": 7, "horizon": 10}),
        # several episodes in a window
        ("nres", {"unroll_length": 40, "horizon": 6}),
        ("tes", {"unroll_length": 40, "horizon": 6}),
        ("pes", {"unroll_length": 4, "horizon": None}),
        ("nres", {"unroll_length": 4, "horizon": None}),
        ("gpes", {"unroll_length": 2, "noise_period": 8, "horizon": None}),
        ("nres", {"unroll_length": 1, "horizon": 1}),
    ],
)
@pytest.mark.parametrize("system_class", [EndingSystem, LastingSystem])
def test_estimator_agrees_with_its_slow_twin_at_the_borders(name, settings, system_class):
    common = {"n_pairs": 2 * BLOCK_PAIRS + 3, "sigma": 0.3, "staggering": "iid", "seed": 5}
    _assert_twins(name, system_class, {**common, **settings})


def test_endless_tes_agrees_with_its_slow_twin():
    settings = {"n_pairs": 9, "sigma": 0.3, "unroll_length": 5, "horizon": None, "seed": 2}
    for system_class in (EndingSystem, LastingSystem):
        _assert_twins("tes", system_class, settings)


def test_the_vectorised_task_of_the_theory_tests_is_the_one_that_loops():
    # so that what is shown on one task holds on the other
    task = lq.LinearQuadratic(3, random_start=True)

    class Scalar:
        num_params, fields = 3, ("value", "steps", "stream")

        def reset(self, seed):
            self.state = task.start.copy()
            self.state[0] += (seed >> 40) * 2.0**-23 - 1.0
            self.steps = 0

        def step(self, theta):
            self.state = task.a @ self.state + task.b @ theta
            error = self.state - task.targets[self.steps]
            self.steps += 1
            return 0.5 * np.sum(error**2), False

    settings = {"n_pairs": 5, "sigma": 0.3, "unroll_length": 5, "horizon": 12, "seed": 2}
    fast, slow = (
        _make("nres", task, settings),
        SlowEstimator("nres", Scalar, staggering="stratified", **settings),
    )
    fast.reset(_THETA)
    slow.reset(_THETA)
    for _ in range(5):
        gradient, scale, *_ = slow.estimate(_THETA)
        np.testing.assert_allclose(
            fast.estimate(_THETA).gradient, gradient, rtol=0, atol=1e-12 * scale
        )


class IdleTask:
    """Costs nothing, ends never, and counts: for the papers' own sizes."""

    num_params = 2

    def __init__(self, horizon):
        self.horizon, self.executed = horizon, 0

    def allocate(self, n_rows):
        self.n_rows = n_rows

    def reset(self, rows, seeds):
        pass

    def unroll(self, rows, thetas, n_steps):
        self.executed += int(n_steps.sum())
        return UnrollResult(np.zeros(rows.size), n_steps.copy(), np.zeros(rows.size, bool))

    def copy_rows(self, source, target):
        pass

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


@pytest.mark.parametrize(
    ("name", "n_pairs", "unroll_length", "total", "sequential"),
    [
        # Swimmer and HalfCheetah of the NRES paper, T = 1000; TES unrolls one row, not two
        ("nres", 30, 100, 27_000, 900),
        ("pes", 30, 100, 27_000, 900),
        ("tes", 30, 100, 13_500, 900),
        ("nres", 300, 20, 294_000, 980),
        ("pes", 300, 20, 294_000, 980),
        ("tes", 300, 20, 147_000, 980),
    ],
)
def test_stratified_start_costs_what_the_papers_settings_make_it_cost(
    name, n_pairs, unroll_length, total, sequential
):
    task = IdleTask(1000)
    estimator = ESTIMATORS[name](task, n_pairs=n_pairs, unroll_length=unroll_length, sigma=0.3)
    start = estimator.reset(np.zeros(2))
    assert (start.total_steps, start.sequential_steps) == (total, sequential)
    assert task.executed == total
    assert (start.gradient == 0).all()
    estimate = estimator.estimate(np.zeros(2))
    rows = 3 if name == "tes" else 2
    assert estimate.total_steps == rows * n_pairs * unroll_length
    assert estimate.sequential_steps == unroll_length
    assert task.executed == total + estimate.total_steps
    # one share of the pairs stands at the end of its episode after every window
    assert estimate.episodes == n_pairs * unroll_length // 1000


def test_fulles_costs_whole_episodes():
    task = IdleTask(1000)
    estimator = FullES(task, n_pairs=3, sigma=0.3)
    start = estimator.reset(np.zeros(2))
    assert (start.total_steps, start.sequential_steps) == (0, 0)
    estimate = estimator.estimate(np.zeros(2))
    assert (estimate.total_steps, estimate.sequential_steps) == (6000, 1000)
    assert estimate.episodes == 3
    assert task.executed == 6000


@pytest.mark.parametrize("name", _PLAIN)
def test_steps_counted_are_the_steps_executed_also_with_early_ends(name):
    settings = {"n_pairs": 10, "sigma": 0.5, "seed": 3}
    if name != "fulles":
        settings["unroll_length"] = 4
    task = LoopTask(EndingSystem, 15)
    estimator = ESTIMATORS[name](task, **settings)
    start = estimator.reset(_THETA).total_steps
    counted = sum(estimator.estimate(_THETA).total_steps for _ in range(20))
    assert start + counted == task.executed
    # ends really came early: rows that had ended were not stepped, nor charged
    full = 20 * 10 * {"fulles": 2 * 15, "tes": 3 * 4}.get(name, 2 * 4)
    assert counted < full


def test_both_rows_of_a_pair_start_alike_and_pairs_and_episodes_do_not():
    seeds = {}

    class Noting(LoopTask):
        def reset(self, rows, new):
            super().reset(rows, new)
            for row, seed in zip(rows, new, strict=True):
                seeds.setdefault(int(row), []).append(int(seed))

    estimator = NRES(Noting(LastingSystem, 4), n_pairs=3, unroll_length=4, sigma=0.1)
    estimator.reset(_THETA)
    for _ in range(3):
        estimator.estimate(_THETA)
    assert [seeds[2 * i] == seeds[2 * i + 1] for i in range(3)] == [True] * 3
    every = list(itertools.chain.from_iterable(seeds[2 * i] for i in range(3)))
    assert len(every) == len(set(every)) == 9


def test_estimates_do_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr("es_rl.perturbations._PARALLEL_FROM", 1)
    runs = []
    for n_threads in (1, 2, 3):
        task = LoopTask(EndingSystem, 12)
        task.n_threads = n_threads
        estimator = PES(task, n_pairs=19, unroll_length=5, sigma=0.3, seed=1)
        estimator.reset(_THETA)
        runs.append([estimator.estimate(_THETA).gradient for _ in range(5)])
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_a_second_reset_starts_the_same_run_again():
    estimator = NRES(LoopTask(EndingSystem, 12), n_pairs=5, unroll_length=5, sigma=0.3, seed=1)
    runs = []
    for _ in range(2):
        start = estimator.reset(_THETA)
        runs.append((start.total_steps, [estimator.estimate(_THETA).gradient for _ in range(4)]))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


class BreakingSystem(LastingSystem):
    """Its loss becomes NaN at step 7 where θ₀ is below 0.6: in one row of every pair."""

    def step(self, theta):
        loss, ended = super().step(theta)
        return (np.nan if self.steps == 7 and theta[0] < 0.6 else loss), ended


@pytest.mark.parametrize("name", _PLAIN)
def test_a_loss_that_is_not_finite_stops_and_is_located(name):
    # step 7 is in the second window: PES and TES have drawn a second noise by then
    settings = {} if name == "fulles" else {"unroll_length": 5, "staggering": "lockstep"}
    estimator = ESTIMATORS[name](
        LoopTask(BreakingSystem, 20), n_pairs=3, sigma=1e-3, seed=4, **settings
    )
    estimator.reset(_THETA)
    if name != "fulles":
        estimator.estimate(_THETA)
    with pytest.raises(NonFiniteLossError) as caught:
        estimator.estimate(_THETA)
    error = caught.value
    noise = reference.noise(4, 0, 0, 1 if name in ("pes", "tes") else 0, 1e-3, 3)
    sign = "plus" if noise[0] < 0 else "minus"
    assert (error.pair, error.sign, error.step) == (0, sign, 7)
    assert np.isnan(error.loss)
    assert f"BreakingSystem: the loss of pair 0 ({sign} row) became nan at step 7" in str(error)


def test_a_loss_that_is_not_finite_in_the_mean_row_of_tes_is_located():
    class MeanBreaks(LastingSystem):
        def step(self, theta):
            loss, ended = super().step(theta)
            return (np.inf if (theta == _THETA).all() and self.steps == 3 else loss), ended

    estimator = TES(
        LoopTask(MeanBreaks, 20), n_pairs=3, unroll_length=5, sigma=0.1, staggering="lockstep"
    )
    estimator.reset(_THETA)
    with pytest.raises(NonFiniteLossError, match=r"pair 0 \(mean row\) became inf at step 3"):
        estimator.estimate(_THETA)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_pairs", 0),
        ("n_pairs", -3),
        ("n_pairs", 2.5),
        ("n_pairs", True),
        ("n_pairs", float("nan")),
        ("n_pairs", float("inf")),
        ("n_pairs", "many"),
        ("n_pairs", None),
        ("unroll_length", 0),
        ("unroll_length", 1.5),
        ("horizon", 0),
        ("horizon", -1),
        ("horizon", 9.5),
        ("sigma", 0.0),
        ("sigma", -0.1),
        ("sigma", float("nan")),
        ("sigma", float("inf")),
        ("sigma", 1e-200),
        ("sigma", 1e200),
        ("sigma", "0.1"),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.5),
        ("seed", None),
        ("staggering", "random"),
        ("noise_period", 0),
        ("noise_period", 7),
        ("noise_period", 7.5),
    ],
)
def test_a_bad_option_is_named_with_its_value(option, value):
    options = {"n_pairs": 3, "unroll_length": 5, "sigma": 0.1, option: value}
    kinds = [GPES]
    if option != "noise_period":
        kinds += [NRES, PES, TES]
    for kind in kinds:
        with pytest.raises(ValueError, match=rf"^{option}='?{re.escape(str(value))}'?: "):
            kind(LoopTask(LastingSystem, 10), **options)
    if option not in ("noise_period", "staggering", "unroll_length"):
        options.pop("unroll_length")
        with pytest.raises(ValueError, match=rf"^{option}='?{re.escape(str(value))}'?: "):
            FullES(LoopTask(LastingSystem, 10), **options)


def test_fulles_needs_an_end():
    with pytest.raises(ValueError, match="horizon=None: FullES needs"):
        FullES(LoopTask(LastingSystem, None), n_pairs=3, sigma=0.1)


def test_whole_numbers_in_other_types_are_taken():
    runs = []
    for five, ten in ((5, 10), (5.0, 10.0), (np.int32(5), np.float64(10))):
        estimator = GPES(
            LoopTask(EndingSystem, None), n_pairs=five, unroll_length=five, sigma=1,
            noise_period=ten, horizon=ten, seed=np.uint64(7),
        )  # fmt: skip
        estimator.reset(_THETA)
        runs.append([estimator.estimate(_THETA).gradient for _ in range(4)])
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_a_horizon_given_replaces_the_task_s():
    estimator = NRES(LoopTask(LastingSystem, 50), n_pairs=3, unroll_length=5, sigma=0.1, horizon=10)
    estimator.reset(_THETA)
    assert estimator.horizon == 10
    assert estimator.estimate(_THETA).episodes + estimator.estimate(_THETA).episodes == 3


@pytest.mark.parametrize("theta", [np.zeros(2), np.zeros((3, 1)), [0.0, np.nan, 0.0], [np.inf] * 3])
def test_unusable_theta_is_refused(theta):
    estimator = NRES(LoopTask(LastingSystem, 10), n_pairs=3, unroll_length=5, sigma=0.1)
    with pytest.raises(ValueError, match="theta has"):
        estimator.reset(theta)
    estimator.reset(_THETA)
    with pytest.raises(ValueError, match="theta has"):
        estimator.estimate(theta)


@pytest.mark.parametrize("name", _PLAIN)
def test_estimate_before_reset_is_refused(name):
    options = {} if name == "fulles" else {"unroll_length": 5}
    estimator = ESTIMATORS[name](LoopTask(LastingSystem, 10), n_pairs=3, sigma=0.1, **options)
    with pytest.raises(RuntimeError, match="call reset"):
        estimator.estimate(_THETA)
    with pytest.raises(RuntimeError, match="call reset"):
        estimator.state_dict()


def test_a_task_that_stands_still_or_falls_behind_is_found_out():
    class Stuck(LoopTask):
        def unroll(self, rows, thetas, n_steps):
            none = np.zeros(rows.size)
            return UnrollResult(none, none.astype(np.int64), none.astype(bool))

    class Short(LoopTask):
        def unroll(self, rows, thetas, n_steps):
            return super().unroll(rows, thetas, np.maximum(n_steps - rows % 2, 1))

    class Empty(LoopTask):
        def unroll(self, rows, thetas, n_steps):
            none = np.zeros(rows.size)
            return UnrollResult(none, none.astype(np.int64), np.ones(rows.size, bool))

    for broken, message in (
        (Stuck, "a row that had not ended took fewer steps"),
        (Short, "a row that had not ended took fewer steps"),
        (Empty, "an episode ended without a step"),
    ):
        estimator = NRES(
            broken(LastingSystem, 10), n_pairs=3, unroll_length=5, sigma=0.1, staggering="lockstep"
        )
        estimator.reset(_THETA)
        with pytest.raises(RuntimeError, match=f"LastingSystem: {message}"):
            estimator.estimate(_THETA)


@pytest.mark.parametrize("name", _PLAIN)
def test_each_workers_own_estimate_is_what_it_gives_alone(name):
    # pair 0 has the same noise however many there are; episodes end inside windows
    options = {"sigma": 0.3, "seed": 5, "horizon": 10}
    if name != "fulles":
        options.update(unroll_length=4, staggering="lockstep")
    if name == "gpes":
        options["noise_period"] = 8
    runs = [ESTIMATORS[name](LoopTask(EndingSystem, 10), n_pairs=n, **options) for n in (11, 11, 1)]
    for estimator in runs:
        estimator.reset(_THETA)
    for i in range(6):
        plain, alone = (runs[k].estimate(_THETA + 0.1 * i) for k in (0, 2))
        own, result = runs[1].estimate_each(_THETA + 0.1 * i)
        np.testing.assert_array_equal(result.gradient, plain.gradient)
        assert result[1:] == plain[1:]
        scale = np.abs(own).max()
        np.testing.assert_allclose(own[0], alone.gradient, rtol=0, atol=1e-14 * scale)
        np.testing.assert_allclose(own.mean(axis=0), plain.gradient, rtol=0, atol=1e-14 * scale)
        assert np.ptp(own[:, 0]) > 0


def test_each_workers_own_estimate_needs_a_start():
    with pytest.raises(RuntimeError, match="call reset"):
        NRES(lq.LinearQuadratic(1), n_pairs=1, unroll_length=1, sigma=1.0).estimate_each(_THETA)


@pytest.mark.parametrize("name", ["sigma", "reward_offset", "adapt_sigma", "refresh_drift"])
def test_numbers_of_numpy_are_numbers_and_truth_is_none(name):
    task = LoopTask(LastingSystem, 15)
    given = {"n_pairs": 4, "unroll_length": 4, "sigma": 0.5}
    for value in (np.float32(0.25), np.float64(0.25), np.int64(1), 1):
        assert getattr(NRES(task, **{**given, name: value}), name) == float(value)
    for value in (True, np.True_, "1", None, float("nan"), np.float32("inf"), 1j, np.zeros(1)):
        with pytest.raises(ValueError, match=f"{name}="):
            NRES(task, **{**given, name: value})
