"""Worker processes that hold rows: starting them, talking to them, noticing when they fail.

The processes are started as programs of their own rather than by `multiprocessing`: so nothing
is forked from a process with threads, the user's main module is not imported a second time, and
scripts need no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import cloudpickle

from es_rl.envs.faults import EnvironmentFaultError, Phase
from es_rl.envs.gymnasium_worker import PROGRESS_BYTES, RowsSpec, open_progress
from es_rl.envs.mujoco.quiet import quiet

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["LocalRows", "WorkerPool", "usable_cpus"]

_POLL = 0.25
"""Seconds between looks at the workers' health while they are busy."""

_PATIENCE = 1.0
"""Seconds that a worker is given to end by itself before it is killed."""

_TIMED_PHASES = (Phase.RESETTING, Phase.STEPPING, Phase.REPLAYING)

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Unique:
    """What must not be copied: a second one would hold other rows, or none."""

    _name: str

    def __reduce__(self) -> tuple[Any, ...]:
        # a copied environment may begin anew (`gymnasium.utils.EzPickle`), and processes have none
        raise TypeError(
            f"{self._name}: a GymnasiumTask cannot be copied or pickled; make a second one, and "
            "bring it to the same place with allocate(n_rows) and set_state(task.get_state())"
        )


class LocalRows(_Unique):
    """The face of a `WorkerPool` on rows that live in this process."""

    n_workers = 1

    def __init__(self, spec: RowsSpec) -> None:
        self._name = spec.name
        self._silence = quiet if spec.uses_mujoco else contextlib.nullcontext
        self._rows = spec.open([Phase.IDLE, 0, 0])
        self._open = True

    def call(self, requests: Mapping[int, tuple[str, tuple[Any, ...]]]) -> dict[int, Any]:
        """Run each worker's (method of `GymnasiumRows`, arguments); return the answers."""
        if not self._open:
            raise RuntimeError(f"{self._name}: the task is closed")
        try:
            with self._silence():
                return {
                    worker: getattr(self._rows, command)(*arguments)
                    for worker, (command, arguments) in requests.items()
                }
        except BaseException:
            # interrupted somewhere inside a window: the rows are in no defined state
            self.close()
            raise

    def close(self) -> None:
        """Close the environments; idempotent."""
        self._open = False
        self._rows.clear()


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    progress: memoryview


class WorkerPool(_Unique):
    """Processes that each hold `GymnasiumRows`.

    Args:
        spec: what the workers hold.
        n_workers: number of processes.
        step_timeout: seconds that a single step or reset may take; None for no limit.

    Raises:
        RuntimeError: where processes cannot inherit sockets (not a POSIX system).
    """

    def __init__(self, spec: RowsSpec, n_workers: int, step_timeout: float | None = None) -> None:
        if os.name != "posix":
            raise RuntimeError("worker processes need a POSIX system; pass n_workers=0")
        self.n_workers = n_workers
        self._name = spec.name
        self._step_timeout = step_timeout
        self._workers: list[_Worker] = []
        # ends the processes when this object is collected, and at the interpreter's exit
        self._finalizer = weakref.finalize(self, _shut_down, self._workers, os.getpid())
        description = (spec.import_modules, cloudpickle.dumps(spec))
        try:
            for _ in range(n_workers):
                self._workers.append(_launch())
            for index in range(n_workers):
                self._send(index, description)
        except BaseException:
            self.close()
            raise

    def call(self, requests: Mapping[int, tuple[str, tuple[Any, ...]]]) -> dict[int, Any]:
        """Send each worker its (method of `GymnasiumRows`, arguments); return the answers.

        Raises:
            EnvironmentFaultError: if a worker dies, crashes or exceeds `step_timeout`. The pool
                is then closed, as it is when the call is interrupted.
            RuntimeError: if the pool is closed.
        """
        if not self._finalizer.alive:
            raise RuntimeError(f"{self._name}: the task is closed")
        try:
            for index, message in requests.items():
                self._send(index, message)
            return self._collect(set(requests))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; idempotent."""
        self._finalizer()

    def _send(self, index: int, message: Any) -> None:
        try:
            self._workers[index].connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._obituary(index) from None

    def _collect(self, waiting: set[int]) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        seen: dict[int, tuple[bytes, float]] = {}
        while waiting:
            ready = wait([self._workers[index].connection for index in waiting], timeout=_POLL)
            for index in list(waiting):
                if self._workers[index].connection in ready:
                    answers[index] = self._receive(index)
                    waiting.remove(index)
                else:
                    self._check_health(index, seen)
        return answers

    def _receive(self, index: int) -> Any:
        try:
            kind, content = self._workers[index].connection.recv()
        except (EOFError, OSError):
            raise self._obituary(index) from None
        if kind == "crashed":
            raise self._fault(index, f"worker process {index} failed", content)
        return content

    def _check_health(self, index: int, seen: dict[int, tuple[bytes, float]]) -> None:
        """Raise if a busy worker is dead, or has been at one step for too long."""
        worker = self._workers[index]
        if worker.process.poll() is not None and not worker.connection.poll():
            raise self._obituary(index)
        if self._step_timeout is None:
            return
        now, place = time.monotonic(), worker.progress.tobytes()
        last_place, since = seen.get(index, (b"", now))
        if place != last_place or worker.progress[0] not in _TIMED_PHASES:
            seen[index] = place, now
        elif now - since > self._step_timeout:
            worker.process.kill()
            raise self._fault(
                index,
                f"no progress for {self._step_timeout:g} s, the limit (step_timeout, or "
                f"--step-timeout); worker process {index} was stopped",
            )

    def _obituary(self, index: int) -> EnvironmentFaultError:
        """Describe the end of a worker that has gone."""
        worker = self._workers[index]
        # what it managed to say before it ended
        while worker.connection.poll():
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                break
            if kind == "crashed":
                return self._fault(index, f"worker process {index} failed", content)
        try:
            code = worker.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return self._fault(index, f"worker process {index} closed its connection")
        if code >= 0:
            return self._fault(index, f"worker process {index} ended with exit code {code}")
        reason = f"worker process {index} was ended by signal {-code} ({signal.strsignal(-code)})"
        if -code == signal.SIGKILL:
            reason += "; if memory ran out, use fewer workers or rows"
        return self._fault(index, reason)

    def _fault(self, index: int, reason: str, details: str = "") -> EnvironmentFaultError:
        phase, row, step = self._workers[index].progress.tolist()
        if phase == Phase.IDLE:
            row = -1
        return EnvironmentFaultError(self._name, Phase(phase), row, step, reason, details)


def _launch() -> _Worker:
    """Start one worker process."""
    if not sys.executable:
        raise RuntimeError("no Python executable to start workers with; pass n_workers=0")
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryFile() as file, theirs:
        file.truncate(PROGRESS_BYTES)
        descriptors = (theirs.fileno(), file.fileno())
        program = (
            # as far as the imports, a signal to the whole job is one that it does not know
            "import signal; [signal.signal(number, signal.SIG_IGN) for number in "
            "(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]; "
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from es_rl.envs.gymnasium_worker import main; "
            f"main(*{descriptors}, {os.getpid()})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            # one row at a time: threads of a matrix library would only get in each other's way
            env={**dict.fromkeys(_ONE_THREAD, "1"), **os.environ},
            # not in the terminal's foreground group, so that Ctrl-C reaches the main process only
            start_new_session=True,
        )
        return _Worker(process, ours, open_progress(file.fileno()))


def _shut_down(workers: list[_Worker], owner: int) -> None:
    """Close the connections, which ends idle workers, and kill those that do not end."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + _PATIENCE
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
    workers.clear()
