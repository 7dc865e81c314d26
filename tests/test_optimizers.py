"""Optimisers against tables worked out by hand, and against known optima."""

from __future__ import annotations

import math

import numpy as np
import pytest

from es_rl.optimizers import OPTIMIZERS, SGD, Adam, ClipUp, Momentum, make_optimizer
from es_rl.schedules import OverSteps, linear, piecewise


def _path(optimizer, gradients, start):
    theta, path = np.array(start, float), []
    for gradient in gradients:
        optimizer.step(theta, np.array(gradient, float))
        path.append(theta.tolist())
    return path


def test_sgd_by_hand():
    path = _path(SGD(2, 0.1), [[0.5, -1.0], [1.0, 1.0]], [1.0, 2.0])
    np.testing.assert_allclose(path, [[0.95, 2.1], [0.85, 2.0]], rtol=1e-15)


def test_momentum_by_hand():
    # v = 1, 0.5·1 + 1 = 1.5, 0.5·1.5 - 2 = -1.25
    path = _path(Momentum(1, 0.1, momentum=0.5), [[1.0], [1.0], [-2.0]], [0.0])
    np.testing.assert_allclose(path, [[-0.1], [-0.25], [-0.125]], rtol=1e-15)


def test_momentum_of_zero_is_sgd():
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    one = _path(Momentum(3, 0.1, momentum=0.0), gradients, np.ones(3))
    assert one == _path(SGD(3, 0.1), gradients, np.ones(3))


def test_adam_by_hand():
    # β₁ = β₂ = 1/2 and gradients 2, -1, 1:  m = 1, 0, 1/2  v = 2, 3/2, 5/4
    # unbiased by 1/2, 3/4, 7/8:            m̂ = 2, 0, 4/7  v̂ = 4, 2, 10/7
    adam = Adam(1, 0.1, beta1=0.5, beta2=0.5, epsilon=0.5)
    path = _path(adam, [[2.0], [-1.0], [1.0]], [1.0])
    first = 1 - 0.1 * 2 / (2 + 0.5)
    third = first - 0.1 * (4 / 7) / (math.sqrt(10 / 7) + 0.5)
    np.testing.assert_allclose(path, [[first], [first], [third]], rtol=1e-15)


def test_adam_s_first_step_is_the_learning_rate_whatever_the_gradient_s_size():
    theta = np.zeros(3)
    Adam(3, 0.01).step(theta, np.array([1e-3, -5.0, 1e6]))
    np.testing.assert_allclose(theta, [-0.01, 0.01, -0.01], rtol=2e-5)


def test_clipup_by_hand():
    # 3-4-5: v = (0.6, 0.8); then half of it plus the same, (0.9, 1.2) of speed 1.5, cut to 1.2
    clipup = ClipUp(2, 1.0, momentum=0.5, max_speed=1.2)
    path = _path(clipup, [[3.0, 4.0], [30.0, 40.0]], [0.0, 0.0])
    np.testing.assert_allclose(path, [[-0.6, -0.8], [-1.32, -1.76]], rtol=1e-15)


def test_clipup_takes_the_direction_alone():
    # scales whose squares overflow or vanish in double precision are among these
    gradients = np.random.default_rng(1).normal(size=(20, 4))
    paths = [
        _path(ClipUp(4, 0.1), scale * gradients, np.ones(4))
        for scale in (1.0, 2.0**-900, 2.0**-3, 2.0**600, 2.0**1000)
    ]
    for path in paths[1:]:
        assert path == paths[0]


def test_clipup_never_goes_faster_than_its_maximum():
    rng = np.random.default_rng(2)
    for momentum in (0.0, 0.9, 0.99):
        clipup, theta = ClipUp(3, 0.2, momentum=momentum), np.zeros(3)
        assert clipup.max_speed == 0.4
        for _ in range(200):
            before = theta.copy()
            clipup.step(theta, rng.normal([5.0, 0.0, 0.0]))
            assert np.linalg.norm(theta - before) <= 0.4 * (1 + 1e-12)


def test_clipup_coasts_on_a_gradient_of_zero():
    path = _path(ClipUp(2, 1.0, momentum=0.5), [[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    assert path == [[-1.0, 0.0], [-1.5, 0.0]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_finds_the_optimum_of_a_quadratic(name):
    # curvatures 1 to 4; the rate falls to zero, so that even ClipUp's unit steps come to rest
    curvature, optimum = np.array([1.0, 2.0, 4.0]), np.array([1.0, -2.0, 0.5])
    rate = {"sgd": 0.2, "momentum": 0.05, "adam": 0.1, "clipup": 0.05}[name]
    optimizer, theta = make_optimizer(name, 3, linear(rate, 500)), np.zeros(3)
    for _ in range(500):
        optimizer.step(theta, curvature * (theta - optimum))
    np.testing.assert_allclose(theta, optimum, atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedule_is_asked_with_the_number_of_updates_made(name):
    asked = []

    def schedule(update):
        asked.append(update)
        return 0.1

    optimizer = make_optimizer(name, 1, schedule)
    asked.clear()
    for _ in range(3):
        optimizer.step(np.zeros(1), np.ones(1))
    assert asked == [0, 1, 2]
    assert optimizer.updates == 3


def test_a_schedule_over_steps_is_asked_with_the_steps_counted_so_far():
    asked = []

    def schedule(count):
        asked.append(count)
        return 0.1

    optimizer = SGD(1, OverSteps(schedule))
    for steps in (7, 30, 5):
        optimizer.total_steps += steps
        optimizer.step(np.zeros(1), np.ones(1))
    assert asked == [7, 37, 42]


def test_a_drop_of_the_rate_takes_effect_at_its_update():
    path = _path(SGD(1, piecewise(1.0, {2: 0.1})), [[1.0]] * 4, [0.0])
    np.testing.assert_allclose(np.ravel(path), [-1.0, -2.0, -2.1, -2.2], rtol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_bit_for_bit(name):
    gradients = np.random.default_rng(3).normal(size=(10, 4))
    whole = _path(make_optimizer(name, 4, linear(0.1, 12)), gradients, np.ones(4))
    first = make_optimizer(name, 4, linear(0.1, 12))
    begun = _path(first, gradients[:4], np.ones(4))
    state = first.state_dict()
    _path(first, gradients[4:], np.ones(4))  # a state does not follow its optimiser
    second = make_optimizer(name, 4, linear(0.1, 12))
    second.load_state_dict(state)
    assert begun + _path(second, gradients[4:], begun[-1]) == whole


def test_states_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Adam needs"):
        Adam(3, 0.1).load_state_dict(Momentum(3, 0.1).state_dict())
    with pytest.raises(ValueError, match="'velocity' of a saved state: float64 of shape"):
        Momentum(3, 0.1).load_state_dict(Momentum(1, 0.1).state_dict())
    with pytest.raises(ValueError, match="SGD needs"):
        SGD(3, 0.1).load_state_dict({})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_that_is_not_positive_is_refused(name, rate):
    with pytest.raises(ValueError, match=f"^learning_rate={rate}: must be a positive number"):
        make_optimizer(name, 3, rate)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("momentum", "momentum", 1.0),
        ("momentum", "momentum", -0.1),
        ("momentum", "momentum", math.nan),
        ("adam", "beta1", 1.0),
        ("adam", "beta2", -1.0),
        ("adam", "epsilon", 0.0),
        ("adam", "epsilon", math.nan),
        ("clipup", "momentum", 1.5),
        ("clipup", "max_speed", 0.0),
        ("clipup", "max_speed", math.inf),
    ],
)
def test_a_bad_option_is_named_with_its_value(name, option, value):
    with pytest.raises(ValueError, match=f"^{option}={value}: must be"):
        make_optimizer(name, 3, 0.1, **{option: value})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_is_taken_by_those_that_have_it_and_refused_by_the_others(name):
    if name in ("momentum", "clipup"):
        assert make_optimizer(name, 1, 0.1, momentum=0.5).momentum == 0.5
        return
    with pytest.raises(ValueError, match=f"momentum=0.5: {name} has none, only momentum and"):
        make_optimizer(name, 1, 0.1, momentum=0.5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_a_gradient_weight_decay_is_a_power_of_what_an_update_leaves(name):
    optimizer, start = make_optimizer(name, 2, linear(0.5, 4), weight_decay=0.4), [3.0, -0.25]
    path = _path(optimizer, [[0.0, 0.0]] * 3, start)
    left = np.cumprod([1 - 0.5 * 0.4, 1 - 0.375 * 0.4, 1 - 0.25 * 0.4])
    np.testing.assert_allclose(path, np.outer(left, start), rtol=1e-15)


@pytest.mark.parametrize(("name", "of_torch"), [("adam", "AdamW"), ("sgd", "SGD")])
def test_weight_decay_is_pytorchs(name, of_torch):
    torch = pytest.importorskip("torch")
    gradients = np.random.default_rng(4).normal(size=(30, 5))
    theta = np.random.default_rng(5).normal(size=5)
    ours = _path(make_optimizer(name, 5, 0.03, weight_decay=2.0), gradients, theta)
    params = torch.nn.Parameter(torch.tensor(theta))
    peer = getattr(torch.optim, of_torch)([params], lr=0.03, weight_decay=2.0)
    for gradient, expected in zip(gradients, ours, strict=True):
        params.grad = torch.tensor(gradient)
        peer.step()
        np.testing.assert_allclose(params.detach().numpy(), expected, rtol=1e-12)


def test_weight_decay_stays_out_of_the_velocity():
    # each part alone: the coasting of the velocity is that without decay, θ's shrinking that of θ
    gradients, rate, decay = [[2.0], [0.0], [-1.0]], 0.1, 3.0
    plain = np.ravel(_path(Momentum(1, rate, momentum=0.5), gradients, [0.0]))
    steps = np.diff(plain, prepend=0.0)
    theta, expected = 1.0, []
    for step in steps:
        theta = (1 - rate * decay) * theta + step
        expected.append(theta)
    optimizer = Momentum(1, rate, momentum=0.5, weight_decay=decay)
    np.testing.assert_allclose(np.ravel(_path(optimizer, gradients, [1.0])), expected, rtol=1e-14)


def test_under_weight_decay_a_random_walk_has_a_stationary_length():
    # docs/options.md: squared lengths obey r = (1 - αλ)²·r + s². Seed 0; the squares of 2400
    # updates count as 24 independent ones of relative deviation √(2/400): 4 standard errors
    rng, decay, lengths = np.random.default_rng(0), 0.02 * 0.5, []
    optimizer, theta = ClipUp(400, 0.02, momentum=0.0, weight_decay=0.5), np.zeros(400)
    for update in range(3000):
        optimizer.step(theta, rng.normal(size=400))
        if update >= 600:
            lengths.append(theta @ theta)
    expected = 0.02**2 / (1 - (1 - decay) ** 2)
    assert abs(np.mean(lengths) / expected - 1) < 4 * math.sqrt(2 / 400 / 24)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_weight_decay_is_none_to_the_bit(name):
    gradients = np.random.default_rng(6).normal(size=(10, 4))
    without = _path(make_optimizer(name, 4, 0.1), gradients, np.ones(4))
    assert _path(make_optimizer(name, 4, 0.1, weight_decay=0.0), gradients, np.ones(4)) == without
    assert _path(make_optimizer(name, 4, 0.1, weight_decay=1e-9), gradients, np.ones(4)) != without


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_weight_decay_that_is_no_share_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^weight_decay={value}: must be a number of at least 0"):
        make_optimizer(name, 3, 0.1, weight_decay=value)


def test_a_weight_decay_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^weight_decay=10: with a learning rate of 0.1 must be "):
        SGD(3, 0.1, weight_decay=10)


def test_an_unknown_optimiser_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="optimizer='adma': choose one of sgd, momentum, adam"):
        make_optimizer("adma", 3, 0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_refused_changes_neither_parameters_nor_the_optimiser(name, bad):
    optimizer, twin = (make_optimizer(name, 3, linear(0.1, 10)) for _ in range(2))
    theta = np.array([1.0, -2.0, 0.5])
    optimizer.step(theta, np.array([0.3, 1.0, -1.0]))
    before, state = theta.copy(), optimizer.state_dict()
    with pytest.raises(FloatingPointError, match="update 2 would make parameters NaN or infinite"):
        optimizer.step(theta, np.array([0.3, bad, -1.0]))
    np.testing.assert_array_equal(theta, before)
    assert optimizer.state_dict().keys() == state.keys()
    for key, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    # and it goes on as if the refused step had never been tried
    twin.load_state_dict(state)
    other = theta.copy()
    optimizer.step(theta, np.array([0.1, 0.2, 0.3]))
    twin.step(other, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(theta, other)


def test_adam_refuses_a_gradient_whose_square_overflows():
    # the step itself would be finite, zero in fact, and so would every later one
    adam, theta = Adam(2, 0.1), np.ones(2)
    with pytest.raises(FloatingPointError, match="update 1 would make"):
        adam.step(theta, np.array([1e200, 1.0]))
    np.testing.assert_array_equal(theta, [1.0, 1.0])
    np.testing.assert_array_equal(adam.state_dict()["second_moment"], [0.0, 0.0])
