"""Training a small network inside a task: gradients and objectives of mini-batches, compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.datasets import Dataset
from es_rl.envs.dense_kernels import (
    accuracy,
    cross_entropy,
    network_backward,
    network_forward,
    parameter_count,
)
from es_rl.envs.random_draws import EVALUATION, TRAINING, draw_batch
from es_rl.option_kinds import Widths
from es_rl.option_messages import shown

__all__ = [
    "ACTIVATIONS",
    "InnerProblem",
    "batch_gradient",
    "batch_objective",
    "make_problem",
    "make_workspace",
]

ACTIVATIONS = ("gelu", "relu")


class InnerProblem(NamedTuple):
    """A network, its data, and the objective that is measured after each of its updates.

    Attributes:
        sizes: (L + 1,) int64, layer sizes, that of the input first.
        gelu: hidden layers are GELU, else ReLU.
        batch_size: of training and of evaluation.
        train_inputs: (n, sizes[0]) float32.
        train_labels: (n,) int64.
        evaluation_inputs: (m, sizes[0]) float32, what the objective is measured on.
        evaluation_labels: (m,) int64.
        by_accuracy: the objective is minus the accuracy, else the mean cross-entropy.
    """

    sizes: NDArray[np.int64]
    gelu: bool
    batch_size: int
    train_inputs: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    evaluation_inputs: NDArray[np.float32]
    evaluation_labels: NDArray[np.int64]
    by_accuracy: bool


class _Workspace(NamedTuple):
    """Memory that one thread uses again and again; see `network_backward`."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    taken: NDArray[np.uint8]
    outputs: NDArray[np.float32]
    slopes: NDArray[np.float32]
    delta: NDArray[np.float32]
    scratch: NDArray[np.float32]
    transposed: NDArray[np.float32]
    gradient: NDArray[np.float32]


def make_problem(
    dataset: Dataset,
    hidden: Iterable[int],
    activation: str,
    batch_size: int,
    *,
    on_training_data: bool,
    by_accuracy: bool,
) -> InnerProblem:
    """Put an inner problem together.

    Raises:
        ValueError: names the option that is out of range.
    """
    try:
        widths = Widths().check(tuple(hidden))
    except (TypeError, ValueError):
        raise ValueError(
            f"hidden={shown(str(hidden))}: must be one or more positive layer sizes, listed as "
            "in [32, 32]"
        ) from None
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    train = dataset.train_inputs, dataset.train_labels
    held_out = dataset.validation_inputs, dataset.validation_labels
    evaluation = train if on_training_data else held_out
    for labels, part in ((train[1], "training"), (evaluation[1], "evaluation")):
        if labels.size < batch_size:
            raise ValueError(
                f"batch_size={batch_size}: {dataset.name} has {labels.size} images for {part}"
            )
    sizes = np.array([train[0].shape[1], *widths, dataset.n_classes], np.int64)
    return InnerProblem(sizes, activation == "gelu", batch_size, *train, *evaluation, by_accuracy)


@numba.njit(error_model="numpy", nogil=True)
def make_workspace(problem):  # type: ignore[no-untyped-def]
    """Allocate what `batch_gradient` and `batch_objective` need, for one thread."""
    batch, sizes = problem.batch_size, problem.sizes
    units, widest, largest = 0, 0, 0
    for layer in range(1, sizes.size):
        units += sizes[layer]
        widest = max(widest, sizes[layer])
        largest = max(largest, sizes[layer - 1] * sizes[layer])
    return _Workspace(
        np.empty((batch, sizes[0]), np.float32),
        np.empty(batch, np.int64),
        np.empty(batch, np.int64),
        np.zeros(max(problem.train_labels.size, problem.evaluation_labels.size), np.uint8),
        np.empty(batch * units, np.float32),
        np.empty(batch * units, np.float32),
        np.empty(batch * widest, np.float32),
        np.empty(batch * widest, np.float32),
        np.empty(largest, np.float32),
        np.empty(parameter_count(sizes), np.float32),
    )


@numba.njit(error_model="numpy", nogil=True)
def _gather(inputs, labels, work):  # type: ignore[no-untyped-def]
    for i in range(work.indices.size):
        index = work.indices[i]
        for j in range(inputs.shape[1]):
            work.inputs[i, j] = inputs[index, j]
        work.labels[i] = labels[index]


@numba.njit(error_model="numpy", nogil=True)
def batch_gradient(problem, work, params, seed, step):  # type: ignore[no-untyped-def]
    """Fill `work.gradient` with that of the cross-entropy on the training batch of `step`."""
    n = problem.train_labels.size
    draw_batch(seed, TRAINING, step, n, work.taken, work.indices)
    _gather(problem.train_inputs, problem.train_labels, work)
    logits = network_forward(
        params, problem.sizes, problem.gelu, work.inputs, work.outputs, work.slopes
    )
    cross_entropy(logits, work.labels, work.delta)
    network_backward(
        params, problem.sizes, work.inputs, work.outputs, work.slopes, work.delta, work.scratch,
        work.transposed, work.gradient,
    )  # fmt: skip


@numba.njit(error_model="numpy", nogil=True)
def batch_objective(problem, work, params, seed, step):  # type: ignore[no-untyped-def]
    """Return the objective on the evaluation batch of `step`, float64."""
    n = problem.evaluation_labels.size
    draw_batch(seed, EVALUATION, step, n, work.taken, work.indices)
    _gather(problem.evaluation_inputs, problem.evaluation_labels, work)
    logits = network_forward(
        params, problem.sizes, problem.gelu, work.inputs, work.outputs, work.slopes
    )
    if problem.by_accuracy:
        return -accuracy(logits, work.labels)
    return cross_entropy(logits, work.labels, work.delta)
