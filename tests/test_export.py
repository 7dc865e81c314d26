"""Exported policies act as `predict` does, in the programs that they are exported for."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl import LinearPolicy, MlpPolicy
from es_rl.export import describe, export, load_torch
from es_rl.normalization import Normalizer
from es_rl.policies import Policy

BOX = spaces.Box(-np.inf, np.inf, (7,), np.float64)
SHAPED = spaces.Box(-1, 1, (2, 3), np.float32)
# bounds of their own for each action, so that a bound taken from a neighbour shows
TIGHT = spaces.Box(np.array([-0.1, -0.2, -0.3], np.float32), np.array([0.3, 0.2, 0.1], np.float32))
PICTURE = spaces.Box(0, 255, (4, 4, 2), np.uint8)
CHOICES = spaces.Discrete(5, start=-2)

POLICIES = {
    "linear": lambda: LinearPolicy(BOX, SHAPED),
    "linear, biased and clipped": lambda: LinearPolicy(BOX, TIGHT, bias=True, clip_actions=True),
    "linear, discrete": lambda: LinearPolicy(BOX, CHOICES, bias=True),
    "tanh": lambda: MlpPolicy(BOX, SHAPED, hidden=(16, 9)),
    "relu, clipped": lambda: MlpPolicy(BOX, TIGHT, activation="relu", clip_actions=True),
    "relu, discrete": lambda: MlpPolicy(PICTURE, CHOICES, hidden=(8,), activation="relu"),
    "of a discrete observation": lambda: LinearPolicy(spaces.Discrete(6, start=1), TIGHT),
    "normalised, squashed": lambda: LinearPolicy(
        BOX, TIGHT, squash_actions=True, normalize_observations=True, observation_clip=0.7
    ),
    "normalised without bounds": lambda: MlpPolicy(
        BOX, SHAPED, hidden=(9,), normalize_observations=True, observation_clip=0
    ),
    "of a scalar": lambda: LinearPolicy(spaces.Box(-1.0, 1.0, (), np.float32), TIGHT, bias=True),
    "of a dict": lambda: LinearPolicy(spaces.Dict(a=BOX, b=spaces.Discrete(3)), TIGHT),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    made = POLICIES[request.param]()
    made.theta = np.random.default_rng(1).normal(0, 0.5, made.num_params)
    if made.normalizer is not None:
        rng = np.random.default_rng(3)
        made.normalizer = Normalizer(rng.normal(size=7), np.append(rng.random(6), 0.0))
    made.metadata = {"env": "Somewhere-v1", "update": 3}
    return made


def samples(policy: Policy, n: int) -> tuple[list[Any], NDArray[np.float32]]:
    """Return n observations, and the same as the input of an exported policy."""
    space = policy.observation_space
    space.seed(2)
    observations = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Box):
        return observations, np.stack(observations).astype(np.float32)
    return observations, np.stack([spaces.flatten(space, o) for o in observations]).astype("f4")


def float32_rounding(policy: Policy, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what rounding may move each output by: 2**-24 of all that is added, at each addition.

    Activations, clipping, and squashing to less than ±1, move no two numbers further apart.
    """
    size = np.abs(inputs.reshape(len(inputs), -1).astype(np.float64))
    if policy.normalizer is not None:
        size = (size + np.abs(policy.normalizer.mean)) * policy.normalizer.scale
    operations = 0
    for weights, bias in policy.layers():
        size = size @ np.abs(weights).T + (0.0 if bias is None else np.abs(bias))
        operations += weights.shape[1] + 4
    return operations * 2.0**-24 * size


def assert_equals_predict(policy: Policy, act: Any) -> None:
    for n in (1, 40):
        observations, inputs = samples(policy, n)
        expected = np.array([policy.predict(o)[0] for o in observations])
        actions = act(inputs)
        assert actions.shape == expected.shape
        if policy.is_discrete:
            # the seeds give no two outputs within float32 rounding of one another
            assert actions.dtype == np.int64
            np.testing.assert_array_equal(actions, expected)
            assert n == 1 or len(set(actions.tolist())) > 1
        else:
            error = np.abs(actions - expected).reshape(n, -1)
            assert (error <= float32_rounding(policy, inputs)).all()
            assert error.max() < 1e-4  # so the bound is not one that anything meets


def test_onnx_acts_as_predict(policy: Policy, tmp_path: Path) -> None:
    export(policy, tmp_path / "p.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[0]) == ("observation", "tensor(float)", "batch")
    assert given.shape[0] == "batch"
    assert_equals_predict(policy, lambda x: session.run(["action"], {"observation": x})[0])
    told = json.loads(session.get_modelmeta().custom_metadata_map["es_rl"])
    assert told == describe(policy)
    assert told["metadata"] == {"env": "Somewhere-v1", "update": 3}


def test_torch_acts_as_predict(policy: Policy, tmp_path: Path) -> None:
    export(policy, tmp_path / "p.pt", "torch")
    module = load_torch(tmp_path / "p.pt")
    with torch.no_grad():
        assert_equals_predict(policy, lambda x: module(torch.from_numpy(x)).numpy())


def test_torch_files_need_none_of_this_library(tmp_path: Path) -> None:
    made = POLICIES["tanh"]()
    made.theta = np.random.default_rng(1).normal(0, 0.5, made.num_params)
    export(made, tmp_path / "p.pt", "torch")
    content = torch.load(tmp_path / "p.pt", weights_only=True)
    tensors = {k.removeprefix("layers."): v for k, v in content["state_dict"].items()}
    network = torch.nn.Sequential(
        torch.nn.Linear(7, 16), torch.nn.Tanh(), torch.nn.Linear(16, 9), torch.nn.Tanh(),
        torch.nn.Linear(9, 6),
    )  # fmt: skip
    network.load_state_dict(tensors)
    with torch.no_grad():
        assert_equals_predict(
            made, lambda x: network(torch.from_numpy(x)).numpy().reshape(-1, 2, 3)
        )


def test_npz_is_enough_for_plain_numpy(policy: Policy, tmp_path: Path) -> None:
    export(policy, tmp_path / "p.npz", "npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        file = dict(arrays)
    told = json.loads(file["header"].tobytes())

    def act(x: NDArray[np.float32]) -> NDArray[Any]:
        value = x.reshape(len(x), -1).astype(np.float64)
        if told["normalize"]:
            value = (value - file["observation_mean"]) * file["observation_scale"]
            if told["observation_clip"] is not None:
                value = value.clip(-told["observation_clip"], told["observation_clip"])
        n_layers = len(told["sizes"]) - 1
        for i in range(n_layers):
            value = value @ file[f"weight_{i}"].T + file.get(f"bias_{i}", 0.0)
            if i < n_layers - 1:
                value = np.tanh(value) if told["activation"] == "tanh" else np.maximum(value, 0)
        if told["discrete"]:
            return value.argmax(1) + told["start"]
        if told["clip"]:
            value = np.clip(value, file["action_low"], file["action_high"])
        if told["squash"]:
            low, high = file["action_low"], file["action_high"]
            value = low + (high - low) * (1 + np.tanh(value)) / 2
        return value.reshape(-1, *told["action_shape"])

    assert_equals_predict(policy, act)
    assert file["weight_0"].dtype == np.float64


def test_a_tie_goes_to_the_first_choice(tmp_path: Path) -> None:
    policy = LinearPolicy(BOX, CHOICES)
    for name in ("onnx", "torch"):
        export(policy, tmp_path / f"p.{name}", name)
    x = np.ones((3, 7), np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    assert session.run(None, {"observation": x})[0].tolist() == [-2] * 3
    assert load_torch(tmp_path / "p.torch")(torch.from_numpy(x)).tolist() == [-2] * 3
    assert policy.predict(x)[0].tolist() == [-2] * 3


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    class Odd(LinearPolicy):
        """A policy whose actions the formats do not know."""

    with pytest.raises(ValueError, match="Odd: only LinearPolicy and MlpPolicy"):
        export(Odd(BOX, TIGHT), tmp_path / "p.npz", "npz")
    with pytest.raises(ValueError, match="format='tf': choose one of onnx, torch, npz"):
        export(LinearPolicy(BOX, TIGHT), tmp_path / "p.tf", "tf")
    assert list(tmp_path.iterdir()) == []


def test_torch_files_of_the_first_version_load(tmp_path: Path) -> None:
    path, policy = tmp_path / "p.pt", LinearPolicy(BOX, TIGHT, clip_actions=True)
    policy.theta = np.random.default_rng(1).normal(0, 0.5, policy.num_params)
    export(policy, path, "torch")
    content = torch.load(path, weights_only=True)
    told = {**json.loads(content["description"]), "version": 1}
    for later in ("squash", "normalize", "observation_clip"):
        del told[later]
    torch.save({**content, "description": json.dumps(told)}, path)
    with torch.no_grad():
        assert_equals_predict(policy, lambda x: load_torch(path)(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("damage", ["torn", "other", "newer", "misfit"])
def test_torch_files_that_are_something_else_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "p.pt"
    export(LinearPolicy(BOX, TIGHT), path, "torch")
    content = torch.load(path, weights_only=True)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "newer":
        told = {**json.loads(content["description"]), "version": 3}
        torch.save({**content, "description": json.dumps(told)}, path)
    else:
        torch.save({**content, "state_dict": {"layers.0.weight": torch.zeros(3, 6)}}, path)
    with pytest.raises(ValueError, match=r"p\.pt: not a policy exported for torch"):
        load_torch(path)


def test_torch_files_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    export(LinearPolicy(BOX, TIGHT), path, "torch")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    marker = tmp_path / "ran"
    members[pickled] = b"cpathlib\nPath\n(S'" + str(marker).encode() + b"'\ntR."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="not a policy exported for torch"):
        load_torch(path)
