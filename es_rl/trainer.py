"""The only owner of θ: estimator → gradient → optimiser, with exact counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from es_rl.normalization import Normalizer
from es_rl.optimizers import Optimizer
from es_rl.tasks import State, state_array, state_part
from es_rl.window import GradientEstimate

__all__ = ["GradientSource", "Trainer", "UpdateRecord"]

_COUNTERS = ("updates", "sequential_steps", "total_steps", "episodes")


class UpdateRecord(NamedTuple):
    """What one update did; the counts are those of the whole run so far.

    Attributes:
        update: updates made, this one included.
        sequential_steps: steps that had to happen one after another.
        total_steps: environment steps really executed.
        mean_loss: mean loss per step of the perturbed rows in this window.
        gradient_norm: Euclidean norm of the gradient estimate.
        episodes: episodes (of pairs) that ended.
    """

    update: int
    sequential_steps: int
    total_steps: int
    mean_loss: float
    gradient_norm: float
    episodes: int


class GradientSource(Protocol):
    """What a trainer asks of an estimator; `es_rl.workers.Estimator` says what each means."""

    @property
    def normalizer(self) -> Normalizer | None:
        """What today's policy normalises observations with; None if it does not."""

    def reset(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Start afresh, with θ (d,); the gradient of the result is zero."""

    def estimate(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Unroll one window under θ (d,)."""

    def state_dict(self) -> State:
        """Return everything that continuing needs."""

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the estimator stood that gave `state`."""


def _nothing(total_steps: int) -> None:
    """Leave everything as it is."""


Callback = Callable[["Trainer", UpdateRecord], "bool | None"]


class Trainer:
    """Trains θ with one estimator and one optimiser.

    Args:
        estimator: gives the gradients.
        optimizer: applies them.
        theta: (d,) float64, where to start; copied.

    Attributes:
        theta: (d,) float64, today's parameters.
        updates: updates made.
        sequential_steps: steps that had to happen one after another, the start included.
        total_steps: environment steps really executed, the start included.
        episodes: episodes (of pairs) that ended.
        before_update: called with the total steps so far before every update: for what a
            run changes under way. It must depend on them alone, so that a run that was
            interrupted goes on alike.
    """

    def __init__(
        self, estimator: GradientSource, optimizer: Optimizer, theta: NDArray[np.float64]
    ) -> None:
        self.estimator, self.optimizer = estimator, optimizer
        self.theta = np.array(theta, np.float64)
        self.updates = self.sequential_steps = self.total_steps = self.episodes = 0
        self.before_update: Callable[[int], None] = _nothing
        self._started = False

    def start(self) -> None:
        """Make the step-unlocked start, and charge it; nothing if training has begun already."""
        if self._started:
            return
        cost = self.estimator.reset(self.theta)
        self._started = True
        self._charge(cost.sequential_steps, cost.total_steps, cost.episodes)

    def _charge(self, sequential_steps: int, total_steps: int, episodes: int) -> None:
        self.sequential_steps += sequential_steps
        self.total_steps += total_steps
        self.optimizer.total_steps += total_steps
        self.episodes += episodes

    def update(self) -> UpdateRecord:
        """Make one update.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite; θ and the optimiser are then as
                before the update.
            FloatingPointError: if the step would make θ or the optimiser's state non-finite;
                both are then as before.
        """
        self.start()
        self.before_update(self.total_steps)
        estimate = self.estimator.estimate(self.theta)
        theta = self.theta.copy()
        self.optimizer.step(theta, estimate.gradient)
        self.theta = theta
        self.updates += 1
        self._charge(estimate.sequential_steps, estimate.total_steps, estimate.episodes)
        return UpdateRecord(
            update=self.updates,
            sequential_steps=self.sequential_steps,
            total_steps=self.total_steps,
            mean_loss=estimate.mean_loss,
            gradient_norm=float(np.sqrt(np.sum(estimate.gradient**2))),
            episodes=self.episodes,
        )

    def run(
        self,
        *,
        updates: int | None = None,
        total_steps: int | None = None,
        sequential_steps: int | None = None,
        max_time: float | None = None,
        callback: Callback | None = None,
    ) -> str:
        """Train until the first update that reaches a budget.

        Args:
            updates: stop at this many updates of the whole run, not of this call.
            total_steps: stop at this many environment steps.
            sequential_steps: stop at this many sequential steps.
            max_time: stop after this many seconds of this call.
            callback: called after every update; False stops.

        Returns:
            the name of the argument that ended it.

        Raises:
            ValueError: if no budget and no callback is given.
        """
        budgets = {
            "updates": updates,
            "total_steps": total_steps,
            "sequential_steps": sequential_steps,
        }
        if (
            max_time is None
            and callback is None
            and not any(v is not None for v in budgets.values())
        ):
            raise ValueError(
                "give at least one of updates, total_steps, sequential_steps, max_time"
            )
        begin = time.monotonic()

        def reached() -> str | None:
            for name, limit in budgets.items():
                if limit is not None and getattr(self, name) >= limit:
                    return name
            if max_time is not None and time.monotonic() - begin >= max_time:
                return "max_time"
            return None

        self.start()
        while (reason := reached()) is None:
            record = self.update()
            verdict = callback(self, record) if callback is not None else None
            # not `is False`: a comparison of arrays gives NumPy's own false
            if verdict is not None and not verdict:
                return "callback"
        return reason

    def state_dict(self) -> State:
        """Return everything that continuing needs, as named arrays of plain dtypes."""
        self.start()
        counters = np.array([getattr(self, name) for name in _COUNTERS], np.int64)
        return {"counters": counters, **self._parts_state()}

    def _parts_state(self) -> State:
        """Return the state without the counters."""
        state: State = {"theta": self.theta.copy()}
        for part in ("optimizer", "estimator"):
            for name, value in getattr(self, part).state_dict().items():
                state[f"{part}/{name}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the trainer stood that gave `state`, in mid-episode too.

        Raises:
            ValueError: if the state is of a trainer with other settings.
        """
        missing = {"theta", "counters"} - set(state)
        if missing:
            raise ValueError(f"the training state lacks {', '.join(sorted(missing))}")
        counters = state_array(state, "counters", np.zeros(len(_COUNTERS), np.int64))
        self._load_parts(state)
        for name, value in zip(_COUNTERS, counters, strict=True):
            setattr(self, name, int(value))

    def _load_parts(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take everything but the counters from `state`."""
        if state["theta"].shape != self.theta.shape:
            raise ValueError(
                f"the training state has {state['theta'].size} parameters, here are "
                f"{self.theta.size}"
            )
        theta = state_array(state, "theta", self.theta)
        for part in ("optimizer", "estimator"):
            getattr(self, part).load_state_dict(state_part(state, f"{part}/"))
        self.theta = theta.copy()
        self._started = True
