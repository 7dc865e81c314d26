"""MuJoCo's shared library: its batch engine through ctypes, and its functions for compiled code.

The Python bindings cover neither `mjb_apply` nor the native clock; the library that they ship
exports both. See mjbatch.h in the mujoco package.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mujoco

__all__ = ["BatchConfig", "load_library", "register_symbols", "without_clock"]


class BatchConfig(ctypes.Structure):
    """`mjBatchConfig`: number of threads, and whether each simulation keeps its own mjData."""

    _fields_ = (("nthread", ctypes.c_int), ("persistent", ctypes.c_bool))


def _library_path() -> Path:
    folder = Path(mujoco.__file__).parent
    for pattern in ("libmujoco.so.*", "libmujoco*.dylib", "mujoco.dll"):
        for path in sorted(folder.glob(pattern)):
            return path
    raise RuntimeError(f"{folder}: no MuJoCo library in it; reinstall the mujoco package")


@functools.cache
def load_library() -> ctypes.CDLL:
    """Return the MuJoCo library that the Python bindings use, with prototypes of `mjb_*`.

    Raises:
        RuntimeError: if the library is missing or older than 4.0.
    """
    library = ctypes.CDLL(str(_library_path()))
    if not hasattr(library, "mjb_apply"):
        raise RuntimeError(
            f"mujoco {mujoco.__version__} has no batch engine: the native engine needs mujoco>=4.0"
        )
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    prototypes = {
        "mjb_makeBatch": (
            pointer,
            [pointer, integer, ctypes.POINTER(BatchConfig), ctypes.c_char_p, integer],
        ),
        "mjb_deleteBatch": (None, [pointer]),
        "mjb_nstate": (integer, [pointer]),
        "mjb_nthread": (integer, [pointer]),
        "mjb_state": (pointer, [pointer]),
        "mjb_status": (pointer, [pointer]),
        "mjb_error": (ctypes.c_char_p, [pointer, integer]),
        "mjb_apply": (integer, [pointer, pointer, integer, pointer, pointer, integer]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def register_symbols() -> None:
    """Make the library's functions known by name to compiled code."""
    import llvmlite.binding

    llvmlite.binding.load_library_permanently(str(_library_path()))


_clock_lock = threading.Lock()
_clock_users = 0
_clock_before: int | None = None


@contextmanager
def without_clock() -> Iterator[None]:
    """Take MuJoCo's profiling clock away inside the block: it costs 8 to 17% of a step.

    The bindings install a native clock that `mujoco.set_mjcb_time` neither sees nor removes.
    Blocks of several engines may overlap; the clock is back when the last one ends.
    """
    global _clock_users, _clock_before
    clock = _clock()
    with _clock_lock:
        if _clock_users == 0:
            _clock_before, clock.value = clock.value, None
        _clock_users += 1
    try:
        yield
    finally:
        with _clock_lock:
            _clock_users -= 1
            if _clock_users == 0:
                clock.value = _clock_before


@functools.cache
def _clock() -> ctypes.c_void_p:
    return ctypes.c_void_p.in_dll(load_library(), "mjcb_time")
