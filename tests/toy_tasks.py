"""Small versions of every task outside MuJoCo, without any data that must be installed."""

from __future__ import annotations

import numpy as np
import torch

from es_rl.envs.char_lstm import CharLstmTask
from es_rl.envs.datasets import Dataset
from es_rl.envs.hyperparameter_tuning import HyperparameterTask
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.envs.learned_optimizer import LearnedOptimizerTask
from es_rl.envs.learned_optimizer_torch import DifferentiableLearnedOptimizerTask
from es_rl.envs.lorenz import LorenzTask
from es_rl.envs.torch_task import TorchTask

HORIZON = 12
STEPS = 40  # what any test takes in one episode at most


def toy_dataset(seed=0, n=60, n_features=6, n_classes=3):
    """Gaussian clouds, one a class; every third is for validation."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    labels[:n_classes] = np.arange(n_classes)
    inputs = rng.normal(size=(n_classes, n_features))[labels] + 0.5 * rng.normal(
        size=(n, n_features)
    )
    inputs = ((inputs - inputs.min()) / np.ptp(inputs)).astype(np.float32)
    held_out = np.arange(n) % 3 == 2
    return Dataset(
        "toy", inputs[~held_out], labels[~held_out], inputs[held_out], labels[held_out], n_classes
    )


def _learned_optimizer(horizon=HORIZON, **options):
    options = {"hidden": (5, 4), "batch_size": 7, **options}
    return LearnedOptimizerTask(toy_dataset(), horizon=horizon, **options)


def _differentiable_learned_optimizer(horizon=HORIZON, n_threads=None):
    task = DifferentiableLearnedOptimizerTask(
        _learned_optimizer(horizon=STEPS), dtype="float64", n_threads=n_threads
    )
    task.horizon = horizon
    return task


class _QuickTuning(HyperparameterTask):
    def initial_theta(self):
        # predictions change within a few steps, or no estimator would see a gradient of accuracy
        return np.log([0.3, 30.0])


def _hyperparameter_task(horizon=HORIZON, **options):
    options = {"hidden": (6, 5), "batch_size": 9, **options}
    return _QuickTuning(toy_dataset(), horizon=horizon, **options)


def recurrent_torch_task(horizon=HORIZON, **options):
    """A recurrent network with an input sequence of its own in each episode; d = 15."""

    def init(generator):
        return {
            "h": torch.zeros(3, dtype=torch.float64),
            "inputs": torch.randn(STEPS, 3, generator=generator, dtype=torch.float64),
            "count": torch.zeros((), dtype=torch.int64),
        }

    def step(theta, state, t):
        w, u, b = theta[:9].reshape(3, 3), theta[9:12], theta[12:]
        h = torch.tanh(w @ state["h"] + u * state["inputs"][t] + b)
        loss = (h.sum() - 1.0) ** 2 + 0.01 * (theta**2).sum()
        return {"h": h, "inputs": state["inputs"], "count": state["count"] + 1}, loss

    options = {"theta0": 0.5 * np.sin(np.arange(15.0)), "chunk_rows": 2, **options}
    return TorchTask(init, step, num_params=15, horizon=horizon, name="recurrent", **options)


TASKS = {
    "lorenz": lambda horizon=HORIZON, **options: LorenzTask(horizon=horizon, **options),
    "influence-balancing": lambda horizon=HORIZON, **options: InfluenceBalancingTask(
        horizon=horizon, **options
    ),
    "torch": recurrent_torch_task,
    "learned-optimizer": _learned_optimizer,
    "learned-optimizer-own-sequence": lambda **options: _learned_optimizer(
        sequence_seed=None, **options
    ),
    "learned-optimizer-torch": _differentiable_learned_optimizer,
    "tuning-loss": _hyperparameter_task,
    "tuning-accuracy": lambda **options: _hyperparameter_task(
        objective="validation-accuracy", **options
    ),
    "char-lstm": lambda horizon=HORIZON, **options: CharLstmTask(
        "to be or not to be", units=3, horizon=horizon, **options
    ),
    "char-lstm-any-start": lambda horizon=HORIZON, **options: CharLstmTask(
        units=2, horizon=horizon, fixed_start=False, **options
    ),
}

DIFFERENTIABLE = {
    name: TASKS[name]
    for name in ("lorenz", "influence-balancing", "torch", "learned-optimizer-torch")
}
