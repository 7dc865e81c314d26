"""Gymnasium spaces as plain data, so that a policy file needs no pickle."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.observations import REAL_KINDS

__all__ = ["MAX_SIZE", "space_from_dict", "space_to_dict"]

MAX_SIZE = 1 << 22
"""Elements of the largest space that is rebuilt where no file says what it must fit."""

_MAX_DEPTH = 32
"""Of spaces in spaces; whoever walks through them calls itself once a level."""

_DTYPE = re.compile(r"[<>=|]?[a-z]{1,10}\d{0,3}")


def _bound(values: NDArray[Any]) -> Any:
    """Return one number where all are alike, else the nested list."""
    flat = values.ravel()
    return flat[0].item() if flat.size and (flat == flat[0]).all() else values.tolist()


def space_to_dict(space: spaces.Space[Any], depth: int = 0) -> dict[str, Any]:
    """Describe `space` by JSON-able values.

    Args:
        space: what to describe.
        depth: how many spaces it lies in.

    Raises:
        ValueError: if the space is of a kind that policies do not take.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"space {type(space).__name__}: nested more than {_MAX_DEPTH} deep")
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
        return {
            "type": "Dict",
            "spaces": {k: space_to_dict(v, depth + 1) for k, v in space.spaces.items()},
        }
    if isinstance(space, spaces.Tuple):
        return {
            "type": "Tuple",
            "spaces": [space_to_dict(v, depth + 1) for v in space.spaces],
        }
    raise ValueError(f"space {space}: cannot be stored with a policy")


def space_from_dict(data: dict[str, Any], max_size: int = MAX_SIZE) -> spaces.Space[Any]:
    """Rebuild the space that `space_to_dict` described.

    Args:
        data: the description.
        max_size: elements that it may have; whoever read it from a file knows how many numbers
            came with it, so that a short description cannot fill the memory.

    Raises:
        ValueError: if `data` is not such a description, or one of a space with more than
            `max_size` elements.
    """
    try:
        _size(data, max_size, 0)
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
        raise ValueError(f"not the description of a space: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """Return a message that holds no more of the file than can be read."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _size(data: dict[str, Any], max_size: int, depth: int) -> int:
    """Return how many elements a described space has, without building it.

    Raises:
        ValueError: if they are more than `max_size`, or less than none.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    kind = data["type"]
    if kind == "Box":
        size = math.prod(_lengths(data["shape"], max_size))
        _dtype(data["dtype"])
    elif kind == "Discrete":
        size = sum(_lengths([data["n"]], max_size))
    elif kind == "MultiBinary":
        size = math.prod(_lengths(np.ravel(data["n"]).tolist(), max_size))
    elif kind == "MultiDiscrete":
        size = sum(_lengths(np.ravel(data["nvec"]).tolist(), max_size))
    else:
        size = 0
        for child in data["spaces"].values() if kind == "Dict" else data["spaces"]:
            size += _size(child, max_size, depth + 1)
    if size > max_size:
        raise ValueError(f"more than {max_size} elements")
    return size


def _lengths(values: list[Any], max_size: int) -> list[int]:
    """Return the lengths that a description gives, each of which may be 0."""
    lengths = [int(value) for value in values]
    if any(length < 0 for length in lengths):
        raise ValueError(f"a length of {min(lengths)}")
    # here, as a product with a length of 0 would not show the others
    if any(length > max_size for length in lengths):
        raise ValueError(f"more than {max_size} elements")
    return lengths


def _dtype(name: Any) -> np.dtype[Any]:
    """Return the dtype of that name: a plain one, whose elements have a few bytes."""
    # text and records of any length have names of a few letters too
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError("a dtype that is none of numbers")
    dtype = np.dtype(name)
    if dtype.kind not in REAL_KINDS:
        raise ValueError(f"dtype {name}, which is none of numbers")
    return dtype


def _build(data: dict[str, Any]) -> spaces.Space[Any]:
    kind = data["type"]
    if kind == "Box":
        dtype = _dtype(data["dtype"])
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
