"""The compiled learned optimizer against its twin in PyTorch, and Adam against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_network import network_logits
from toy_tasks import toy_dataset

from es_rl.baselines import BPTT, RTRL, TBPTT
from es_rl.envs import learned_optimizer_kernels as kernels
from es_rl.envs.learned_optimizer import LearnedOptimizerTask
from es_rl.envs.learned_optimizer_torch import DifferentiableLearnedOptimizerTask
from es_rl.envs.random_draws import EVALUATION, TRAINING, batch_table
from es_rl.estimators import NRES

# PyTorch compiles its own rules of forward differentiation when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")

ROW = np.array([0])


def _toy(**options):
    return LearnedOptimizerTask(
        toy_dataset(), **{"hidden": (5, 4), "batch_size": 7, "horizon": 30, **options}
    )


def _losses(task, theta, n_steps, seed=0):
    task.allocate(1)
    task.reset(ROW, np.array([seed], np.uint64))
    return np.array(
        [task.unroll(ROW, theta[None], np.array([1])).loss_sum[0] for _ in range(n_steps)]
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu"},
        {"hidden": (200,), "batch_size": 16},  # tensors longer than a block of inner parameters
        {"hidden": (3, 4, 5, 6), "sequence_seed": 2**63},
    ],
    ids=["gelu", "relu", "wide", "deep"],
)
def test_losses_are_those_of_the_twin(options):
    # the twin computes in double precision; single precision loses about seven digits a step
    task = _toy(**options)
    theta = task.initial_theta(1)
    theta += 0.1 * np.random.default_rng(0).normal(size=theta.size)
    expected = _losses(DifferentiableLearnedOptimizerTask(task, dtype="float64"), theta, 25)
    losses = _losses(task, theta, 25)
    np.testing.assert_allclose(losses, expected, rtol=3e-5)
    assert np.ptp(expected[10:]) > 1e-3


def test_the_papers_network_has_1762_parameters_on_8x8_digits():
    pytest.importorskip("sklearn")
    task = LearnedOptimizerTask(horizon=20)
    assert task.num_params == task.initial_theta().size == 1762
    assert task.problem.sizes.tolist() == [64, 32, 32, 32, 10]
    expected = _losses(DifferentiableLearnedOptimizerTask(task), task.initial_theta(), 10)
    np.testing.assert_allclose(_losses(task, task.initial_theta(), 10), expected, rtol=1e-5)


def test_the_fixed_sequence_does_not_depend_on_the_episode_and_its_own_does():
    fixed, other, own = _toy(), _toy(sequence_seed=1), _toy(sequence_seed=None)
    theta = fixed.initial_theta()
    np.testing.assert_array_equal(_losses(fixed, theta, 5, 3), _losses(fixed, theta, 5, 4))
    assert not np.array_equal(_losses(fixed, theta, 5), _losses(other, theta, 5))
    np.testing.assert_array_equal(_losses(own, theta, 5, 3), _losses(own, theta, 5, 3))
    assert not np.array_equal(_losses(own, theta, 5, 3), _losses(own, theta, 5, 4))
    # an episode's own sequence is the fixed one of its seed
    np.testing.assert_array_equal(_losses(own, theta, 5, 1), _losses(other, theta, 5))


def test_the_gradient_of_the_twin_is_the_slope_of_the_compiled_losses():
    task = _toy(horizon=12)
    theta = task.initial_theta(2)
    estimator = BPTT(DifferentiableLearnedOptimizerTask(task, dtype="float64"), n_workers=1)
    estimator.reset(theta)
    gradient = estimator.estimate(theta).gradient
    # a direction in which the single-precision losses change by much more than their rounding
    direction = gradient / np.linalg.norm(gradient)
    slope = sum(
        sign * _losses(task, theta + sign * 0.02 * direction, 12).mean() for sign in (1, -1)
    )
    assert slope / 0.04 == pytest.approx(gradient @ direction, rel=5e-3)


def test_backward_and_forward_differentiation_of_the_twin_are_its_central_differences():
    twin = DifferentiableLearnedOptimizerTask(_toy(horizon=4), dtype="float64")
    theta, gradients = twin.initial_theta(), []
    for estimator in (
        BPTT(twin, n_workers=1),
        RTRL(twin, n_workers=1, unroll_length=4, staggering="lockstep"),
    ):
        estimator.reset(theta)
        gradients.append(estimator.estimate(theta).gradient)
    np.testing.assert_allclose(*gradients, rtol=1e-9, atol=1e-15)
    # so near that none of the optimizer's ReLU units switches; rounding is 1e-16 / 1e-7 of the loss
    for direction in np.random.default_rng(4).normal(size=(2, theta.size)):
        losses = [_losses(twin, theta + sign * 1e-7 * direction, 4).mean() for sign in (1, -1)]
        slope = (losses[0] - losses[1]) / 2e-7
        assert slope == pytest.approx(gradients[0] @ direction, rel=1e-6)


def test_no_estimate_of_the_fast_task_differs_from_its_twins():
    task = _toy()
    theta = task.initial_theta(1)
    gradients = []
    for kind in (task, DifferentiableLearnedOptimizerTask(task, dtype="float64")):
        estimator = NRES(kind, n_pairs=4, unroll_length=5, sigma=0.05, seed=1)
        estimator.reset(theta)
        gradients.append(estimator.estimate(theta).gradient)
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-4 * np.abs(gradients[1]).max())


def test_adam_trains_the_inner_network_as_pytorchs_does():
    task, rates = _toy(), np.array([1e-2, 1e-1])
    losses = task.adam_losses(rates, 20)
    problem, batch = task.problem, task.problem.batch_size
    tables = [
        batch_table(0, stream, 20, labels.size, batch)
        for stream, labels in (
            (TRAINING, problem.train_labels), (EVALUATION, problem.evaluation_labels),
        )
    ]  # fmt: skip
    twin = DifferentiableLearnedOptimizerTask(task, dtype="float64")
    for rate, ours in zip(rates, losses, strict=True):
        twin.allocate(1)
        twin.reset(ROW, np.zeros(1, np.uint64))
        params = torch.tensor(twin.get_state()["state/params"][0], requires_grad=True)
        adam = torch.optim.Adam([params], lr=rate)
        expected = []
        for step in range(20):
            adam.zero_grad()
            chosen = tables[0][step]
            _cross_entropy(
                params, problem, problem.train_inputs[chosen], problem.train_labels[chosen]
            ).backward()
            adam.step()
            chosen = tables[1][step]
            with torch.no_grad():
                loss = _cross_entropy(
                    params,
                    problem,
                    problem.evaluation_inputs[chosen],
                    problem.evaluation_labels[chosen],
                )
            expected.append(loss.item())
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert losses[1, -5:].mean() < 0.7 * losses[1, 0]


def _cross_entropy(params, problem, inputs, labels):
    logits = network_logits(params, problem.sizes, problem.gelu, inputs)
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels))


def test_the_features_are_those_of_the_paper():
    # the twin takes these constants from the kernels
    assert kernels.DECAYS.tolist() == pytest.approx([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    assert kernels.TIME_SCALES.tolist() == [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]
    assert kernels.N_FEATURES == 19
    assert kernels.HIDDEN == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"hidden=\(\): must be one or more positive layer sizes"),
        ({"hidden": (3, 0)}, r"hidden=\(3, 0\): must be"),
        ({"hidden": 8}, r"hidden=8: must be one or more .*, listed as in \[32, 32\]"),
        ({"hidden": "88"}, "hidden=88: must be one or more"),
        ({"hidden": ("a",)}, r"hidden=\('a',\): must be one or more"),
        ({"activation": "tanh"}, "activation='tanh': choose one of gelu, relu"),
        ({"batch_size": 0}, "batch_size=0: must be a positive integer"),
        ({"batch_size": None}, "batch_size=None: must be a positive integer"),
        ({"batch_size": (7,)}, r"batch_size=\(7,\): must be a positive integer"),
        ({"batch_size": 41}, "batch_size=41: toy has 40 images for training"),
        ({"batch_size": 21}, "batch_size=21: toy has 20 images for evaluation"),
        ({"sequence_seed": -1}, "sequence_seed=-1: must be an integer from 0"),
        ({"sequence_seed": 2**64}, r"must be an integer from 0 to 2\*\*64 - 1, or None"),
        ({"sequence_seed": 1.5}, "sequence_seed=1.5: must be an integer from 0"),
        ({"sequence_seed": True}, "sequence_seed=true: must be an integer from 0"),
        ({"sequence_seed": "abc"}, "sequence_seed=abc: must be an integer from 0"),
        ({"horizon": 0}, "horizon=0: must be a positive integer"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _toy(**options)


def test_derivatives_need_a_fixed_sequence():
    with pytest.raises(ValueError, match="sequence_seed=None: derivatives need the fixed"):
        DifferentiableLearnedOptimizerTask(_toy(sequence_seed=None))


def test_derivatives_need_an_end_of_the_sequence():
    with pytest.raises(ValueError, match="horizon=None: the fixed sequence of batches must end"):
        DifferentiableLearnedOptimizerTask(_toy(horizon=None))


def test_the_twin_does_not_go_beyond_its_batches():
    twin = DifferentiableLearnedOptimizerTask(_toy(horizon=3))
    theta = twin.initial_theta()
    twin.allocate(1)
    twin.reset(ROW, np.array([0], np.uint64))
    beyond = "step 4 of an episode is asked for, and there are batches for 3; give the Learned"
    with pytest.raises(ValueError, match=beyond):
        twin.unroll(ROW, theta[None], np.array([4]))
    twin.unroll(ROW, theta[None], np.array([3]))
    with pytest.raises(ValueError, match=beyond):
        twin.linearize(ROW, theta[None])


def test_tbptt_runs_on_the_differentiable_twin_in_single_precision():
    twin = DifferentiableLearnedOptimizerTask(_toy(horizon=12))
    estimator = TBPTT(twin, n_workers=3, unroll_length=4)
    estimator.reset(twin.initial_theta())
    estimate = estimator.estimate(twin.initial_theta())
    assert np.isfinite(estimate.gradient).all()
    assert estimate.gradient.any()
