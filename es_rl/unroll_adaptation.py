"""Adaptive unroll length: W is halved where successive windows agree, doubled where they cancel.

With G^k the gradient of window k's mean loss, one pair of NRES has the total variance
(d + 1) · mean‖G^k‖² (T6; T4 likewise), and a window costs 2W steps: the variance per step goes with
W · mean‖G^k‖². Two neighbours joined have ‖(G^a + G^b)/2‖² = ½(1 + ρ)‖G‖² on average, with

    ρ = E[G^a·G^b] / ½E[‖G^a‖² + ‖G^b‖²],

so that doubling W multiplies the variance per step by 1 + ρ. Condition (10) of the NRES paper says
of all windows of the episode what ρ > 0 says of two: joined, they would have more. No gradient is
needed to measure ρ: under one noise ε a window's loss difference is D = 2W G·ε, exactly where
losses are quadratic, so E[D_a D_b] = 4W²σ² G^a·G^b, and

    ρ = Σ D_a D_b / ½Σ (D_a² + D_b²)

over pairs that stand in the same noise segment in two successive windows. Noise of the losses is in
D, and so in the variance and in ρ alike. Under the j-th noise of an episode (GPES) the estimate is
D·ξ with ‖ξ‖² about jσ²d, so the sums have the weight j there.

The sums of each pair forget over twenty windows, and the pairs, which are independent, give the
standard error of ρ: with C_i and Q_i the two sums of pair i, and r_i = C_i - ρ·Q_i, its square is
N/(N - 1) Σ r_i² / (Σ Q_i)².

- W is doubled where ρ lies three standard errors below 0.
- W is halved where ρ lies three standard errors above ½. What counts is the ρ' of the half windows.
  Where agreement does not grow with distance, ρ' ≥ ρ/(2 - ρ), here 1/3, so that halving divides
  the variance per step by 4/3 at least, and half windows do not ask to be joined again.
- Between the two it rests, and for twenty windows after a change. Where half windows did ask to be
  joined again, as where losses alternate, the next halving waits twice as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.shaping import Part
from es_rl.tasks import State
from es_rl.unroll_range import MIN_PAIRS, lengths_in, range_text

__all__ = ["Agreement", "UnrollAdaptation"]

_FORGETTING = 0.05
_WAIT = 20  # windows
_SURE = 3.0  # standard errors
_SHORTEN_ABOVE = 0.5


class Agreement(NamedTuple):
    """How far successive windows agree.

    Attributes:
        rho: ρ, -1 to 1; NaN where nothing is known.
        error: its standard error; infinite where nothing is known.
    """

    rho: float
    error: float


class UnrollAdaptation:
    """Chooses W for the windows that begin.

    Args:
        unroll_range: the shortest and the longest W, in steps.
        unroll_length: W to begin with.
        n_pairs: N, at least `MIN_PAIRS`.
        horizon: T; None if episodes never end.
        noise_period: K; None for the horizon.

    Attributes:
        length: W of today, in steps.

    Raises:
        ValueError: if W has no two lengths there, or some that cannot be compared.
    """

    def __init__(
        self,
        unroll_range: tuple[int, int],
        unroll_length: int,
        n_pairs: int,
        horizon: int | None = None,
        noise_period: int | None = None,
    ) -> None:
        try:
            if n_pairs < MIN_PAIRS:
                raise ValueError(f"needs n_pairs of {MIN_PAIRS} at least, has {n_pairs}")
            self._lengths = lengths_in(unroll_range, unroll_length, horizon, noise_period)
        except ValueError as error:
            raise ValueError(f"unroll_range={range_text(unroll_range)}: {error}") from None
        self._first, self._n_pairs = unroll_length, n_pairs
        self.reset()

    def reset(self) -> None:
        """Go back to the W of the beginning."""
        self.length = self._first
        self._patience = _WAIT  # windows before W is halved
        self._has_halved = False  # the last change
        self._forget()

    def _forget(self) -> None:
        self._windows = 0
        self._last = np.full(self._n_pairs, np.nan)  # D of each pair's last window
        self._sums = np.zeros((2, self._n_pairs))  # C: Σ D_a D_b, Q: ½Σ (D_a² + D_b²)

    def choose(self) -> None:
        """Bring W up to date, before a window."""
        if self._windows < _WAIT:
            return
        rho, error = self.agreement()
        if rho + _SURE * error < 0.0 and self.length < self._lengths[-1]:
            # half windows that were wrongly made are not made again so soon
            self._patience *= 2 if self._has_halved else 1
            self._move(2 * self.length, has_halved=False)
        elif (
            rho - _SURE * error > _SHORTEN_ABOVE
            and self.length > self._lengths[0]
            and self._windows >= self._patience
        ):
            self._move(self.length // 2, has_halved=True)

    def _move(self, length: int, *, has_halved: bool) -> None:
        self.length, self._has_halved = length, has_halved
        self._forget()

    def learn(
        self,
        parts: Sequence[Part],
        into_segment: NDArray[np.int64],
        weights: NDArray[np.float64],
    ) -> None:
        """Take in a window of W steps.

        Args:
            parts: of the window.
            into_segment: (N,), steps of each pair since its noise was drawn, after the window.
            weights: (N,) float64, what each D is multiplied by.
        """
        n_parts, d = np.zeros(self._n_pairs, np.int64), np.zeros(self._n_pairs)
        for part in parts:
            n_parts[part.pairs] += 1
            d[part.pairs] += part.differences * weights[part.pairs]
        d[n_parts != 1] = np.nan  # an episode or a noise began inside the window
        a, b = self._last, d
        joined = (into_segment >= 2 * self.length) & np.isfinite(a) & np.isfinite(b)
        a, b = a[joined], b[joined]
        with np.errstate(over="ignore"):
            sums = np.array([a * b, 0.5 * (a**2 + b**2)])
        self._sums *= 1.0 - _FORGETTING
        if np.isfinite(sums).all():
            self._sums[:, joined] += sums
        self._last = d
        self._windows += 1

    def agreement(self) -> Agreement:
        """Return ρ of the windows of today's length, by what is remembered."""
        peak = float(self._sums[1].max())
        if peak == 0.0:
            return Agreement(math.nan, math.inf)
        # squares of the largest are 1; exact sums are the same on all machines
        products, squares = self._sums / peak
        total = math.fsum(squares.tolist())
        rho = math.fsum(products.tolist()) / total
        n = int(np.count_nonzero(squares))
        if n < MIN_PAIRS:
            return Agreement(rho, math.inf)
        rest = math.fsum(((products - rho * squares) ** 2).tolist())
        return Agreement(rho, math.sqrt(n / (n - 1) * rest) / total)

    def state_dict(self) -> State:
        """Return everything that continuing needs."""
        return {
            "length": np.array(self.length),
            "windows": np.array(self._windows),
            "patience": np.array(self._patience),
            "has_halved": np.array(self._has_halved),
            "last": self._last.copy(),
            "sums": self._sums.copy(),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: if something is missing or no W.
        """
        mine = self.state_dict()
        for name, value in mine.items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(
                    f"the state of the estimator lacks {name!r} of the adaptive unroll length"
                )
        if int(state["length"]) not in self._lengths:
            raise ValueError(
                f"unroll_length={state['length']}: the state's window is none of "
                f"{', '.join(map(str, self._lengths))}"
            )
        self.length = int(state["length"])
        self._windows, self._patience = int(state["windows"]), int(state["patience"])
        self._has_halved = bool(state["has_halved"])
        self._last = np.array(state["last"], np.float64)
        self._sums = np.array(state["sums"], np.float64)
