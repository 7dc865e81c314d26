"""Automatic σ: it rests at the optimum that a closed form gives, and does nothing unasked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from systems import EndingSystem, LoopTask

from es_rl.estimators import ESTIMATORS, FullES
from es_rl.sigma_adaptation import SigmaAdaptation
from es_rl.tasks import UnrollResult

_THETA = np.array([0.6, -0.2, 0.5])
_D, _NOISE = 4, 0.5


class Sines:
    """Loss Σ sin θ_j of one step, plus noise of deviation τ that each row has to itself."""

    num_params, horizon = _D, 1

    def allocate(self, n_rows):
        self.noise = np.zeros(n_rows)

    def reset(self, rows, seeds):
        for row, seed in zip(rows, seeds, strict=True):
            rng = np.random.default_rng([int(seed), int(row) % 2])
            self.noise[row] = _NOISE * rng.standard_normal()

    def unroll(self, rows, thetas, n_steps):
        losses = np.sin(thetas).sum(axis=1) + self.noise[rows]
        return UnrollResult(losses, np.ones(rows.size, np.int64), np.zeros(rows.size, bool))


def _ratio(sigma):
    """ρ at θ = 0: with u = [Σ sin(σz_j) + τν/√2]/σ, S = |E[u z]|² and M = E[u²|z|²]."""
    signal = _D * math.exp(-(sigma**2))
    square = (1 - math.exp(-2 * sigma**2)) / 2  # E sin²(σz)
    with_z = (1 - (1 - 4 * sigma**2) * math.exp(-2 * sigma**2)) / 2  # E sin²(σz) z²
    total = _D * with_z + _D * (_D - 1) * square + _NOISE**2 * _D / 2
    return signal * sigma**2 / total


def _run(sigma, n_updates=200, seed=1):
    estimator = FullES(Sines(), n_pairs=64, sigma=sigma, adapt_sigma=0.2, seed=seed)
    estimator.reset(np.zeros(_D))
    found = []
    for _ in range(n_updates):
        estimator.estimate(np.zeros(_D))
        found.append(estimator.sigma_now)
    return np.array(found)


@pytest.mark.parametrize("start", [0.06, 1.6])
def test_sigma_rests_where_the_closed_form_says(start):
    # ρ is the same a factor 1.25 above and below; close to the maximum of ρ itself
    grid = np.exp(np.linspace(np.log(0.1), np.log(3.0), 2000))
    rest = grid[np.argmin([abs(_ratio(1.25 * s) / _ratio(s / 1.25) - 1) for s in grid])]
    best = grid[np.argmax([_ratio(s) for s in grid])]
    assert abs(np.log(rest / best)) < 0.1
    # ln σ over the last 100 of 200 updates; it wanders by 0.1 over some ten updates
    found = np.log(_run(start)[100:])
    assert abs(found.mean() - np.log(rest)) < 0.1
    assert _ratio(np.exp(found.mean())) > 0.98 * _ratio(best)


def test_a_quadratic_loss_without_noise_does_not_pull():
    # ρ = 1/(d + 2) in both halves: the ratios differ by chance alone
    adaptation = SigmaAdaptation(0.3, 0.1, 64)
    rng = np.random.default_rng(0)
    slope = np.arange(1.0, 5.0)
    for _ in range(300):
        z = rng.normal(size=(64, 4))
        adaptation.learn((z @ slope)[:, None] * z)
    assert abs(np.log(adaptation.sigma / 0.3)) < 0.7  # a walk of 300 steps of at most 0.1


def test_without_a_signal_sigma_stays_about_where_it_began():
    adaptation = SigmaAdaptation(0.3, 0.1, 64)
    rng = np.random.default_rng(0)
    for _ in range(300):
        z = rng.normal(size=(64, 4))
        adaptation.learn(rng.normal(size=(64, 1)) * z)
        assert abs(np.log(adaptation.sigma / 0.3)) < 1.5


def _make(name, **more):
    options = {"n_pairs": 9, "sigma": 0.3, "horizon": 7, "seed": 3, "adapt_sigma": 0.3}
    if name not in ("fulles", "ars"):
        options["unroll_length"] = 5
    return ESTIMATORS[name](LoopTask(EndingSystem, 7), **{**options, **more})


@pytest.mark.parametrize("shaping", ["none", "std"])
@pytest.mark.parametrize("name", ["nres", "pes", "tes", "fulles"])
def test_every_difference_is_divided_by_the_sigma_of_its_own_noise(name, shaping):
    estimator = _make(name, shaping=shaping)
    estimator.reset(_THETA)
    sigmas = set()
    for _ in range(6):
        noted = []
        add = type(estimator._sum).add

        def noting(accumulated, pairs, differences, noted=noted, add=add):
            noise = accumulated[pairs].copy()
            noted.append((pairs, noise, estimator._sigmas[pairs].copy()))
            add(estimator._sum, accumulated, pairs, differences)

        estimator._sum.add = noting
        window = estimator.unroll_window(_THETA)
        del estimator._sum.add
        d = np.concatenate([part.differences for part in window.parts])
        noise = np.concatenate([noise for _, noise, _ in noted])
        sigma = np.concatenate([sigma for *_, sigma in noted])
        sigmas.update(sigma.tolist())
        weights = d / sigma
        if shaping == "std":
            expected = (weights / np.sqrt(np.sum(weights**2) / 9) / sigma) @ noise / 9
        else:
            expected = (weights / sigma) @ noise / (2 * estimator.unroll_length * 9)
        np.testing.assert_allclose(estimator.gradient(window), expected, rtol=1e-10, atol=1e-13)
    assert len(sigmas) > 4  # it did move


@pytest.mark.parametrize("name", ["nres", "pes", "tes", "fulles", "ars"])
def test_resumed_run_goes_on_bit_for_bit(name):
    estimator, again = _make(name), _make(name)
    estimator.reset(_THETA)
    for _ in range(5):
        estimator.estimate(_THETA)
    again.load_state_dict(estimator.state_dict())
    for _ in range(4):
        mine, theirs = estimator.estimate(_THETA), again.estimate(_THETA)
        np.testing.assert_array_equal(mine.gradient, theirs.gradient)
        assert estimator.sigma_now == again.sigma_now != 0.3
    estimator.reset(_THETA)
    assert 0.3 in (estimator.sigma_now, estimator._adaptation._first)


def test_each_pair_s_own_estimate_has_the_gradient_as_its_mean():
    estimator = _make("nres")
    estimator.reset(_THETA)
    for _ in range(3):
        own, estimate = estimator.estimate_each(_THETA)
        np.testing.assert_allclose(own.mean(axis=0), estimate.gradient, rtol=1e-11, atol=1e-13)


def test_states_that_do_not_fit_are_refused():
    estimator = _make("nres")
    estimator.reset(_THETA)
    state = estimator.state_dict()
    with pytest.raises(ValueError, match=r"^adapt_sigma=0.0: the state is of"):
        _make("nres", adapt_sigma=0.0).load_state_dict(state)
    for name in ("sigmas", "adaptation/sigma", "adaptation/means"):
        with pytest.raises(ValueError, match="lacks"):
            _make("nres").load_state_dict({k: v for k, v in state.items() if k != name})
    with pytest.raises(ValueError, match="no usable"):
        _make("nres").load_state_dict({**state, "adaptation/sigma": np.array(np.nan)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt_sigma": -0.1}, "must be zero or a positive number"),
        ({"adapt_sigma": math.inf}, "must be zero or a positive number"),
        ({"n_pairs": 3}, "needs n_pairs of 4 at least"),
        ({"noise": "orthogonal"}, "choose another noise"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^adapt_sigma=.*{message}"):
        _make("nres", **options)


def test_it_needs_all_pairs_in_one_process():
    with pytest.raises(ValueError, match=r"^adapt_sigma=0.3: needs all pairs in one process"):
        _make("nres", n_pairs=16).hold(8, 8)
