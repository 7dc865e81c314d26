"""What an environment returned, checked: the same in training and in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.observations import REAL_KINDS

__all__ = ["check_finite", "real_reward"]


def real_reward(reward: Any) -> float:
    """Return a reward as a float; it may be NaN or infinite, which whoever sums rewards refuses.

    Raises:
        TypeError: if it is not one real number.
    """
    if isinstance(reward, (float, int, np.floating, np.integer, np.bool_)):
        return float(reward)
    shape = getattr(reward, "shape", None)
    if shape == ():
        # float() would take text for the number it spells, and leave out a part of a complex one
        array = np.asarray(reward)
        if array.dtype.kind in REAL_KINDS:
            return float(array)
    what = type(reward).__name__ + ("" if shape is None else f" of shape {shape}")
    dtype = getattr(reward, "dtype", None)
    if shape == () and dtype is not None:
        what = f"{type(reward).__name__} of dtype {dtype}"
    raise TypeError(f"the reward is a {what}, and must be one real number")


def check_finite(observation: NDArray[np.float64]) -> None:
    """Raise ValueError if a flattened observation has NaN or infinite entries."""
    if not np.isfinite(observation).all():
        raise ValueError("the observation has NaN or infinite entries")
