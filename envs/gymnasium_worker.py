"""The worker process behind `es_rl.envs.worker_pool`: holds rows and does as it is told.

It talks over one inherited socket: first a description of the task, then (command, arguments)
messages, each answered by one message, until the other end closes.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gymnasium as gym
import numpy as np

from es_rl.envs.gymnasium_rows import GymnasiumRows
from es_rl.envs.mujoco.library import without_clock
from es_rl.envs.mujoco.quiet import silence_mujoco_log
from es_rl.policies import Policy
from es_rl.policy_kernels import accumulate

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["PROGRESS_BYTES", "RowsSpec", "leave_signals_alone", "main", "open_progress"]

PROGRESS_BYTES = 3 * 8
"""Size of the shared memory that holds a worker's (phase, row, step), int64 each."""

_PARENT_POLL = 1.0  # seconds


class RowsSpec(NamedTuple):
    """What it takes to hold rows.

    Attributes:
        name: id of the environment, for messages.
        make_env: makes a fresh environment.
        policy: what acts in it.
        import_modules: modules to import beforehand.
        uses_mujoco: whether MuJoCo simulates it.
    """

    name: str
    make_env: Callable[[], gym.Env[Any, Any]]
    policy: Policy
    import_modules: tuple[str, ...]
    uses_mujoco: bool

    def open(self, progress: MutableSequence[int]) -> GymnasiumRows:
        """Return empty rows that report to `progress`."""
        return GymnasiumRows(self.name, self.make_env, self.policy, progress)


def open_progress(descriptor: int) -> memoryview:
    """Map the shared (phase, row, step) of a worker: a writable view of three int64."""
    return memoryview(mmap.mmap(descriptor, PROGRESS_BYTES)).cast("q")


def main(socket: int, progress: int, parent: int) -> None:
    """Serve until the other end of `socket` closes.

    Args:
        socket: file descriptor of this end.
        progress: file descriptor of the shared (phase, row, step).
        parent: process that started this one; when it is gone, so is this one.
    """
    # only POSIX systems have this kind, and only they have workers
    from multiprocessing.connection import Connection

    leave_signals_alone()
    # standard output belongs to the main process, which may print an answer for a program there
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    connection = Connection(socket)
    # a closed socket tells a worker only once it listens, which a step that hangs never does
    threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
    silence_mujoco_log()
    try:
        with without_clock():
            _serve(connection, open_progress(progress))
    except BaseException:
        with contextlib.suppress(OSError):
            connection.send(("crashed", traceback.format_exc()))
        sys.exit(1)


def leave_signals_alone() -> None:
    """Go on after the signals by which a user or a scheduler asks a whole job to end.

    They are the main process's to follow: it finishes the window, for which it needs this one,
    saves, and closes the socket. A worker that hangs is killed, by it or by the watch on it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not SIG_IGN: programs that an environment starts would inherit that, and could not be ended
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os._exit(1)


def _serve(connection: Connection, progress: memoryview) -> None:
    rows = _start(connection, progress)
    while True:
        try:
            command, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        answer = getattr(rows, command)(*arguments)
        try:
            connection.send(("done", answer))
        except (BrokenPipeError, ConnectionResetError):
            break
    rows.clear()


def _start(connection: Connection, progress: memoryview) -> GymnasiumRows:
    modules, description = connection.recv()
    for module in modules:
        importlib.import_module(module)
    spec: RowsSpec = pickle.loads(description)
    # compile, or load, the kernel now: a step's time limit is for the environment
    policy = spec.policy
    policy.act(policy.theta, policy.observation_space.sample())
    if policy.normalizer is not None:
        size = policy.normalizer.mean.size
        accumulate(np.zeros(size), np.zeros(size), np.zeros(2 * size))
    return spec.open(cast("MutableSequence[int]", progress))
