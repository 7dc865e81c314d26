"""Learning rates as functions of the updates, or of the environment steps, made so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["OverSteps", "Schedule", "constant", "cosine", "linear", "parse_schedule", "piecewise"]

Schedule = Callable[[int], float]
"""Maps the number of updates already made to a learning rate; of steps, if it is `OverSteps`."""

_STEPS = "steps"  # ends a number of environment steps in a schedule's text


@dataclass(frozen=True)
class OverSteps:
    """A schedule that is asked with the environment steps so far, not with the updates.

    Where episodes grow while a policy learns, so do the steps of an update, many times over:
    updates then say little about how much of a budget is left.

    Attributes:
        schedule: maps the number of steps to a learning rate.
    """

    schedule: Schedule

    def __call__(self, total_steps: int) -> float:
        """Return the learning rate after `total_steps`."""
        return self.schedule(total_steps)


def constant(value: float) -> Schedule:
    """Return `value` for ever."""
    return lambda count: value


def piecewise(value: float, factors: dict[int, float]) -> Schedule:
    """Return `value` times the factor of the last boundary reached (1 before the first)."""
    boundaries = sorted(factors.items())

    def schedule(count: int) -> float:
        factor = 1.0
        for boundary, candidate in boundaries:
            if count >= boundary:
                factor = candidate
        return value * factor

    return schedule


def linear(value: float, length: int, end_factor: float = 0.0) -> Schedule:
    """Go from `value` to `value * end_factor` in a line until the count is `length`, then stay."""
    return lambda count: value * (1.0 + (end_factor - 1.0) * min(count / length, 1.0))


def cosine(value: float, length: int, end_factor: float = 0.0) -> Schedule:
    """Go from `value` to `value * end_factor` in half a cosine until `length`, then stay."""

    def schedule(count: int) -> float:
        share = 0.5 * (1.0 + math.cos(math.pi * min(count / length, 1.0)))
        return value * (end_factor + (1.0 - end_factor) * share)

    return schedule


def parse_schedule(text: str, learning_rate: float) -> Schedule:
    """Read a schedule as the command line and presets write it.

    Args:
        text: "constant", "piecewise:WHEN=FACTOR,...", "linear:WHEN[:END_FACTOR]" or
            "cosine:WHEN[:END_FACTOR]". WHEN is a number of updates, as in 300, or of environment
            steps, as in 2500000steps; factors multiply `learning_rate`.
        learning_rate: the rate at the start.

    Returns:
        a schedule over updates, or over steps (`OverSteps`).

    Raises:
        ValueError: says what is wrong with `text` or with `learning_rate`.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate={learning_rate}: must be a positive number")
    name, _, rest = text.partition(":")
    problem = ValueError(
        f"lr_schedule={text!r}: write constant, piecewise:WHEN=FACTOR,..., "
        "linear:WHEN[:END_FACTOR] or cosine:WHEN[:END_FACTOR], where WHEN is a number of updates, "
        "as in 300, or of steps, as in 2500000steps"
    )
    try:
        if name == "constant" and not rest:
            return constant(learning_rate)
        if name == "piecewise":
            parts = [item.split("=") for item in rest.split(",")]
            in_steps = {when.endswith(_STEPS) for when, _ in parts}
            factors = {_count(when): _factor(factor) for when, factor in parts}
            if len(factors) < len(parts) or len(in_steps) > 1:
                raise problem
            schedule = piecewise(learning_rate, factors)
        elif name in ("linear", "cosine"):
            when, *end = rest.split(":")
            if len(end) > 1:
                raise problem
            in_steps = {when.endswith(_STEPS)}
            make = linear if name == "linear" else cosine
            schedule = make(learning_rate, _count(when), _factor(end[0]) if end else 0.0)
        else:
            raise problem
    except ValueError:
        raise problem from None
    return OverSteps(schedule) if True in in_steps else schedule


def _count(text: str) -> int:
    """Return the number in 300 or 300steps."""
    number = int(text.removesuffix(_STEPS))
    if number < 1:
        raise ValueError(text)
    return number


def _factor(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value
