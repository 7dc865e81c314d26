"""Policies: the flat layout, the forward pass, actions, files."""

from __future__ import annotations

import json
import os

import gymnasium as gym
import numpy as np
import pytest
import reference
from gymnasium import spaces

import es_rl
from es_rl.files import read_npz, write_npz
from es_rl.normalization import Normalizer
from es_rl.policies import POLICIES, LinearPolicy, MlpPolicy, Policy, load_policy
from es_rl.policy_kernels import ACTIVATIONS, forward_rows, scratch_size

_OBSERVE = spaces.Box(-np.inf, np.inf, (5,), np.float64)
_ACT = spaces.Box(-1, 1, (3,), np.float32)


def _filled(policy, seed=0):
    policy.theta = np.random.default_rng(seed).normal(size=policy.num_params)
    return policy


@pytest.mark.parametrize(
    ("policy", "num_params"),
    [
        # the NRES paper's Swimmer, HalfCheetah and 17-30-6 policies, and layers counted by hand
        (LinearPolicy(spaces.Box(-1, 1, (8,)), spaces.Box(-1, 1, (2,))), 16),
        (LinearPolicy(spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,))), 102),
        (MlpPolicy(spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,)), hidden=(30,)), 726),
        (LinearPolicy(_OBSERVE, _ACT, bias=True), 18),
        (MlpPolicy(_OBSERVE, spaces.Discrete(2), hidden=(4, 3)), 5 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2),
        (MlpPolicy(_OBSERVE, _ACT), 5 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3),
    ],
)
def test_num_params(policy, num_params):
    assert policy.num_params == num_params
    assert policy.theta.shape == (num_params,)
    assert policy.theta.dtype == np.float64
    assert not policy.theta.any()


def test_layout_is_each_layer_s_weights_row_major_then_its_bias():
    # stored policies depend on it: it may never change
    policy = MlpPolicy(_OBSERVE, _ACT, hidden=(2,))
    policy.theta = np.arange(21.0)
    (w1, b1), (w2, b2) = policy.layers()
    np.testing.assert_array_equal(w1, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(b1, [10, 11])
    np.testing.assert_array_equal(w2, [[12, 13], [14, 15], [16, 17]])
    np.testing.assert_array_equal(b2, [18, 19, 20])
    (weights, bias) = LinearPolicy(_OBSERVE, _ACT).layers(np.arange(15.0))[0]
    np.testing.assert_array_equal(weights[1], [5, 6, 7, 8, 9])
    assert bias is None


def _plain(policy, activation, observation):
    """The network in plain NumPy."""
    value = observation
    layers = policy.layers()
    for i, (weights, bias) in enumerate(layers):
        value = weights @ value + (0 if bias is None else bias)
        if i < len(layers) - 1:
            value = np.tanh(value) if activation == "tanh" else np.maximum(value, 0)
    return value


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 31, 100])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(3,), (8, 16), (5, 1, 9)])
def test_forward_pass_is_that_of_plain_numpy(size, activation, hidden):
    # widths around the eight lanes of the summation
    space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
    policy = _filled(MlpPolicy(space, _ACT, hidden=hidden, activation=activation))
    observation = np.random.default_rng(1).normal(size=size)
    expected = _plain(policy, activation, observation)
    np.testing.assert_allclose(policy.predict(observation)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_policy_is_one_matrix(size, bias):
    space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
    policy = _filled(LinearPolicy(space, _ACT, bias=bias))
    observation = np.random.default_rng(1).normal(size=size)
    expected = _plain(policy, "tanh", observation)
    np.testing.assert_allclose(policy.predict(observation)[0], expected, rtol=1e-13, atol=1e-13)


def _lanes(weights, vector):
    """The kernel's inner product: eight running sums, joined in a fixed order, then the rest."""
    whole = len(vector) - len(vector) % 8
    sums = np.zeros(8)
    for j in range(0, whole, 8):
        sums = sums + weights[j : j + 8] * vector[j : j + 8]
    s = sums.tolist()
    total = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
    for j in range(whole, len(vector)):
        total += float(weights[j]) * float(vector[j])
    return total


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_pass_agrees_with_its_numpy_twin_in_every_bit(activation):
    # engines, prediction and evaluation rely on one order of summation
    space = spaces.Box(-np.inf, np.inf, (27,), np.float64)
    policy = _filled(MlpPolicy(space, _ACT, hidden=(19, 8), activation=activation))
    for seed in range(20):
        value = observation = np.random.default_rng(seed).normal(size=27)
        for i, (weights, bias) in enumerate(policy.layers()):
            value = np.array([_lanes(row, value) + b for row, b in zip(weights, bias, strict=True)])
            if i < 2:
                value = reference.tanh(value) if activation == "tanh" else np.maximum(value, 0)
        np.testing.assert_array_equal(policy.predict(observation)[0], value)


def test_rows_with_their_own_parameters_agree_with_single_policies():
    policy = MlpPolicy(_OBSERVE, _ACT, hidden=(4,))
    rng = np.random.default_rng(0)
    thetas, observations = rng.normal(size=(6, policy.num_params)), rng.normal(size=(6, 5))
    outputs, a = np.empty((6, 3)), policy.arrays
    forward_rows(
        thetas, a.sizes, a.has_bias, a.activation, observations,
        np.empty(scratch_size(a.sizes)), outputs,
    )  # fmt: skip
    for theta, observation, output in zip(thetas, observations, outputs, strict=True):
        np.testing.assert_array_equal(policy.act(theta, observation), output)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_reaches_the_action(activation):
    policy = _filled(MlpPolicy(_OBSERVE, _ACT, hidden=(9, 9), activation=activation))
    assert np.isnan(policy.predict(np.full(5, np.nan))[0]).all()


def test_actions_have_the_shape_of_the_space_and_are_raw():
    policy = _filled(LinearPolicy(_OBSERVE, spaces.Box(-1, 1, (2, 3))))
    action, state = policy.predict(np.full(5, 100.0))
    assert action.shape == (2, 3)
    assert action.dtype == np.float64
    assert state is None
    assert np.abs(action).max() > 1


def test_clipped_actions_stay_within_each_bound():
    low, high = np.float32([-1, -2, -np.inf]), np.float32([0.5, np.inf, 3])
    space = spaces.Box(low, high)
    raw = _filled(LinearPolicy(_OBSERVE, space))
    clipped = _filled(LinearPolicy(_OBSERVE, space, clip_actions=True))
    for seed in range(20):
        observation = 10 * np.random.default_rng(seed).normal(size=5)
        expected = np.clip(raw.predict(observation)[0], low.astype(float), high.astype(float))
        np.testing.assert_array_equal(clipped.predict(observation)[0], expected)


def test_a_batch_gives_the_single_predictions():
    rng = np.random.default_rng(0)
    for action_space in (_ACT, spaces.Discrete(4, start=2)):
        policy = _filled(MlpPolicy(_OBSERVE, action_space, hidden=(6,)))
        batch = rng.normal(size=(7, 5))
        actions, state = policy.predict(batch)
        assert state is None
        assert actions.shape == (7, *(action_space.shape or ()))
        for observation, action in zip(batch, actions, strict=True):
            np.testing.assert_array_equal(policy.predict(observation)[0], action)


def test_prediction_is_deterministic_whatever_the_caller_says():
    policy = _filled(LinearPolicy(_OBSERVE, _ACT))
    observation = np.ones(5)
    first = policy.predict(observation)[0]
    other = policy.predict(observation, state=3, episode_start=True, deterministic=False)[0]
    np.testing.assert_array_equal(first, other)


def test_discrete_actions_are_the_first_largest_output_counted_from_the_start():
    policy = LinearPolicy(spaces.Box(-1, 1, (1,)), spaces.Discrete(4, start=10))
    for outputs, action in [
        ([1, 3, 2, 0], 11),
        ([0, 0, 0, 0], 10),
        ([1, 5, 5, 5], 11),
        ([-1, -2, -3, 0], 13),
    ]:
        policy.theta = np.array(outputs, float)
        chosen = policy.predict(np.ones(1))[0]
        assert chosen == action
        assert policy.action_space.contains(chosen)


def test_discrete_observations_are_one_hot():
    policy = _filled(LinearPolicy(spaces.Discrete(3, start=5), _ACT))
    assert policy.num_params == 9
    weights, _ = policy.layers()[0]
    for value in (5, 6, 7):
        np.testing.assert_array_equal(policy.predict(value)[0], weights[:, value - 5])
    np.testing.assert_array_equal(policy.predict(np.array([7, 5]))[0], weights.T[[2, 0]])


def test_joined_observations_are_those_of_gymnasium_s_flatten():
    space = spaces.Dict(
        {
            "b": spaces.Box(-1, 1, (2, 2)),
            "a": spaces.Discrete(3),
            "c": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
        }
    )
    policy = _filled(LinearPolicy(space, _ACT))
    weights, _ = policy.layers()[0]
    for _ in range(5):
        observation = space.sample()
        expected = weights @ spaces.flatten(space, observation).astype(float)
        np.testing.assert_allclose(policy.predict(observation)[0], expected, rtol=1e-12, atol=1e-12)


def test_images_are_flattened_row_major():
    space = spaces.Box(0, 255, (2, 3), np.uint8)
    policy = LinearPolicy(space, spaces.Box(-1, 1, (1,)))
    policy.theta = 10.0 ** np.arange(6)
    assert policy.predict(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))[0] == 654321.0


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 1, 5), (5, 1), ()])
def test_observations_of_another_shape_are_refused(shape):
    policy = LinearPolicy(_OBSERVE, _ACT)
    with pytest.raises(ValueError, match=r"observation of shape .*: this policy takes \(5,\)"):
        policy.predict(np.zeros(shape))


def test_theta_of_another_size_is_refused():
    policy = LinearPolicy(_OBSERVE, _ACT)
    for theta in (np.zeros(14), np.zeros((3, 5)), 0.0):
        with pytest.raises(ValueError, match=r"theta has shape .*, this policy takes \(15,\)"):
            policy.theta = theta
    with pytest.raises(ValueError, match=r"theta has shape \(3,\), this policy takes \(15,\)"):
        policy.act(np.zeros(3), np.zeros(5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_neither_taken_nor_saved(value, tmp_path):
    policy = _filled(LinearPolicy(_OBSERVE, _ACT))
    kept = policy.theta.copy()
    bad = kept.copy()
    bad[3] = value
    with pytest.raises(ValueError, match="theta has NaN or infinite entries"):
        policy.theta = bad
    np.testing.assert_array_equal(policy.theta, kept)
    policy.save(tmp_path / "p.npz")
    policy.theta[3] = value
    with pytest.raises(ValueError, match="theta has NaN or infinite entries"):
        policy.save(tmp_path / "p.npz")
    np.testing.assert_array_equal(load_policy(tmp_path / "p.npz").theta, kept)


def test_assigning_theta_copies():
    policy, theta = LinearPolicy(_OBSERVE, _ACT), np.ones(15)
    policy.theta = theta
    theta[:] = 7
    assert (policy.theta == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MlpPolicy(_OBSERVE, _ACT, hidden=()), r"hidden=\(\): an MLP needs"),
        (lambda: MlpPolicy(_OBSERVE, _ACT, hidden=(4, 0)), r"hidden=\(4, 0\): every width"),
        (lambda: MlpPolicy(_OBSERVE, _ACT, hidden=(2.5,)), r"hidden=\(2.5,\): every width"),
        (lambda: MlpPolicy(_OBSERVE, _ACT, activation="gelu"), "activation='gelu': choose one of"),
        (lambda: LinearPolicy(_OBSERVE, spaces.Discrete(2), clip_actions=True), "clip_actions"),
        (lambda: LinearPolicy(_OBSERVE, spaces.MultiBinary(2)), "action space MultiBinary"),
        (lambda: LinearPolicy(_OBSERVE, spaces.Box(0, 9, (2,), np.int64)), "action space Box"),
        (lambda: LinearPolicy(spaces.Text(5), _ACT), "space Text"),
        (lambda: LinearPolicy(spaces.Sequence(_ACT), _ACT), "space Sequence"),
    ],
)
def test_what_makes_no_policy_is_refused_with_its_reason(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_initial_theta_has_the_variance_asked_for_and_is_truncated():
    # 100 x 400 weights; the variance of a mean of n squares of this distribution (kurtosis 2.1)
    # is about 1.1/n, in units of the variance; four standard errors
    space = spaces.Box(-1, 1, (400,))
    policy = MlpPolicy(space, spaces.Box(-1, 1, (5,)), hidden=(100,))
    theta = policy.initial_theta(0.3, seed=4)
    (weights, bias), (last, last_bias) = policy.layers(theta)
    for layer, n_in in ((weights, 400), (last, 100)):
        ratio = np.mean(layer**2) / (0.3 / n_in)
        assert abs(ratio - 1) < 4 * np.sqrt(1.1 / layer.size)
        assert abs(layer.mean()) < 4 * np.sqrt(0.3 / n_in / layer.size)
        # two standard deviations of the normal distribution before it was cut
        assert np.abs(layer).max() <= 2 * np.sqrt(0.3 / n_in) / 0.8796256610342398
    assert np.abs(weights).max() > 1.99 * np.sqrt(0.3 / 400) / 0.8796256610342398
    assert not bias.any()
    assert not last_bias.any()


def test_initial_theta_of_scale_zero_is_zero_and_draws_follow_the_seed():
    policy = LinearPolicy(_OBSERVE, _ACT)
    assert not policy.initial_theta().any()
    one, same, other = (policy.initial_theta(1.0, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()
    for scale in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"init_scale={scale}: must be zero or a positive"):
            policy.initial_theta(scale)


_DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})

_STORED = [
    LinearPolicy(_OBSERVE, _ACT),
    LinearPolicy(_OBSERVE, _ACT, bias=True, clip_actions=True),
    LinearPolicy(_DICT, spaces.Discrete(4, start=1)),
    MlpPolicy(_OBSERVE, _ACT, hidden=(4, 3), activation="relu"),
    MlpPolicy(_DICT, _ACT, hidden=(7,), clip_actions=True),
    MlpPolicy(spaces.Discrete(3), spaces.Discrete(2), hidden=(2,)),
]


@pytest.mark.parametrize("policy", _STORED, ids=lambda p: f"{p.kind}-{p.num_params}")
def test_a_saved_policy_comes_back_bit_for_bit(policy, tmp_path):
    _filled(policy).save(tmp_path / "policy.npz", env_id="Some-v1", note="ε")
    back = es_rl.load_policy(tmp_path / "policy.npz")
    assert type(back) is type(policy)
    np.testing.assert_array_equal(back.theta, policy.theta)
    assert back.observation_space == policy.observation_space
    assert back.action_space == policy.action_space
    assert back.clip_actions == policy.clip_actions
    assert back.options() == policy.options()
    assert back.metadata == {"env_id": "Some-v1", "note": "ε"}
    for seed in range(5):
        policy.observation_space.seed(seed)
        observation = policy.observation_space.sample()
        np.testing.assert_array_equal(back.predict(observation)[0], policy.predict(observation)[0])


def test_policies_of_the_first_format_stay_readable(tmp_path):
    # the layout of a file written by version 1 of the format, member by member
    header = {
        "format": "es_rl policy", "version": 1, "kind": "mlp",
        "options": {"hidden": [2], "activation": "relu", "clip_actions": True},
        "observation_space": {
            "type": "Box", "shape": [1], "dtype": "float32", "low": -1.0, "high": 1.0
        },
        "action_space": {
            "type": "Box", "shape": [1], "dtype": "float32", "low": -1.0, "high": 0.5
        },
        "metadata": {},
    }  # fmt: skip
    write_npz(tmp_path / "p.npz", header, {"theta": np.array([1.0, -1, 0, 0.25, 2, 3, -1])})
    policy = load_policy(tmp_path / "p.npz")
    # relu(x), relu(-x + 1/4), then 2·first + 3·second - 1, cut at 1/2
    for x, action in [(0.5, 0.0), (1.0, 0.5), (0.0, -0.25), (-0.25, 0.5)]:
        assert policy.predict(np.float32([x]))[0] == pytest.approx([action])


def _damaged(tmp_path, **changes):
    _filled(MlpPolicy(_OBSERVE, _ACT, hidden=(2,))).save(tmp_path / "p.npz")
    header, arrays = read_npz(tmp_path / "p.npz", "es_rl policy", 1)
    theta = changes.pop("theta", arrays["theta"])
    for name, value in changes.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    write_npz(tmp_path / "p.npz", header, {} if theta is None else {"theta": theta})
    return tmp_path / "p.npz"


@pytest.mark.parametrize(
    "changes",
    [
        {"theta": None},
        {"theta": np.zeros(20)},
        {"theta": np.zeros((1, 21))},
        {"theta": np.full(21, np.nan)},
        {"theta": np.zeros(21, np.complex128)},
        {"theta": np.zeros(21, np.float32)},
        {"theta": np.array(["0"] * 21)},
        {"kind": "cnn"},
        {"kind": ["mlp"]},
        {"kind": None},
        {"options": None},
        {"options": []},
        {"options": {"hidden": [2], "activation": "tanh", "surprise": 1}},
        {"options": {"hidden": [3]}},
        {"options": {"hidden": "ab"}},
        {"options": {"hidden": 5}},
        {"options": {"hidden": [float("inf")]}},
        {"options": {"hidden": [2**80]}},
        {"options": {"hidden": [10**9, 10**9]}},
        {"options": {"hidden": [2], "activation": {}}},
        {"observation_space": None},
        {"observation_space": "Box"},
        {"action_space": {"type": "Box"}},
        {"metadata": None},
        {"metadata": 3},
    ],
    ids=str,
)
def test_headers_that_do_not_fit_are_refused(changes, tmp_path):
    with pytest.raises(ValueError, match=r"p\.npz: not a usable policy file"):
        load_policy(_damaged(tmp_path, **changes))


def test_sizes_that_wrap_around_do_not_pass_for_small_ones(tmp_path):
    # 1-a-b-1 with biases has (a + 2)(b + 2) - 3 parameters: 2**64 + 65533 with these widths,
    # which is 65533 in 64 bits, and theta would seem to fit
    a, b = 2**32 + 65534, 2**32 - 65537
    assert (a + 2) * (b + 2) - 3 == 2**64 + 65533
    one = spaces.Box(-1, 1, (1,))
    MlpPolicy(one, one, hidden=(2,)).save(tmp_path / "p.npz")
    header, _ = read_npz(tmp_path / "p.npz", "es_rl policy", 1)
    header["options"]["hidden"] = [a, b]
    write_npz(tmp_path / "p.npz", header, {"theta": np.zeros(65533)})
    with pytest.raises(ValueError, match="not a usable policy file"):
        load_policy(tmp_path / "p.npz")


def test_a_newer_version_says_so(tmp_path):
    with pytest.raises(ValueError, match="es_rl policy version 3; this library reads 1 to 2"):
        load_policy(_damaged(tmp_path, version=3))


def test_a_policy_file_that_is_absent_or_another_thing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "none.npz")
    (tmp_path / "p.npz").write_text("hello")
    with pytest.raises(ValueError, match="not a whole es_rl policy file"):
        load_policy(tmp_path / "p.npz")


def test_saving_never_leaves_half_a_policy(tmp_path, monkeypatch):
    policy = _filled(LinearPolicy(_OBSERVE, _ACT))
    policy.save(tmp_path / "p.npz")
    kept = policy.theta.copy()
    monkeypatch.setattr("es_rl.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    policy.theta = kept + 1
    with pytest.raises(OSError, match="full"):
        policy.save(tmp_path / "p.npz")
    np.testing.assert_array_equal(load_policy(tmp_path / "p.npz").theta, kept)
    assert os.listdir(tmp_path) == ["p.npz"]


def test_metadata_must_be_plain(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        LinearPolicy(_OBSERVE, _ACT).save(tmp_path / "p.npz", thing=object())
    assert os.listdir(tmp_path) == []


def test_every_kind_rebuilds_itself_from_its_options():
    assert set(POLICIES) == {"linear", "mlp"}
    for name, kind in POLICIES.items():
        policy = kind(_OBSERVE, _ACT)
        assert policy.kind == name
        options = json.loads(json.dumps(policy.options()))
        assert kind(_OBSERVE, _ACT, **options).num_params == policy.num_params
    with pytest.raises(NotImplementedError):
        Policy.options(policy)


@pytest.mark.parametrize(
    ("observe", "act", "fits"),
    [
        (_OBSERVE, _ACT, True),
        # bounds alone do not matter: the network sees neither
        (spaces.Box(-5, 5, (5,)), spaces.Box(-2, 2, (3,)), True),
        (spaces.Box(-1, 1, (4,)), _ACT, False),
        (_OBSERVE, spaces.Box(-1, 1, (2,)), False),
        (_OBSERVE, spaces.Discrete(3), False),
        (spaces.Discrete(5), _ACT, False),
    ],
)
def test_a_policy_tells_whether_it_fits_an_environment(observe, act, fits):
    env = gym.Env()
    env.observation_space, env.action_space = observe, act
    policy = LinearPolicy(_OBSERVE, _ACT)
    if fits:
        policy.check_fits(env, "Some-v1")
    else:
        with pytest.raises(ValueError, match="policy does not fit Some-v1: its"):
            policy.check_fits(env, "Some-v1")


def _shaping(kind=LinearPolicy, **options):
    """A policy with statistics of its own, and bounds that differ from action to action."""
    act = spaces.Box(np.array([-2.0, 0.5, -1]), np.array([3.0, 1, 1]), dtype=np.float64)
    policy = kind(_OBSERVE, act, **options)
    rng = np.random.default_rng(4)
    policy.theta = rng.normal(size=policy.num_params)
    if policy.normalizer is not None:
        policy.normalizer = Normalizer(rng.normal(size=5), np.array([0.0, 0.5, 1, 2, 100]))
    return policy


def test_observations_are_normalised_and_clipped_before_the_first_layer():
    policy = _shaping(normalize_observations=True, observation_clip=1.5)
    plain = _shaping()
    x = np.random.default_rng(0).normal(size=5)
    seen = np.clip((x - policy.normalizer.mean) * policy.normalizer.scale, -1.5, 1.5)
    assert seen[0] == 0
    assert abs(seen[4]) == 1.5
    np.testing.assert_array_equal(policy.predict(x)[0], plain.predict(seen)[0])
    free = _shaping(normalize_observations=True, observation_clip=0)
    seen = (x - policy.normalizer.mean) * policy.normalizer.scale
    np.testing.assert_array_equal(free.predict(x)[0], plain.predict(seen)[0])
    assert np.isnan(policy.predict(np.full(5, np.nan))[0]).all()


def test_a_new_policy_that_normalises_sees_observations_as_they_are():
    policy = LinearPolicy(_OBSERVE, _ACT, normalize_observations=True)
    plain = LinearPolicy(_OBSERVE, _ACT)
    policy.theta = plain.theta = np.random.default_rng(1).normal(size=plain.num_params)
    x = np.arange(5.0) - 2
    np.testing.assert_array_equal(policy.predict(x)[0], plain.predict(x)[0])


def test_squashed_actions_fill_the_bounds_and_never_leave_them():
    policy, plain = _shaping(squash_actions=True), _shaping()
    low, high = policy.action_space.low, policy.action_space.high
    for scale in (1e-3, 1.0, 1e3):
        x = scale * np.random.default_rng(2).normal(size=5)
        action, raw = policy.predict(x)[0], plain.predict(x)[0]
        expected = (low + high) / 2 + (high - low) / 2 * np.tanh(raw)
        np.testing.assert_allclose(action, expected, rtol=1e-14, atol=1e-15)
        assert (low <= action).all()
        assert (action <= high).all()
    np.testing.assert_array_equal(np.isin(action, [low, high]), True)


@pytest.mark.parametrize("kind", [LinearPolicy, MlpPolicy])
def test_normalisation_and_squashing_survive_a_file_bit_for_bit(tmp_path, kind):
    policy = _shaping(kind, squash_actions=True, normalize_observations=True, observation_clip=4.0)
    policy.save(tmp_path / "p.npz")
    back = load_policy(tmp_path / "p.npz")
    assert back.options() == policy.options()
    for mine, theirs in zip(back.normalizer, policy.normalizer, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    x = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_array_equal(back.predict(x)[0], policy.predict(x)[0])
    # what does without either can be read by the first version of this library
    _shaping(kind).save(tmp_path / "p.npz")
    assert read_npz(tmp_path / "p.npz", "es_rl policy", 1)[0]["version"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squash_actions": True, "clip_actions": True}, "squash_actions=True: squashed actions"),
        ({"observation_clip": -1.0}, r"observation_clip=-1.0: must be"),
        ({"observation_clip": np.inf}, r"observation_clip=inf: must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LinearPolicy(_OBSERVE, _ACT, **options)


def test_squashing_needs_bounds():
    unbounded = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    for space in (unbounded, spaces.Discrete(3)):
        with pytest.raises(ValueError, match=r"^squash_actions=True: "):
            LinearPolicy(_OBSERVE, space, squash_actions=True)


def test_statistics_that_do_not_fit_are_refused():
    policy = LinearPolicy(_OBSERVE, _ACT, normalize_observations=True)
    for bad in (Normalizer(np.zeros(4), np.ones(4)), Normalizer(np.zeros(5), np.full(5, np.nan))):
        with pytest.raises(ValueError, match="statistics"):
            policy.normalizer = bad
    with pytest.raises(ValueError, match="normalize_observations"):
        policy.normalizer = None
    with pytest.raises(ValueError, match="normalize_observations"):
        LinearPolicy(_OBSERVE, _ACT).normalizer = Normalizer(np.zeros(5), np.ones(5))


def test_spaces_without_numbers_are_refused():
    empty, box = spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2,))
    for space in (empty, spaces.Dict({"a": empty}), spaces.Box(-1, 1, (3, 0))):
        with pytest.raises(ValueError, match=r"observation space .*: has no numbers to see"):
            LinearPolicy(space, box)
    with pytest.raises(ValueError, match=r"action space .*: has no numbers to choose"):
        LinearPolicy(box, empty)
    assert LinearPolicy(spaces.Dict({"a": empty, "b": box}), box).num_params == 4
