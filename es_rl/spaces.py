"""Gymnasium spaces as plain data, so that a policy file needs no pickle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["space_from_dict", "space_to_dict"]

_MAX_SIZE = 1 << 24
"""Elements of the largest space that is rebuilt: a short description must not fill the memory."""


def _bound(values: NDArray[Any]) -> Any:
    """Return one number where all are alike, else the nested list."""
    flat = values.ravel()
    return flat[0].item() if flat.size and (flat == flat[0]).all() else values.tolist()


def space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describe `space` by JSON-able values.

    Raises:
        ValueError: if the space is of a kind that policies do not take.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bound(space.low),
            "high": _bound(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
        }
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {k: space_to_dict(v) for k, v in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_dict(v) for v in space.spaces]}
    raise ValueError(f"space {space}: cannot be stored with a policy")


def space_from_dict(data: dict[str, Any]) -> spaces.Space[Any]:
    """Rebuild the space that `space_to_dict` described.

    Raises:
        ValueError: if `data` is not such a description, or one of a space with more than 2**24
            elements.
    """
    try:
        if _size(data) > _MAX_SIZE:
            raise ValueError(f"more than {_MAX_SIZE} elements")
        return _build(data)
    except (
        ArithmeticError,
        AssertionError,  # Gymnasium's answer to arguments out of range
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"not the description of a space: {error}") from error


def _size(data: dict[str, Any]) -> int:
    """Return how many elements a described space has, without building it."""
    kind = data["type"]
    if kind == "Box":
        return math.prod(int(n) for n in data["shape"])
    if kind == "Discrete":
        return int(data["n"])
    if kind == "MultiBinary":
        return math.prod(np.ravel(data["n"]).tolist())
    if kind == "MultiDiscrete":
        return sum(np.ravel(data["nvec"]).tolist())
    children = data["spaces"].values() if kind == "Dict" else data["spaces"]
    return sum(_size(child) for child in children)


def _build(data: dict[str, Any]) -> spaces.Space[Any]:
    kind = data["type"]
    if kind == "Box":
        dtype = np.dtype(data["dtype"])
        shape = tuple(int(n) for n in data["shape"])
        with np.errstate(all="raise"):
            low, high = np.asarray(data["low"], dtype), np.asarray(data["high"], dtype)
        if low.ndim == 0 and high.ndim == 0:
            return spaces.Box(low.item(), high.item(), shape, dtype.type)
        return spaces.Box(
            np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, dtype.type
        )
    if kind == "Discrete":
        return spaces.Discrete(int(data["n"]), start=int(data["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(data["nvec"], start=data["start"])
    if kind == "Dict":
        return spaces.Dict({k: _build(v) for k, v in data["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([_build(v) for v in data["spaces"]])
    raise ValueError(f"unknown space {kind!r}")
