"""Learning rates as functions of the update number."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "linear", "parse_schedule", "piecewise"]

Schedule = Callable[[int], float]
"""Maps the number of updates already made to a learning rate."""


def constant(value: float) -> Schedule:
    """Return `value` for ever."""
    return lambda update: value


def piecewise(value: float, factors: dict[int, float]) -> Schedule:
    """Return `value` times the factor of the last boundary reached (1 before the first)."""
    boundaries = sorted(factors.items())

    def schedule(update: int) -> float:
        factor = 1.0
        for boundary, candidate in boundaries:
            if update >= boundary:
                factor = candidate
        return value * factor

    return schedule


def linear(value: float, n_updates: int, end_factor: float = 0.0) -> Schedule:
    """Go from `value` to `value * end_factor` in a line over `n_updates`, then stay."""
    return lambda update: value * (1.0 + (end_factor - 1.0) * min(update / n_updates, 1.0))


def cosine(value: float, n_updates: int, end_factor: float = 0.0) -> Schedule:
    """Go from `value` to `value * end_factor` in half a cosine over `n_updates`, then stay."""

    def schedule(update: int) -> float:
        share = 0.5 * (1.0 + math.cos(math.pi * min(update / n_updates, 1.0)))
        return value * (end_factor + (1.0 - end_factor) * share)

    return schedule


def parse_schedule(text: str, learning_rate: float) -> Schedule:
    """Read a schedule as the command line and presets write it.

    Args:
        text: "constant", "piecewise:UPDATE=FACTOR,...", "linear:UPDATES[:END_FACTOR]" or
            "cosine:UPDATES[:END_FACTOR]"; factors multiply `learning_rate`.
        learning_rate: the rate at the start.

    Raises:
        ValueError: says what is wrong with `text` or with `learning_rate`.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate={learning_rate}: must be a positive number")
    name, _, rest = text.partition(":")
    problem = ValueError(
        f"lr_schedule={text!r}: write constant, piecewise:UPDATE=FACTOR,..., "
        "linear:UPDATES[:END_FACTOR] or cosine:UPDATES[:END_FACTOR]"
    )
    try:
        if name == "constant" and not rest:
            return constant(learning_rate)
        if name == "piecewise":
            parts = [item.split("=") for item in rest.split(",")]
            factors = {int(update): _factor(factor) for update, factor in parts}
            if min(factors) < 1 or len(factors) < len(parts):
                raise problem
            return piecewise(learning_rate, factors)
        if name in ("linear", "cosine"):
            updates, *end = rest.split(":")
            if int(updates) < 1 or len(end) > 1:
                raise problem
            make = linear if name == "linear" else cosine
            return make(learning_rate, int(updates), _factor(end[0]) if end else 0.0)
    except ValueError:
        raise problem from None
    raise problem


def _factor(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value
