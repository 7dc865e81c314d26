"""Options that every evolution-strategies estimator takes beside its own, and checks of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TypedDict

import numpy as np

__all__ = ["DEFAULTS", "EstimatorOptions", "is_integer", "positive_integer", "real_number"]


class EstimatorOptions(TypedDict, total=False):
    """Keyword arguments of every estimator; `docs/options.md` explains each.

    Attributes:
        shaping: what a pair's loss difference weighs in the gradient: "none", "std", "ranks",
            "sign", and for whole episodes "returns"; see `es_rl.shaping`.
        top_pairs: b, how many pairs count, the best ones; None for all.
        reward_offset: what is taken off the reward of every step in training, such as the bonus
            for being alive; mean losses are reported with it.
        noise: "gaussian", "fixed-norm", "orthogonal" or "orthogonal-fixed-norm", see
            `es_rl.noise_designs`.
        adapt_sigma: the most that ln σ moves in a window, see `es_rl.sigma_adaptation`; 0 for a
            σ that stays.
        refresh_drift: how far θ may move, in units of σ√d, before a pair's running episode is
            unrolled again from its start, see `es_rl.drift`; 0 for never.
        unroll_range: the shortest and the longest W where it is adapted, in steps, see
            `es_rl.unroll_adaptation`; None for a W that stays. For NRES and GPES.
    """

    shaping: str
    top_pairs: int | None
    reward_offset: float
    noise: str
    adapt_sigma: float
    refresh_drift: float
    unroll_range: Sequence[int] | None


DEFAULTS: EstimatorOptions = {
    "shaping": "none",
    "top_pairs": None,
    "reward_offset": 0.0,
    "noise": "gaussian",
    "adapt_sigma": 0.0,
    "refresh_drift": 0.0,
    "unroll_range": None,
}
"""What each option is where it is not given."""


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise ValueError that names the option."""
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name}={value}: must be a positive integer")
    return int(value)


def real_number(
    name: str, value: object, rule: str, low: float = -math.inf, high: float = math.inf
) -> float:
    """Return `value`, of whatever numeric type, as a float from `low` to `high`.

    Raises:
        ValueError: names the option and says its `rule`, if it is no such finite number.
    """
    if not isinstance(value, (bool, np.bool_)) and isinstance(value, Real):
        number = float(value)
        if math.isfinite(number) and low <= number <= high:
            return number
    raise ValueError(f"{name}={value}: {rule}")


def is_integer(value: object) -> bool:
    """Return whether `value` is a whole number, of whatever numeric type."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, np.integer)) or (isinstance(value, float) and value.is_integer())
