"""Several training runs at a time, each in a process of its own; one process owns the results.

A worker trains one run after another and tells of each evaluation. If the process that started it
disappears, or asks it to stop, it saves after the current update and ends: every run can go on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from es_rl.config import TrainConfig
from es_rl.config_layers import continued, load_config
from es_rl.options import ConfigError
from es_rl.progress import ProgressFile, Row
from es_rl.run_checkpoints import Best
from es_rl.run_folder import RunFolder

__all__ = ["Evaluated", "Finished", "Job", "RunPool", "check_same_run", "final_reward"]

_END_SECONDS = 10.0
_POLL_SECONDS = 0.2


class Job(NamedTuple):
    """A run to train, or to go on with if its folder is there.

    Attributes:
        config: of the run.
        run_dir: its folder.
    """

    config: TrainConfig
    run_dir: str


class Evaluated(NamedTuple):
    """A run was evaluated, or updated once more.

    Attributes:
        job: the run.
        row: what progress.csv says of the update.
    """

    job: Job
    row: Row


class Finished(NamedTuple):
    """A run ended, or this session of it.

    Attributes:
        job: the run.
        reason: as in `es_rl.run.RunResult`, or "failed".
        reward: mean reward of the final policy; None unless it was evaluated.
        error: why it failed, in one line; None if it did not.
    """

    job: Job
    reason: str
    reward: float | None = None
    error: str | None = None


class _Reporter:
    """Sends the rows of a run to the process that owns the results."""

    def __init__(self, job: Job, connection: Connection) -> None:
        self._job, self._connection = job, connection

    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        """Say nothing: the folder was named by the job."""

    def row(self, row: Row, best: Best | None) -> None:
        """Tell of an evaluation."""
        if row.eval_reward_mean is not None:
            # a broken pipe means that nobody listens any more, and `_should_stop` sees that too
            with suppress(BrokenPipeError):
                self._connection.send(Evaluated(self._job, row))

    def adapted(self, values: Mapping[str, float]) -> None:
        """Say nothing."""

    def evaluating(self, n_episodes: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def _work(connection: Connection) -> None:
    """Train the jobs that come through `connection` until it is closed."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the owner of the results decides
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if isinstance(job, Job):  # else an order to stop that came after the end of its run
            finished = _train(job, connection)
            with suppress(BrokenPipeError):
                connection.send(finished)


def _train(job: Job, connection: Connection) -> Finished:
    from es_rl import run
    from es_rl.envs.faults import EnvironmentFaultError
    from es_rl.run_folder import StorageError

    def should_stop() -> bool:
        if not connection.poll():
            return False
        with suppress(EOFError):
            connection.recv()
        return True

    reporter = _Reporter(job, connection)
    try:
        if os.path.exists(os.path.join(job.run_dir, "config.yaml")):
            result = run.resume(job.config, job.run_dir, display=reporter, should_stop=should_stop)
        else:
            result = run.train(job.config, job.run_dir, display=reporter, should_stop=should_stop)
    except (ConfigError, FloatingPointError, EnvironmentFaultError, StorageError) as error:
        return Finished(job, "failed", error=" ".join(str(error).partition("\n")[0].split()))
    reward = None if result.final is None else result.final.mean
    return Finished(job, result.reason, reward)


class _Worker:
    """A process, the connection to it, and what it is doing."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs,))
        self.process.start()
        theirs.close()  # so that the connection ends when the process does
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        self.connection.send(job)
        self.job = job

    def stop(self) -> None:
        """Ask for the end of the current run; it is saved."""
        if self.job is not None:
            with suppress(BrokenPipeError):
                self.connection.send("stop")


class RunPool:
    """Trains jobs side by side.

    Use it in a `with` statement; at its end the workers are gone, and what they were training is
    saved.

    Args:
        n_workers: runs at a time.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> RunPool:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.stop()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(_END_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def running(self) -> list[Job]:
        """The runs in training."""
        return [worker.job for worker in self._workers if worker.job is not None]

    @property
    def has_room(self) -> bool:
        """Whether another run can begin."""
        return len(self.running) < self._n_workers

    def start(self, job: Job) -> None:
        """Begin a run; there must be room."""
        for worker in self._workers:
            if worker.job is None:
                worker.give(job)
                return
        self._workers.append(_Worker())
        self._workers[-1].give(job)

    def stop(self, job: Job | None = None) -> None:
        """Ask for the end of a run, or of all; each is saved and then reported as finished."""
        for worker in self._workers:
            if job is None or worker.job == job:
                worker.stop()

    def events(self, should_stop: Callable[[], bool]) -> Iterator[Evaluated | Finished]:
        """Yield what happens, until no run is in training.

        Args:
            should_stop: asked several times a second; True ends all runs, which are saved.
        """
        is_stopping = False
        while self.running:
            if not is_stopping and should_stop():
                is_stopping = True
                self.stop()
            busy = {worker.connection: worker for worker in self._workers if worker.job}
            for connection in wait(list(busy), _POLL_SECONDS):
                assert isinstance(connection, Connection)
                yield self._receive(busy[connection])

    def _receive(self, worker: _Worker) -> Evaluated | Finished:
        assert worker.job is not None
        try:
            event = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            job = worker.job
            self._workers.remove(worker)
            worker.process.join()
            ended = worker.process.exitcode or 0
            how = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
            hint = "; was memory short?" if ended == -signal.SIGKILL else ""
            return Finished(job, "failed", error=f"its process ended by {how}{hint}")
        if isinstance(event, Finished):
            worker.job = None
        assert isinstance(event, (Evaluated, Finished))
        return event


def final_reward(job: Job) -> float | None:
    """Return the mean reward that ended a run whose budget in total steps is used up, else None.

    Raises:
        ConfigError: if its progress.csv cannot be read.
    """
    path = os.path.join(job.run_dir, "progress.csv")
    if not os.path.exists(path):
        return None
    try:
        rows = ProgressFile.read(path)
    except ValueError as error:
        raise ConfigError(f"{error}; remove the folder {job.run_dir} to train it again") from None
    limit = job.config.total_steps
    if not rows or limit is None or rows[-1].total_steps < limit:
        return None
    return rows[-1].eval_reward_mean


def check_same_run(job: Job, option: str) -> TrainConfig:
    """Return the config with which the run in the job's folder goes on: `job.config` if it is new.

    Args:
        job: the run that is wanted.
        option: the command's option that names the folder above, for errors.

    Raises:
        ConfigError: if the folder holds another run.
    """
    if not os.path.exists(os.path.join(job.run_dir, "config.yaml")):
        RunFolder.check_new(job.run_dir)
        return job.config
    stored, _ = load_config(os.path.join(job.run_dir, "config.yaml"))
    wanted = {k: v for k, v in job.config.to_dict().items() if v is not None}
    if stored.horizon is not None and job.config.horizon is None:
        wanted.pop("horizon", None)
    try:
        return continued(stored, wanted, job.run_dir)
    except ConfigError as error:
        raise ConfigError(
            f"{option}: its folder holds a run with other settings ({error}); name another folder"
        ) from None
