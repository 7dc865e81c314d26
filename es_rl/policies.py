"""The kinds of policy, and how a saved one is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl.files import read_npz
from es_rl.normalization import Normalizer
from es_rl.policy import POLICY_FORMAT, POLICY_VERSION, Policy
from es_rl.policy_arrays import PolicyArrays
from es_rl.spaces import space_from_dict

__all__ = ["POLICIES", "LinearPolicy", "MlpPolicy", "Policy", "PolicyArrays", "load_policy"]


class LinearPolicy(Policy):
    """One linear layer: action = M·observation (+ b). The papers' control policy."""

    kind = "linear"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        bias: bool = False,
        clip_actions: bool = False,
        squash_actions: bool = False,
        normalize_observations: bool = False,
        observation_clip: float = 10.0,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            hidden=(),
            activation="tanh",
            bias=bias,
            clip_actions=clip_actions,
            squash_actions=squash_actions,
            normalize_observations=normalize_observations,
            observation_clip=observation_clip,
        )

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that rebuild this policy on the same spaces."""
        return {"bias": self.arrays.has_bias, **self._common_options()}


class MlpPolicy(Policy):
    """A multi-layer perceptron with biases; the output layer is linear."""

    kind = "mlp"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        clip_actions: bool = False,
        squash_actions: bool = False,
        normalize_observations: bool = False,
        observation_clip: float = 10.0,
    ) -> None:
        if hasattr(hidden, "__len__") and len(hidden) == 0:
            raise ValueError("hidden=(): an MLP needs a hidden layer; use LinearPolicy(bias=True)")
        super().__init__(
            observation_space,
            action_space,
            hidden=hidden,
            activation=activation,
            bias=True,
            clip_actions=clip_actions,
            squash_actions=squash_actions,
            normalize_observations=normalize_observations,
            observation_clip=observation_clip,
        )
        self._activation = activation

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that rebuild this policy on the same spaces."""
        return {
            "hidden": [int(width) for width in self.arrays.sizes[1:-1]],
            "activation": self._activation,
            **self._common_options(),
        }


POLICIES: Mapping[str, type[Policy]] = {"linear": LinearPolicy, "mlp": MlpPolicy}
"""Policy classes by the names that the command line and policy files use."""


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Load a policy that `Policy.save` wrote; `policy.metadata` has what was kept beside it.

    Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole policy file of a version that this library reads.
    """
    header, arrays = read_npz(path, POLICY_FORMAT, POLICY_VERSION)
    try:
        policy_class = POLICIES[header["kind"]]
        # each input and each output has a weight
        size = arrays["theta"].size
        policy = policy_class(
            space_from_dict(header["observation_space"], size),
            space_from_dict(header["action_space"], size),
            **header["options"],
        )
        if arrays["theta"].dtype != np.float64:
            raise ValueError(f"theta is of dtype {arrays['theta'].dtype}, not float64")
        policy.theta = arrays["theta"]
        if policy.normalizer is not None:
            policy.normalizer = Normalizer(arrays["observation_mean"], arrays["observation_scale"])
        if not isinstance(header["metadata"], dict):
            raise ValueError("its metadata are no names with values")
        policy.metadata = header["metadata"]
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"{os.fspath(path)}: not a usable policy file ({error})") from error
    return policy
