"""The lengths that an adaptive window may have: W times powers of two, within a range.

Importing this module is cheap: the command line checks its option with it.
"""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["MIN_PAIRS", "check_range", "lengths_in", "range_text"]

MIN_PAIRS = 8
"""Fewer pairs say too little about the error of their own mean."""

_RULE = "must be the shortest and the longest window, two positive integers, such as 10:200"
_MOST = 10**9  # as for every other length


def check_range(value: Any) -> tuple[int, int]:
    """Return `value` as (shortest, longest).

    Raises:
        ValueError: says what it must be, and nothing more.
    """
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(_RULE)
    try:
        shortest, longest = (_length(end) for end in value)
    except TypeError:
        raise ValueError(_RULE) from None
    if not (1 <= shortest <= _MOST and 1 <= longest <= _MOST):
        raise ValueError(_RULE)
    if shortest > longest:
        raise ValueError(f"must begin with the shorter one: {longest}:{shortest}")
    return shortest, longest


def _length(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(int(value) if isinstance(value, float) and value.is_integer() else value)


def range_text(unroll_range: tuple[int, int] | None) -> str:
    """Return the range as the command line writes it, "none" if there is none."""
    return "none" if unroll_range is None else "{}:{}".format(*unroll_range)


def lengths_in(
    unroll_range: tuple[int, int],
    unroll_length: int,
    horizon: int | None,
    noise_period: int | None = None,
) -> tuple[int, ...]:
    """Return the lengths that W may have, ascending: what doubling and exact halving reach.

    Args:
        unroll_range: (shortest, longest).
        unroll_length: W to begin with.
        horizon: T; None if episodes never end.
        noise_period: K; None for the horizon.

    Raises:
        ValueError: says what is wrong with the range, without naming it.
    """
    shortest, longest = unroll_range
    if not shortest <= unroll_length <= longest:
        raise ValueError(f"must contain the {unroll_length} steps of the first window")
    lengths = [unroll_length]
    while lengths[0] % 2 == 0 and lengths[0] // 2 >= shortest:
        lengths.insert(0, lengths[0] // 2)
    while 2 * lengths[-1] <= longest:
        lengths.append(2 * lengths[-1])
    if len(lengths) == 1:
        raise ValueError(
            f"leaves a window of {unroll_length} steps no other length, half or twice as long; "
            "widen it"
        )
    for name, steps in (("episode", horizon), ("noise period", noise_period)):
        if steps is not None and 2 * lengths[-1] > steps:
            raise ValueError(
                f"windows of {lengths[-1]} steps could not be compared, as no two of them fit in "
                f"the {steps} steps of the {name}; give at most {steps // 2}"
            )
    if noise_period is not None and noise_period % lengths[-1]:
        raise ValueError(
            f"the noise period of {noise_period} steps is no multiple of windows of "
            f"{lengths[-1]}; give one that is, or a smaller range"
        )
    return tuple(lengths)
