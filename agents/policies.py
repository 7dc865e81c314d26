"""The policies as Stable-Baselines3 sees them: modules around es_rl's own, θ in float64."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from es_rl import policies as core_policies
from es_rl.policies import Policy

__all__ = ["ESPolicy", "LinearPolicy", "MlpPolicy", "policy_options"]


class ESPolicy(BasePolicy):  # type: ignore[misc]
    """An es_rl policy with the interface of Stable-Baselines3's policies.

    Attributes:
        core: the es_rl policy, which makes every prediction.
        theta: (d,) float64 parameter, the same memory as `core.theta`. There is no other
            parameter, so `state_dict()` is `{"theta": ...}`; with `normalize_observations` it
            also holds the statistics, `observation_mean` and `observation_scale`.
    """

    core_class: ClassVar[type[Policy]]
    theta: nn.Parameter

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.core = self.core_class(observation_space, action_space, **options)
        self.theta = nn.Parameter(torch.from_numpy(self.core.theta), requires_grad=False)
        for name, array in self._statistics().items():
            self.register_buffer(name, torch.from_numpy(array))

    def _statistics(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that observations are normalised with, by the names of the buffers."""
        normalizer = self.core.normalizer
        if normalizer is None:
            return {}
        return {"observation_mean": normalizer.mean, "observation_scale": normalizer.scale}

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, None]:
        """Return (action, None) for one observation or a batch, as `es_rl.Policy.predict` does.

        Continuous actions are clipped only if the policy was made with `clip_actions`, the rule
        that it is trained under. The policy is deterministic and keeps no state, so the last
        three arguments change nothing.

        Raises:
            ValueError: if the observation does not fit the observation space.
        """
        space = self.observation_space
        if isinstance(observation, tuple) and not isinstance(space, spaces.Tuple):
            raise ValueError(
                "observation is a tuple (observation, info), as Gymnasium's reset() returns it: "
                "pass its first element"
            )
        batch = _unbatched(space, observation)
        if batch is not None:
            return np.array([self.core.predict(one)[0] for one in batch]), None
        return self.core.predict(observation)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        actions, _ = self.core.predict(observation.cpu().numpy())
        return torch.as_tensor(actions)

    def load_from_vector(self, vector: NDArray[np.float64]) -> None:
        """Set θ to `vector` (d,)."""
        self.core.theta = vector

    def parameters_to_vector(self) -> NDArray[np.float64]:
        """Return a copy of θ, (d,) float64."""
        return self.core.theta.copy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy to a file that `es_rl.load_policy` reads, without Torch or pickle."""
        self.core.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "auto") -> ESPolicy:
        """Load a policy that `save` or `es_rl.Policy.save` wrote; nothing in it is executed.

        Raises:
            ValueError: if the file holds no such policy, or `device` is not the CPU.
        """
        check_device(device)
        core = core_policies.load_policy(path)
        if not isinstance(core, cls.core_class):
            raise ValueError(f"{os.fspath(path)}: holds a {core.kind} policy, not {cls.__name__}")
        policy = cls(core.observation_space, core.action_space, **core.options())
        policy.core.theta = core.theta
        policy.core.normalizer = core.normalizer
        return policy

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ESPolicy:
        # to(), float(), cuda() and the like come here; θ shares its memory with NumPy
        moved = fn(self.theta.data)
        if moved.dtype != torch.float64 or moved.device.type != "cpu":
            raise ValueError(
                f"dtype={moved.dtype}, device={moved.device}: this policy's parameters stay "
                "float64 on the CPU"
            )
        return self

    def __setstate__(self, state: Any) -> None:
        # copying parts the module's tensors from the arrays that they look into
        super().__setstate__(state)
        self.theta.data = torch.from_numpy(self.core.theta)
        for name, array in self._statistics().items():
            setattr(self, name, torch.from_numpy(array))


class LinearPolicy(ESPolicy):
    """One linear layer: action = M·observation (+ b).

    Args:
        observation_space: the space of the observations.
        action_space: the space of the actions, continuous or discrete.
        bias: whether the layer has a bias.
        clip_actions: whether continuous actions are clipped to the action space, in training
            and prediction alike.
        squash_actions: whether tanh maps continuous actions to the action space, likewise.
        normalize_observations: whether observations are normalised by their running mean and
            standard deviation, likewise.
        observation_clip: what the size of a normalised observation is clipped to; 0: nothing.
    """

    core_class = core_policies.LinearPolicy

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
            bias=bias,
            clip_actions=clip_actions,
            squash_actions=squash_actions,
            normalize_observations=normalize_observations,
            observation_clip=observation_clip,
        )


class MlpPolicy(ESPolicy):
    """A multi-layer perceptron with biases and a linear output layer.

    Args:
        observation_space: the space of the observations.
        action_space: the space of the actions, continuous or discrete.
        hidden: widths of the hidden layers.
        activation: "tanh" or "relu".
        clip_actions: whether continuous actions are clipped to the action space, in training
            and prediction alike.
        squash_actions: whether tanh maps continuous actions to the action space, likewise.
        normalize_observations: whether observations are normalised by their running mean and
            standard deviation, likewise.
        observation_clip: what the size of a normalised observation is clipped to; 0: nothing.
    """

    core_class = core_policies.MlpPolicy

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
        super().__init__(
            observation_space,
            action_space,
            hidden=hidden,
            activation=activation,
            clip_actions=clip_actions,
            squash_actions=squash_actions,
            normalize_observations=normalize_observations,
            observation_clip=observation_clip,
        )


def policy_options(policy_class: type[ESPolicy]) -> list[str]:
    """Return the names that `policy_kwargs` may hold for `policy_class`."""
    parameters = inspect.signature(policy_class).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def check_device(device: torch.device | str) -> torch.device:
    """Return the CPU, on which the rollouts run; "auto" means it too.

    Raises:
        ValueError: if another device is asked for.
    """
    # not asked of Torch, which has errors of its own for what is no device at all
    if str(device).partition(":")[0] not in ("auto", "cpu"):
        raise ValueError(f"device={str(device)!r}: rollouts run on the CPU; use 'cpu' or 'auto'")
    return torch.device("cpu")


def _unbatched(space: spaces.Space[Any], observation: Any) -> list[Any] | None:
    """Return the observations that a batch consists of, None for a single observation.

    Only for spaces whose batches es_rl's own policies do not split: those of more than one number
    that are not a Box.
    """
    if isinstance(space, spaces.Dict) and isinstance(observation, Mapping):
        parts = {key: _rows(space[key], observation[key]) for key in space.spaces}
        if any(rows is None for rows in parts.values()):
            return None
        names = list(parts)
        columns = [parts[name] or [] for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(space, (spaces.MultiBinary, spaces.MultiDiscrete)):
        return _rows(space, observation)
    return None


def _rows(space: spaces.Space[Any], values: Any) -> list[Any] | None:
    """Return the rows of `values` if it has one dimension more than `space`, else None."""
    nested = _unbatched(space, values)
    if nested is not None or space.shape is None:
        return nested
    array = np.asarray(values)
    return list(array) if array.shape[1:] == space.shape and array.ndim > len(space.shape) else None
