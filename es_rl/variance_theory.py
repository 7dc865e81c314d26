"""Closed forms of the estimators' means and total variances, for losses that are quadratic.

They hold exactly, for every σ, where each step's loss is a quadratic function of the parameters
(θ_1, …, θ_t) used at the steps so far, as with linear dynamics and squared losses: Assumption 2
of the main paper. Everything follows from g[t, i] = ∂L_t/∂θ_i, (T, T, d) float64, the gradient
of the loss after step t + 1 to the parameters used at step i + 1 alone, at one common θ; it is
zero for i > t. `InfluenceBalancingTask.step_gradients` gives it.

The total variance is the trace of the covariance. T1 to T8 below are the statements' numbers in
the tests. One pair's window is drawn at random among the n = T/W of an episode unless a function
says otherwise; N independent pairs have an N-th of the variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "episode_variance",
    "full_es_over_nres",
    "full_es_variance",
    "gpes_variance",
    "is_nres_surely_better",
    "mean_gradient",
    "segment_gradients",
    "stratified_variance",
    "tes_variance",
    "truncated_gradients",
    "window_gradients",
]

Floats = NDArray[np.float64]


def mean_gradient(gradients: Floats) -> Floats:
    """T1: the gradient of the mean loss, (1/T) Σ_t g^t, which unbiased estimators have as mean.

    Args:
        gradients: g, (T, T, d).

    Returns:
        (d,) float64.
    """
    result: Floats = gradients.sum(axis=1).mean(axis=0)
    return result


def segment_gradients(gradients: Floats, unroll_length: int, noise_period: int) -> Floats:
    """Return G^k_j: window k's mean gradient to the parameters used under the j-th noise.

    Args:
        gradients: g, (T, T, d).
        unroll_length: W, which must divide T.
        noise_period: K, a multiple of W; more than T is as T.

    Returns:
        (T/W, ⌈T/K⌉, d) float64; zero where the noise is drawn after the window.

    Raises:
        ValueError: names the argument that is out of range.
    """
    horizon, windows = len(gradients), _windows(gradients, unroll_length)
    if noise_period < 1 or noise_period % unroll_length:
        raise ValueError(
            f"noise_period={noise_period}: must be a multiple of unroll_length={unroll_length}"
        )
    means = gradients.reshape(windows, unroll_length, horizon, -1).mean(axis=1)
    parts: Floats = np.add.reduceat(means, np.arange(0, horizon, noise_period), axis=1)
    return parts


def window_gradients(gradients: Floats, unroll_length: int) -> Floats:
    """Return G^k, the gradient of the mean loss over window k: (T/W, d) float64.

    Args are those of `segment_gradients`.
    """
    return segment_gradients(gradients, unroll_length, len(gradients))[:, 0]


def truncated_gradients(gradients: Floats, unroll_length: int) -> Floats:
    """Return each window's gradient that does not look behind its beginning: (T/W, d) float64.

    T8: their mean over the windows is what TES has as mean, and TBPTT computes.

    Args are those of `segment_gradients`.
    """
    starts = range(0, len(gradients), unroll_length)
    _windows(gradients, unroll_length)
    inside = [slice(start, start + unroll_length) for start in starts]
    return np.array([gradients[w, w].sum(axis=(0, 1)) / unroll_length for w in inside])


def gpes_variance(gradients: Floats, unroll_length: int, noise_period: int | None = None) -> float:
    """T2 and T4 (Theorem 5, Corollary 8): total variance of one pair's GPES estimate.

    (d + 2)/n Σ_k ‖G^k‖² - ‖mean gradient‖² + 1/n Σ_k d/2 Σ_{j,j'} ‖G^k_j - G^k_{j'}‖², where j
    and j' run over the noises drawn up to window k.

    Args:
        gradients: g, (T, T, d).
        unroll_length: W, which must divide T.
        noise_period: K, a multiple of W: W for PES; None for T, which is NRES.

    Raises:
        ValueError: names the argument that is out of range.
    """
    squares, _ = _second_moments(gradients, unroll_length, noise_period)
    return float(squares.mean() - np.sum(mean_gradient(gradients) ** 2))


def stratified_variance(
    gradients: Floats, unroll_length: int, noise_period: int | None = None
) -> float:
    """T6 (ours): N times the total variance of the mean of N pairs spread evenly over windows.

    That is the mean over the windows of one pair's variance at a known window; for NRES
    (d + 1)/n Σ_k ‖G^k‖². Args are those of `gpes_variance`.
    """
    squares, means = _second_moments(gradients, unroll_length, noise_period)
    return float((squares - means).mean())


def tes_variance(gradients: Floats, unroll_length: int) -> float:
    """Return the total variance of one pair's TES estimate, (d + 2)/n Σ_k ‖P^k‖² - ‖mean P‖².

    P^k is the window's truncated gradient: each window has a noise of its own and begins at a
    state that was never perturbed, so its estimate is as NRES's with P^k in the place of G^k.
    Args are those of `truncated_gradients`.
    """
    inside = truncated_gradients(gradients, unroll_length)
    squares = (inside.shape[1] + 2) * np.sum(inside**2, axis=1)
    return float(squares.mean() - np.sum(inside.mean(axis=0) ** 2))


def full_es_variance(gradients: Floats) -> float:
    """T5 (Theorem 9): total variance of one pair's FullES estimate, (d + 1) ‖mean gradient‖².

    Args:
        gradients: g, (T, T, d).
    """
    return float((gradients.shape[2] + 1) * np.sum(mean_gradient(gradients) ** 2))


def full_es_over_nres(gradients: Floats, unroll_length: int) -> float:
    """T5 (Theorem 9): variance of FullES over that of NRES at the same number of steps.

    One FullES estimate costs as many steps as n = T/W NRES estimates, whose mean has an n-th of
    the variance of one. Args are those of `segment_gradients`.
    """
    n = _windows(gradients, unroll_length)
    return n * full_es_variance(gradients) / gpes_variance(gradients, unroll_length)


def is_nres_surely_better(gradients: Floats, unroll_length: int) -> bool:
    """Condition (10) of Theorem 9: Σ_k ‖G^k‖² ≤ (d + 1)/(d + 2) ‖Σ_k G^k‖².

    It suffices for `full_es_over_nres` to be at least 1, and is not necessary. Args are those of
    `segment_gradients`.
    """
    windows = window_gradients(gradients, unroll_length)
    d = gradients.shape[2]
    return bool(np.sum(windows**2) <= (d + 1) / (d + 2) * np.sum(windows.sum(axis=0) ** 2))


def episode_variance(gradients: Floats, noise_period: int) -> float:
    """T7 (poster): total variance of the mean of one pair's GPES estimates over a whole episode.

    With p the mean-loss gradients of two noise segments k and l to the parameters under each
    noise, m = min(k, l) and M = max(k, l), the second moment is
    Σ_{k,l} m d Σ_{i≤m} p^m_i · p^M_i + P^m · P^M + P^m · Σ_{i≤m} p^M_i, where P is the sum over
    all noises. It does not depend on W. As the segments grow shorter it falls, then rises.

    Args:
        gradients: g, (T, T, d).
        noise_period: K: W for PES; T or more for NRES, whose mean over an episode is FullES.

    Raises:
        ValueError: if `noise_period` is out of range.
    """
    horizon, d = len(gradients), gradients.shape[2]
    if noise_period < 1:
        raise ValueError(f"noise_period={noise_period}: must be a positive integer")
    starts = np.arange(0, horizon, noise_period)
    parts = np.add.reduceat(np.add.reduceat(gradients, starts, axis=0), starts, axis=1) / horizon
    total = 0.0
    for m in range(1, len(parts) + 1):
        # pairs of segments whose earlier one is m: itself once, each later one twice
        own, later = parts[m - 1], parts[m:].sum(axis=0)
        for other in (own, 2.0 * later):
            early = other[:m]
            whole = own.sum(axis=0)
            total += m * d * np.sum(own[:m] * early)
            total += whole @ (other.sum(axis=0) + early.sum(axis=0))
    return float(total - np.sum(mean_gradient(gradients) ** 2))


def _windows(gradients: Floats, unroll_length: int) -> int:
    """Return n = T/W."""
    horizon = len(gradients)
    if gradients.ndim != 3 or gradients.shape[1] != horizon:
        raise ValueError(f"gradients has shape {gradients.shape}: must be (T, T, d)")
    if unroll_length < 1 or horizon % unroll_length:
        raise ValueError(f"unroll_length={unroll_length}: must divide the {horizon} steps")
    return horizon // unroll_length


def _second_moments(
    gradients: Floats, unroll_length: int, noise_period: int | None
) -> tuple[Floats, Floats]:
    """Return E‖estimate‖² and ‖E estimate‖² of one pair in each window, both (n,)."""
    n, d = _windows(gradients, unroll_length), gradients.shape[2]
    period = len(gradients) if noise_period is None else noise_period
    parts = segment_gradients(gradients, unroll_length, period)
    noises = np.arange(n) * unroll_length // period + 1
    means = np.sum(parts.sum(axis=1) ** 2, axis=1)
    # ½ Σ_{j,j'} ‖G_j - G_j'‖² over m noises is m Σ_j ‖G_j‖² - ‖Σ_j G_j‖²
    fresh = noises * np.sum(parts**2, axis=(1, 2)) - means
    return (d + 2) * means + d * fresh, means
