"""Adaptive unroll length: ρ has its closed form, predicts the variance, and moves W as it should.

Tolerances are in standard errors: 4 are exceeded by chance once in 16,000 comparisons.
"""

from __future__ import annotations

import linear_quadratic as lq
import numpy as np
import pytest
from pair_samples import mean_and_error, pair_estimates
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl import unroll_adaptation, variance_theory
from es_rl.estimators import ESTIMATORS, GPES, NRES
from es_rl.unroll_adaptation import UnrollAdaptation
from es_rl.unroll_range import check_range, lengths_in
from es_rl.variance import measure

_THETA = np.array([0.6, -0.2, 0.5])


def _memoryless(targets):
    """State Bθ with B the first two rows of 1, whatever came before: at θ = 0, G^k is minus the
    window's mean target."""
    task = lq.LinearQuadratic(0, num_params=3, state_size=2, horizon=len(targets), decay=0.0)
    task.b, task.targets = np.eye(2, 3), np.asarray(targets, float)
    return task


def _alternating(rho, block, horizon):
    """Windows of `block` steps with G^k = -(p ± q), p ⊥ q: ρ = (|p|² - |q|²)/(|p|² + |q|²)."""
    signs = (-1.0) ** (np.arange(horizon) // block)
    return _memoryless(
        np.column_stack([np.full(horizon, np.sqrt(1 + rho)), np.sqrt(1 - rho) * signs])
    )


def _cancelling(horizon):
    """Targets z_t - z_{t-1} with independent z: a window's sum is z at its end less z before it,
    so that neighbours share one z with opposite signs, and ρ = -½ for every W, up to chance."""
    z = np.random.default_rng(5).normal(size=(horizon + 1, 2))
    return _memoryless(z[1:] - z[:-1])


def _closed_rho(task, theta, unroll_length, noise_period=None):
    """ρ over all neighbours in one noise segment, the j-th segment with the weight j."""
    period = noise_period or task.horizon
    parts = variance_theory.segment_gradients(
        task.step_gradients(theta), unroll_length, period
    )  # (n, segments, d)
    segment = np.arange(len(parts)) * unroll_length // period
    joined = segment[1:] == segment[:-1]
    weights = (segment[1:] + 1)[joined]
    a, b = parts[:-1][joined], parts[1:][joined]
    products = np.sum(a * b, axis=(1, 2))
    squares = 0.5 * np.sum(a**2 + b**2, axis=(1, 2))
    return weights @ products / (weights @ squares)


def _measured(task, theta, unroll_length, n_windows=40, **options):
    """ρ and its standard error where W is kept as it is."""
    kind = GPES if "noise_period" in options else NRES
    estimator = kind(
        task, unroll_length=unroll_length, unroll_range=(unroll_length // 2, unroll_length),
        **{"n_pairs": 240, "sigma": 0.7, "seed": 1, **options},
    )  # fmt: skip
    estimator._unrolls.choose = lambda: None
    estimator.reset(theta)
    for _ in range(n_windows):
        estimator.estimate(theta)
    return estimator._unrolls.agreement()


@pytest.mark.parametrize("unroll_length", [2, 4])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_measured_rho_has_its_closed_form(unroll_length, decay, drift):
    task = lq.LinearQuadratic(3, horizon=24, decay=decay, drift=drift)
    expected = _closed_rho(task, _THETA, unroll_length)
    rho, error = _measured(task, _THETA, unroll_length)
    assert abs(rho - expected) < 4 * error
    assert error < 0.06


@pytest.mark.parametrize("noise_period", [8, 12])
def test_later_noises_of_gpes_have_the_weight_of_their_number(noise_period):
    task = lq.LinearQuadratic(4, horizon=24, drift=0.5)
    expected = _closed_rho(task, _THETA, 2, noise_period)
    rho, error = _measured(task, _THETA, 2, noise_period=noise_period)
    assert abs(rho - expected) < 4 * error
    assert error < 0.06


def test_the_standard_error_is_the_scatter_over_seeds():
    task = lq.LinearQuadratic(3, horizon=24, drift=1.0)
    expected = _closed_rho(task, _THETA, 2)
    found = [_measured(task, _THETA, 2, n_pairs=36, seed=seed) for seed in range(40)]
    z = np.array([(rho - expected) / error for rho, error in found])
    # the variance of 40 normal numbers has the relative error √(2/40) = 0.22
    assert 0.4 < np.mean(z**2) < 1.8
    assert abs(z.mean()) < 4 / np.sqrt(40)


def test_noise_of_the_losses_lowers_rho_as_it_raises_the_variance():
    # D = 2W G·ε + η: the variance per step goes with E[D²]/W, and E[(D_a + D_b)²]/2 E[D²] = 1 + ρ
    rng = np.random.default_rng(0)
    n, rho, noise = 4000, 0.6, 0.8
    shared = rng.normal(size=(n, 1))
    d = np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(n, 2))
    d += noise * rng.normal(size=d.shape)
    found = UnrollAdaptation((1, 2), 2, n)
    for k in range(2):
        part = unroll_adaptation.Part(np.arange(n), np.column_stack([d[:, k], np.zeros(n)]).ravel())
        found.learn([part], np.full(n, 2 * (k + 1)), np.ones(n))
    measured, error = found.agreement()
    assert abs(measured - rho / (1 + noise**2)) < 4 * error
    ratio = np.mean(d.sum(axis=1) ** 2) / np.mean(np.sum(d**2, axis=1))
    assert measured == pytest.approx(ratio - 1, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unroll_length", [1, 2, 3, 6])
def test_joining_windows_multiplies_the_variance_per_step_by_one_plus_rho(seed, unroll_length):
    task = lq.LinearQuadratic(seed, horizon=24, drift=seed / 2)
    g = task.step_gradients(_THETA)
    a, b = (variance_theory.window_gradients(g, unroll_length)[k::2] for k in range(2))
    rho = np.sum(a * b) / (0.5 * np.sum(a**2 + b**2))
    one, two = (w * variance_theory.stratified_variance(g, w) for w in
                (unroll_length, 2 * unroll_length))  # fmt: skip
    assert two / one == pytest.approx(1 + rho, rel=1e-11)


@pytest.mark.parametrize("seed", range(8))
def test_condition_10_is_agreement_of_all_windows(seed):
    # with ρ̄ over all pairs of different windows, ‖ΣG‖² = Σ‖G‖² (1 + (n - 1) ρ̄)
    task = lq.LinearQuadratic(seed, horizon=24, drift=seed / 8)
    g = task.step_gradients(_THETA)
    windows = variance_theory.window_gradients(g, 4)
    n, d = windows.shape
    products = windows @ windows.T
    mean_rho = (products.sum() - np.trace(products)) / ((n - 1) * np.trace(products))
    assert variance_theory.is_nres_surely_better(g, 4) == ((n - 1) * mean_rho >= 1 / (d + 1))


@pytest.mark.parametrize("rho", [-0.75, 0.0, 0.75])
def test_the_variance_per_step_really_changes_as_rho_predicts(rho):
    task, theta = _alternating(rho, 4, 32), np.zeros(3)
    assert _closed_rho(task, theta, 4) == pytest.approx(rho)
    found, error = _measured(task, theta, 4)
    assert abs(found - rho) < 4 * error + 1e-12
    per_step = []
    for length in (4, 8):
        found = measure(
            NRES, task, theta, n_samples=8000, unroll_length=length, sigma=0.5
        ).stratified
        # T6: (d + 1) mean‖G‖², and ‖G‖² is 2, joined 1 + ρ
        assert abs(found.value - 4 * (2 if length == 4 else 1 + rho)) < 4 * found.error
        per_step.append(length * found.value)
    # 8000 samples give each variance to some 3 %, and both to the same side
    assert per_step[1] / per_step[0] == pytest.approx(1 + rho, rel=0.1)


def _lengths(task, n_windows, *, first=8, unroll_range=(2, 32), seed=0):
    estimator = NRES(
        task, n_pairs=64, unroll_length=first, sigma=0.3, seed=seed, unroll_range=unroll_range
    )
    estimator.reset(np.zeros(3))
    lengths = []
    for _ in range(n_windows):
        estimator.estimate(np.zeros(3))
        lengths.append(estimator.unroll_length_now)
    return lengths


@pytest.mark.parametrize("seed", range(3))
def test_windows_that_agree_make_w_short(seed):
    task = _memoryless(np.tile([1.0, 0.5], (128, 1)))
    lengths = _lengths(task, 70, seed=seed)
    # twenty windows between two changes, and no more are needed
    assert lengths == [8] * 20 + [4] * 20 + [2] * 30


@pytest.mark.parametrize("seed", range(3))
def test_windows_that_cancel_make_w_long(seed):
    lengths = _lengths(_cancelling(256), 200, seed=seed)
    assert lengths[0] == 8
    assert lengths[-1] == 32
    assert (np.diff(lengths) >= 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rho", [0.1, 0.25, 0.4])
def test_it_rests_in_between(rho, seed):
    assert set(_lengths(_alternating(rho, 8, 128), 200, seed=seed)) == {8}


@pytest.mark.parametrize("seed", range(3))
def test_half_windows_that_cancel_are_tried_ever_more_rarely(seed):
    # ρ is -0.8 for windows of 8 steps, and 1 for those of 16, whose halves cancel
    lengths = np.array(_lengths(_alternating(-0.8, 8, 256), 700, unroll_range=(8, 16), seed=seed))
    halvings = np.flatnonzero(np.diff(lengths) < 0)
    assert 3 <= len(halvings) <= 5
    assert (np.diff(halvings) >= 1.5 * np.diff(halvings)[0]).sum() >= 1
    assert np.mean(lengths[350:] == 16) > 0.85


def _move(estimator, length):
    estimator._unrolls._move(length, has_halved=False)
    estimator._unrolls.choose = lambda: None


@pytest.mark.parametrize("noise_period", [None, 12])
@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_the_mean_over_an_episode_is_unbiased_at_every_length(length, noise_period):
    first = 2 if length < 3 else 3
    task = lq.LinearQuadratic(6, horizon=24, drift=1.0)
    expected = variance_theory.mean_gradient(task.step_gradients(_THETA))
    estimator = GPES(
        task, n_pairs=480, unroll_length=first, sigma=0.5, noise_period=noise_period, seed=4,
        unroll_range=(1, 6) if first == 3 else (1, 4),
    )  # fmt: skip
    estimator.reset(_THETA)
    estimator.estimate(_THETA)
    _move(estimator, length)
    samples = np.zeros((480, 3))
    n_windows = 3 * 24 // length
    for _ in range(n_windows):
        own, estimate = pair_estimates(estimator, _THETA)
        samples += own / n_windows
        assert estimate.sequential_steps == length
    mean, error = mean_and_error(samples)
    assert (np.abs(mean - expected) < 4 * error).all()


@pytest.fixture
def eager(monkeypatch):
    """Let W change often, whatever is significant."""
    monkeypatch.setattr(unroll_adaptation, "_WAIT", 2)
    monkeypatch.setattr(unroll_adaptation, "_SURE", 0.0)


def _make(system=EndingSystem, **more):
    options = {"n_pairs": 11, "unroll_length": 4, "sigma": 0.3, "seed": 3, "unroll_range": (1, 8)}
    return NRES(LoopTask(system, 40), **{**options, **more})


@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("shaping", ["none", "std"])
def test_every_step_is_counted_and_the_scale_is_that_of_today_s_window(eager, system, shaping):
    estimator = _make(system, shaping=shaping)
    total = estimator.reset(_THETA).total_steps
    seen = set()
    for _ in range(60):
        own, estimate = estimator.estimate_each(_THETA)
        total += estimate.total_steps
        seen.add(estimator.unroll_length_now)
        assert estimate.sequential_steps == estimator.unroll_length_now
        assert estimator.task.executed == total
        np.testing.assert_allclose(own.mean(axis=0), estimate.gradient, rtol=1e-11, atol=1e-13)
    assert len(seen) > 1


def test_the_gradient_is_divided_by_the_window_it_was_made_in(eager):
    estimator = _make(LastingSystem)
    estimator.reset(_THETA)
    lengths = []
    for _ in range(30):
        window = estimator.unroll_window(_THETA)
        length = estimator.unroll_length_now
        lengths.append(length)
        if len(window.parts) > 1:  # their noise is no longer there
            continue
        (part,) = window.parts
        expected = part.differences @ estimator._epsilon / (2 * 0.3**2 * length * 11)
        np.testing.assert_allclose(estimator.gradient(window), expected, rtol=1e-11)
    assert len(set(lengths)) > 1


@pytest.mark.parametrize(
    "more", [{}, {"shaping": "ranks"}, {"adapt_sigma": 0.2}, {"n_pairs": 19, "noise": "fixed-norm"}]
)
def test_a_resumed_run_goes_on_bit_for_bit_across_changes(eager, more):
    estimator = _make(LastingSystem, **more)
    estimator.reset(_THETA)
    changes = 0
    for _ in range(12):
        again = _make(LastingSystem, **more)
        again.load_state_dict(estimator.state_dict())
        assert again.unroll_length_now == estimator.unroll_length_now
        before = estimator.unroll_length_now
        for _ in range(3):
            mine, theirs = estimator.estimate(_THETA), again.estimate(_THETA)
            assert mine[1:] == theirs[1:]
            np.testing.assert_array_equal(mine.gradient, theirs.gradient)
            assert again.adapted == estimator.adapted
        changes += estimator.unroll_length_now != before
    assert changes > 1
    assert estimator.adapted["unroll_length"] == estimator.unroll_length_now
    first = estimator._unrolls._first
    estimator.reset(_THETA)
    assert estimator.unroll_length_now == first == 4


def test_a_pair_s_sigma_does_not_weigh_where_it_is_adapted():
    # even pairs perturb with σ/κ, odd ones with σκ; D/σ is of one size
    task = lq.LinearQuadratic(3, horizon=24, drift=1.0)
    estimator = NRES(
        task, n_pairs=240, unroll_length=2, sigma=0.5, unroll_range=(1, 2), adapt_sigma=0.01
    )
    estimator._unrolls.choose = lambda: None
    estimator.reset(_THETA)
    for _ in range(40):
        estimator.estimate(_THETA)
    even, odd = (estimator._unrolls._sums[1][k::2].mean() for k in range(2))
    assert 0.7 < odd / even < 1.4  # without the division it would be 1.25⁴ = 2.4


def test_without_the_option_nothing_is_kept():
    estimator = _make(unroll_range=None)
    estimator.reset(_THETA)
    state = estimator.state_dict()
    assert not [name for name in state if "unrolls" in name or name == "unroll_range"]
    assert estimator.adapted == {}
    assert estimator.unroll_length_now == 4


def test_losses_too_large_to_square_teach_nothing():
    found = UnrollAdaptation((1, 2), 2, 8)
    for k in (1, 2, 3):
        part = unroll_adaptation.Part(np.arange(8), np.tile([1e200, 0.0], 8))
        found.learn([part], np.full(8, 2 * k), np.ones(8))
    assert found.agreement().error == np.inf


def test_states_that_do_not_fit_are_refused():
    estimator = _make()
    estimator.reset(_THETA)
    state = estimator.state_dict()
    with pytest.raises(ValueError, match=r"^unroll_range=none: the state is of .*=1:8; go on with"):
        _make(unroll_range=None).load_state_dict(state)
    with pytest.raises(ValueError, match=r"^unroll_range=2:8: the state is of"):
        _make(unroll_range=(2, 8)).load_state_dict(state)
    for name in ("length", "windows", "patience", "has_halved", "last", "sums"):
        without = {k: v for k, v in state.items() if k != f"unrolls/{name}"}
        with pytest.raises(ValueError, match=f"lacks '{name}' of the adaptive unroll length"):
            _make().load_state_dict(without)
    with pytest.raises(ValueError, match=r"^unroll_length=5: .* none of 1, 2, 4, 8"):
        _make().load_state_dict({**state, "unrolls/length": np.array(5)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unroll_range": 8}, "=8: must be the shortest and the longest window"),
        ({"unroll_range": (1, 2.5)}, r"=\(1, 2.5\): must be the shortest and the longest"),
        ({"unroll_range": (0, 8)}, r"=\(0, 8\): must be the shortest and the longest"),
        ({"unroll_range": (8, 1)}, r"=\(8, 1\): must begin with the shorter one: 1:8"),
        ({"unroll_range": (5, 8)}, "=5:8: must contain the 4 steps of the first window"),
        ({"unroll_range": (3, 7)}, "=3:7: leaves a window of 4 steps no other length"),
        ({"unroll_range": (4, 32)}, "=4:32: windows of 32 steps could not be compared.*at most 20"),
        ({"n_pairs": 7}, "=1:8: needs n_pairs of 8 at least, has 7"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^unroll_range{message}"):
        _make(**options)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pes", "PES draws a new noise every window, so that its noise period would change"),
        ("tes", "TES has a bias that depends on W"),
        ("fulles", "FullES unrolls whole episodes"),
        ("ars", "ARS unrolls whole episodes"),
    ],
)
def test_other_estimators_refuse_it(name, reason):
    options = {"n_pairs": 9, "sigma": 0.3, "unroll_range": (1, 8)}
    if name in ("pes", "tes"):
        options["unroll_length"] = 4
    with pytest.raises(ValueError, match=f"^unroll_range=1:8: {reason}.*take NRES or GPES"):
        ESTIMATORS[name](LoopTask(EndingSystem, 40), **options)


def test_the_noise_period_of_gpes_must_stay_a_multiple():
    def make(noise_period):
        return GPES(
            LoopTask(EndingSystem, 40), n_pairs=9, unroll_length=4, sigma=0.3,
            noise_period=noise_period, unroll_range=(1, 8),
        )  # fmt: skip

    assert make(16)._unrolls is not None
    with pytest.raises(ValueError, match=r"^unroll_range=1:8: windows of 8 .* 12 steps of the no"):
        make(12)
    with pytest.raises(ValueError, match=r"^unroll_range=1:8: the noise period of 20 steps is no"):
        make(20)


def test_it_needs_all_pairs_in_one_process():
    with pytest.raises(ValueError, match=r"^unroll_range=1:8: needs all pairs in one process"):
        _make(n_pairs=16).hold(8, 8)
    with pytest.raises(ValueError, match=r"^unroll_range=\(1, 8\): ties the pairs"):
        measure(
            NRES, LoopTask(LastingSystem, 40), _THETA, n_samples=20, unroll_length=4, sigma=0.3,
            unroll_range=(1, 8),
        )  # fmt: skip


def test_lengths_are_what_doubling_and_exact_halving_reach():
    assert lengths_in((10, 200), 50, 1000) == (25, 50, 100, 200)
    assert lengths_in((10, 160), 40, None) == (10, 20, 40, 80, 160)
    assert check_range([10.0, 200]) == (10, 200)
