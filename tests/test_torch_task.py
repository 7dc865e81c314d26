"""A task written in PyTorch for one copy: batching, derivatives, and what is refused."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import torch
from toy_tasks import recurrent_torch_task

from es_rl.baselines import BASELINES, BPTT, DODGE, RTRL, TBPTT, UORO
from es_rl.envs.lorenz import LorenzTask
from es_rl.envs.torch_task import TorchTask
from es_rl.estimators import NRES
from es_rl.optimizers import SGD
from es_rl.perturbations import episode_seeds
from es_rl.trainer import Trainer

# PyTorch compiles its own rules of forward differentiation when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")

DOUBLE = torch.float64


def _lorenz_in_torch(horizon, **options):
    reference = LorenzTask()
    reference.allocate(1)
    reference.reset(np.array([0]), np.array([0], np.uint64))
    course = []
    for _ in range(horizon):
        reference.unroll(np.array([0]), reference.true_theta[None], np.array([1]))
        course.append(reference.get_state()["state"][0, 2])
    course = torch.tensor(course)

    def init(generator):
        return {"place": torch.tensor([1.2, 1.3, 1.6], dtype=DOUBLE)}

    def step(theta, state, t):
        (r, a), (x, y, z), dt = torch.exp(theta), state["place"], 0.005
        place = torch.stack(
            [x + a * (y - x) * dt, y + (x * (r - z) - y) * dt, z + (x * y - 8 / 3 * z) * dt]
        )
        return {"place": place}, (place[2] - course[t]) ** 2

    return TorchTask(init, step, num_params=2, horizon=horizon, theta0=[3.7, 3.116], **options)


def test_the_tutorials_example_finds_the_decay_rate():
    # the example in the class's documentation, trained by NRES
    def init(generator):
        return {"x": torch.ones((), dtype=DOUBLE)}

    def step(theta, state, t):
        x = state["x"] * torch.exp(-theta[0])
        return {"x": x}, (x - 0.9 ** (t + 1)) ** 2

    task = TorchTask(init, step, num_params=1, horizon=50)
    assert task.initial_theta().tolist() == [0.0]
    estimator = NRES(task, n_pairs=10, unroll_length=10, sigma=0.01)
    trainer = Trainer(estimator, SGD(1, 0.003), task.initial_theta())
    trainer.run(updates=200)
    # smoothing by σ = 0.01 moves the optimum by 0.0015
    assert trainer.theta[0] == pytest.approx(-np.log(0.9), abs=0.004)


def test_losses_and_states_are_those_of_the_loop_over_single_copies():
    task = recurrent_torch_task(chunk_rows=3)
    thetas = task.initial_theta() + 0.1 * np.random.default_rng(0).normal(size=(4, 15))
    seeds = np.array([1, 1, 5, 2**64 - 1], np.uint64)
    task.allocate(4)
    task.reset(np.arange(4), seeds)
    start = task.get_state()
    result = task.unroll(np.arange(4), thetas, np.array([3, 8, 8, 5]))
    assert result.steps_taken.tolist() == [3, 8, 8, 5]
    for row, n_steps in enumerate([3, 8, 8, 5]):
        state = {
            name: torch.tensor(start[f"state/{name}"][row]) for name in ("h", "inputs", "count")
        }
        theta, total = torch.tensor(thetas[row]), 0.0
        for t in range(n_steps):
            state, loss = task._step(theta, state, torch.tensor(t))
            total += loss.item()
        assert result.loss_sum[row] == pytest.approx(total, rel=1e-12)
        end = task.get_state()
        np.testing.assert_allclose(end["state/h"][row], state["h"].numpy(), rtol=1e-12)
        assert end["state/count"][row] == end["step"][row] == n_steps


def test_rows_that_are_done_take_no_step_beyond_what_the_system_knows():
    # the true course has just T steps; W does not divide T, so rows of one batch end apart
    gradients = []
    for task in (_lorenz_in_torch(10), LorenzTask(horizon=10)):
        estimator = NRES(task, n_pairs=6, unroll_length=4, sigma=0.01, seed=2)
        estimator.reset(task.initial_theta())
        gradients.append([estimator.estimate(task.initial_theta()).gradient for _ in range(6)])
    np.testing.assert_allclose(*gradients, rtol=1e-9)


def test_start_states_come_from_a_generator_of_the_episodes_seed():
    task = recurrent_torch_task()
    task.allocate(2)
    task.reset(np.arange(2), np.array([7, 2**63 + 1], np.uint64))
    for row, seed in enumerate([7, 2**63 + 1]):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randn(40, 3, generator=generator, dtype=DOUBLE)
        np.testing.assert_array_equal(task.get_state()["state/inputs"][row], expected.numpy())


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_agrees_with_jacobians_written_by_hand(name):
    # the same seed gives UORO and DODGE the same noise on both
    gradients = []
    for task in (_lorenz_in_torch(30), LorenzTask(horizon=30)):
        options = {} if name == "bptt" else {"unroll_length": 6}
        estimator = BASELINES[name](task, n_workers=5, seed=3, **options)
        theta = task.initial_theta()
        estimator.reset(theta)
        gradients.append([estimator.estimate(theta).gradient for _ in range(4)])
    np.testing.assert_allclose(*gradients, rtol=1e-8)


def _central_differences(task, theta, seed, n_steps, size=1e-6):
    def loss(point):
        task.allocate(1)
        task.reset(np.array([0]), np.array([seed], np.uint64))
        return task.unroll(np.array([0]), point[None], np.array([n_steps])).loss_sum[0] / n_steps

    shifts = size * np.eye(theta.size)
    return np.array([(loss(theta + s) - loss(theta - s)) / (2 * size) for s in shifts])


def test_bptt_and_rtrl_are_central_differences():
    task, theta = recurrent_torch_task(horizon=20), recurrent_torch_task().initial_theta()
    for kind, options in ((BPTT, {}), (RTRL, {"unroll_length": 20, "staggering": "lockstep"})):
        estimator = kind(task, n_workers=1, seed=9, **options)
        estimator.reset(theta)
        gradient = estimator.estimate(theta).gradient
        seed = int(episode_seeds(estimator.seed, np.array([0]), np.array([0]))[0])
        expected = _central_differences(recurrent_torch_task(), theta, seed, 20)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


_DATA = torch.linspace(0.1, 1.0, 20, dtype=DOUBLE)
_ONE = torch.ones((), dtype=DOUBLE)

# each returns h, prev and the loss, some of which depend on neither state nor θ
_CONSTANT_PARTS = {
    "a delayed observation": lambda theta, s, h, t: (h, _DATA[t], (h - _DATA[t]) ** 2),
    "a constant in the state": lambda theta, s, h, t: (h, _ONE, h**2 + s["prev"] * theta[1]),
    "a loss of data alone": lambda theta, s, h, t: (h, s["prev"], _DATA[t]),
    "a constant loss": lambda theta, s, h, t: (h, s["prev"], _ONE),
    "a loss of θ alone": lambda theta, s, h, t: (_DATA[t], _ONE, (theta**2).sum()),
    "a constant state": lambda theta, s, h, t: (_ONE, _ONE, s["h"] * theta[0]),
    "nothing but constants": lambda theta, s, h, t: (_ONE, _ONE, _ONE),
}


def _task_of_constants(parts, padded=False):
    def init(generator):
        return {"h": 0.5 * _ONE, "prev": 0.1 * _ONE}

    def step(theta, state, t):
        h = torch.tanh(theta[0] * state["h"] + theta[1] * state["prev"] + theta[2])
        h, prev, loss = parts(theta, state, h, t)
        nothing = 0.0 * (state["h"] + state["prev"] + theta.sum()) if padded else 0.0
        return {"h": h + nothing, "prev": prev + nothing}, loss + nothing

    return TorchTask(init, step, num_params=3, horizon=6, theta0=[0.3, 0.4, 0.5])


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("parts", _CONSTANT_PARTS.values(), ids=_CONSTANT_PARTS)
def test_what_depends_on_nothing_has_zero_derivatives(name, parts):
    # 2 workers and 3 parameters, so that no two axes are mistaken for each other; the same seed
    # gives UORO and DODGE the same noise on a task where everything depends on everything by 0
    gradients, theta = [], np.array([0.3, 0.4, 0.5])
    options = {} if name == "bptt" else {"unroll_length": 6, "staggering": "lockstep"}
    for padded in (False, True):
        task = _task_of_constants(parts, padded)
        estimator = BASELINES[name](task, n_workers=2, seed=3, **options)
        estimator.reset(theta)
        gradients.append(estimator.estimate(theta).gradient)
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-15)
    if name in ("bptt", "tbptt", "rtrl"):
        expected = _central_differences(_task_of_constants(parts), theta, 0, 6)
        np.testing.assert_allclose(gradients[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_a_state_without_floats_has_the_direct_derivative_alone(name):
    def init(generator):
        return {"k": torch.zeros((), dtype=torch.int64)}

    def step(theta, state, t):
        return {"k": state["k"] + 1}, (theta**2).sum() * state["k"]

    task, theta = TorchTask(init, step, num_params=2, horizon=5), np.array([0.3, -0.4])
    options = {} if name == "bptt" else {"unroll_length": 5, "staggering": "lockstep"}
    estimator = BASELINES[name](task, n_workers=2, **options)
    estimator.reset(theta)
    estimator.estimate(theta)
    expected = np.tile(2.0 * theta * (0 + 1 + 2 + 3 + 4), (2, 1))
    if name == "dodge":  # its sample is along the direction that it drew
        u = estimator._epsilon
        expected = (expected * u).sum(axis=1, keepdims=True) * u
    np.testing.assert_allclose(estimator._gradients, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [UORO, DODGE])
def test_the_mean_over_the_noise_is_the_gradient_of_rtrl(kind):
    # all workers in the same episode, so that only the noise differs; 4 standard errors
    def init(generator):
        return {"h": torch.tensor([0.3, -0.2], dtype=DOUBLE)}

    def step(theta, state, t):
        h = torch.tanh(theta[:4].reshape(2, 2) @ state["h"] + theta[4:])
        return {"h": h}, (h[0] - 0.5) ** 2 + theta[1] * h[1]

    task = TorchTask(init, step, num_params=6, horizon=20, theta0=[0.9, -0.4, 0.3, 0.8, 0.1, -0.2])
    theta, own = task.initial_theta(), []
    for estimator in (
        kind(task, n_workers=4000, unroll_length=5, staggering="lockstep", seed=1),
        RTRL(task, n_workers=1, unroll_length=5, staggering="lockstep"),
        TBPTT(task, n_workers=1, unroll_length=5, staggering="lockstep"),
    ):
        estimator.reset(theta)
        estimator.estimate(theta)
        estimator.estimate(theta)
        own.append(estimator._gradients / 5)
    samples, (exact,), (truncated,) = own
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - exact) < 4 * error).all()
    assert (np.abs(samples.mean(axis=0) - truncated) > 8 * error).any()


def test_integer_states_are_carried_but_not_differentiated():
    task = recurrent_torch_task()
    assert task.state_size == 3 + 40 * 3
    assert task.get_state()["state/count"].dtype == np.int64


def test_single_precision_is_single_precision_throughout():
    seen = set()

    def init(generator):
        return {"x": torch.ones(2)}

    def step(theta, state, t):
        seen.add((theta.dtype, state["x"].dtype, t.dtype, t.ndim))
        x = state["x"] * theta
        return {"x": x}, x.sum()

    task = TorchTask(init, step, num_params=2, horizon=4, dtype="float32")
    for kind in (NRES, RTRL, TBPTT):
        options = {"n_pairs": 2, "sigma": 0.1} if kind is NRES else {"n_workers": 2}
        estimator = kind(task, unroll_length=2, **options)
        estimator.reset(np.ones(2))
        assert estimator.estimate(np.ones(2)).gradient.dtype == np.float64
    assert seen == {(torch.float32, torch.float32, torch.int64, 0)}


def test_pytorchs_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        task = recurrent_torch_task(n_threads=2)
        task.allocate(6)
        task.reset(np.arange(6), np.zeros(6, np.uint64))
        task.unroll(np.arange(6), np.zeros((6, 15)), np.full(6, 2))
        assert torch.get_num_threads() == 3
        step = task.linearize(np.arange(6), np.zeros((6, 15)))
        step.pull(np.zeros((6, 1, 123)), np.ones((6, 1)))
        assert torch.get_num_threads() == 3
        # threads that begin later take over what was set last, whoever set it
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3]
    finally:
        torch.set_num_threads(before)


def _init(generator):
    return {"x": torch.ones(2, dtype=DOUBLE)}


def _make(init=_init, step=lambda theta, state, t: (state, state["x"].sum()), **options):
    return TorchTask(init, step, **{"num_params": 2, "horizon": 5, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_params": 0}, "num_params=0: must be a positive integer"),
        ({"chunk_rows": 0}, "chunk_rows=0: must be a positive integer"),
        ({"dtype": "float16"}, "dtype='float16': choose float64 or float32"),
        ({"theta0": [1.0]}, r"theta0 has shape \(1,\), num_params=2 asks for \(2,\)"),
        ({"horizon": 0}, "horizon=0: must be a positive integer"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _make(**options)


def test_fresh_random_numbers_in_a_step_are_refused_by_pytorch():
    task = _make(step=lambda theta, s, t: (s, s["x"].sum() * torch.rand(())))
    task.allocate(1)
    task.reset(np.array([0]), np.array([0], np.uint64))
    with pytest.raises(RuntimeError, match=re.compile("random", re.IGNORECASE)):
        task.unroll(np.array([0]), np.zeros((1, 2)), np.array([1]))
