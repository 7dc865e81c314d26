"""First-order optimisers on one flat parameter vector; all of them minimise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.schedules import OverSteps, Schedule, constant
from es_rl.tasks import State, state_array

__all__ = ["OPTIMIZERS", "SGD", "Adam", "ClipUp", "Momentum", "Optimizer", "make_optimizer"]

_COUNTERS = ("updates", "total_steps")


class Optimizer:
    """Turns gradients into new parameters.

    Args:
        num_params: d.
        learning_rate: α, a positive number, or a schedule of them.
        weight_decay: λ. Before each step θ ← (1 - α·λ)·θ, apart from the gradient and what the
            optimiser makes of it (Loshchilov and Hutter 2019, Algorithms 1 and 2, with λ in units
            of 1/α as in PyTorch).

    Attributes:
        updates: updates made so far; the schedule is asked with this number.
        total_steps: environment steps so far, which whoever has them made counts here; a schedule
            that is `OverSteps` is asked with this number.
    """

    slots: tuple[str, ...] = ()
    """Names of the (d,) float64 arrays that the optimiser carries from update to update."""

    def __init__(
        self, num_params: int, learning_rate: float | Schedule, *, weight_decay: float = 0.0
    ) -> None:
        if not callable(learning_rate):
            learning_rate = constant(_positive("learning_rate", learning_rate))
        self.schedule: Schedule = learning_rate
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ValueError(f"weight_decay={weight_decay}: must be a number of at least 0")
        if weight_decay and weight_decay * (rate := self.schedule(0)) >= 1:
            raise ValueError(
                f"weight_decay={weight_decay}: with a learning rate of {rate:g} must be below "
                f"{1 / rate:g}, where no parameter outlives an update"
            )
        self.weight_decay = weight_decay
        self.updates = self.total_steps = 0
        self._slots = {name: np.zeros(num_params) for name in self.slots}

    def step(self, theta: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
        """Change `theta` (d,) in place, one step against `gradient` (d,).

        Raises:
            FloatingPointError: if the step would make θ, or what the optimiser carries to the
                next one, NaN or infinite; both are then as before.
        """
        before = {name: value.copy() for name, value in self._slots.items()}
        moved = theta.copy()
        rate = self.schedule(
            self.total_steps if isinstance(self.schedule, OverSteps) else self.updates
        )
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            if self.weight_decay:
                moved *= 1.0 - rate * self.weight_decay
            self._apply(moved, gradient, rate)
        if not all(np.isfinite(values).all() for values in (moved, *self._slots.values())):
            for name, value in before.items():
                self._slots[name][:] = value
            raise FloatingPointError(
                f"update {self.updates + 1} would make parameters NaN or infinite; "
                "lower --learning-rate"
            )
        theta[:] = moved
        self.updates += 1

    def _apply(
        self, theta: NDArray[np.float64], gradient: NDArray[np.float64], rate: float
    ) -> None:
        raise NotImplementedError

    def state_dict(self) -> State:
        """Return everything that continuing needs."""
        state: State = {name: value.copy() for name, value in self._slots.items()}
        for name in _COUNTERS:
            state[name] = np.array(getattr(self, name), np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the optimiser stood that gave `state`.

        Raises:
            ValueError: if the state is of another optimiser or number of parameters.
        """
        if set(state) != (names := {*self.slots, *_COUNTERS}):
            raise ValueError(
                f"the state of the optimiser has {sorted(state)}, {type(self).__name__} needs "
                f"{sorted(names)}"
            )
        values = {name: state_array(state, name, target) for name, target in self._slots.items()}
        counts = [int(state_array(state, name, np.zeros((), np.int64))) for name in _COUNTERS]
        self.updates, self.total_steps = counts
        for name, value in values.items():
            self._slots[name][:] = value


class SGD(Optimizer):
    """θ ← θ - α·g."""

    def _apply(
        self, theta: NDArray[np.float64], gradient: NDArray[np.float64], rate: float
    ) -> None:
        theta -= rate * gradient


class Momentum(Optimizer):
    """Heavy-ball momentum (Polyak 1964): v ← μ·v + g, θ ← θ - α·v."""

    slots = ("velocity",)

    def __init__(
        self,
        num_params: int,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_params, learning_rate, weight_decay=weight_decay)
        self.momentum = _fraction("momentum", momentum)

    def _apply(
        self, theta: NDArray[np.float64], gradient: NDArray[np.float64], rate: float
    ) -> None:
        velocity = self._slots["velocity"]
        velocity *= self.momentum
        velocity += gradient
        theta -= rate * velocity


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1), bias corrected."""

    slots = ("first_moment", "second_moment")

    def __init__(
        self,
        num_params: int,
        learning_rate: float | Schedule,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_params, learning_rate, weight_decay=weight_decay)
        self.beta1, self.beta2 = _fraction("beta1", beta1), _fraction("beta2", beta2)
        self.epsilon = _positive("epsilon", epsilon)

    def _apply(
        self, theta: NDArray[np.float64], gradient: NDArray[np.float64], rate: float
    ) -> None:
        first, second = self._slots["first_moment"], self._slots["second_moment"]
        first *= self.beta1
        first += (1.0 - self.beta1) * gradient
        second *= self.beta2
        second += (1.0 - self.beta2) * gradient**2
        count = self.updates + 1
        first_unbiased = first / (1.0 - self.beta1**count)
        second_unbiased = second / (1.0 - self.beta2**count)
        theta -= rate * first_unbiased / (np.sqrt(second_unbiased) + self.epsilon)


class ClipUp(Optimizer):
    """ClipUp (Toklu et al. 2020): momentum on normalised gradients, with a bounded velocity.

    v ← clip(μ·v + α·g/‖g‖, max_speed), θ ← θ - v. Only the direction of the gradient counts, so
    the scale of the rewards does not. `max_speed` defaults to twice the learning rate.
    """

    slots = ("velocity",)

    def __init__(
        self,
        num_params: int,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.9,
        max_speed: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_params, learning_rate, weight_decay=weight_decay)
        self.momentum = _fraction("momentum", momentum)
        self.max_speed = _positive(
            "max_speed", 2.0 * self.schedule(0) if max_speed is None else max_speed
        )

    def _apply(
        self, theta: NDArray[np.float64], gradient: NDArray[np.float64], rate: float
    ) -> None:
        velocity = self._slots["velocity"]
        norm = _norm(gradient)
        velocity *= self.momentum
        if norm != 0.0:
            velocity += rate * (gradient / norm)
        speed = _norm(velocity)
        if speed > self.max_speed:
            velocity *= self.max_speed / speed
        theta -= velocity


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adam": Adam,
    "clipup": ClipUp,
}
"""Optimisers by the names that the command line uses."""


def make_optimizer(
    name: str, num_params: int, learning_rate: float | Schedule, **options: float
) -> Optimizer:
    """Make the optimiser called `name`.

    Raises:
        ValueError: if there is none of that name, or an option is out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer={name!r}: choose one of {', '.join(OPTIMIZERS)}")
    if "momentum" in options and not issubclass(OPTIMIZERS[name], (Momentum, ClipUp)):
        raise ValueError(
            f"momentum={options['momentum']}: {name} has none, only momentum and clipup do; "
            "leave it out"
        )
    return OPTIMIZERS[name](num_params, learning_rate, **options)


def _norm(vector: NDArray[np.float64]) -> float:
    """Return the Euclidean norm; the squares neither overflow nor vanish."""
    peak = float(np.max(np.abs(vector)))
    return peak and peak * float(np.sqrt(np.sum((vector / peak) ** 2)))


def _fraction(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}={value}: must be at least 0 and below 1")
    return value


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value}: must be a positive number")
    return value
