"""Reads every pair's own estimate out of the library's estimators."""

from __future__ import annotations

import numpy as np


def pair_estimates(estimator, theta):
    """Make one estimate; return each pair's own (N, d), and the GradientEstimate itself.

    The mean over the pairs must be the gradient that the library returns.
    """
    samples, estimate = estimator.estimate_each(theta)
    spread = np.abs(samples).mean(axis=0)
    assert (np.abs(samples.mean(axis=0) - estimate.gradient) <= 1e-11 * spread).all()
    return samples, estimate


def mean_and_error(samples):
    """Mean of independent samples (n, d) and its standard error, both (d,)."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def trace_and_error(samples):
    """Trace of the covariance of independent samples (n, d), and its standard error."""
    squares = np.sum((samples - samples.mean(axis=0)) ** 2, axis=1)
    return squares.sum() / (len(squares) - 1), squares.std() / np.sqrt(len(squares))
