"""Meta-training a learned optimizer on the training of a small network.

Main paper, section 5.2; the per-parameter network of Metz et al., "Understanding and correcting
pathologies in the training of learned optimizers" (2019).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from es_rl.envs import learned_optimizer_kernels as kernels
from es_rl.envs.datasets import Dataset, load_dataset
from es_rl.envs.dense_kernels import parameter_count
from es_rl.envs.inner_training import make_problem
from es_rl.envs.random_draws import draw_initial, initial_theta
from es_rl.envs.row_arrays import RowArrays, positive_integer
from es_rl.option_kinds import Integer
from es_rl.option_messages import shown
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

__all__ = ["LearnedOptimizerTask"]

_META_SIZES = np.array([kernels.N_FEATURES, kernels.HIDDEN, kernels.HIDDEN, 2], np.int64)
_NUM_PARAMS = 1762


class LearnedOptimizerTask(RowArrays):
    """Rows of an inner network in training, each under its own learned optimizer θ; d = 1762.

    A step: the gradient g of the cross-entropy on a training batch; momenta m ← βm + (1 - β)g for
    six β; for each inner parameter the features g, the parameter itself and its momenta, each
    divided by sqrt(1e-5 + its mean square over the tensor), and tanh(step/c - 1) for eleven c from
    1 to 1e5; a network 19-32-32-2 with ReLU turns them into a direction and a magnitude; and
    the parameter moves by -1e-3 · direction · exp(1e-3 · magnitude). The loss of the step is the
    cross-entropy on a validation batch afterwards.

    θ is laid out as in `MlpPolicy`: each layer's weights (n_out, n_in) row-major, then biases.
    Computed in single precision, the losses summed in double; the same bits for any number of
    threads. A state holds seven numbers for each inner parameter.

    Args:
        dataset: a `Dataset`, or a name: "digits", "mnist" or "fashion-mnist" (see
            `es_rl.envs.datasets`).
        hidden: sizes of the inner network's hidden layers.
        activation: of the hidden layers, "gelu" or "relu".
        batch_size: of training and of validation batches.
        horizon: T, inner training steps of an episode.
        sequence_seed: every episode starts from the same network and meets the same sequence of
            batches, drawn from this seed, as in the paper; None: drawn from the episode's seed.
        n_threads: threads that share the rows; None for all usable processors.

    Attributes:
        dataset: the `Dataset` in use.
        problem: the inner problem, with the network's layer sizes.

    Raises:
        ModuleNotFoundError, FileNotFoundError: if the dataset is not there.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        dataset: str | Dataset = "digits",
        *,
        hidden: tuple[int, ...] = (32, 32, 32),
        activation: str = "gelu",
        batch_size: int = 128,
        horizon: int = 1000,
        sequence_seed: int | None = 0,
        n_threads: int | None = None,
    ) -> None:
        self.dataset = load_dataset(dataset)
        if sequence_seed is not None:
            try:
                sequence_seed = Integer(0, 2**64 - 1).check(sequence_seed)
            except ValueError:
                raise ValueError(
                    f"sequence_seed={shown(sequence_seed)}: must be an integer from 0 to "
                    "2**64 - 1, or None"
                ) from None
        self.sequence_seed = sequence_seed
        self.problem = make_problem(
            self.dataset,
            hidden,
            activation,
            positive_integer("batch_size", batch_size),
            on_training_data=False,
            by_accuracy=False,
        )
        n = int(parameter_count(self.problem.sizes))
        super().__init__(
            "learned-optimizer",
            _NUM_PARAMS,
            horizon,
            n_threads,
            {
                "seed": ((), np.uint64),
                "params": ((n,), np.float32),
                "momenta": ((kernels.DECAYS.size, n), np.float32),
            },
        )
        sizes = self.problem.sizes
        tensors = np.stack([sizes[:-1] * sizes[1:], sizes[1:]], axis=1).ravel()
        self._bounds = np.concatenate([[0], np.cumsum(tensors)])
        forward = self.problem.batch_size * int((sizes[:-1] * sizes[1:]).sum())
        self._work = (forward * 4 + n * 1400) // 8  # elements of traffic that take as long

    def initial_theta(self, seed: int = 0) -> NDArray[np.float64]:
        """Return a random start, (d,): weights of deviation 1/√n_in cut off at two, no biases."""
        return initial_theta(seed, _META_SIZES)

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh inner training on `rows` (B,)."""
        if self.sequence_seed is not None:
            seeds = np.full(rows.size, self.sequence_seed, np.uint64)
        self._rows["seed"][rows] = seeds
        self._rows["momenta"][rows] = 0.0
        self._rows["step"][rows] = 0
        draw_initial(rows, seeds, self.problem.sizes, self._rows["params"])

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, d)."""
        self._steps_of(rows)
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        with np.errstate(over="ignore"):  # what becomes infinite here gives a loss that shows it
            single = thetas.astype(np.float32)
        split_over_threads(
            kernels.unroll, rows.size, int(n_steps.sum()) * self._work, self.n_threads,
            rows, single, n_steps, self.problem, self._bounds, self._rows["seed"],
            self._rows["params"], self._rows["momenta"], self._rows["step"], loss_sum, taken,
        )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))

    def adam_losses(
        self,
        learning_rates: NDArray[np.float64],
        n_steps: int,
        *,
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> NDArray[np.float64]:
        """Train the inner network by Adam instead, for comparison, on the very same batches.

        Args:
            learning_rates: (B,), one training each.
            n_steps: inner training steps.
            seed: the episode's seed; used where `sequence_seed` is None.
            betas: decays of Adam's moments.
            epsilon: of Adam.

        Returns:
            (B, n_steps) float64, the loss of each step as `unroll` measures it.
        """
        rates = np.ascontiguousarray(learning_rates, np.float64)
        used = seed if self.sequence_seed is None else self.sequence_seed
        seeds = np.full(rates.size, used, np.uint64)
        sizes = self.problem.sizes
        params = np.empty((rates.size, int(parameter_count(sizes))), np.float32)
        draw_initial(np.arange(rates.size), seeds, sizes, params)
        losses = np.empty((rates.size, n_steps))
        split_over_threads(
            kernels.unroll_adam, rates.size, rates.size * n_steps * self._work, self.n_threads,
            rates, n_steps, self.problem, seeds, params, losses, *betas, epsilon,
        )  # fmt: skip
        return losses
