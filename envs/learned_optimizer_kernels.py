"""Compiled steps of the learned optimizer, and of Adam on the same inner problem."""

from __future__ import annotations

import math

import numba
import numpy as np

from es_rl.elementary import tanh
from es_rl.envs.dense_kernels import as_matrix, exp32, matmul_add
from es_rl.envs.inner_training import batch_gradient, batch_objective, make_workspace

__all__ = ["DECAYS", "HIDDEN", "N_FEATURES", "TIME_SCALES", "unroll", "unroll_adam"]

DECAYS = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999], np.float32)
TIME_SCALES = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5])
HIDDEN = 32
N_TENSOR_FEATURES = 2 + DECAYS.size  # gradient, parameter, momenta: one value a parameter
N_FEATURES = N_TENSOR_FEATURES + TIME_SCALES.size

_f4 = np.float32
_ZERO, _ONE = _f4(0.0), _f4(1.0)
_STEP, _EPSILON, _TINY = _f4(1e-3), _f4(1e-5), _f4(1e-30)
_LANES = 16
_BLOCK = 128  # inner parameters that go through the optimizer's network together


@numba.njit(error_model="numpy", nogil=True)
def _advance_momenta(gradient, momenta):  # type: ignore[no-untyped-def]
    """m ← decay·m + (1 - decay)·g for each of the momenta (6, P); values near zero become zero."""
    for k in range(momenta.shape[0]):
        decay, share, m = DECAYS[k], _ONE - DECAYS[k], momenta[k]
        for i in range(gradient.size):
            value = decay * m[i] + share * gradient[i]
            # what has decayed to denormal numbers would slow every later step down
            m[i] = _ZERO if abs(value) < _TINY else value


@numba.njit(error_model="numpy", nogil=True)
def _scale(values):  # type: ignore[no-untyped-def]
    """Return 1 / sqrt(1e-5 + the mean square of `values`), summed in 16 lanes."""
    lanes = np.zeros(_LANES, np.float32)
    whole = values.size - values.size % _LANES
    for i in range(0, whole, _LANES):
        part = values[i : i + _LANES]
        for j in range(_LANES):
            lanes[j] += part[j] * part[j]
    for i in range(whole, values.size):
        lanes[i - whole] += values[i] * values[i]
    total = _ZERO
    for j in range(_LANES):
        total += lanes[j]
    return _ONE / np.sqrt(_EPSILON + total / _f4(values.size))


@numba.njit(error_model="numpy", nogil=True)
def _hidden_layer(weights, bias, inputs, outputs):  # type: ignore[no-untyped-def]
    """outputs (n_out, block) = ReLU(weights (n_out, n_in) · inputs (n_in, block) + bias)."""
    for j in range(outputs.shape[0]):
        outputs[j, :] = bias[j]
    matmul_add(weights, inputs, outputs)
    for j in range(outputs.shape[0]):
        row = outputs[j]
        for i in range(row.size):
            row[i] = _ZERO if row[i] < _ZERO else row[i]


@numba.njit(error_model="numpy", nogil=True)
def _update(theta, step, gradient, params, momenta, bounds, buffers):  # type: ignore[no-untyped-def]
    """Move `params` (P,) one step by the optimizer with parameters `theta` (d,) float32.

    The features of time are the same for every inner parameter, so they join the first bias.
    `bounds` (tensors + 1,) parts the parameters into tensors, which are normalised each by itself.
    Lanes of a block beyond the end of its tensor are computed along and not read.
    """
    features, left, right, outputs, first, first_bias, scales = buffers
    n = N_FEATURES * HIDDEN
    weights = as_matrix(theta, HIDDEN, N_FEATURES)
    for j in range(HIDDEN):
        first_bias[j] = theta[n + j]
        for k in range(N_TENSOR_FEATURES):
            first[j, k] = weights[j, k]
    for k in range(TIME_SCALES.size):
        feature = _f4(tanh(step / TIME_SCALES[k] - 1.0))
        for j in range(HIDDEN):
            first_bias[j] += weights[j, N_TENSOR_FEATURES + k] * feature
    n += HIDDEN
    second = as_matrix(theta[n:], HIDDEN, HIDDEN)
    n += HIDDEN * HIDDEN
    second_bias = theta[n : n + HIDDEN]
    n += HIDDEN
    third, third_bias = as_matrix(theta[n:], 2, HIDDEN), theta[n + 2 * HIDDEN :]
    for tensor in range(bounds.size - 1):
        begin, end = bounds[tensor], bounds[tensor + 1]
        scales[0], scales[1] = _scale(gradient[begin:end]), _scale(params[begin:end])
        for k in range(DECAYS.size):
            scales[2 + k] = _scale(momenta[k, begin:end])
        for low in range(begin, end, _BLOCK):
            high = min(low + _BLOCK, end)
            for i in range(high - low):
                features[0, i] = gradient[low + i] * scales[0]
                features[1, i] = params[low + i] * scales[1]
            for k in range(DECAYS.size):
                row, m, scale = features[2 + k], momenta[k, low:high], scales[2 + k]
                for i in range(m.size):
                    row[i] = m[i] * scale
            _hidden_layer(first, first_bias, features, left)
            _hidden_layer(second, second_bias, left, right)
            outputs[0, :] = third_bias[0]
            outputs[1, :] = third_bias[1]
            matmul_add(third, right, outputs)
            for i in range(high - low):
                params[low + i] -= _STEP * outputs[0, i] * exp32(_STEP * outputs[1, i])


@numba.njit(error_model="numpy", nogil=True, cache=True)
def unroll(  # type: ignore[no-untyped-def]
    start, stop, rows, thetas, n_steps, problem, bounds, seeds, params, momenta, clocks, loss_sum,
    taken,
):  # fmt: skip
    """Unroll items `start` to `stop` of `rows`, with `thetas` (B, d) float32.

    See `LearnedOptimizerTask.unroll`; `bounds` is that of `_update`.
    """
    work = make_workspace(problem)
    buffers = (
        np.zeros((N_TENSOR_FEATURES, _BLOCK), np.float32),
        np.empty((HIDDEN, _BLOCK), np.float32),
        np.empty((HIDDEN, _BLOCK), np.float32),
        np.empty((2, _BLOCK), np.float32),
        np.empty((HIDDEN, N_TENSOR_FEATURES), np.float32),
        np.empty(HIDDEN, np.float32),
        np.empty(N_TENSOR_FEATURES, np.float32),
    )
    for item in range(start, stop):
        row = rows[item]
        theta = thetas[item]
        total, count, clock = 0.0, 0, clocks[row]
        while count < n_steps[item] and math.isfinite(total):
            step = clock + count
            batch_gradient(problem, work, params[row], seeds[row], step)
            _advance_momenta(work.gradient, momenta[row])
            _update(theta, step, work.gradient, params[row], momenta[row], bounds, buffers)
            total += batch_objective(problem, work, params[row], seeds[row], step)
            count += 1
        clocks[row] = clock + count
        loss_sum[item], taken[item] = total, count


@numba.njit(error_model="numpy", nogil=True, cache=True)
def unroll_adam(  # type: ignore[no-untyped-def]
    start, stop, rates, n_steps, problem, seeds, params, losses, beta1, beta2, epsilon
):
    """Train the networks `start` to `stop` by Adam; `losses` (B, n_steps) as of `unroll`."""
    work = make_workspace(problem)
    first, second = np.empty(params.shape[1]), np.empty(params.shape[1])
    for item in range(start, stop):
        p = params[item]
        first[:], second[:] = 0.0, 0.0
        fade1, fade2 = 1.0, 1.0
        for step in range(n_steps):
            batch_gradient(problem, work, p, seeds[item], step)
            fade1, fade2 = fade1 * beta1, fade2 * beta2
            for i in range(p.size):
                g = np.float64(work.gradient[i])
                first[i] = beta1 * first[i] + (1.0 - beta1) * g
                second[i] = beta2 * second[i] + (1.0 - beta2) * g * g
                root = np.sqrt(second[i] / (1.0 - fade2)) + epsilon
                p[i] -= _f4(rates[item] * (first[i] / (1.0 - fade1)) / root)
            losses[item, step] = batch_objective(problem, work, p, seeds[item], step)
