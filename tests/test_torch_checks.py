"""What a `TorchTask` refuses of the user's two functions, and in which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from es_rl.baselines import BASELINES
from es_rl.envs.torch_task import TorchTask
from es_rl.estimators import ESTIMATORS

# PyTorch compiles its own rules of forward differentiation when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")

DOUBLE = torch.float64
ROW, SEED = np.array([0]), np.array([0], np.uint64)


def _init(generator):
    return {"x": torch.ones(2, dtype=DOUBLE)}


def _make(init=_init, step=lambda theta, state, t: (state, state["x"].sum()), **options):
    return TorchTask(init, step, **{"num_params": 2, "horizon": 5, **options})


def _started(**functions):
    task = _make(**functions)
    task.allocate(1)
    task.reset(ROW, SEED)
    return task


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.ones(2), "init must return a dict of tensors"),
        ({"x": 1.0}, "init must return a dict of tensors"),
        ({"x": torch.ones(2, dtype=torch.bfloat16)}, r"state\['x'\] is torch.bfloat16 on cpu"),
        ({"x": torch.ones(2, device="meta")}, r"state\['x'\] is torch.float32 on meta"),
        ({"x": torch.ones(2).to_sparse()}, r"state\['x'\] is .* torch.sparse_coo; .* dense CPU"),
        (
            {"z": torch.ones(2, dtype=torch.complex128)},
            r"state\['z'\] is torch.complex128; .* real",
        ),
    ],
)
def test_start_states_that_cannot_be_kept_are_refused(returned, message):
    with pytest.raises(TypeError, match=message):
        _make(init=lambda generator: returned)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda theta, s, t: (s, s["x"]), "floating scalar as loss, it returned torch.float64 of "
                                          r"shape \(2,\)"),
        (lambda theta, s, t: (s, t), "floating scalar as loss, it returned torch.int64"),
        (lambda theta, s, t: ({}, s["x"].sum()), r"a state of \[\], init one of \['x'\]"),
        (lambda theta, s, t: ({"x": s["x"][:1]}, s["x"].sum()), r"shape \(1,\), init as .*\(2,\)"),
        (lambda theta, s, t: ({"x": s["x"].float()}, s["x"].sum()), "as torch.float32 of shape"),
        (lambda theta, s, t: ({"x": 1.0}, s["x"].sum()), r"state\['x'\] as a float, init as"),
        (lambda theta, s, t: ({"x": [s["x"]]}, s["x"].sum()), r"state\['x'\] as a list, init as"),
        (lambda theta, s, t: ({"x": s["x"], 1: 2}, s["x"].sum()), r"a state of \[1, 'x'\], init"),
        (lambda theta, s, t: (s, 1.0), r"floating scalar tensor, it returned a float; a constant"),
        (lambda theta, s, t: (s, s["x"].sum().bfloat16()), "it returned torch.bfloat16 of shape"),
        (lambda theta, s, t: (s["x"].sum(), s), r"the loss before the state; .* \(state, loss\)"),
        (lambda theta, s, t: ([s["x"]], s["x"].sum()), "as a dict of tensors, it returned a list"),
        (lambda theta, s, t: (None, s["x"].sum()), "as a dict of tensors, it returned None"),
        (lambda theta, s, t: s, "two values, the next state and the loss; it returned a dict"),
        (lambda theta, s, t: {**s, "y": 1}, "two values, .*; it returned a dict"),
        (lambda theta, s, t: s["x"], "two values, .*; it returned torch.float64 of shape"),
        (lambda theta, s, t: (s, s["x"].sum(), 1), "two values, .*; it returned 3 values"),
        (lambda theta, s, t: None, "two values, .*; it returned None"),
    ],
)  # fmt: skip
def test_steps_that_break_their_promise_are_refused(step, message):
    task = _started(step=step)
    with pytest.raises(TypeError, match=f"^torch-task: .*{message}"):
        task.unroll(ROW, np.zeros((1, 2)), np.array([1]))
    with pytest.raises(TypeError, match=f"^torch-task: .*{message}"):
        task.linearize(ROW, np.zeros((1, 2)))


def _returning(first, later):
    """Make an `init` whose start state differs from seed 0 to all others."""
    return lambda generator: first if generator.initial_seed() == 0 else later


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"x": torch.ones(1)}, r"state\['x'\] as torch.float32 of shape \(1,\), with seed 0 as "),
        (
            {"x": torch.ones(2, dtype=DOUBLE)},
            r"state\['x'\] as torch.float64 of shape \(2,\), with",
        ),
        ({"x": torch.ones(2), "z": torch.ones(2)}, r"a state of \['x', 'z'\], with seed 0 one of "),
        ({}, r"a state of \[\], with seed 0 one of \['x'\]"),
    ],
)
def test_start_states_of_another_kind_are_refused_at_their_reset(later, message):
    task = _started(init=_returning({"x": torch.ones(2)}, later))
    before = task.get_state()
    with pytest.raises(TypeError, match=f"^torch-task: init with seed 7 returned {message}"):
        task.reset(ROW, np.array([7], np.uint64))
    np.testing.assert_equal(task.get_state(), before)


_BUFFER = torch.zeros(3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: torch.randn(3),
        lambda generator: torch.tensor(np.random.random(3)),  # noqa: NPY002
        lambda generator: _BUFFER.normal_(),
        lambda generator: _BUFFER.add_(1.0),
        lambda generator: torch.cat([torch.full((1,), torch.nan), torch.randn(1)]),
    ],
    ids=["torch", "numpy", "shared memory", "memory of the last call", "beside a NaN"],
)
def test_start_states_that_the_seed_does_not_decide_are_refused(draw):
    with pytest.raises(TypeError, match=r"two different state\['r'\] for the same seed; draw from"):
        _make(init=lambda generator: {"r": draw(generator)})


def test_start_states_with_a_nan_are_the_same_every_time():
    _make(init=lambda generator: {"x": torch.full((2,), torch.nan)})


IN_PLACE = {
    "a method": (lambda theta, s, t: s["x"].mul_(0.9), r"state\['x'\]"),
    "an operator": (lambda theta, s, t: s["x"].__iadd__(theta), r"state\['x'\]"),
    "an element": (lambda theta, s, t: s["x"].__setitem__(0, 1.0), r"state\['x'\]"),
    "a view": (lambda theta, s, t: s["x"].view(-1).add_(1.0), r"state\['x'\]"),
    "a part of unbind": (lambda theta, s, t: s["x"].unbind()[0].add_(1.0), r"state\['x'\]"),
    "past the graph": (lambda theta, s, t: s["x"].detach().add_(1.0), r"state\['x'\]"),
    "an integer": (lambda theta, s, t: s["n"].add_(1), r"state\['n'\]"),
    "θ": (lambda theta, s, t: theta.mul_(0.9), "theta"),
    "the clock": (lambda theta, s, t: t.add_(1), "t"),
    "two at once": (lambda theta, s, t: (s["n"].add_(1), theta.mul_(2)), r"theta and state\['n'\]"),
}


@pytest.mark.parametrize("way", IN_PLACE)
@pytest.mark.parametrize("name", ["nres", "tes", *BASELINES])
def test_work_in_place_is_refused_by_name_in_every_estimator(name, way):
    work, changed = IN_PLACE[way]

    def init(generator):
        return {"x": torch.ones(2, dtype=DOUBLE), "n": torch.zeros((), dtype=torch.int64)}

    def step(theta, state, t):
        work(theta, state, t)
        return state, (theta * state["x"]).sum()

    task = _make(init, step)
    if name in BASELINES:
        options = {"n_workers": 2} if name == "bptt" else {"n_workers": 2, "unroll_length": 5}
        estimator = BASELINES[name](task, **options)
    else:
        estimator = ESTIMATORS[name](task, n_pairs=2, unroll_length=5, sigma=0.1)

    def run():
        estimator.reset(np.ones(2))
        estimator.estimate(np.ones(2))

    with pytest.raises(TypeError, match=f"step changed {changed} in place; .*clone"):
        run()


@pytest.mark.parametrize("name", ["nres", "bptt", "rtrl"])
def test_what_is_new_or_a_clone_may_be_worked_on_in_place(name):
    def pure(theta, state, t):
        x = 0.9 * state["x"] + torch.tanh(theta * state["x"])
        return {"x": x}, (x**2).sum()

    def clone(theta, state, t):
        state["x"] = state["x"].clone()
        old = state["x"].clone()
        state["x"].mul_(0.9).add_((theta * old).tanh_())
        return state, (state["x"] ** 2).sum()

    gradients = []
    for step in (pure, clone):
        if name == "nres":
            estimator = ESTIMATORS[name](_make(step=step), n_pairs=4, unroll_length=3, sigma=0.1)
        else:
            options = {} if name == "bptt" else {"unroll_length": 3}
            estimator = BASELINES[name](_make(step=step), n_workers=2, **options)
        estimator.reset(np.array([0.4, 0.6]))
        gradients.append(estimator.estimate(np.array([0.4, 0.6])).gradient)
    np.testing.assert_array_equal(*gradients)


def test_other_errors_of_pytorch_are_left_as_they_are():
    parameter = torch.ones(2, dtype=DOUBLE, requires_grad=True)

    def step(theta, state, t):
        return state, (parameter.add_(1.0) * state["x"]).sum()

    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
        _started(step=step).linearize(ROW, np.zeros((1, 2)))
