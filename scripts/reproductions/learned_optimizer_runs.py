"""What the figures of the learned optimizer are computed from."""

from __future__ import annotations

import itertools
import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.learned_optimizer import LearnedOptimizerTask
from es_rl.estimators import ESTIMATORS, Estimator
from es_rl.optimizers import Adam
from es_rl.trainer import Trainer
from reproductions.training import follow

__all__ = ["PROBLEMS", "Problem", "best_adam", "inner_losses", "make_task", "mean_loss", "train"]


class Problem(TypedDict):
    """An inner problem: arguments of `LearnedOptimizerTask`, of types that JSON knows."""

    dataset: str
    hidden: list[int]
    batch_size: int
    horizon: int


PROBLEMS: dict[str, Problem] = {
    "quick": {"dataset": "digits", "hidden": [8], "batch_size": 16, "horizon": 20},
    "default": {"dataset": "digits", "hidden": [8], "batch_size": 32, "horizon": 200},
    "full": {
        "dataset": "fashion-mnist", "hidden": [32, 32, 32], "batch_size": 128, "horizon": 1000,
    },
}  # fmt: skip
"""By size; that of `full` is the paper's."""

_ADAM_RATES = np.logspace(-3.5, 0.0, 29)
_ADAM_BETAS = tuple(itertools.product((0.8, 0.9, 0.95), (0.99, 0.999)))


def make_task(problem: Problem, *, sequence_seed: int = 0) -> LearnedOptimizerTask:
    """Return the task, for one thread."""
    return LearnedOptimizerTask(
        problem["dataset"],
        hidden=tuple(problem["hidden"]),
        batch_size=problem["batch_size"],
        horizon=problem["horizon"],
        sequence_seed=sequence_seed,
        n_threads=1,
    )


def inner_losses(
    problem: Problem, theta: NDArray[np.float64], *, sequence_seed: int = 0
) -> NDArray[np.float64]:
    """Return the loss of each inner step under the learned optimizer `theta`, (T,) float64."""
    task = make_task(problem, sequence_seed=sequence_seed)
    row, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    task.allocate(1)
    task.reset(row, np.zeros(1, np.uint64))
    return np.array(
        [task.unroll(row, theta[None], one).loss_sum[0] for _ in range(problem["horizon"])]
    )


def best_adam(problem: Problem) -> dict[str, Any]:
    """Train the inner network by Adam at many settings.

    Returns:
        of the setting with the lowest mean loss: "losses" (T,), "rate", "betas" and a "label".
    """
    task, best, chosen = make_task(problem), math.inf, {}
    for betas in _ADAM_BETAS:
        losses = task.adam_losses(_ADAM_RATES, problem["horizon"], betas=betas)
        i = int(np.argmin(np.nan_to_num(losses.mean(axis=1), nan=math.inf)))
        if losses[i].mean() < best:
            best = float(losses[i].mean())
            label = f"Adam, rate {_ADAM_RATES[i]:.3g}, β₁={betas[0]}, β₂={betas[1]}"
            chosen = {
                "losses": losses[i], "rate": float(_ADAM_RATES[i]), "betas": betas, "label": label,
            }  # fmt: skip
    return chosen


def mean_loss(task: LearnedOptimizerTask, theta: NDArray[np.float64]) -> float:
    """Return the mean of these losses, infinite if one is; the task's rows are taken over."""
    assert task.horizon is not None
    row = np.zeros(1, np.int64)
    task.allocate(1)
    task.reset(row, np.zeros(1, np.uint64))
    result = task.unroll(row, theta[None], np.array([task.horizon]))
    loss = float(result.loss_sum[0]) / task.horizon
    return loss if math.isfinite(loss) else math.inf


def train(
    *,
    method: str,
    noise_period: int | None,
    problem: Problem,
    n_pairs: int,
    sigma: float,
    learning_rate: float,
    seed: int,
    updates: int,
    every: int,
) -> dict[str, Any]:
    """Meta-train by one method with Adam, W=1; see `follow`.

    Returns:
        what `follow` returns, with "loss" the mean loss of the inner training under θ alone;
        "final", the mean of the last tenth of these losses; "score", that of the last half, which
        a rate that makes the training break down now and then cannot win; and "last_theta".
    """
    task, measured = make_task(problem), make_task(problem)
    options: dict[str, Any] = {"n_pairs": n_pairs, "sigma": sigma, "seed": seed}
    if method != "fulles":
        options["unroll_length"] = 1
    if method == "gpes":
        options["noise_period"] = noise_period
    estimator: Estimator = ESTIMATORS[method](task, **options)
    trainer = Trainer(estimator, Adam(task.num_params, learning_rate), task.initial_theta(seed))

    def measure(theta: NDArray[np.float64]) -> dict[str, float]:
        return {"loss": mean_loss(measured, theta)}

    course = follow(trainer, updates, every, measure)
    loss = course["loss"]
    course["last_theta"] = course.pop("theta")[-1]
    final, score = loss[-max(1, loss.size // 10) :].mean(), loss[-max(1, loss.size // 2) :].mean()
    return {**course, "final": final, "score": score}
