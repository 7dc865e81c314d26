"""The tuned training against plain PyTorch on the same batches, and its schedule's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_network import network_logits
from toy_tasks import toy_dataset

from es_rl.envs.hyperparameter_tuning import HyperparameterTask
from es_rl.envs.random_draws import EVALUATION, TRAINING, batch_table

ROW = np.array([0])
STEPS = 25


def _toy(**options):
    return HyperparameterTask(
        toy_dataset(), **{"hidden": (6, 5), "batch_size": 9, "horizon": STEPS, **options}
    )


def _losses(task, theta, n_steps=STEPS, seed=7):
    task.allocate(1)
    task.reset(ROW, np.array([seed], np.uint64))
    start = task.get_state()["params"][0]
    losses = [
        task.unroll(ROW, np.array([theta]), np.array([1])).loss_sum[0] for _ in range(n_steps)
    ]
    return np.array(losses), start


@pytest.mark.parametrize("objective", ["training-loss", "validation-accuracy"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_training_is_pytorchs_sgd_with_momentum_under_the_schedule(objective, activation):
    time_scale, theta = 20.0, (math.log(0.2), math.log(3.0))
    task = _toy(objective=objective, activation=activation, time_scale=time_scale)
    losses, start = _losses(task, theta)
    data = toy_dataset()
    mean, deviation = data.train_inputs.mean(), data.train_inputs.std()
    train = (data.train_inputs - mean) / deviation, data.train_labels
    if objective == "training-loss":
        evaluation = train
    else:
        evaluation = (data.validation_inputs - mean) / deviation, data.validation_labels
    tables = [
        batch_table(7, TRAINING, STEPS, train[1].size, 9),
        batch_table(7, EVALUATION, STEPS, evaluation[1].size, 9),
    ]
    params = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    sizes = [6, 6, 5, 3]
    optimizer = torch.optim.SGD([params], lr=1.0, momentum=0.9)
    expected = []
    for step in range(STEPS):
        rate = 0.2 / (1 + step / time_scale) ** 3.0
        optimizer.param_groups[0]["lr"] = rate
        chosen = tables[0][step]
        logits = network_logits(params, sizes, activation == "gelu", train[0][chosen])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(train[1][chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        chosen = tables[1][step]
        with torch.no_grad():
            logits = network_logits(params, sizes, activation == "gelu", evaluation[0][chosen])
        labels = torch.tensor(evaluation[1][chosen])
        if objective == "training-loss":
            expected.append(torch.nn.functional.cross_entropy(logits, labels).item())
        else:
            expected.append(-(logits.argmax(dim=1) == labels).double().mean().item())
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert np.ptp(expected) > 0.2


def test_every_episode_has_a_start_and_batches_of_its_own():
    task = _toy()
    theta = task.initial_theta()
    first, again, other = (_losses(task, theta, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


def test_the_posters_settings_are_the_default():
    task = _toy()
    np.testing.assert_allclose(np.exp(task.initial_theta()), [0.003, 30.0], rtol=1e-15)
    task = HyperparameterTask(toy_dataset(n=400))
    assert task.horizon == task.time_scale == 5000
    assert task.momentum == 0.9
    assert task.problem.sizes.tolist() == [6, 100, 100, 3]
    assert task.problem.batch_size == 100
    assert not task.problem.gelu


def test_a_vanishing_rate_leaves_the_network_alone():
    for theta in ([-800.0, 0.0], [-1.0, 800.0]):
        task = _toy()
        _, start = _losses(task, theta, 1)
        before = task.get_state()["params"]
        # θ₁ = 800 acts from the second step on: the first one is not discounted
        assert np.isfinite(task.unroll(ROW, np.array([theta]), np.array([3])).loss_sum).all()
        np.testing.assert_array_equal(task.get_state()["params"], before)
        assert np.array_equal(before[0], start) == (theta[0] == -800.0)


def test_a_training_that_diverges_says_so_for_both_objectives():
    for objective in ("training-loss", "validation-accuracy"):
        task = _toy(objective=objective)
        task.allocate(1)
        task.reset(ROW, np.array([0], np.uint64))
        result = task.unroll(ROW, np.array([[60.0, 0.0]]), np.array([STEPS]))
        assert not np.isfinite(result.loss_sum[0])
        assert result.steps_taken[0] < STEPS


def test_pixels_that_are_all_alike_cannot_be_standardised():
    data = toy_dataset()
    flat = data._replace(train_inputs=np.ones_like(data.train_inputs))
    with pytest.raises(ValueError, match="toy: all pixels are alike"):
        HyperparameterTask(flat, batch_size=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "loss"}, "objective='loss': choose one of training-loss, validation-acc"),
        ({"momentum": 1.0}, r"momentum=1.0: must be at least 0 and below 1"),
        ({"momentum": "abc"}, "momentum=abc: must be a finite number"),
        ({"momentum": True}, "momentum=true: must be a finite number"),
        ({"time_scale": "abc"}, "time_scale=abc: must be a positive number"),
        ({"hidden": 8}, "hidden=8: must be one or more positive layer sizes"),
        ({"time_scale": 0.0}, r"time_scale=0.0: must be a positive number"),
        ({"batch_size": 30, "objective": "validation-accuracy"}, "toy has 20 images for eval"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _toy(**options)
