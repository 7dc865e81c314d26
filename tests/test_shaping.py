"""Fitness shaping: the weights themselves, and the gradients that the estimators make of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.estimator_options import DEFAULTS
from es_rl.estimators import ESTIMATORS
from es_rl.shaping import SHAPINGS, Part, Shaping

_THETA = np.array([0.6, -0.2, 0.5])
_ANYWHERE = ("none", "std", "ranks", "sign")


def _parts(seed=0, n_pairs=7):
    """Some pairs with one part, some with two or three."""
    rng = np.random.default_rng(seed)
    groups = (np.arange(n_pairs), np.array([1, 2, 5]), np.array([2]))
    return [Part(pairs, rng.normal(size=2 * pairs.size)) for pairs in groups]


def _joined(weights):
    return np.concatenate(weights)


def test_without_shaping_the_weights_are_the_differences_in_every_bit():
    parts = _parts()
    for weights, part in zip(Shaping("none", 7).weights(parts), parts, strict=True):
        np.testing.assert_array_equal(weights, part.losses[0::2] - part.losses[1::2])


@pytest.mark.parametrize("name", ["std", "ranks", "sign"])
def test_squares_of_shaped_weights_sum_to_the_pairs_that_count(name):
    # however many parts there are, so that the learning rate means the same
    for n_parts, top in itertools.product((1, 2, 3), (None, 2)):
        weights = _joined(Shaping(name, 7, top).weights(_parts()[:n_parts]))
        np.testing.assert_allclose(np.sum(weights**2), 7 if top is None else 2, rtol=1e-14)


@pytest.mark.parametrize("name", _ANYWHERE)
@pytest.mark.parametrize("top", [None, 3])
def test_the_mirror_image_of_a_pair_has_the_opposite_weights_and_changes_no_other(name, top):
    parts = _parts()
    weights = Shaping(name, 7, top).weights(parts)
    mirrored = []
    for part in parts:
        losses = part.losses.copy().reshape(-1, 2)
        losses[part.pairs == 2] = losses[part.pairs == 2][:, ::-1]
        mirrored.append(Part(part.pairs, losses.ravel()))
    for a, b, part in zip(weights, Shaping(name, 7, top).weights(mirrored), parts, strict=True):
        np.testing.assert_array_equal(b, np.where(part.pairs == 2, -a, a))


def test_std_is_the_root_of_the_mean_square_per_pair():
    parts = _parts()
    d = _joined([part.differences for part in parts])
    expected = d / math.sqrt(np.sum(d**2) / 7)
    np.testing.assert_allclose(_joined(Shaping("std", 7).weights(parts)), expected, rtol=1e-14)


def test_ranks_are_those_among_the_differences_and_their_mirror_images():
    parts = _parts()
    d = _joined([part.differences for part in parts])
    both = np.sort(np.concatenate([d, -d]))
    centred = np.searchsorted(both, d) - (2 * d.size - 1) / 2
    expected = centred * math.sqrt(7 / np.sum(centred**2))
    np.testing.assert_allclose(_joined(Shaping("ranks", 7).weights(parts)), expected, rtol=1e-14)


def test_equal_differences_share_their_ranks_and_no_difference_has_no_weight():
    part = Part(np.arange(5), np.array([1.0, 0, 0, 1, 3, 0, 0, 0, 2, 1]))  # D = 1, -1, 3, 0, 1
    weights = Shaping("ranks", 5).weights([part])[0]
    assert weights[0] == -weights[1] == weights[4]
    assert weights[3] == 0.0
    # ranks 1 to 5 of the sizes 0, 1, 1, 1, 3 less a half: 0.5, 2.5 (shared), 4.5
    np.testing.assert_allclose(weights[2] / weights[0], 4.5 / 2.5, rtol=1e-14)


@pytest.mark.parametrize("name", ["std", "ranks", "sign"])
def test_a_window_in_which_nothing_differs_has_no_weights(name):
    parts = [Part(np.arange(3), np.full(6, 5.0))]
    np.testing.assert_array_equal(Shaping(name, 3).weights(parts)[0], np.zeros(3))


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200])
@pytest.mark.parametrize("name", ["std", "ranks", "sign", "returns"])
def test_the_unit_of_the_rewards_does_not_count(name, scale):
    parts = _parts()[:1]
    shaping = Shaping(name, 7, whole_episodes=True)
    scaled = [Part(part.pairs, part.losses * scale) for part in parts]
    np.testing.assert_allclose(shaping.weights(scaled)[0], shaping.weights(parts)[0], rtol=1e-12)


@pytest.mark.parametrize("name", SHAPINGS)
def test_weights_do_not_depend_on_how_the_pairs_come_together(name):
    # exact sums: the bits are the same for pairs in any order
    part = _parts()[0]
    order = np.random.default_rng(3).permutation(7)
    other = Part(np.arange(7), part.losses.reshape(-1, 2)[order].ravel())
    shaping = Shaping(name, 7, whole_episodes=True)
    np.testing.assert_array_equal(shaping.weights([other])[0], shaping.weights([part])[0][order])


def test_best_pairs_of_whole_episodes_are_those_with_the_largest_return_of_a_row():
    losses = np.array([[-9.0, 1], [0, 0], [-2, -8], [-9, -9], [5, 5]])
    weights = Shaping("none", 5, 2, whole_episodes=True).weights(
        [Part(np.arange(5), losses.ravel())]
    )
    np.testing.assert_array_equal(weights[0], [-10.0, 0, 0, 0, 0])  # pair 3 is kept, and has no D
    three = Shaping("none", 5, 3, whole_episodes=True).weights([Part(np.arange(5), losses.ravel())])
    np.testing.assert_array_equal(three[0], [-10.0, 0, 6, 0, 0])


def test_best_pairs_of_windows_are_those_with_the_largest_differences():
    # pair 1 stands where much is to be gained, whatever its noise
    parts = [
        Part(np.arange(3), np.array([0.0, 1, -99, -99.5, 0, -2])),
        Part(np.array([1]), np.ones(2)),
    ]
    weights = Shaping("none", 3, 2).weights(parts)
    np.testing.assert_array_equal(weights[0], [-1.0, 0, 2])
    np.testing.assert_array_equal(weights[1], [0.0])


def _settings(name, **more):
    settings = {"n_pairs": 11, "sigma": 0.3, "horizon": 7, "seed": 3, **more}
    if name != "fulles":
        settings |= {"unroll_length": 10, "staggering": "iid"}
    return settings | ({"noise_period": 20} if name == "gpes" else {})


def _make(name, system, settings, **options):
    given = {k: v for k, v in settings.items() if k != "horizon"}
    return ESTIMATORS[name](LoopTask(system, settings["horizon"]), **given, **options)


@pytest.mark.parametrize("shaping", ["std", "ranks", "sign"])
@pytest.mark.parametrize("name", ["nres", "pes", "gpes", "tes", "fulles"])
@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
def test_gradient_is_the_sum_of_weighted_noise_over_all_parts(name, shaping, system):
    # W = 10 and T = 7: every window has several parts, with noise that is overwritten inside it
    settings = _settings(name)
    estimator = _make(name, system, settings, shaping=shaping)
    estimator.reset(_THETA)
    noises = []
    add = estimator._sum.add

    def noting(accumulated, pairs, differences):
        noises.append(accumulated[pairs].copy())
        add(accumulated, pairs, differences)

    estimator._sum.add = noting
    window = estimator.unroll_window(_THETA)
    assert (len(window.parts) > 1) == (name != "fulles")
    weights = Shaping(shaping, 11, None, name == "fulles").weights(window.parts)
    expected = sum(w @ noise for w, noise in zip(weights, noises, strict=True)) / (0.3 * 11)
    gradient = estimator.gradient(window)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["nres", "pes", "tes", "fulles"])
@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
def test_all_pairs_on_top_without_shaping_is_no_shaping_in_every_bit(name, system):
    # by the other way through the code: noise kept until the window is over
    settings = _settings(name, n_pairs=19)
    plain, kept = _make(name, system, settings), _make(name, system, settings, top_pairs=18)
    kept.shaping.n_kept = 19
    assert kept.shaping.is_identity
    kept.shaping.__class__ = type("Kept", (Shaping,), {"is_identity": False})
    plain.reset(_THETA)
    kept.reset(_THETA)
    theta = _THETA
    for _ in range(4):
        a, b = plain.estimate(theta), kept.estimate(theta)
        np.testing.assert_array_equal(a.gradient, b.gradient)
        assert a[1:] == b[1:]
        theta = theta - 0.05 * a.gradient


@pytest.mark.parametrize("name", ["nres", "gpes", "fulles"])
def test_each_pair_s_own_estimate_has_the_gradient_as_its_mean(name):
    estimator = _make(name, EndingSystem, _settings(name), shaping="ranks", top_pairs=5)
    twin = _make(name, EndingSystem, _settings(name), shaping="ranks", top_pairs=5)
    estimator.reset(_THETA)
    twin.reset(_THETA)
    for _ in range(3):
        own, estimate = estimator.estimate_each(_THETA)
        np.testing.assert_allclose(own.mean(axis=0), estimate.gradient, rtol=1e-12, atol=1e-13)
        assert (np.abs(own).sum(axis=1) > 0).sum() == 5
        np.testing.assert_array_equal(twin.estimate(_THETA).gradient, estimate.gradient)


@pytest.mark.parametrize("shaping", _ANYWHERE)
def test_resumed_run_goes_on_bit_for_bit(shaping):
    options = {"shaping": shaping, "top_pairs": 9, "reward_offset": 0.5}
    settings = _settings("nres")
    estimator = _make("nres", EndingSystem, settings, **options)
    estimator.reset(_THETA)
    estimator.estimate(_THETA)
    again = _make("nres", EndingSystem, settings, **options)
    again.load_state_dict(estimator.state_dict())
    for _ in range(3):
        np.testing.assert_array_equal(
            again.estimate(_THETA).gradient, estimator.estimate(_THETA).gradient
        )


@pytest.mark.parametrize(
    ("option", "value"),
    [("shaping", "std"), ("top_pairs", 4), ("reward_offset", 1.0), ("noise", "fixed-norm")],
)
def test_state_of_another_setting_is_refused_and_one_of_before_the_options_is_taken(option, value):
    settings = _settings("nres")
    estimator = _make("nres", EndingSystem, settings)
    estimator.reset(_THETA)
    state = estimator.state_dict()
    with pytest.raises(ValueError, match=f"^{option}={value}: the state is of"):
        _make("nres", EndingSystem, settings, **{option: value}).load_state_dict(state)
    older = {k: v for k, v in state.items() if k not in DEFAULTS}
    _make("nres", EndingSystem, settings).load_state_dict(older)
    with pytest.raises(ValueError, match=f"^{option}={value}: the state is of"):
        _make("nres", EndingSystem, settings, **{option: value}).load_state_dict(older)


@pytest.mark.parametrize("name", ["nres", "pes", "tes", "fulles"])
def test_reward_offset_is_added_to_the_loss_of_every_step_taken(name):
    # a system that pays the offset itself is the same training
    class Paying(EndingSystem):
        def step(self, theta):
            loss, ended = super().step(theta)
            return loss + 0.75, ended

    settings = _settings(name)
    offset = _make(name, EndingSystem, settings, reward_offset=0.75)
    paying = _make(name, Paying, settings)
    offset.reset(_THETA)
    paying.reset(_THETA)
    for _ in range(4):
        a, b = offset.estimate(_THETA), paying.estimate(_THETA)
        np.testing.assert_allclose(a.gradient, b.gradient, rtol=0, atol=1e-12)
        assert abs(a.mean_loss - b.mean_loss) < 1e-13
        assert a[2:] == b[2:]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("shaping", "rank", "choose one of"),
        ("shaping", "returns", "is for whole episodes"),
        ("top_pairs", 0, "must be a positive integer"),
        ("top_pairs", 12, "must be 1 to n_pairs=11"),
        ("top_pairs", 1.5, "must be a positive integer"),
        ("reward_offset", math.nan, "must be a finite number"),
        ("reward_offset", "1", "must be a finite number"),
        ("noise", "uniform", "choose one of gaussian, fixed-norm"),
    ],
)
def test_a_bad_option_is_named_with_its_value(option, value, reason):
    with pytest.raises(ValueError, match=f"^{option}='?{value}'?: {reason}"):
        _make("nres", EndingSystem, _settings("nres"), **{option: value})
