"""Tuning the learning-rate schedule of a small network while it trains (the poster's task)."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.elementary import exp, log
from es_rl.envs.datasets import Dataset, load_dataset
from es_rl.envs.dense_kernels import parameter_count
from es_rl.envs.inner_training import (
    batch_gradient,
    batch_objective,
    make_problem,
    make_workspace,
)
from es_rl.envs.random_draws import draw_initial
from es_rl.envs.row_arrays import RowArrays, checked, positive_integer, positive_number
from es_rl.option_kinds import Real
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

__all__ = ["OBJECTIVES", "HyperparameterTask"]

OBJECTIVES = ("training-loss", "validation-accuracy")


@numba.njit(error_model="numpy", nogil=True)
def _rate(theta0, theta1, step, time_scale):  # type: ignore[no-untyped-def]
    """Return e**θ₀ / (1 + step/time_scale)**(e**θ₁), in range for every θ."""
    decay = exp(min(max(theta1, -700.0), 700.0)) * log(1.0 + step / time_scale)
    exponent = theta0 - decay
    if exponent > 700.0:
        return np.inf
    return exp(exponent) if exponent > -700.0 else 0.0


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _unroll(  # type: ignore[no-untyped-def]
    start, stop, rows, thetas, n_steps, problem, momentum, time_scale, seeds, params, velocities,
    clocks, loss_sum, taken,
):  # fmt: skip
    work = make_workspace(problem)
    for item in range(start, stop):
        row = rows[item]
        p, v, seed = params[row], velocities[row], seeds[row]
        total, count, clock = 0.0, 0, clocks[row]
        while count < n_steps[item] and math.isfinite(total):
            step = clock + count
            batch_gradient(problem, work, p, seed, step)
            rate = np.float32(_rate(thetas[item, 0], thetas[item, 1], step, time_scale))
            for i in range(p.size):
                v[i] = momentum * v[i] + work.gradient[i]
                p[i] -= rate * v[i]
            total += batch_objective(problem, work, p, seed, step)
            count += 1
        clocks[row] = clock + count
        loss_sum[item], taken[item] = total, count


class HyperparameterTask(RowArrays):
    """Rows of a network in training by SGD with momentum, each with its own schedule θ; d = 2.

    The learning rate of step t (from 0) is e^θ₀ / (1 + t/time_scale)^(e^θ₁). The network starts
    afresh and meets fresh batches in every episode, drawn from the episode's seed. The loss of a
    step is measured after its update, on a batch of its own: the cross-entropy on training data,
    or minus the accuracy on validation data, which has no useful gradient. Inputs are
    standardised by mean and deviation of all training pixels.

    Computed in single precision, the losses summed in double; the same bits for any number of
    threads. A state holds two numbers for each parameter of the network.

    Args:
        dataset: a `Dataset`, or a name: "digits", "mnist" (the poster's, a subset of it) or
            "fashion-mnist" (see `es_rl.envs.datasets`).
        objective: "training-loss" or "validation-accuracy".
        hidden: sizes of the network's hidden layers.
        activation: of the hidden layers, "relu" or "gelu".
        batch_size: of all batches.
        horizon: T, training steps of an episode.
        momentum: of the SGD that is tuned.
        time_scale: of the schedule, in steps.
        n_threads: threads that share the rows; None for all usable processors.

    Attributes:
        dataset: the `Dataset` in use.
        problem: the inner problem, with standardised inputs.

    Raises:
        ModuleNotFoundError, FileNotFoundError: if the dataset is not there.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        dataset: str | Dataset = "digits",
        *,
        objective: str = "training-loss",
        hidden: tuple[int, ...] = (100, 100),
        activation: str = "relu",
        batch_size: int = 100,
        horizon: int = 5000,
        momentum: float = 0.9,
        time_scale: float = 5000.0,
        n_threads: int | None = None,
    ) -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"objective={objective!r}: choose one of {', '.join(OBJECTIVES)}")
        momentum = checked("momentum", Real(), momentum)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum}: must be at least 0 and below 1")
        self.dataset = load_dataset(dataset)
        self.objective, self.momentum = objective, momentum
        self.time_scale = positive_number("time_scale", time_scale)
        self.problem = make_problem(
            _standardised(self.dataset),
            hidden,
            activation,
            positive_integer("batch_size", batch_size),
            on_training_data=objective == "training-loss",
            by_accuracy=objective == "validation-accuracy",
        )
        n = int(parameter_count(self.problem.sizes))
        super().__init__(
            "hyperparameter-tuning",
            2,
            horizon,
            n_threads,
            {
                "seed": ((), np.uint64),
                "params": ((n,), np.float32),
                "velocity": ((n,), np.float32),
            },
        )
        self._work = self.problem.batch_size * n // 2  # elements of traffic that take as long

    def initial_theta(self) -> NDArray[np.float64]:
        """Return the poster's start (ln 0.003, ln 30), (2,) float64."""
        return np.log([0.003, 30.0])

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh training on `rows` (B,)."""
        self._rows["seed"][rows] = seeds
        self._rows["velocity"][rows] = 0.0
        self._rows["step"][rows] = 0
        draw_initial(rows, seeds, self.problem.sizes, self._rows["params"])

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, 2)."""
        self._steps_of(rows)
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        split_over_threads(
            _unroll, rows.size, int(n_steps.sum()) * self._work, self.n_threads,
            rows, thetas, n_steps, self.problem, np.float32(self.momentum), self.time_scale,
            self._rows["seed"], self._rows["params"], self._rows["velocity"], self._rows["step"],
            loss_sum, taken,
        )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))


def _standardised(dataset: Dataset) -> Dataset:
    mean = dataset.train_inputs.mean(dtype=np.float64)
    deviation = dataset.train_inputs.std(dtype=np.float64)
    if not deviation > 0:
        raise ValueError(f"{dataset.name}: all pixels are alike, so they cannot be standardised")

    def standard(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((inputs - mean) / deviation, np.float32)

    return dataset._replace(
        train_inputs=standard(dataset.train_inputs),
        validation_inputs=standard(dataset.validation_inputs),
    )
