"""What the figures of variances are computed from: one measurement a cell, at a fixed θ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.char_lstm import CharLstmTask
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.envs.lorenz import LorenzTask
from es_rl.estimators import ESTIMATORS, NRES
from es_rl.optimizers import Adam
from es_rl.trainer import Trainer
from es_rl.variance import closed_variance, measure
from reproductions.cells import Cell
from reproductions.learned_optimizer_runs import make_task, mean_loss
from reproductions.statistics import Estimate, mean_estimate

__all__ = [
    "lstm_gradient",
    "lstm_variance",
    "optimizer_path",
    "optimizer_variance",
    "pooled",
    "ratio",
    "system_variance",
]

Settings = dict[str, Any]


def _numbers(
    method: str, task: Any, theta: NDArray[np.float64], options: Settings
) -> dict[str, Any]:
    """Measure and return the numbers that the figures use; variances are those of one pair."""
    result = measure(ESTIMATORS[method], task, theta, **options)
    found: dict[str, Any] = {
        "variance": result.variance.value, "error": result.variance.error,
        "squared_norm": result.squared_norm, "mean": result.mean, "n_windows": result.n_windows,
    }  # fmt: skip
    if result.episode is not None:
        found |= {"episode": result.episode.value, "episode_error": result.episode.error}
    return found


def system_variance(
    *, system: str, method: str, horizon: int, sigma: float, options: Settings, n_samples: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Measure on "lorenz" or "influence-balancing" at θ₀, beside the closed form if there is one.

    `options` are the estimator's W and K.
    """
    task: LorenzTask | InfluenceBalancingTask
    if system == "lorenz":
        task = LorenzTask(horizon=horizon, n_threads=1)
    else:
        task = InfluenceBalancingTask(horizon=horizon, n_threads=1)
    theta = task.initial_theta()
    settings = {"sigma": sigma, "n_samples": n_samples, "seed": seed, **options}
    found = _numbers(method, task, theta, settings)
    period = options.get("noise_period")
    if method == "pes":
        period = options["unroll_length"]
    closed = closed_variance(
        ESTIMATORS[method], task, theta, horizon=horizon, noise_period=period,
        unroll_length=options.get("unroll_length"),
    )  # fmt: skip
    return found if closed is None else {**found, "closed": closed}


def optimizer_path(*, problem: Settings, n_pairs: int, unroll_length: int, updates: list[int],
                   seed: int) -> dict[str, Any]:  # fmt: skip
    """Meta-train a learned optimizer by NRES, and return θ after each of `updates`.

    Returns:
        "thetas" (n, d) and "losses" (n,), mean inner losses under them.
    """
    task, measured = make_task(problem), make_task(problem)
    estimator = NRES(task, n_pairs=n_pairs, unroll_length=unroll_length, sigma=0.01, seed=seed)
    trainer = Trainer(estimator, Adam(task.num_params, 3e-4), task.initial_theta())
    thetas, losses = [], []
    for update in updates:
        if update:
            trainer.run(updates=update)
        thetas.append(trainer.theta.copy())
        losses.append(mean_loss(measured, trainer.theta))
    return {"thetas": np.array(thetas), "losses": np.array(losses)}


def optimizer_variance(
    *, problem: Settings, theta: list[float], unroll_length: int, noise_period: int | None,
    n_samples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Measure GPES (NRES if there is no period) on the learned optimizer, σ=0.01.

    "episode" of NRES is the variance of FullES: the mean of its windows' estimates is FullES's
    estimate (T10).
    """
    options = {"unroll_length": unroll_length, "noise_period": noise_period, "sigma": 0.01,
               "n_samples": n_samples, "seed": seed}  # fmt: skip
    return _numbers("gpes", make_task(problem), np.array(theta), options)


def lstm_gradient(*, units: int, horizon: int) -> dict[str, Any]:
    """Return the gradient of the LSTM's mean loss at its initial θ, by central differences."""
    task = CharLstmTask(units=units, horizon=horizon, n_threads=1)
    theta, size = task.initial_theta(), 1e-5
    rows = np.arange(2 * task.num_params)
    shifts = size * np.eye(task.num_params)
    task.allocate(rows.size)
    task.reset(rows, np.zeros(rows.size, np.uint64))
    thetas = theta + np.concatenate([shifts, -shifts])
    sums = task.unroll(rows, thetas, np.full(rows.size, horizon)).loss_sum / horizon
    half = task.num_params
    return {"gradient": (sums[:half] - sums[half:]) / (2 * size)}


def lstm_variance(
    *, units: int, horizon: int, method: str, unroll_length: int, sigma: float, n_samples: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Measure on the character LSTM at its initial θ."""
    task = CharLstmTask(units=units, horizon=horizon, n_threads=1)
    options = {"unroll_length": unroll_length, "sigma": sigma, "n_samples": n_samples,
               "seed": seed}  # fmt: skip
    return _numbers(method, task, task.initial_theta(), options)


def pooled(cells: Sequence[Cell], name: str = "variance") -> Estimate:
    """Return the mean over seeds of a measured number, with its interval."""
    return mean_estimate([cell.number(name) for cell in cells])


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return the ratio of two means over the same seeds, with the interval of a jackknife.

    The jackknife is that of the logarithm, so both ends are positive; it takes the seeds in pairs
    and so counts what the two have in common.
    """
    from scipy.stats import t

    a, b = np.asarray(above), np.asarray(below)
    value, n = float(a.mean() / b.mean()), a.size
    if n < 2:
        return Estimate(value, math.nan, math.nan)
    left_out = np.log((a.sum() - a) / (b.sum() - b))
    error = math.sqrt((n - 1) / n * float(np.sum((left_out - left_out.mean()) ** 2)))
    factor = math.exp(float(t.ppf(0.975, n - 1)) * error)
    return Estimate(value, value / factor, value * factor)
