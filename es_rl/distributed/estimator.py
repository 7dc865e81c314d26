"""An estimator whose pairs are spread over workers, any of which may be lost at any time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import sum_nodes
from es_rl.distributed.holder import EstimatorSpec, Message, Reply, versions
from es_rl.distributed.pool import Answer, Failure, Pool
from es_rl.distributed.shares import join_windows, most_shares, split_pairs, split_weights
from es_rl.distributed.states import cut_states, join_states
from es_rl.normalization import Normalizer, Statistics
from es_rl.tasks import State
from es_rl.window import GradientEstimate, Window

__all__ = ["DEFAULT_WORKER_TIMEOUT", "DistributedEstimator", "WorkerLostError"]

_LOGGER = logging.getLogger(__name__)

DEFAULT_WORKER_TIMEOUT = 600.0
"""Seconds for one window."""

_START_SECONDS = 600.0  # importing, compiling and reading data may be slow on a busy machine
_SNAPSHOT_WINDOWS = 10
_MOST_LOSSES = 3


class WorkerLostError(RuntimeError):
    """A worker was lost again and again in one and the same window."""


class _Call(NamedTuple):
    method: str
    arguments: tuple[Any, ...]
    seconds: float | None  # None: however long it takes


class _Snapshot(NamedTuple):
    position: int  # messages that had been followed
    state: State | None  # None: before the first message


class DistributedEstimator:
    """Has the interface and the results of the estimator that `spec` describes, bit for bit.

    The pairs are cut into shares of whole blocks (`es_rl.block_sums`), one a worker. θ goes out
    once a window; back come the losses of the pairs and the gradient's sum over each share, as a
    few nodes of one tree of additions. A worker that is lost, or exceeds `worker_timeout`, is
    replaced: the new one takes up the share's last snapshot and repeats the windows since, which
    gives the same rows, as noise and seeds are functions of their numbers.

    Args:
        spec: how to make the estimator.
        pool: runs the workers; closed with this object.
        n_workers: how many; None for as many as the pool has room for and there are blocks.
        worker_timeout: seconds that a worker may take for one window before it counts as hung;
            None for no limit.
        snapshot_windows: windows between two snapshots of a share.
        on_replacement: is told, in one line, of every worker that is replaced; None to log it.

    Attributes:
        n_pairs: N.
        horizon: T; None if episodes never end.
        unroll_length: W.
        n_workers: how many there are.
        replacements: workers that were replaced so far.
        seconds: (n_workers,) float64, time that the last window took inside each worker.

    Raises:
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        spec: EstimatorSpec,
        pool: Pool,
        *,
        n_workers: int | None = None,
        worker_timeout: float | None = DEFAULT_WORKER_TIMEOUT,
        snapshot_windows: int = _SNAPSHOT_WINDOWS,
        on_replacement: Callable[[str], None] | None = None,
    ) -> None:
        if worker_timeout is not None and not worker_timeout > 0:
            raise ValueError(f"worker_timeout={worker_timeout}: must be a positive number")
        if snapshot_windows < 1:
            raise ValueError(f"snapshot_windows={snapshot_windows}: must be a positive integer")
        # never started: it knows the settings, and how losses become weights
        self._plan = spec.build()
        self.n_pairs, self.horizon = self._plan.n_pairs, self._plan.horizon
        self.unroll_length = self._plan.unroll_length
        if n_workers is None:
            n_workers = min(pool.default_workers(), most_shares(self.n_pairs))
        self._shares = split_pairs(self.n_pairs, n_workers)
        self._plan.hold(*self._shares[0])  # refuses here what the workers would refuse later
        self.n_workers = n_workers
        self._pool = pool
        self._spec = pool.share(spec)
        self._timeout, self._snapshot_windows = worker_timeout, snapshot_windows
        self._on_replacement = on_replacement or _LOGGER.warning
        self._alive: set[int] = set()
        self._places: dict[int, str] = {}
        self._messages: deque[Message] = deque()
        self._forgotten = 0  # messages that no snapshot needs any more
        self._snapshots = [_Snapshot(0, None)] * n_workers
        self._started = False
        self.replacements = 0
        self.seconds = np.zeros(n_workers)

    def __enter__(self) -> DistributedEstimator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; idempotent."""
        self._started = False
        self._alive.clear()
        self._pool.close()
        close = getattr(self._plan.task, "close", None)
        if close is not None:
            close()

    @property
    def normalizer(self) -> Normalizer | None:
        """What today's policy normalises observations with; None if it does not."""
        return self._plan.normalizer

    def reset(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Start afresh, as `Estimator.reset` does."""
        theta = self._plan.check_theta(theta)
        if self._plan.statistics is not None:
            self._plan.statistics = Statistics(self._plan.statistics.mean.size)
        self._forget([_Snapshot(0, None)] * self.n_workers)
        window, replies = self._unroll(True, theta)
        self._keep_snapshots(replies)
        self._started = True
        return window.estimate(np.zeros(self._plan.task.num_params))

    def estimate(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Unroll every pair for one window, as `Estimator.estimate` does.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite; names the pair among all pairs.
            WorkerLostError: if a worker is lost again and again.
            RuntimeError: if `reset` or `load_state_dict` was never called, or not since an error.
        """
        if not self._started:
            raise RuntimeError("call reset(theta) or load_state_dict(state) before estimate(theta)")
        theta = self._plan.check_theta(theta)
        window, replies = self._unroll(False, theta)
        nodes: list[NDArray[np.float64] | None]
        if self._plan.shaping.is_identity:
            nodes = [reply.nodes for reply in replies]
        else:
            weights = self._plan.shaping.weights(window.parts)
            shared = split_weights(self._shares, window, weights)
            answers = self._round({i: ("weigh", (own,)) for i, own in enumerate(shared)})
            nodes = [answers[i] for i in self._workers]
        self._keep_snapshots(replies)
        scale = self._plan.shaping.scale(self._plan.sigma, self._plan.unroll_length)
        runs = [
            (share.n_blocks, own)
            for share, own in zip(self._shares, nodes, strict=True)
            if own is not None
        ]
        return window.estimate(sum_nodes(runs, scale))

    def state_dict(self) -> State:
        """Return everything that continuing needs, as one estimator of all pairs has it."""
        if not self._started:
            raise RuntimeError("call reset(theta) before state_dict()")
        answers = self._round(dict.fromkeys(self._workers, ("state", ())))
        states = [answers[i] for i in self._workers]
        self._forget([_Snapshot(0, state) for state in states])
        joined = join_states(self._shares, states, self._plan.rows_per_worker)
        # the workers know the statistics of the last window's beginning
        return {**joined, **self._plan.observation_state()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where an estimator stood, spread over however many workers, or none.

        Raises:
            ValueError: if the state is of an estimator with other settings.
        """
        self._started = False
        states = cut_states(self._shares, state, self._plan.rows_per_worker)
        self._plan.load_observation_state(state)
        self._forget([_Snapshot(0, own) for own in states])
        self._round({i: ("restore", (own, ())) for i, own in enumerate(states)})
        self._started = True

    def _unroll(self, starts: bool, theta: NDArray[np.float64]) -> tuple[Window, list[Reply]]:
        """Let all workers start, or unroll a window; return that of all pairs, and the replies."""
        statistics = self._plan.statistics
        message = Message(starts, theta, None if statistics is None else statistics.state_dict())
        position = self._forgotten + len(self._messages) + 1
        shared = self._pool.share(message)
        answers = self._round(
            {i: ("unroll", (shared, self._is_snapshot_due(i, position))) for i in self._workers}
        )
        replies: list[Reply] = [answers[i] for i in self._workers]
        self._messages.append(message)
        self.seconds[:] = [reply.seconds for reply in replies]
        window = join_windows(self._shares, [reply.window for reply in replies])
        self._plan.absorb(window)
        return window, replies

    def _keep_snapshots(self, replies: list[Reply]) -> None:
        """Replace earlier snapshots, once nothing of the window is left to be asked for."""
        position = self._forgotten + len(self._messages)
        for i, reply in enumerate(replies):
            if reply.state is not None:
                self._snapshots[i] = _Snapshot(position, reply.state)
        while self._forgotten < min(snapshot.position for snapshot in self._snapshots):
            self._messages.popleft()
            self._forgotten += 1

    @property
    def _workers(self) -> range:
        return range(self.n_workers)

    def _is_snapshot_due(self, worker: int, position: int) -> bool:
        # in turn, so that no window carries all of them
        turn = worker * self._snapshot_windows // self.n_workers
        return (position + turn) % self._snapshot_windows == 0

    def _forget(self, snapshots: list[_Snapshot]) -> None:
        self._snapshots = snapshots
        self._messages.clear()
        self._forgotten = 0

    def _round(self, requests: Mapping[int, tuple[str, tuple[Any, ...]]]) -> dict[int, Any]:
        """Send each worker its (method, arguments); return the answers, whatever is lost meanwhile.

        Raises:
            Exception: what a method raised; of several, that of the first worker.
        """
        try:
            answers, failures = self._carry_out(
                {i: _Call(*request, self._timeout) for i, request in requests.items()}
            )
        except BaseException:
            # workers may be anywhere inside a call
            self._started = False
            self._alive.clear()
            raise
        if failures:
            self._started = False
            raise failures[min(failures)]
        return answers

    def _carry_out(
        self, requests: Mapping[int, _Call]
    ) -> tuple[dict[int, Any], dict[int, Exception]]:
        answers: dict[int, Any] = {}
        failures: dict[int, Exception] = {}
        calls: dict[int, deque[_Call]] = {}
        deadlines: dict[int, float] = {}
        losses = dict.fromkeys(requests, 0)

        def send(worker: int) -> None:
            call = calls[worker][0]
            deadlines[worker] = time.monotonic() + (call.seconds or float("inf"))
            self._pool.submit(worker, call.method, *call.arguments)

        def begin(worker: int) -> None:
            calls[worker] = deque([requests[worker]])
            if worker not in self._alive:
                self._pool.start(worker)
                calls[worker].extendleft(reversed(self._preparation(worker, requests[worker])))
            send(worker)

        def lose(worker: int, reason: str) -> None:
            losses[worker] += 1
            self._alive.discard(worker)
            line = f"worker {worker} ({self._pairs_of(worker)}) was lost: {reason}"
            if losses[worker] > _MOST_LOSSES:
                raise WorkerLostError(
                    f"{line}; it was replaced {_MOST_LOSSES} times in the same window without "
                    "success; the last checkpoint stands"
                )
            self.replacements += 1
            self._on_replacement(f"{line}; it is replaced")
            begin(worker)

        for worker in requests:
            begin(worker)
        while deadlines:
            patience = max(0.0, min(deadlines.values()) - time.monotonic())
            outcomes = self._pool.wait(list(deadlines), patience)
            # what is late is judged by what was there then: dealing with others takes time too
            now = time.monotonic()
            late = [i for i, end in deadlines.items() if end <= now and i not in outcomes]
            for worker, outcome in outcomes.items():
                call = calls[worker].popleft()
                del deadlines[worker]
                if isinstance(outcome, Failure):
                    failures[worker] = outcome.error
                elif not isinstance(outcome, Answer):
                    lose(worker, outcome.reason)
                else:
                    if call.method == "introduce":
                        self._places[worker], theirs = outcome.value
                        self._check_versions(worker, theirs)
                        self._alive.add(worker)
                    if calls[worker]:
                        send(worker)
                    else:
                        answers[worker] = outcome.value
            for worker in late:
                call = calls[worker][0]
                del deadlines[worker]
                lose(worker, f"no answer within {call.seconds:g} s")
        return answers, failures

    def _preparation(self, worker: int, request: _Call) -> list[_Call]:
        """Return the calls that bring a new worker to where the lost one stood."""
        calls = [
            _Call("introduce", (), _START_SECONDS),
            _Call("prepare", (self._spec, self._shares[worker]), _START_SECONDS),
        ]
        if request.method == "restore":
            return calls
        snapshot = self._snapshots[worker]
        messages = list(self._messages)[snapshot.position - self._forgotten :]
        if snapshot.state is not None or messages:
            seconds = None if self._timeout is None else self._timeout * (1 + len(messages))
            calls.append(_Call("restore", (snapshot.state, messages), seconds))
        return calls

    def _check_versions(self, worker: int, theirs: dict[str, str]) -> None:
        for name, ours in versions().items():
            if theirs[name] != ours:
                raise RuntimeError(
                    f"worker {worker} ({self._places[worker]}) has {name} {theirs[name]}, and here "
                    f"is {ours}: results would depend on who computes them; install the same "
                    "versions on every machine"
                )

    def _pairs_of(self, worker: int) -> str:
        held = self._shares[worker].held
        place = self._places.get(worker, "which never answered")
        return f"pairs {held.start} to {held.stop - 1}, {place}"
