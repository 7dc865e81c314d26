"""Where the fields of mjData are, found by looking for them in an mjData of known contents."""

from __future__ import annotations

import ctypes

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
        probe, witness = mujoco.MjData(model), mujoco.MjData(model)
        self.n_warnings = len(probe.warning)
        self.at_qpos = _find(probe, np.array([_address(probe, "qpos")]))
        self.at_warnings = _find(probe, _mark_warnings(probe))
        self.offset = _distances(probe)
        marks = _mark_warnings(witness)
        agree = (
            _words(witness, self.at_qpos, 1)[0] == _address(witness, "qpos")
            and np.array_equal(_words(witness, self.at_warnings, self.n_warnings), marks)
            and _distances(witness) == self.offset
        )
        if not agree:
            raise RuntimeError(
                f"mujoco {mujoco.__version__}: its mjData is laid out in an unknown way; "
                "use engine='gymnasium'"
            )


def _address(data: mujoco.MjData, name: str) -> int:
    return int(getattr(data, name).ctypes.data)


def _distances(data: mujoco.MjData) -> dict[str, int]:
    """Return each field's distance from qpos in bytes; 0 for an empty one, which has no place."""
    qpos = _address(data, "qpos")
    return {name: _address(data, name) - qpos if getattr(data, name).size else 0 for name in FIELDS}


def _mark_warnings(data: mujoco.MjData) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Give the counters distinct values and return the words that then stand in memory."""
    for i, counter in enumerate(data.warning):
        counter.lastinfo, counter.number = 7001 + i, 9001 + i
    pairs = [(counter.lastinfo, counter.number) for counter in data.warning]
    return np.array(pairs, np.int32).view(np.int64).ravel()


def _words(
    data: mujoco.MjData, offset: int, count: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return `count` words of the mjData from a byte offset."""
    return np.frombuffer(ctypes.string_at(data._address + offset, count * _WORD), np.int64)


def _find(data: mujoco.MjData, words: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """Return the byte offset at which `words` first stand in the mjData."""
    seen = np.empty(0, np.int64)
    while seen.nbytes < _LIMIT:
        seen = np.concatenate((seen, _words(data, seen.nbytes, _CHUNK)))
        for i in np.flatnonzero(seen[: seen.size - words.size + 1] == words[0]):
            if np.array_equal(seen[i : i + words.size], words):
                return int(i) * _WORD
    raise RuntimeError(
        f"mujoco {mujoco.__version__}: its mjData is laid out in an unknown way; "
        "use engine='gymnasium'"
    )
