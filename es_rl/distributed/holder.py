"""What runs inside one worker: an estimator of its share's pairs, driven by messages."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.distributed.shares import Share
from es_rl.estimators import ESTIMATORS, Estimator
from es_rl.tasks import State, UnrolledTask
from es_rl.window import Window

__all__ = ["EstimatorSpec", "Message", "Reply", "ShareHolder", "versions"]

_BITS_DEPEND_ON = ("es_rl", "numpy", "numba", "mujoco", "gymnasium")


@dataclass(frozen=True)
class EstimatorSpec:
    """How to make the estimator, in any process.

    Attributes:
        algorithm: its name in `es_rl.estimators.ESTIMATORS`.
        make_task: returns a new task; it is sent to the workers, so it must be picklable, by
            cloudpickle at least: a function of a module that the workers can import too, a
            `functools.partial` of one, or a lambda.
        options: keyword arguments of the estimator.
    """

    algorithm: str
    make_task: Callable[[], UnrolledTask]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algorithm not in ESTIMATORS:
            raise ValueError(f"algorithm={self.algorithm!r}: choose one of {', '.join(ESTIMATORS)}")

    def build(self) -> Estimator:
        """Return a new estimator of all pairs, on a task of its own.

        Raises:
            ValueError: names the option that is out of range.
        """
        return ESTIMATORS[self.algorithm](self.make_task(), **self.options)


class Message(NamedTuple):
    """What every worker is told of a window, and needs to repeat it.

    Attributes:
        starts: whether it is the step-unlocked start, not a window.
        theta: (d,) float64.
        statistics: of all observations before the window; None if they are not normalised.
    """

    starts: bool
    theta: NDArray[np.float64]
    statistics: State | None = None


class Reply(NamedTuple):
    """What one worker says of a window.

    Attributes:
        window: of its own pairs, numbered from 0.
        nodes: (n_nodes, d) float64, its part of the gradient's sum; None where the weights of the
            pairs depend on those of others, or there is no gradient.
        state: of its estimator after the window, if asked for.
        seconds: that the window took it.
    """

    window: Window
    nodes: NDArray[np.float64] | None
    state: State | None
    seconds: float


class ShareHolder:
    """Holds one share's rows, noise and accumulated noise."""

    def __init__(self) -> None:
        self._estimator: Estimator | None = None

    def introduce(self) -> tuple[str, dict[str, str]]:
        """Return where this is, and the versions of what results depend on."""
        return f"{socket.gethostname()}, process {os.getpid()}", versions()

    def prepare(self, spec: EstimatorSpec, share: Share) -> None:
        """Make the estimator of the pairs to hold."""
        self._share = share
        self._estimator = spec.build()
        self._estimator.hold(*share)

    def unroll(self, message: Message, wants_state: bool) -> Reply:
        """Make the start, or one window."""
        begin = time.perf_counter()
        estimator = self._ready()
        window = self._follow(message)
        nodes = None
        if not message.starts and estimator.shaping.is_identity:
            nodes = estimator.gradient_nodes()
        state = estimator.state_dict() if wants_state else None
        return Reply(window, nodes, state, time.perf_counter() - begin)

    def weigh(self, weights: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the nodes (n_nodes, d) of the last window, given the weights of its parts."""
        # arrays of a message are read-only, which would compile every kernel a second time
        return self._ready().gradient_nodes([np.array(weight) for weight in weights])

    def restore(self, state: State | None, messages: Sequence[Message]) -> None:
        """Go back to `state` (None: nothing has happened), and repeat what `messages` brought."""
        if state is not None:
            self._ready().load_state_dict(state)
        for message in messages:
            self._follow(message)

    def state(self) -> State:
        """Return the state of the share."""
        return self._ready().state_dict()

    def close(self) -> None:
        """Let go of the task."""
        close = getattr(self._estimator and self._estimator.task, "close", None)
        if close is not None:
            close()
        self._estimator = None

    def _ready(self) -> Estimator:
        if self._estimator is None:
            raise RuntimeError("the worker was not prepared")
        return self._estimator

    def _follow(self, message: Message) -> Window:
        from es_rl.envs.faults import EnvironmentFaultError

        estimator, theta = self._ready(), np.array(message.theta)
        if message.statistics is not None and estimator.statistics is not None:
            estimator.statistics.load_state_dict(message.statistics)
        try:
            return estimator.start(theta) if message.starts else estimator.unroll_window(theta)
        except EnvironmentFaultError as error:
            if error.row < 0:
                raise
            rows = self._share.rows(estimator.n_pairs, estimator.rows_per_worker)
            raise type(error)(
                error.environment,
                error.phase,
                int(rows[error.row]),
                error.step,
                error.reason,
                error.details,
            ) from None


def versions() -> dict[str, str]:
    """Return the versions of everything here that the bits of a result depend on."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "machine": platform.machine()}
    for name in _BITS_DEPEND_ON:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
