"""The learned optimizer in PyTorch: with derivatives, for the gradient baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import LinearizedStep
from es_rl.envs import learned_optimizer_kernels as kernels
from es_rl.envs.learned_optimizer import LearnedOptimizerTask
from es_rl.envs.random_draws import EVALUATION, TRAINING, batch_table, draw_initial
from es_rl.envs.torch_task import TorchTask
from es_rl.tasks import UnrollResult

if TYPE_CHECKING:
    import torch

__all__ = ["DifferentiableLearnedOptimizerTask"]


class DifferentiableLearnedOptimizerTask(TorchTask):
    """The system of a `LearnedOptimizerTask`, step for step, differentiable and much slower.

    Args:
        task: whose inner problem and fixed sequence of batches to take; its `sequence_seed` must
            not be None. There are batches for its horizon and no further.
        dtype: "float32" or "float64", of the whole computation.
        n_threads: threads that share the rows; None for all usable processors.

    Raises:
        ValueError: if the task has no fixed sequence, or no end; when rows are unrolled, if they
            would go beyond it.
    """

    def __init__(
        self,
        task: LearnedOptimizerTask,
        *,
        dtype: str = "float32",
        n_threads: int | None = None,
    ) -> None:
        import torch

        if task.sequence_seed is None:
            raise ValueError("sequence_seed=None: derivatives need the fixed sequence of batches")
        if task.horizon is None:
            raise ValueError(
                "horizon=None: the fixed sequence of batches must end; give the task a horizon"
            )
        self._n_batches = task.horizon
        problem, seed = task.problem, task.sequence_seed
        sizes = problem.sizes
        kind = getattr(torch, dtype, torch.float32)

        def batches(stream: np.uint32, n: int) -> torch.Tensor:
            table = batch_table(seed, stream, self._n_batches, n, problem.batch_size)
            return torch.from_numpy(table)

        self._sizes = [int(n) for n in sizes]
        self._gelu = problem.gelu
        self._training = (
            torch.from_numpy(problem.train_inputs).to(kind),
            torch.from_numpy(problem.train_labels),
            batches(TRAINING, problem.train_labels.size),
        )
        self._evaluation = (
            torch.from_numpy(problem.evaluation_inputs).to(kind),
            torch.from_numpy(problem.evaluation_labels),
            batches(EVALUATION, problem.evaluation_labels.size),
        )
        lengths = np.stack([sizes[:-1] * sizes[1:], sizes[1:]], axis=1).ravel()
        self._lengths = [int(n) for n in lengths]
        self._tensor_of = torch.from_numpy(np.repeat(np.arange(lengths.size), lengths))
        self._decays = torch.from_numpy(kernels.DECAYS).to(kind)[:, None]
        self._time_scales = torch.from_numpy(kernels.TIME_SCALES).to(kind)
        start = np.empty((1, int(lengths.sum())), np.float32)
        draw_initial(np.zeros(1, np.int64), np.array([seed], np.uint64), sizes, start)
        params = torch.from_numpy(start[0]).to(kind)

        def init(generator: torch.Generator) -> dict[str, torch.Tensor]:
            momenta = torch.zeros((len(kernels.DECAYS), params.numel()), dtype=kind)
            return {"params": params, "momenta": momenta}

        super().__init__(
            init,
            self._one_step,
            num_params=task.num_params,
            horizon=task.horizon,
            theta0=task.initial_theta(),
            dtype=dtype,
            name="learned-optimizer-torch",
            chunk_rows=16,
            n_threads=n_threads,
        )

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, d)."""
        self._check_end(rows, n_steps)
        return super().unroll(rows, thetas, n_steps)

    def linearize(self, rows: NDArray[np.int64], thetas: NDArray[np.float64]) -> LinearizedStep:
        """Take one step on `rows` (B,) under `thetas` (B, d) and return it with its derivatives."""
        self._check_end(rows, np.ones(rows.size, np.int64))
        return super().linearize(rows, thetas)

    def _check_end(self, rows: NDArray[np.int64], n_steps: NDArray[np.int64]) -> None:
        end = int((self._steps_of(rows) + n_steps).max(initial=0))
        if end > self._n_batches:
            raise ValueError(
                f"{self.name}: step {end} of an episode is asked for, and there are batches for "
                f"{self._n_batches}; give the LearnedOptimizerTask a longer horizon"
            )

    def _cross_entropy(
        self, params: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy of the inner network on inputs `hidden` (batch, n)."""
        import torch

        begin = 0
        for layer, (n_in, n_out) in enumerate(zip(self._sizes, self._sizes[1:], strict=False)):
            if layer > 0 and self._gelu:
                hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
            elif layer > 0:
                hidden = torch.relu(hidden)
            weights = params[begin : begin + n_in * n_out].reshape(n_in, n_out)
            begin += (n_in + 1) * n_out
            hidden = hidden @ weights + params[begin - n_out : begin]
        log_odds = torch.log_softmax(hidden, dim=1)
        return -log_odds.gather(1, labels[:, None]).mean()

    def _one_step(
        self, theta: torch.Tensor, state: dict[str, torch.Tensor], t: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        import torch

        params = state["params"]
        gradient = torch.func.grad(self._cross_entropy)(params, *_batch(self._training, t))
        momenta = self._decays * state["momenta"] + (1 - self._decays) * gradient
        features = torch.cat([gradient[None], params[None], momenta])
        squares = torch.stack(
            [part.square().mean(dim=1) for part in torch.split(features, self._lengths, dim=1)],
            dim=1,
        )
        features = features * torch.rsqrt(1e-5 + squares)[:, self._tensor_of]
        clocks = torch.tanh(t / self._time_scales - 1.0)
        hidden, n = kernels.HIDDEN, kernels.N_FEATURES
        w1, b1, w2, b2, w3, b3 = torch.split(
            theta, [n * hidden, hidden, hidden * hidden, hidden, 2 * hidden, 2]
        )
        w1 = w1.reshape(hidden, n)
        first = w1[:, : len(features)] @ features + (b1 + w1[:, len(features) :] @ clocks)[:, None]
        second = w2.reshape(hidden, hidden) @ torch.relu(first) + b2[:, None]
        direction, magnitude = w3.reshape(2, hidden) @ torch.relu(second) + b3[:, None]
        params = params - 1e-3 * direction * torch.exp(1e-3 * magnitude)
        loss = self._cross_entropy(params, *_batch(self._evaluation, t))
        return {"params": params, "momenta": momenta}, loss


def _batch(data: Any, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs and labels of the batch of step `t`."""
    inputs, labels, table = data
    chosen = table[t]
    return inputs[chosen], labels[chosen]
