"""What compiled rollouts need of a policy, made from its spaces and options and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.estimator_options import is_integer
from es_rl.policy_kernels import ACTIVATIONS

__all__ = ["PolicyArrays", "make_arrays"]


class PolicyArrays(NamedTuple):
    """All that a compiled rollout needs to evaluate a policy and form the action.

    Attributes:
        sizes: (L + 1,) int64, layer widths from the flattened observation to the output.
        has_bias: whether each layer has a bias.
        activation: code of the hidden activation, see `es_rl.policy_kernels.ACTIVATIONS`.
        clip: whether the output is clipped to [low, high].
        low: (n_out,) float64, lower bounds of a continuous action; empty for discrete actions.
        high: (n_out,) float64, upper bounds likewise.
        squash: whether the output is mapped to [low, high] by tanh.
        normalize: whether observations are normalised before the first layer.
        observation_bound: (1,) float64, what the size of a normalised observation is clipped to;
            infinite for no clipping.
    """

    sizes: NDArray[np.int64]
    has_bias: bool
    activation: int
    clip: bool
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    squash: bool
    normalize: bool
    observation_bound: NDArray[np.float64]


def make_arrays(
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
) -> PolicyArrays:
    """Return the arrays of a policy; arguments are those of `es_rl.policies.Policy`.

    Raises:
        ValueError: names the option or the space that cannot be used.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    _check_flags(
        bias=bias,
        clip_actions=clip_actions,
        squash_actions=squash_actions,
        normalize_observations=normalize_observations,
    )
    widths: Any = hidden
    if isinstance(widths, str) or not isinstance(widths, (Sequence, np.ndarray)):
        raise ValueError(f"hidden={hidden!r}: must list the widths of the layers, such as (64, 64)")
    if not all(is_integer(width) and width >= 1 for width in hidden):
        raise ValueError(f"hidden={tuple(hidden)}: every width must be a positive integer")
    if (
        not isinstance(observation_clip, (int, float, np.number))
        or not math.isfinite(observation_clip)
        or observation_clip < 0
    ):
        raise ValueError(
            f"observation_clip={observation_clip!r}: must be a positive number, or 0 for no "
            "clipping"
        )
    n_out, low, high = _actions(action_space, clip_actions, squash_actions)
    return PolicyArrays(
        sizes=np.array([_observations(observation_space), *hidden, n_out], np.int64),
        has_bias=bool(bias),
        activation=ACTIVATIONS[activation],
        clip=bool(clip_actions),
        low=low,
        high=high,
        squash=bool(squash_actions),
        normalize=bool(normalize_observations),
        observation_bound=np.array([observation_clip or math.inf], np.float64),
    )


def _check_flags(**flags: Any) -> None:
    """Refuse what would count as true by accident, such as the word "no"."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name}={value!r}: must be True or False")


def _actions(
    space: spaces.Space[Any], clip_actions: bool, squash_actions: bool
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Return the number of outputs, and the bounds of continuous actions."""
    if clip_actions and squash_actions:
        raise ValueError(
            "squash_actions=True: squashed actions are within the bounds; leave out clip_actions"
        )
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low = np.asarray(space.low, np.float64).ravel()
        high = np.asarray(space.high, np.float64).ravel()
        if not low.size:
            raise ValueError(f"action space {space}: has no numbers to choose")
        if squash_actions and not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("squash_actions=True: the action space has no finite bounds")
        return low.size, low, high
    if isinstance(space, spaces.Discrete):
        for name, value in (("clip_actions", clip_actions), ("squash_actions", squash_actions)):
            if value:
                raise ValueError(f"{name}=True: discrete actions have no bounds to clip to")
        return int(space.n), np.empty(0), np.empty(0)
    raise ValueError(f"action space {space}: policies act in Box (of floats) and Discrete spaces")


def _observations(space: spaces.Space[Any]) -> int:
    """Return the length of a flattened observation."""
    if not isinstance(space, spaces.Space):
        raise ValueError(f"observation space {space}: is none of Gymnasium's")
    if not space.is_np_flattenable:
        raise ValueError(f"observation space {space}: it cannot be flattened to a vector")
    size = int(spaces.flatdim(space))
    if not size:
        raise ValueError(f"observation space {space}: has no numbers to see")
    return size
