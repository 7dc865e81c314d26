"""Elementary functions made of additions, multiplications, divisions and bit operations only.

Every machine and every compiler rounds these operations alike, so noise and network outputs are
the same bits everywhere, which a call into the system's mathematics library would not give. The
bodies have no branches, so that loops around them vectorise. Coefficients are those of Cephes
(tanh, exp) and of fdlibm (log, sine, cosine); errors stay within a few units in the last place.

Each function takes a scalar inside compiled code. `reference` in the tests holds the NumPy twins.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["exp", "log", "sincos_turns", "tanh"]

_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it rounds a double to an integer
_EXPONENT_ONE = 0x3FF0000000000000
_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_TWO_PI = 6.283185307179586


@numba.njit(error_model="numpy")
def exp(x: float) -> float:
    """Return e**x for |x| <= 700."""
    shifted = x * _LOG2E + _ROUND
    k = shifted - _ROUND
    r = (x - k * 6.93145751953125e-1) - k * 1.42860682030941723212e-6
    z = r * r
    p = ((1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 1.0) * r
    q = (
        (3.00198505138664455042e-6 * z + 2.52448340349684104192e-3) * z + 2.27265548208155028766e-1
    ) * z + 2.0
    power = (np.float64(shifted).view(np.int64) << np.int64(52)) + np.int64(_EXPONENT_ONE)
    scale = np.int64(power).view(np.float64)
    return (1.0 + 2.0 * (p / (q - p))) * scale


@numba.njit(error_model="numpy")
def tanh(x: float) -> float:
    """Return the hyperbolic tangent of `x`; NaN stays NaN."""
    magnitude = abs(x)
    bounded = magnitude if magnitude < 20.0 else 20.0
    z = x * x
    p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + (
        4.84406305325125486048e3
    )
    near = x + x * (z * (p / q))
    far = 1.0 - 2.0 / (exp(2.0 * bounded) + 1.0)
    signed = far if x > 0.0 else -far
    # a NaN fails the comparison that selects `far`
    return signed if magnitude >= 0.625 else near


@numba.njit(error_model="numpy")
def log(x: float) -> float:
    """Return the natural logarithm of a positive, normal, finite `x`."""
    bits = np.float64(x).view(np.int64)
    # k: the power of two that leaves a mantissa between sqrt(1/2) and sqrt(2)
    k = (bits - np.int64(_SQRT_HALF_BITS)) >> np.int64(52)
    f = np.int64(bits - (k << np.int64(52))).view(np.float64) - 1.0
    # int64 -> float64 by bits: AVX2 has no instruction for it
    exponent = np.int64(k + np.int64(0x4338000000000000)).view(np.float64) - _ROUND
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    t1 = w * (
        3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01)
    )
    t2 = z * (
        6.666666666666735130e-01
        + w
        * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01))
    )
    half_square = 0.5 * f * f
    return exponent * _LN2_HIGH - (
        (half_square - (s * (half_square + (t1 + t2)) + exponent * _LN2_LOW)) - f
    )


@numba.njit(error_model="numpy")
def sincos_turns(v: float) -> tuple[float, float]:
    """Return sine and cosine of 2πv for v in [0, 1): `v` counts whole turns."""
    shifted = 4.0 * v + _ROUND
    quadrant = np.float64(shifted).view(np.int64)
    r = (v - 0.25 * (shifted - _ROUND)) * _TWO_PI
    z = r * r
    sine = r + r * z * (
        -1.66666666666666324348e-01
        + z
        * (
            8.33333333332248946124e-03
            + z
            * (
                -1.98412698298579493134e-04
                + z
                * (
                    2.75573137070700676789e-06
                    + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)
                )
            )
        )
    )
    cosine = (1.0 - 0.5 * z) + z * z * (
        4.16666666666666019037e-02
        + z
        * (
            -1.38888888888741095749e-03
            + z
            * (
                2.48015872894767294178e-05
                + z
                * (
                    -2.75573143513906633035e-07
                    + z * (2.08757232129817482790e-09 - z * 1.13596475577881948265e-11)
                )
            )
        )
    )
    swap = (quadrant & np.int64(1)) != 0
    out_sine = cosine if swap else sine
    out_cosine = sine if swap else cosine
    negate_sine = (quadrant & np.int64(2)) != 0
    negate_cosine = ((quadrant + np.int64(1)) & np.int64(2)) != 0
    return (
        -out_sine if negate_sine else out_sine,
        -out_cosine if negate_cosine else out_cosine,
    )
