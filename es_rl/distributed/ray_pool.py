"""Workers as Ray actors: on this machine, or on a cluster that the user has started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from es_rl.distributed.holder import ShareHolder
from es_rl.distributed.pool import Answer, Failure, Loss, Outcome
from es_rl.perturbations import usable_cpus

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["RayPool", "RayUnavailableError"]

_LOGGER = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 256 * 2**20
_LONGEST_WAIT = 3600.0
_STARTS = 3
_ROOM_SECONDS = 60.0  # far more than a process takes to start


class RayUnavailableError(RuntimeError):
    """Ray is not installed, or no cluster answers at the given address."""


class _Call(NamedTuple):
    answer: Any  # what Ray will have the answer under
    method: str
    arguments: tuple[Any, ...]


class RayPool:
    """A `Pool` of Ray actors, one a worker.

    Without an address a cluster of this machine alone is started, without dashboard and without
    usage statistics, and ended by `close`. Where the program is connected to a cluster already,
    that one is used and left alone.

    Args:
        address: of the cluster that the workers run on, as `ray start --head` prints it, or
            "auto"; None for this machine.
        n_workers: how many there will be, so that a cluster of this machine has room for them;
            None for one on each `n_threads` processors.
        n_threads: processors that a worker uses.

    Raises:
        RayUnavailableError: if Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self, address: str | None = None, *, n_workers: int | None = None, n_threads: int = 1
    ) -> None:
        self._ray = _import_ray()
        self._n_threads = n_threads
        self._owns_ray = not self._ray.is_initialized()
        self._actor_class: Any = self._ray.remote(ShareHolder)
        self._actors: dict[int, Any] = {}
        self._calls: dict[int, _Call] = {}
        self._started: set[int] = set()
        self._room_until: dict[int, float] = {}  # of workers that may be waiting for processors
        self._free: float | None = None  # processors, as far as is known here
        if not self._owns_ray:
            return
        if address is None:
            self._start_cluster(max(usable_cpus(), (n_workers or 0) * n_threads))
            return
        try:
            self._connect(address=address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RayUnavailableError(
                f"ray_address={address}: no cluster can be used there ({_first_line(error)}); "
                "start one with 'ray start --head', or leave the address out to use this machine"
            ) from error

    def _start_cluster(self, n_cpus: int) -> None:
        """Start one of this machine alone."""
        # what can be imported here, workers on this machine can import too
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        for _ in range(_STARTS):
            try:
                with (
                    _environment(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=path),
                    _deaf_children(),
                ):
                    self._connect(
                        address="local",
                        num_cpus=n_cpus,
                        include_dashboard=False,
                        object_store_memory=_OBJECT_STORE_BYTES,
                    )
                return
            except Exception as error:
                # Ray raises nothing more telling where its processes take more than 30 s to start
                if type(error) is not Exception:
                    raise
                self._ray.shutdown()
                reason = _first_line(error)
        raise RayUnavailableError(
            f"Ray did not start on this machine in {_STARTS} attempts ({reason}); try again when "
            "it is less busy, or give the address of a cluster that runs"
        )

    def _connect(self, **options: Any) -> None:
        logger = logging.getLogger("ray")
        before = logger.level
        on_sigterm = signal.getsignal(signal.SIGTERM)
        logger.setLevel(logging.ERROR)
        try:
            self._ray.init(
                log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **options
            )
        finally:
            logger.setLevel(before)
            # Ray takes SIGTERM for itself, also from a program that saves its work then
            if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
        # Ray prints what happens to its processes to standard output, where results belong
        worker = self._ray._private.worker
        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = _log_instead

    def default_workers(self) -> int:
        """Return how many workers the processors of the cluster suffice for."""
        cpus = self._ray.cluster_resources().get("CPU", 0.0)
        return max(1, int(cpus // self._n_threads))

    def start(self, worker: int) -> None:
        """Start a worker, after ending whatever is left of an earlier one of that number."""
        self._end(worker)
        # a worker reserves its processors, but rather shares those of others than wait for them:
        # a machine may be gone for good. What Ray says is free lags behind what was just taken
        if worker in self._started or self._free is None:
            self._free = self._free_cpus()
        self._started.add(worker)
        if self._free < self._n_threads:
            self._place(worker, 0)
            return
        self._free -= self._n_threads
        self._place(worker, self._n_threads)
        # and it lags behind the loss of a machine, whose processors may be the free ones
        self._room_until[worker] = time.monotonic() + _ROOM_SECONDS

    def _place(self, worker: int, n_cpus: int) -> None:
        self._actors[worker] = self._actor_class.options(
            num_cpus=n_cpus, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
        ).remote()

    def _crowd_in(self, worker: int) -> None:
        """Start a worker anew that found no room, without a reservation, and repeat its call."""
        call = self._calls[worker]
        self._end(worker)
        self._place(worker, 0)
        self.submit(worker, call.method, *call.arguments)

    def _free_cpus(self) -> float:
        return float(self._ray.available_resources().get("CPU", 0.0))

    def submit(self, worker: int, method: str, *arguments: Any) -> None:
        """Let a worker call a method of its `ShareHolder`; does not wait."""
        answer = getattr(self._actors[worker], method).remote(*arguments)
        self._calls[worker] = _Call(answer, method, arguments)

    def share(self, value: Any) -> Any:
        """Put `value` where every machine fetches it from once."""
        return self._ray.put(value)

    def wait(self, workers: Collection[int], timeout: float) -> dict[int, Outcome]:
        """Return the outcomes that are there, after waiting for one at most `timeout` seconds."""
        end = time.monotonic() + min(timeout, _LONGEST_WAIT)
        while True:
            calls = {self._calls[worker].answer: worker for worker in workers}
            room = {w: until for w, until in self._room_until.items() if w in workers}
            patience = max(0.0, min([end, *room.values()]) - time.monotonic())
            ready, _ = self._ray.wait(
                list(calls), num_returns=1, timeout=patience, fetch_local=True
            )
            now = time.monotonic()
            if ready or now >= end:
                break
            for worker, until in room.items():
                if until <= now:
                    self._crowd_in(worker)
        if ready:
            # and whatever else is there by now
            ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return {calls[answer]: self._outcome(calls[answer], answer) for answer in ready}

    def _outcome(self, worker: int, answer: Any) -> Outcome:
        self._room_until.pop(worker, None)
        del self._calls[worker]
        errors = self._ray.exceptions
        try:
            value = self._ray.get(answer)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, errors.RaySystemError):
                return Failure(
                    RuntimeError(
                        f"worker {worker} cannot read what it was sent ({_first_line(cause)}): "
                        "modules that a task needs must be importable on every machine"
                    )
                )
            return Failure(cause if isinstance(cause, Exception) else error)
        except errors.RayError as error:
            return Loss(f"{type(error).__name__}: {_first_line(error)}")
        return Answer(value)

    def close(self) -> None:
        """End all workers, and Ray if it was started here; idempotent."""
        if not self._ray.is_initialized():
            return
        self._end_all()
        if self._owns_ray:
            self._ray.shutdown()

    def _end_all(self) -> None:
        for worker in list(self._actors):
            self._end(worker)

    def _end(self, worker: int) -> None:
        self._calls.pop(worker, None)
        self._room_until.pop(worker, None)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)


def _log_instead(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    """Log a message that Ray would print."""
    for line in data.get("lines", ()):
        _LOGGER.debug("%s: %s", data.get("pid"), line)


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise RayUnavailableError(
            "workers on Ray need the package ray: pip install 'es_rl[ray]'"
        ) from error
    module: ModuleType = ray
    return module


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that start inside the block never hear SIGTERM and SIGHUP.

    A scheduler sends them to a whole job: this program then finishes its window and saves, for
    which it needs the cluster that it started, and ends that itself.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # what a new process inherits and keeps; Ray does the same with SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
