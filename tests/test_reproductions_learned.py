"""What the figures of the learned optimizer, the tuned schedule and the poster's run rest on."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from reproductions import (  # noqa: E402
    hyperparameter_tuning,
    learned_optimizer,
    learned_optimizer_surface,
    poster_control,
)
from reproductions import learned_optimizer_runs as runs  # noqa: E402
from reproductions.cells import Cell  # noqa: E402
from reproductions.rate_tables import rate_table  # noqa: E402
from reproductions.report import SIZES, Report  # noqa: E402

TINY: runs.Problem = {"dataset": "digits", "hidden": [4], "batch_size": 8, "horizon": 10}
TUNED = {"dataset": "digits", "hidden": [4], "batch_size": 8, "horizon": 30}


def _train(**options):
    return runs.train(
        **{
            "method": "nres", "noise_period": None, "problem": TINY, "n_pairs": 3, "sigma": 0.01,
            "learning_rate": 1e-2, "seed": 1, "updates": 6, "every": 2, **options,
        }
    )  # fmt: skip


def _cell(loss, updates):
    return Cell({}, {"loss": np.array(loss), "update": np.array(updates)}, 0.0)


def _methods(size, tmp_path):
    report = Report("x", size, 1, str(tmp_path / size))
    return {
        "learned optimizer": learned_optimizer._methods(report),
        "poster": poster_control._methods(report),
    }


@pytest.mark.parametrize("size", ["default", "full"])
def test_every_method_of_a_figure_spends_the_same_steps(size, tmp_path):
    steps_of = {"tes": 3}
    for name, methods in _methods(size, tmp_path).items():
        spent = {}
        for method, settings in methods.items():
            if name == "poster":
                pairs, window, horizon = poster_control.N_PAIRS, poster_control.WINDOW, 1000
            else:
                pairs, window = settings["n_pairs"], 1
                horizon = settings["problem"]["horizon"]
            window = horizon if settings["method"] == "fulles" else window
            rows = pairs * steps_of.get(settings["method"], 2)
            spent[method] = rows * window * settings["updates"]
            assert settings["updates"] % settings["every"] == 0
        assert max(spent.values()) <= 1.03 * min(spent.values()), (size, name, spent)


@pytest.mark.parametrize("size", SIZES)
def test_the_noise_periods_go_from_that_of_pes_to_that_of_nres(size):
    horizon = runs.PROBLEMS[size]["horizon"]
    periods = learned_optimizer._periods(horizon)
    assert periods[0] == 1
    assert periods[-1] == horizon
    assert sorted(set(periods)) == periods


def test_the_full_size_is_the_papers():
    problem = runs.PROBLEMS["full"]
    assert problem["hidden"] == [32, 32, 32]
    assert (problem["batch_size"], problem["horizon"]) == (128, 1000)
    assert hyperparameter_tuning.PROBLEMS["full"]["hidden"] == [100, 100]
    assert hyperparameter_tuning.PROBLEMS["full"]["horizon"] == 5000


def test_a_meta_training_is_measured_by_the_loss_of_its_own_inner_training():
    course = _train()
    assert course["update"].tolist() == [0, 2, 4, 6]
    # N=3 pairs, W=1: six steps an update, after the step-unlocked start
    assert np.diff(course["total_steps"]).tolist() == [12, 12, 12]
    start = runs.make_task(TINY).initial_theta(1)
    for theta, loss in ((start, course["loss"][0]), (course["last_theta"], course["loss"][-1])):
        assert runs.inner_losses(TINY, theta).mean() == pytest.approx(loss, rel=1e-12)
    assert course["final"] == course["loss"][-1]
    assert course["score"] == course["loss"][-2:].mean()


def test_the_noise_period_reaches_the_estimator():
    losses = {
        period: _train(method="gpes", noise_period=period)["loss"].tolist() for period in (1, 5, 10)
    }
    assert losses[1] == _train(method="pes")["loss"].tolist()
    assert losses[10] == _train()["loss"].tolist()
    assert losses[5] not in (losses[1], losses[10])


def test_adam_is_the_best_of_what_was_tried():
    best = runs.best_adam(TINY)
    task = runs.make_task(TINY)
    for betas in runs._ADAM_BETAS:
        losses = task.adam_losses(runs._ADAM_RATES, TINY["horizon"], betas=betas)
        assert (losses.mean(axis=1) >= best["losses"].mean()).all()
        if betas == best["betas"]:
            np.testing.assert_array_equal(
                losses[best["rate"] == runs._ADAM_RATES][0], best["losses"]
            )
    # the best is not at an end of the grid of rates
    assert runs._ADAM_RATES[0] < best["rate"] < runs._ADAM_RATES[-1]


def test_a_loss_is_reached_at_the_first_moment_it_is_that_low_or_never():
    cell = _cell([3.0, 2.0, 1.0, 2.0], [0, 10, 20, 30])
    assert learned_optimizer.reached(cell, 2.0, "update") == 10
    assert learned_optimizer.reached(cell, 1.5, "update") == 20
    assert math.isinf(learned_optimizer.reached(cell, 0.5, "update"))


def test_a_table_of_rates_has_one_row_a_method_with_every_rate_tried():
    tried = [
        {"method": "A", "learning_rate": 0.1, "score": 2.0, "chosen": False},
        {"method": "A", "learning_rate": 0.3, "score": 1.23456, "chosen": True},
        {"method": "B", "learning_rate": 1.0, "score": math.inf, "chosen": True},
    ]
    assert rate_table(tried) == [
        {"method": "A", "chosen": "0.3", "scores": "0.1: 2, 0.3: 1.235"},
        {"method": "B", "chosen": "1", "scores": "1: inf"},
    ]


def test_local_minima_are_points_below_both_neighbours():
    assert learned_optimizer_surface.local_minima(np.array([3.0, 1.0, 2.0, 0.0, 5.0, 5.0])) == 2
    assert learned_optimizer_surface.local_minima(np.linspace(0, 1, 9) ** 2) == 0


def test_a_slice_goes_through_its_theta():
    theta = runs.make_task(TINY).initial_theta(0)
    found = learned_optimizer_surface.slices(problem=TINY, theta=theta.tolist(), seed=3, n=5)
    for name in ("wide", "near"):
        assert found[name][2] == pytest.approx(runs.inner_losses(TINY, theta).mean(), rel=1e-6)
        assert np.ptp(found[name]) > 0
    assert found["along_wide"][-1] == learned_optimizer_surface.WIDE


@pytest.mark.parametrize("objective", hyperparameter_tuning.OBJECTIVES)
def test_every_theta_meets_the_same_trainings(objective):
    task = hyperparameter_tuning.make_task(TUNED, objective)
    theta = np.array([-3.0, 1.0])
    losses = hyperparameter_tuning.episode_losses(task, np.stack([theta, theta + 0.5, theta]), 4, 7)
    assert losses.shape == (3, 4)
    np.testing.assert_array_equal(losses[0], losses[2])
    assert not np.array_equal(losses[0], losses[1])
    # other trainings from another seed on, the same where they overlap
    later = hyperparameter_tuning.episode_losses(task, theta[None], 3, 8)
    np.testing.assert_array_equal(later[0], losses[0, 1:])


def test_a_training_that_diverges_is_infinitely_bad():
    task = hyperparameter_tuning.make_task(TUNED, "training-loss")
    losses = hyperparameter_tuning.episode_losses(task, np.array([[90.0, -4.0], [-4.0, 0.0]]), 2, 0)
    assert np.isinf(losses[0]).all()
    assert np.isfinite(losses[1]).all()


def test_the_mean_logarithm_of_the_rate_is_that_of_the_schedule():
    theta = np.array([-3.0, 1.2])
    t = (np.arange(100_000) + 0.5) / 100_000
    expected = (theta[0] - math.exp(theta[1]) * np.log1p(t)).mean()
    found = hyperparameter_tuning._mean_log_rates(theta[None])
    assert found[0] == pytest.approx(expected, rel=1e-8)


def test_a_schedule_is_tuned_by_each_method_with_its_own_start():
    course = hyperparameter_tuning.train(
        problem=TUNED, objective="training-loss", method="pes", n_pairs=3, unroll_length=10,
        learning_rate=0.1, seed=2, updates=6, every=2,
    )  # fmt: skip
    np.testing.assert_allclose(np.exp(course["theta"][0]), [0.003, 30.0])
    assert np.diff(course["total_steps"]).tolist() == [120, 120, 120]
    assert not np.array_equal(course["theta"][0], course["theta"][-1])
    assert course["score"] == course["loss"][-1]


def test_the_control_run_is_in_lockstep_and_maximises_reward():
    course = poster_control.train(
        method="pes", sigma=0.3, learning_rate=0.3, seed=0, updates=10, every=5, episodes=1
    )
    # in lockstep nothing is unrolled before the first update
    assert course["total_steps"].tolist() == [0, 10_000, 20_000]
    assert course["score"] == -course["reward"].mean()
    assert course["reward"][-1] > course["reward"][0]
