"""An observation as the vector of float64 that a policy sees, or an error that says what it is.

Nothing is cut, wrapped or passed over: kernels read as many numbers as the space has, and what is
no member of it would train a policy on something else than the environment shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["REAL_KINDS", "flatten_observation"]

REAL_KINDS = "biuf"
"""Kinds of NumPy dtypes whose values are real numbers; of complex ones a part would be lost."""

_WHOLE_KINDS = "biu"


def flatten_observation(space: spaces.Space[Any], observation: Any) -> NDArray[np.float64]:
    """Return `observation` of `space` as a vector (n_in,) float64.

    Box observations are raveled, whether or not they are within the bounds, which environments
    take for advice. All others must be members of their space: Discrete, MultiBinary and
    MultiDiscrete ones become zeros and ones, and the parts of Dict and Tuple ones are joined, as
    `gymnasium.spaces.flatten` does.

    Raises:
        ValueError: if it is of another shape or kind than the space, or no member of it.
    """
    # in the order of how often they are met; it is on the way of every step
    if isinstance(space, spaces.Box):
        return _box(space, observation)
    if isinstance(space, spaces.Discrete):
        return _one_hot(space, observation)
    if isinstance(space, spaces.Dict):
        return _dict(space, observation)
    if isinstance(space, spaces.Tuple):
        return _tuple(space, observation)
    array = np.asarray(observation)
    if array.shape != space.shape:
        raise _wrong_shape(array, space)
    if not _is_member(space, array):
        raise _no_member(space, observation)
    return np.asarray(spaces.flatten(space, array.astype(np.int64)), np.float64)


def _one_hot(space: spaces.Discrete, observation: Any) -> NDArray[np.float64]:
    # not `space.contains`, which minds the width of the integer as well
    whole = isinstance(observation, (int, np.integer)) or (
        isinstance(observation, np.ndarray | np.generic)
        and observation.shape == ()
        and observation.dtype.kind in _WHOLE_KINDS
    )
    place = int(observation) - int(space.start) if whole else -1
    if not 0 <= place < space.n:
        raise _no_member(space, observation)
    one_hot = np.zeros(int(space.n))
    one_hot[place] = 1.0
    return one_hot


def _is_member(space: spaces.Space[Any], array: NDArray[Any]) -> bool:
    """Return whether `array`, of the right shape, is in a MultiBinary or MultiDiscrete space."""
    if isinstance(space, spaces.MultiDiscrete):
        is_whole = array.dtype.kind in _WHOLE_KINDS
        return is_whole and bool(
            ((array >= space.start) & (array <= space.start + (space.nvec - 1))).all()
        )
    return array.dtype.kind in REAL_KINDS and bool(((array == 0) | (array == 1)).all())


def _box(space: spaces.Box, observation: Any) -> NDArray[np.float64]:
    array = np.asarray(observation)
    if array.shape != space.shape:
        raise _wrong_shape(array, space)
    if array.dtype.kind not in REAL_KINDS:
        raise ValueError(f"observation of dtype {array.dtype}: it must hold real numbers")
    return array.astype(np.float64).ravel()


def _dict(space: spaces.Dict, observation: Any) -> NDArray[np.float64]:
    try:
        same = set(observation) == set(space.spaces) and hasattr(observation, "keys")
    except TypeError:
        same = False
    if not same:
        names = ", ".join(map(str, space.spaces))
        raise ValueError(
            f"observation {_shown(observation)}: this policy takes a dict of {names}, no more"
        )
    return _joined(((key, part, observation[key]) for key, part in space.spaces.items()))


def _tuple(space: spaces.Tuple[Any], observation: Any) -> NDArray[np.float64]:
    n_parts = len(space.spaces)
    if not isinstance(observation, (tuple, list, np.ndarray)) or len(observation) != n_parts:
        raise ValueError(
            f"observation {_shown(observation)}: this policy takes a tuple of {n_parts} parts"
        )
    return _joined(zip(range(n_parts), space.spaces, observation, strict=True))


def _joined(parts: Any) -> NDArray[np.float64]:
    """Return the parts, (name, space, observation) each, one behind the other."""
    flat = []
    for name, space, observation in parts:
        try:
            part = flatten_observation(space, observation)
        except ValueError as error:
            raise ValueError(f"part {name!r} of the observation: {error}") from None
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":
            # as Gymnasium joins them, so that earlier runs go on to the same bits
            part = part.astype(space.dtype).astype(np.float64)
        flat.append(part)
    return np.concatenate(flat) if flat else np.empty(0)


def _wrong_shape(array: NDArray[Any], space: spaces.Space[Any]) -> ValueError:
    return ValueError(f"observation of shape {array.shape}: this policy takes {space.shape}")


def _no_member(space: spaces.Space[Any], observation: Any) -> ValueError:
    return ValueError(f"observation {_shown(observation)}: is not in {space}")


def _shown(observation: Any) -> str:
    """Return an observation as a message shows it: on one line that can be read."""
    text = " ".join(repr(observation).split())
    return text if len(text) <= 80 else text[:77] + "..."
