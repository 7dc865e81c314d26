"""Policies for other programs: ONNX, torch, or plain arrays.

Every format holds the network with all that `Policy.predict` does around it: clipping, the index
of the largest output for discrete actions, and the shapes of the spaces. ONNX and torch compute
in float32, so actions equal those of `predict` within float32 rounding; of two discrete choices
whose outputs differ by less than that, either may be taken.

The input is a batch of observations of any size: `(batch, *shape)` for a Box space. Observations of
other spaces come flattened, (batch, n), as `gymnasium.spaces.flatten` gives them.
"""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from es_rl.files import write_bytes, write_npz
from es_rl.policies import LinearPolicy, MlpPolicy, Policy
from es_rl.policy_kernels import ACTIVATIONS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXTENSIONS", "describe", "export", "load_torch", "torch_module"]

EXTENSIONS = {"onnx": (".onnx",), "torch": (".pt", ".pth"), "npz": (".npz",)}
"""Formats, each with the extensions of files that mean it."""

_OPSET = 17
_IR_VERSION = 8  # of ONNX; the oldest with this opset, so that older runtimes load the file
_TORCH_FORMAT = "es_rl torch policy"
_NPZ_FORMAT = "es_rl exported policy"
_VERSION = 2


def export(policy: Policy, path: str | os.PathLike[str], format: str) -> None:
    """Write a policy for other programs, whole or not at all.

    `npz` holds, in float64 and without pickle, `weight_0` (n_out, n_in), `bias_0` (n_out,) where
    there are biases, `weight_1` and so on, `action_low` and `action_high` (n_out,) where actions
    are clipped or squashed, `observation_mean` and `observation_scale` (n_in,) where observations
    are normalised, and `header`, the JSON text of `describe` in bytes.

    `torch` is a dict for `torch.load(path, weights_only=True)`, which runs no code of the file:
    "description" with the JSON text of `describe`, and "state_dict" with the tensors of
    `torch_module`. `load_torch` makes the module from it.

    `onnx` has one input, `observation`, and one output, `action`.

    Args:
        policy: any policy of this library.
        path: of the file.
        format: key of `EXTENSIONS`.

    Raises:
        ValueError: if the format is unknown, or the policy is of a kind that is not exported.
        OSError: if the file cannot be written.
    """
    if format not in EXTENSIONS:
        raise ValueError(f"format={format!r}: choose one of {', '.join(EXTENSIONS)}")
    if type(policy) not in (LinearPolicy, MlpPolicy):
        raise ValueError(f"{type(policy).__name__}: only LinearPolicy and MlpPolicy are exported")
    if format == "npz":
        _write_npz(policy, path)
    elif format == "torch":
        _write_torch(policy, path)
    else:
        write_bytes(path, _onnx_bytes(policy))


def describe(policy: Policy) -> dict[str, Any]:
    """Return what an exported file says of itself, as plain values.

    Keys: `input_shape` (without the batch), `action_shape`, `sizes` (widths from the input to the
    output), `activation` (after every layer but the last), `bias`, `clip`, `squash` (to the
    bounds: low + (high - low)·(1 + tanh(output))/2), `normalize` (the observation, less the mean,
    times the scale, before the first layer), `observation_clip` (the largest size of what comes
    out of that; None for any), `discrete`, `start` (the first discrete action) and `metadata`
    (where the policy comes from).
    """
    is_box = isinstance(policy.observation_space, spaces.Box)
    n_in = int(policy.arrays.sizes[0])
    codes = {code: name for name, code in ACTIVATIONS.items()}
    action_space = policy.action_space
    is_discrete = isinstance(action_space, spaces.Discrete)
    return {
        "input_shape": list(policy.observation_space.shape or ()) if is_box else [n_in],
        "action_shape": list(action_space.shape or ()),
        "sizes": policy.arrays.sizes.tolist(),
        "activation": codes[policy.arrays.activation],
        "bias": policy.arrays.has_bias,
        "clip": policy.arrays.clip,
        "squash": policy.arrays.squash,
        "normalize": policy.arrays.normalize,
        "observation_clip": _observation_clip(policy),
        "discrete": is_discrete,
        "start": int(action_space.start) if isinstance(action_space, spaces.Discrete) else 0,
        "metadata": dict(policy.metadata),
    }


def _observation_clip(policy: Policy) -> float | None:
    bound = float(policy.arrays.observation_bound[0])
    return bound if policy.arrays.normalize and np.isfinite(bound) else None


def _write_npz(policy: Policy, path: str | os.PathLike[str]) -> None:
    arrays = {}
    for i, (weights, bias) in enumerate(policy.layers()):
        arrays[f"weight_{i}"] = weights
        if bias is not None:
            arrays[f"bias_{i}"] = bias
    if policy.arrays.clip or policy.arrays.squash:
        arrays["action_low"], arrays["action_high"] = policy.arrays.low, policy.arrays.high
    if policy.normalizer is not None:
        arrays["observation_mean"], arrays["observation_scale"] = policy.normalizer
    header = {"format": _NPZ_FORMAT, "version": _VERSION, **describe(policy)}
    write_npz(path, header, arrays)


def _write_torch(policy: Policy, path: str | os.PathLike[str]) -> None:
    import torch

    description = {"format": _TORCH_FORMAT, "version": _VERSION, **describe(policy)}
    module = torch_module(description)
    state = {}
    for i, (weights, bias) in enumerate(policy.layers()):
        state[f"layers.{2 * i}.weight"] = weights
        if bias is not None:
            state[f"layers.{2 * i}.bias"] = bias
    if policy.arrays.clip or policy.arrays.squash:
        state["low"], state["high"] = policy.arrays.low, policy.arrays.high
    if policy.normalizer is not None:
        state["mean"], state["scale"] = policy.normalizer
    tensors = {name: torch.as_tensor(np.float32(value)) for name, value in state.items()}
    module.load_state_dict(tensors)
    buffer = io.BytesIO()
    torch.save({"description": json.dumps(description), "state_dict": tensors}, buffer)
    write_bytes(path, buffer.getvalue())


def torch_module(description: dict[str, Any]) -> nn.Module:
    """Return a module of zeros that a policy of this description fits into.

    Its `layers` are a `torch.nn.Sequential` of Linear layers and activations; `low` and `high`
    are the bounds of the actions where they are clipped or squashed, `mean` and `scale` those that
    observations are normalised with. It maps a batch of observations to a batch of actions.

    Args:
        description: as `describe` gives it.
    """
    import torch
    from torch import nn

    sizes, activation = description["sizes"], description["activation"]
    # descriptions of the first version lack what it did not know
    squashes, normalizes = description.get("squash", False), description.get("normalize", False)
    limit: float | None = description.get("observation_clip")
    bounded = description["clip"] or squashes
    kinds = {"tanh": nn.Tanh, "relu": nn.ReLU}
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        if i > 0:
            layers.append(kinds[activation]())
        layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=description["bias"]))

    class ExportedPolicy(nn.Module):
        """Observations to actions, as `es_rl.policies.Policy.predict`."""

        low: torch.Tensor
        high: torch.Tensor
        mean: torch.Tensor
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)
            if bounded:
                self.register_buffer("low", torch.zeros(sizes[-1]))
                self.register_buffer("high", torch.zeros(sizes[-1]))
            if normalizes:
                self.register_buffer("mean", torch.zeros(sizes[0]))
                self.register_buffer("scale", torch.zeros(sizes[0]))

        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            # not flattened: a batch of scalars has no second dimension to begin from
            seen = observation.float().reshape(len(observation), sizes[0])
            if normalizes:
                seen = (seen - self.mean) * self.scale
                if limit is not None:
                    seen = torch.clamp(seen, -limit, limit)
            output: torch.Tensor = self.layers(seen)
            if description["discrete"]:
                start: int = description["start"]
                return output.argmax(1) + start
            if description["clip"]:
                output = torch.clamp(output, self.low, self.high)
            elif squashes:
                middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
                output = torch.clamp(middle + half * torch.tanh(output), self.low, self.high)
            shape: list[int] = description["action_shape"]
            return output.reshape(-1, *shape)

    module = ExportedPolicy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def load_torch(path: str | os.PathLike[str]) -> nn.Module:
    """Return the module that `export` wrote in the format "torch"; no code of the file runs.

    Raises:
        ValueError: if the file is something else, or of a newer version.
    """
    import pickle

    import torch

    name = os.fspath(path)
    try:
        content = torch.load(name, weights_only=True, map_location="cpu")
        description = json.loads(content["description"])
        if description["format"] != _TORCH_FORMAT or not 1 <= description["version"] <= _VERSION:
            raise ValueError(f"{description['format']} version {description['version']}")
        module = torch_module(description)
        module.load_state_dict(content["state_dict"])
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: not a policy exported for torch ({reason})") from error
    return module


def _onnx_bytes(policy: Policy) -> bytes:
    """Return the ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    import es_rl

    told = describe(policy)
    nodes, constants = [], []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def single(name: str, values: Any) -> str:
        return constant(name, np.float32(values))

    value = node("Flatten", ["observation"], "flat", axis=1)
    if policy.normalizer is not None:
        mean, scale = policy.normalizer
        value = node("Sub", [value, single("mean", mean)], "centred")
        value = node("Mul", [value, single("scale", scale)], "normalised")
        if told["observation_clip"] is not None:
            bound = told["observation_clip"]
            limits = [single("lowest", -bound), single("highest", bound)]
            value = node("Clip", [value, *limits], "bounded")
    layers = policy.layers()
    for i, (weights, bias) in enumerate(layers):
        inputs = [value, constant(f"weight_{i}", weights.astype(np.float32))]
        if bias is not None:
            inputs.append(constant(f"bias_{i}", bias.astype(np.float32)))
        value = node("Gemm", inputs, f"layer_{i}", transB=1)
        if i < len(layers) - 1:
            kind = {"tanh": "Tanh", "relu": "Relu"}[told["activation"]]
            value = node(kind, [value], f"hidden_{i}")
    action_shape: list[Any] = ["batch", *told["action_shape"]]
    if told["discrete"]:
        value = node("ArgMax", [value], "choice", axis=1, keepdims=0, select_last_index=0)
        node("Add", [value, constant("start", np.int64(told["start"]))], "action")
        output = helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"])
    else:
        low, high = policy.arrays.low, policy.arrays.high
        if told["squash"]:
            value = node("Tanh", [value], "squashed")
            value = node("Mul", [value, single("half_range", (high - low) / 2)], "scaled")
            value = node("Add", [value, single("middle", (low + high) / 2)], "shifted")
        if told["clip"] or told["squash"]:
            # Clip takes one number for all: bounds of their own for each action need Max and Min
            value = node("Max", [value, single("low", low)], "at_least")
            value = node("Min", [value, single("high", high)], "clipped")
        shape = np.array([-1, *told["action_shape"]], np.int64)
        node("Reshape", [value, constant("action_shape", shape)], "action")
        output = helper.make_tensor_value_info("action", TensorProto.FLOAT, action_shape)
    observation = helper.make_tensor_value_info(
        "observation", TensorProto.FLOAT, ["batch", *told["input_shape"]]
    )
    graph = helper.make_graph(nodes, "policy", [observation], [output], constants)
    model = helper.make_model(
        graph,
        producer_name="es_rl",
        producer_version=es_rl.__version__,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, {"es_rl": json.dumps(told)})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data
