"""Single-precision kernels for small dense networks: forward, backward, loss.

Sums run in one fixed order, and only operations that IEEE 754 rounds exactly are used: the same
bits on every machine and for any number of threads. Loops run over contiguous outputs, so that
they vectorise without reordering a sum.

A network's parameters are one flat vector: for each layer its weights (n_in, n_out) row by row,
then its biases. Coefficients of `exp32` are those of Cephes' expf, of `tanh32` those of the
rational approximation in Eigen; both are good to a few units in the last place.
"""

from __future__ import annotations

import numba
import numpy as np

from es_rl.elementary import log

__all__ = [
    "accuracy",
    "as_matrix",
    "cross_entropy",
    "exp32",
    "matmul_add",
    "network_backward",
    "network_forward",
    "parameter_count",
    "tanh32",
]

_f4 = np.float32
_ONE, _HALF, _ZERO = _f4(1.0), _f4(0.5), _f4(0.0)
_ROUND = _f4(12582912.0)  # 1.5 * 2**23: adding it rounds a float to an integer
_LOG2E = _f4(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _f4(0.693359375), _f4(-2.12194440e-4)
_EXP_MAX, _EXP_MIN = _f4(88.0), _f4(-87.0)
_E0, _E1, _E2 = _f4(1.9875691500e-4), _f4(1.3981999507e-3), _f4(8.3334519073e-3)
_E3, _E4, _E5 = _f4(4.1665795894e-2), _f4(1.6666665459e-1), _f4(5.0000001201e-1)
_TANH_MAX = _f4(7.90531110763549805)
_A1, _A3, _A5 = _f4(4.89352455891786e-03), _f4(6.37261928875436e-04), _f4(1.48572235717979e-05)
_A7, _A9, _A11 = _f4(5.12229709037114e-08), _f4(-8.60467152213735e-11), _f4(2.00018790482477e-13)
_A13 = _f4(-2.76076847742355e-16)
_B0, _B2, _B4 = _f4(4.89352518554385e-03), _f4(2.26843463243900e-03), _f4(1.18534705686654e-04)
_B6 = _f4(1.19825839466702e-06)
_GELU_SCALE, _GELU_CUBE = _f4(0.7978845608028654), _f4(0.044715)
_GELU_CUBE_3 = _f4(3.0 * 0.044715)


@numba.njit(error_model="numpy")
def exp32(x):  # type: ignore[no-untyped-def]
    """Return e**x of a float32 below 88; it never falls below 1e-38, and NaN stays NaN."""
    bounded = _EXP_MIN if x < _EXP_MIN else x
    bounded = _EXP_MAX if bounded > _EXP_MAX else bounded
    shifted = bounded * _LOG2E + _ROUND
    k = shifted - _ROUND
    r = (bounded - k * _LN2_HIGH) - k * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    # the low bits of the shifted number are k plus a constant that the shift drives out
    power = np.int32((_f4(shifted).view(np.int32) << np.int32(23)) + np.int32(0x3F800000))
    return (p * (r * r) + r + _ONE) * power.view(np.float32)


@numba.njit(error_model="numpy")
def tanh32(x):  # type: ignore[no-untyped-def]
    """Return the hyperbolic tangent of a float32; NaN stays NaN."""
    bounded = -_TANH_MAX if x < -_TANH_MAX else x
    bounded = _TANH_MAX if bounded > _TANH_MAX else bounded
    z = bounded * bounded
    p = ((((((_A13 * z + _A11) * z + _A9) * z + _A7) * z + _A5) * z + _A3) * z + _A1) * bounded
    return p / (((_B6 * z + _B4) * z + _B2) * z + _B0)


@numba.njit(error_model="numpy", nogil=True)
def matmul_add(a, b, c):  # type: ignore[no-untyped-def]
    """Add a (m, k) times b (k, n) to c (m, n); rows of b and c are contiguous.

    Each element of c is summed in the order of k. Two rows of c and four of b at a time: a load
    of b serves twice, a store of c four times.
    """
    m, size, n = a.shape[0], a.shape[1], b.shape[1]
    whole = size - size % 4
    for i in range(0, m - 1, 2):
        c0, c1 = c[i], c[i + 1]
        for k in range(0, whole, 4):
            p0, p1, p2, p3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            q0, q1, q2, q3 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            for j in range(n):
                w0, w1, w2, w3 = b0[j], b1[j], b2[j], b3[j]
                c0[j] = (((c0[j] + p0 * w0) + p1 * w1) + p2 * w2) + p3 * w3
                c1[j] = (((c1[j] + q0 * w0) + q1 * w1) + q2 * w2) + q3 * w3
        for k in range(whole, size):
            p0, q0, b0 = a[i, k], a[i + 1, k], b[k]
            for j in range(n):
                c0[j] += p0 * b0[j]
                c1[j] += q0 * b0[j]
    if m % 2 == 1:
        c0 = c[m - 1]
        for k in range(size):
            p0, b0 = a[m - 1, k], b[k]
            for j in range(n):
                c0[j] += p0 * b0[j]


@numba.njit(error_model="numpy", nogil=True)
def as_matrix(flat, n_rows, n_columns):  # type: ignore[no-untyped-def]
    """Return the beginning of `flat` as a view (n_rows, n_columns)."""
    return flat[: n_rows * n_columns].reshape((n_rows, n_columns))


@numba.njit(error_model="numpy", nogil=True)
def parameter_count(sizes):  # type: ignore[no-untyped-def]
    """Return the number of parameters of a network with these layer sizes."""
    count = 0
    for layer in range(sizes.size - 1):
        count += (sizes[layer] + 1) * sizes[layer + 1]
    return count


@numba.njit(error_model="numpy", nogil=True)
def _gelu(values, slopes):  # type: ignore[no-untyped-def]
    """Apply GELU (its tanh form) to `values` (n,) in place; write its derivative to `slopes`."""
    for i in range(values.size):
        x = values[i]
        square = x * x
        t = tanh32(_GELU_SCALE * (x + _GELU_CUBE * square * x))
        half = _HALF * (_ONE + t)
        inner = _GELU_SCALE * (_ONE + _GELU_CUBE_3 * square)
        slopes[i] = half + _HALF * x * (_ONE - t * t) * inner
        values[i] = x * half


@numba.njit(error_model="numpy", nogil=True)
def _relu(values, slopes):  # type: ignore[no-untyped-def]
    """Apply ReLU to `values` (n,) in place; write its derivative to `slopes`. NaN stays NaN."""
    for i in range(values.size):
        x = values[i]
        slopes[i] = _ONE if x > _ZERO else _ZERO
        values[i] = _ZERO if x < _ZERO else x


@numba.njit(error_model="numpy", nogil=True)
def network_forward(params, sizes, gelu, inputs, outputs, slopes):  # type: ignore[no-untyped-def]
    """Run a batch through a network; hidden layers are GELU or ReLU, the last one is linear.

    Args:
        params: flat parameters.
        sizes: (L + 1,) int64, layer sizes, that of the input first.
        gelu: True for GELU, False for ReLU.
        inputs: (batch, sizes[0]).
        outputs: (batch * sum(sizes[1:]),), overwritten: each layer's outputs (batch, n_out).
        slopes: of the same size, overwritten: the hidden units' derivatives.

    Returns:
        the view of `outputs` that holds the last layer, (batch, sizes[-1]).
    """
    batch, source = inputs.shape[0], inputs
    w, begin = 0, 0
    for layer in range(sizes.size - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        weights = as_matrix(params[w:], n_in, n_out)
        bias = params[w + n_in * n_out : w + (n_in + 1) * n_out]
        flat = outputs[begin : begin + batch * n_out]
        target = as_matrix(flat, batch, n_out)
        # element by element: a slice assignment takes seconds to compile
        for i in range(batch):
            for j in range(n_out):
                target[i, j] = bias[j]
        matmul_add(source, weights, target)
        if layer < sizes.size - 2:
            if gelu:
                _gelu(flat, slopes[begin : begin + batch * n_out])
            else:
                _relu(flat, slopes[begin : begin + batch * n_out])
        source = target
        w += (n_in + 1) * n_out
        begin += batch * n_out
    return source


@numba.njit(error_model="numpy", nogil=True)
def network_backward(  # type: ignore[no-untyped-def]
    params, sizes, inputs, outputs, slopes, delta, scratch, transposed, gradient
):
    """Fill in the gradient by a network's parameters after `network_forward`.

    Args:
        params, sizes, inputs, outputs, slopes: as there.
        delta: the loss by the last layer's outputs in its first batch * sizes[-1] elements, flat;
            overwritten. Its size, and that of `scratch`, is batch * max(sizes[1:]) at least.
        scratch: overwritten.
        transposed: as large as the largest weight matrix, overwritten.
        gradient: like `params`, overwritten.
    """
    batch = inputs.shape[0]
    w, begin = params.size, 0
    for layer in range(1, sizes.size):
        begin += batch * sizes[layer]
    for back in range(sizes.size - 1):
        layer = sizes.size - 2 - back
        n_in, n_out = sizes[layer], sizes[layer + 1]
        w -= (n_in + 1) * n_out
        begin -= batch * n_out
        here = as_matrix(delta, batch, n_out)
        first = begin - batch * n_in
        source = as_matrix(outputs[first:], batch, n_in) if layer > 0 else inputs
        by_weights = as_matrix(gradient[w:], n_in, n_out)
        by_bias = gradient[w + n_in * n_out : w + (n_in + 1) * n_out]
        by_weights[:] = _ZERO
        matmul_add(source.T, here, by_weights)
        by_bias[:] = _ZERO
        for i in range(batch):
            row = here[i]
            for j in range(n_out):
                by_bias[j] += row[j]
        if layer > 0:
            weights = as_matrix(params[w:], n_in, n_out)
            turned = as_matrix(transposed, n_out, n_in)
            for i in range(n_in):
                for j in range(n_out):
                    turned[j, i] = weights[i, j]
            below = scratch[: batch * n_in]
            below[:] = _ZERO
            matmul_add(here, turned, as_matrix(below, batch, n_in))
            slope = slopes[first:begin]
            for i in range(batch * n_in):
                below[i] *= slope[i]
            delta, scratch = scratch, delta


@numba.njit(error_model="numpy", nogil=True)
def cross_entropy(logits, labels, delta):  # type: ignore[no-untyped-def]
    """Return the mean cross-entropy of logits (batch, n) with labels (batch,), in float64.

    `delta` (batch * n,) is overwritten with its derivative by the logits; NaN or infinite logits
    give a loss that is not finite.
    """
    batch, n = logits.shape
    share = _ONE / _f4(batch)
    total = 0.0
    for i in range(batch):
        row, out = logits[i], delta[i * n : (i + 1) * n]
        highest = row[0]
        for j in range(1, n):
            highest = row[j] if row[j] > highest else highest
        for j in range(n):
            out[j] = exp32(row[j] - highest)
        mass = _ZERO
        for j in range(n):
            mass += out[j]
        loss = log(np.float64(mass)) - np.float64(row[labels[i]] - highest)
        # the logarithm's bit tricks turn a NaN into a number
        total += loss if mass == mass else np.nan
        factor = share / mass
        for j in range(n):
            out[j] *= factor
        out[labels[i]] -= share
    return total / batch


@numba.njit(error_model="numpy", nogil=True)
def accuracy(logits, labels):  # type: ignore[no-untyped-def]
    """Return the share of rows of logits (batch, n) whose first highest entry is their label.

    NaN or infinite logits give NaN.
    """
    batch, n = logits.shape
    right = 0
    for i in range(batch):
        row, best = logits[i], 0
        for j in range(n):
            if not np.isfinite(row[j]):
                return np.nan
            best = j if row[j] > row[best] else best
        right += 1 if best == labels[i] else 0
    return right / batch
