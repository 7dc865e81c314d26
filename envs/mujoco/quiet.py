"""Silence for environments that MuJoCo and Gymnasium would announce on the console.

Making a v4 environment warns that it is out of date, and compiling HalfCheetah's model prints a
deprecation that MuJoCo also appends to `MUJOCO_LOG.TXT` in the working directory. Neither is
something that the user of this library can act on.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from es_rl.envs.mujoco.library import load_library

__all__ = ["make_quietly", "quiet", "silence_mujoco_log"]


class _LogConfig(ctypes.Structure):
    """`mjLogConfig` of mjtype.h."""

    _fields_ = (
        ("logto_console", ctypes.c_bool),
        ("logto_file", ctypes.c_bool),
        ("logfile", ctypes.c_char * 1024),
        ("topics", ctypes.c_int),
    )


_lock = threading.Lock()
_depth = 0
_before: _LogConfig | None = None


def _swap(config: _LogConfig | None) -> _LogConfig:
    """Install `config`, or silence if None; return the configuration that it replaces."""
    library = load_library()
    library.mju_getLogConfig.restype = _LogConfig
    library.mju_setLogConfig.argtypes = [_LogConfig]
    library.mju_setLogConfig.restype = None
    before: _LogConfig = library.mju_getLogConfig()
    if config is None:
        config = library.mju_getLogConfig()
        config.logto_console = config.logto_file = False
    library.mju_setLogConfig(config)
    return before


def silence_mujoco_log() -> None:
    """Stop MuJoCo's messages and its log file for the rest of this process's life."""
    _swap(None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence MuJoCo's log and Gymnasium's "out of date" notice inside the block.

    Blocks nest, also across threads; the first one's settings come back when the last one ends.
    """
    global _depth, _before
    with _lock:
        if _depth == 0:
            _before = _swap(None)
        _depth += 1
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*is out of date", append=False)
            yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _swap(_before)


def make_quietly(env_id: str, /, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Return `gymnasium.make(env_id, **env_kwargs)` without the notices.

    Raises:
        gymnasium.error.Error: as `gymnasium.make` does.
    """
    with quiet():
        return gym.make(env_id, **env_kwargs)
