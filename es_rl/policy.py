"""What all policies share: a layered network on one flat float64 parameter vector θ.

Flat layout, stable across versions: for each layer, its weight matrix of shape (n_out, n_in) in
row-major order, then its bias of shape (n_out,) if the policy has biases.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.files import write_npz
from es_rl.normalization import Normalizer
from es_rl.observations import flatten_observation
from es_rl.policy_arrays import make_arrays
from es_rl.policy_kernels import forward, normalize, scratch_size, squash
from es_rl.spaces import space_to_dict

__all__ = ["POLICY_FORMAT", "POLICY_VERSION", "Policy"]

POLICY_FORMAT = "es_rl policy"
POLICY_VERSION = 2
"""What policy files say they are, and the newest version of them."""


class Policy:
    """A deterministic policy: flattened observation → layers → action.

    Continuous actions are the network's raw output, clipped only with `clip_actions`, or mapped to
    the action space by tanh with `squash_actions`; float64 in the shape of the action space.
    Discrete actions are the index of the largest output, the first one in a tie. Observations of
    Box spaces are flattened; Discrete ones are one-hot; Dict and Tuple spaces are joined as
    `gymnasium.spaces.flatten` does.

    Attributes:
        observation_space: the space of the observations.
        action_space: the space of the actions.
        clip_actions: whether continuous actions are clipped to the action space. The rule travels
            with the policy, so training, evaluation and prediction agree.
        arrays: what compiled rollouts need; `arrays.normalize` says whether observations are
            normalised.
        normalizer: the observations' statistics, where they are normalised; training freezes its
            own for each episode, this is what `act` and `predict` use.
        num_params: d, length of `theta`.
        theta: (d,) float64.
    """

    kind: ClassVar[str]
    metadata: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        hidden: Sequence[int],
        activation: str,
        bias: bool,
        clip_actions: bool,
        squash_actions: bool,
        normalize_observations: bool,
        observation_clip: float,
    ) -> None:
        for space in (observation_space, action_space):
            space_to_dict(space)  # refuse now what could not be saved after training
        self.observation_space = observation_space
        self.action_space = action_space
        self.clip_actions = bool(clip_actions)
        self.arrays = make_arrays(
            observation_space,
            action_space,
            hidden=hidden,
            activation=activation,
            bias=bias,
            clip_actions=clip_actions,
            squash_actions=squash_actions,
            normalize_observations=normalize_observations,
            observation_clip=observation_clip,
        )
        # Python's integers: a product that wrapped around would let the kernels read astray
        widths = self.arrays.sizes.tolist()
        self._n_in = widths[0]
        self.num_params = sum(a * b for a, b in pairwise(widths)) + (sum(widths[1:]) if bias else 0)
        self._theta = np.zeros(self.num_params)
        self._scratch = np.empty(scratch_size(self.arrays.sizes))
        self._normalizer: Normalizer | None = None
        if self.arrays.normalize:
            self._normalizer = Normalizer.identity(int(self.arrays.sizes[0]))

    @property
    def theta(self) -> NDArray[np.float64]:
        """(d,) float64, the flat parameters; assigning copies the values in."""
        return self._theta

    @theta.setter
    def theta(self, value: NDArray[np.float64]) -> None:
        new = np.asarray(value, np.float64)
        if new.shape != (self.num_params,):
            raise ValueError(
                f"theta has shape {new.shape}, this policy takes ({self.num_params},): it was made "
                "for another network or environment"
            )
        _refuse_non_finite(new)
        self._theta[:] = new

    @property
    def normalizer(self) -> Normalizer | None:
        """What `act` normalises observations with; None unless `normalize_observations`.

        Assigning copies the values in.
        """
        return self._normalizer

    @normalizer.setter
    def normalizer(self, value: Normalizer | None) -> None:
        if self._normalizer is None or value is None:
            if self._normalizer is not value:
                raise ValueError(
                    "normalize_observations: statistics belong to a policy that normalises its "
                    "observations, and only to such a one"
                )
            return
        size = int(self.arrays.sizes[0])
        mean, scale = (np.array(array, np.float64) for array in value)
        if mean.shape != (size,) or scale.shape != (size,):
            raise ValueError(
                f"statistics of shapes {mean.shape} and {scale.shape}: this policy's observations "
                f"have {size} numbers"
            )
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
            raise ValueError("the observations' statistics have NaN or infinite entries")
        self._normalizer.mean[:], self._normalizer.scale[:] = mean, scale

    @property
    def is_discrete(self) -> bool:
        """Whether actions are discrete."""
        return isinstance(self.action_space, spaces.Discrete)

    def layers(
        self, theta: NDArray[np.float64] | None = None
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
        """Return each layer's (weights (n_out, n_in), bias (n_out,) or None) as views of θ."""
        flat = self._theta if theta is None else theta
        result, offset = [], 0
        for n_in, n_out in zip(self.arrays.sizes[:-1], self.arrays.sizes[1:], strict=True):
            weights = flat[offset : offset + n_in * n_out].reshape(n_out, n_in)
            offset += n_in * n_out
            bias = None
            if self.arrays.has_bias:
                bias = flat[offset : offset + n_out]
                offset += n_out
            result.append((weights, bias))
        return result

    def initial_theta(self, init_scale: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
        """Draw starting parameters: (d,) float64.

        Weights follow a normal distribution of variance `init_scale`/n_in truncated at two
        standard deviations, rescaled so that the variance is exact; biases are zero. A scale of 0
        gives zeros without drawing. The papers' HalfCheetah runs used 0.03 (linear) and 0.3 (MLP).

        Raises:
            ValueError: if `init_scale` is negative or not finite.
        """
        if not (np.isfinite(init_scale) and init_scale >= 0):
            raise ValueError(f"init_scale={init_scale}: must be zero or a positive number")
        theta = np.zeros(self.num_params)
        if init_scale == 0:
            return theta
        rng = np.random.default_rng(seed)
        for weights, _ in self.layers(theta):
            draws = rng.standard_normal(weights.shape)
            while (outside := np.abs(draws) > 2.0).any():
                draws[outside] = rng.standard_normal(int(outside.sum()))
            # 0.8796...: standard deviation of a standard normal truncated to [-2, 2]
            weights[:] = draws * (np.sqrt(init_scale / weights.shape[1]) / 0.8796256610342398)
        return theta

    def flatten_observation(self, observation: Any) -> NDArray[np.float64]:
        """Return one observation as the (n_in,) float64 vector that the network sees.

        Raises:
            ValueError: if the observation does not have the shape of the observation space, holds
                anything but real numbers or, but for Box spaces, is no member of it.
        """
        return flatten_observation(self.observation_space, observation)

    def act(self, theta: NDArray[np.float64], observation: Any) -> Any:
        """Return the action that parameters `theta` (d,) choose for one observation.

        Raises:
            ValueError: if `theta` or the observation is not of this policy's size.
        """
        return self.act_on(theta, self.flatten_observation(observation), self._normalizer)

    def act_on(
        self,
        theta: NDArray[np.float64],
        flat: NDArray[np.float64],
        normalizer: Normalizer | None = None,
    ) -> Any:
        """Return the action for a flattened observation (n_in,), seen through `normalizer`.

        Raises:
            ValueError: if `theta` or `flat` is not of this policy's size.
        """
        if theta.shape != (self.num_params,):
            raise ValueError(
                f"theta has shape {theta.shape}, this policy takes ({self.num_params},)"
            )
        # the kernels read as many numbers as the first layer takes, whatever is there
        if flat.shape != (self._n_in,):
            raise ValueError(
                f"flattened observation of shape {flat.shape}, this policy takes ({self._n_in},)"
            )
        a = self.arrays
        if normalizer is not None:
            seen = np.empty_like(flat)
            normalize(flat, normalizer.mean, normalizer.scale, a.observation_bound[0], seen)
            flat = seen
        output = np.empty(a.sizes[-1])
        forward(theta, a.sizes, a.has_bias, a.activation, flat, self._scratch, output)
        if isinstance(self.action_space, spaces.Discrete):
            if np.isnan(output).any():  # argmax would take the first of them for the largest
                raise ValueError("no action: the observation led to NaN")
            return self.action_space.start + np.argmax(output)
        if a.clip:
            np.clip(output, a.low, a.high, out=output)
        elif a.squash:
            squash(output, a.low, a.high)
        return output.reshape(self.action_space.shape or ())

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, None]:
        """Return (action, None) for one observation or a batch of them, as SB3's `predict` does.

        The policy is deterministic and keeps no state: `state`, `episode_start` and
        `deterministic` are there for the callers of that interface and change nothing.
        """
        space = self.observation_space
        if isinstance(space, (spaces.Box, spaces.Discrete)):
            array = np.asarray(observation)
            shape = space.shape or ()
            if array.ndim == len(shape) + 1 and array.shape[1:] == shape:
                return np.array([self.act(self._theta, row) for row in array]), None
        return self.act(self._theta, observation), None

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that rebuild this policy on the same spaces."""
        raise NotImplementedError

    def _common_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"clip_actions": self.clip_actions}
        if self.arrays.squash:
            options["squash_actions"] = True
        if self.arrays.normalize:
            bound = float(self.arrays.observation_bound[0])
            clip = bound if np.isfinite(bound) else 0.0
            options.update(normalize_observations=True, observation_clip=clip)
        return options

    def check_fits(self, env: gym.Env[Any, Any], env_id: str) -> None:
        """Raise ValueError unless the spaces of `env` are those of this policy."""
        for name in ("observation_space", "action_space"):
            ours, theirs = getattr(self, name), getattr(env, name)
            same_box = (
                isinstance(ours, spaces.Box)
                and isinstance(theirs, spaces.Box)
                and ours.shape == theirs.shape
            )
            if not (same_box or ours == theirs):
                raise ValueError(
                    f"policy does not fit {env_id}: its {name.replace('_', ' ')} is {ours}, "
                    f"the environment's is {theirs}"
                )

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the policy to one .npz file, whole or not at all; see `load_policy`.

        Args:
            path: where to write.
            **metadata: JSON-able facts kept beside the policy, such as the environment's id.

        Raises:
            ValueError: if a parameter is NaN or infinite; the file is left as it was.
        """
        _refuse_non_finite(self._theta)
        arrays = {"theta": self._theta}
        if self._normalizer is not None:
            arrays["observation_mean"], arrays["observation_scale"] = self._normalizer
        header = {
            "format": POLICY_FORMAT,
            # files without what the first version did not know can be read by it
            "version": 2 if self.arrays.normalize or self.arrays.squash else 1,
            "kind": self.kind,
            "options": self.options(),
            "observation_space": space_to_dict(self.observation_space),
            "action_space": space_to_dict(self.action_space),
            "metadata": metadata,
        }
        write_npz(path, header, arrays)


def _refuse_non_finite(theta: NDArray[np.float64]) -> None:
    if not np.isfinite(theta).all():
        raise ValueError("theta has NaN or infinite entries")
