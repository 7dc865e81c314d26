"""How far θ has moved since the states that a window starts from were computed.

A pair's window starts from states that its episode reached under earlier θs. The drift of a pair is
the length of the path that θ has taken since the pair's episode began, or was last unrolled again
from its start: the sum of ‖θ_k - θ_(k-1)‖ over the windows since. It bounds the distance from
today's θ of every θ that had a part in the pair's states. Its unit is σ√d, the root mean square
length of a noise, so that 1 says: θ has moved as far as its own perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.tasks import State, state_array

__all__ = ["PATH", "Drift"]

PATH, _THETA = "drift", "drift_theta"
"""Of a state: the paths, one for each pair, and θ of the last window."""


class Drift:
    """The paths of θ since each pair's states were computed.

    Args:
        limit: the drift, in units of σ√d, beyond which states are out of date.
        n_pairs: N.
        num_params: d.
    """

    def __init__(self, limit: float, n_pairs: int, num_params: int) -> None:
        self._limit = limit * math.sqrt(num_params)
        self._path = np.zeros(n_pairs)
        self._theta = np.zeros(num_params)

    def begin(self, theta: NDArray[np.float64]) -> None:
        """Start from θ (d,), with no way behind any pair."""
        self._theta[:] = theta
        self._path[:] = 0.0

    def move(self, theta: NDArray[np.float64]) -> None:
        """Lengthen all paths by the step to today's θ (d,)."""
        # an exact sum: whether a pair is out of date must not depend on the machine
        self._path += math.sqrt(math.fsum(((theta - self._theta) ** 2).tolist()))
        self._theta[:] = theta

    def restart(self, pairs: NDArray[np.int64]) -> None:
        """Forget the way behind `pairs` (B,), which start their episodes under today's θ."""
        self._path[pairs] = 0.0

    def exceeds(self, sigmas: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which pairs' states are out of date, (N,) bool, for pairs' σ (N,)."""
        exceeding: NDArray[np.bool_] = self._path > self._limit * sigmas
        return exceeding

    def state_dict(self) -> State:
        """Return everything that continuing needs."""
        return {PATH: self._path.copy(), _THETA: self._theta.copy()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state_dict` returned, in a state that holds more.

        Raises:
            ValueError: if something is missing, of another shape, or no path.
        """
        for name, target in ((PATH, self._path), (_THETA, self._theta)):
            if name not in state:
                raise ValueError(f"the state of the estimator lacks {name!r}")
            target[:] = state_array(state, name, target)
        if (self._path < 0.0).any():
            raise ValueError(f"{PATH!r} of a saved state: has negative entries")
