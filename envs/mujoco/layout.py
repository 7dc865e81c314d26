"""Where the fields of mjData are, found by looking for them in an mjData of known contents."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TypeAlias

import mujoco
import numpy as np

__all__ = ["FIELDS", "DataLayout"]

FIELDS = (
    "qvel",
    "ctrl",
    "xpos",
    "xipos",
    "site_xpos",
    "cinert",
    "cvel",
    "qfrc_actuator",
    "qfrc_constraint",
    "cfrc_ext",
)
"""The float64 arrays of mjData that kernels reach."""

_WORD = 8
_CHUNK = 64  # words read at once: the search must stop close behind what it looks for
_LIMIT = 1 << 20  # bytes
_UNKNOWN = (
    f"mujoco {mujoco.__version__}: its mjData is laid out in an unknown way; use engine='gymnasium'"
)

Words: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


class DataLayout:
    """Offsets in the mjData of one model, the same in every mjData of that model.

    Attributes:
        at_qpos: offset in bytes of the word that holds the address of qpos.
        at_warnings: offset in bytes of the warning counters.
        n_warnings: how many there are; each is one word, last information then count.
        offset: by name, each of `FIELDS`' distance from qpos in bytes.

    Raises:
        RuntimeError: if a field is not found where two mjData must agree on it.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        both = mujoco.MjData(model), mujoco.MjData(model)
        self.n_warnings = len(both[0].warning)
        self.at_qpos = _find(both, [np.array([_address(data, "qpos")]) for data in both])
        marks = [_mark_warnings(data, 100 * i) for i, data in enumerate(both)]
        self.at_warnings = _find(both, marks)
        self.offset, again = (_distances(data) for data in both)
        if again != self.offset:
            raise RuntimeError(_UNKNOWN)


def _address(data: mujoco.MjData, name: str) -> int:
    return int(getattr(data, name).ctypes.data)


def _distances(data: mujoco.MjData) -> dict[str, int]:
    """Return each field's distance from qpos in bytes; 0 for an empty one, which has no place."""
    qpos = _address(data, "qpos")
    return {name: _address(data, name) - qpos if getattr(data, name).size else 0 for name in FIELDS}


def _mark_warnings(data: mujoco.MjData, mark: int) -> Words:
    """Give the counters values of their own and return the words that then stand in memory."""
    for i, counter in enumerate(data.warning):
        counter.lastinfo, counter.number = 7001 + mark + i, 9001 + mark + i
    pairs = [(counter.lastinfo, counter.number) for counter in data.warning]
    return np.array(pairs, np.int32).view(np.int64).ravel()


def _words(data: mujoco.MjData, offset: int, count: int) -> Words:
    """Return `count` words of the mjData from a byte offset."""
    return np.frombuffer(ctypes.string_at(data._address + offset, count * _WORD), np.int64)


def _find(both: Sequence[mujoco.MjData], words: Sequence[Words]) -> int:
    """Return the first byte offset at which each mjData has its words.

    One alone would not do: MuJoCo takes memory as it finds it, so an mjData can have in its unused
    parts what an earlier one left there, such as the address of a qpos that stood where its own is.
    """
    size = words[0].size
    seen = [np.empty(0, np.int64) for _ in both]
    while seen[0].nbytes < _LIMIT:
        seen = [
            np.concatenate((old, _words(data, old.nbytes, _CHUNK)))
            for old, data in zip(seen, both, strict=True)
        ]
        for i in np.flatnonzero(seen[0][: seen[0].size - size + 1] == words[0][0]):
            if all(
                np.array_equal(old[i : i + size], wanted)
                for old, wanted in zip(seen, words, strict=True)
            ):
                return int(i) * _WORD
    raise RuntimeError(_UNKNOWN)
