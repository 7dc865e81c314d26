"""NumPy twins of the compiled kernels: the same IEEE operations, written a second time.

Only additions, multiplications, divisions, square roots and bit operations are used, all of which
IEEE 754 rounds exactly, so that a twin and its kernel must agree in every bit.
"""

from __future__ import annotations

import numpy as np

_SHIFT = 6755399441055744.0
_MASK = np.uint64(0xFFFFFFFF)
SEED_BLOCK = 0xFFFFFFFF
STAGGERING_BLOCK = 0xFFFFFFFE


def exp(x):
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = x * 1.4426950408889634 + _SHIFT
        k = shifted - _SHIFT
        r = (x - k * 6.93145751953125e-1) - k * 1.42860682030941723212e-6
        z = r * r
        p = (1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 1.0
        p = p * r
        q = 3.00198505138664455042e-6 * z + 2.52448340349684104192e-3
        q = q * z + 2.27265548208155028766e-1
        q = q * z + 2.0
        bits = (shifted.view(np.int64) << 52) + (1023 << 52)
        return (1.0 + 2.0 * (p / (q - p))) * bits.view(np.float64)


def tanh(x):
    size = np.abs(x)
    with np.errstate(over="ignore", invalid="ignore"):
        z = x * x
        p = -9.64399179425052238628e-1 * z - 9.92877231001918586564e1
        p = p * z - 1.61468768441708447952e3
        q = z + 1.12811678491632931402e2
        q = q * z + 2.23548839060100448583e3
        q = q * z + 4.84406305325125486048e3
        near = x + x * (z * (p / q))
        far = 1.0 - 2.0 / (exp(2.0 * np.where(size < 20.0, size, 20.0)) + 1.0)
    return np.where(size >= 0.625, np.where(x > 0.0, far, -far), near)


def log(x):
    bits = x.view(np.int64)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52
    f = (bits - (k << 52)).view(np.float64) - 1.0
    k = k.astype(np.float64)
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = 2.222219843214978396e-01 + w * 1.531383769920937332e-01
    even = w * (3.999999999940941908e-01 + w * even)
    odd = 1.818357216161805012e-01 + w * 1.479819860511658591e-01
    odd = 2.857142874366239149e-01 + w * odd
    odd = z * (6.666666666666735130e-01 + w * odd)
    half = 0.5 * f * f
    low = s * (half + (even + odd)) + k * 1.90821492927058770002e-10
    return k * 6.93147180369123816490e-01 - ((half - low) - f)


def _horner(z, *coefficients):
    """Return c[0] + z·(c[1] + z·(...))."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = coefficient + z * value
    return value


def sincos_turns(v):
    shifted = 4.0 * v + _SHIFT
    quadrant = shifted.view(np.int64) & 3
    r = (v - 0.25 * (shifted - _SHIFT)) * 6.283185307179586
    z = r * r
    sine = r + r * z * _horner(
        z,
        -1.66666666666666324348e-01,
        8.33333333332248946124e-03,
        -1.98412698298579493134e-04,
        2.75573137070700676789e-06,
        -2.50507602534068634195e-08,
        1.58969099521155010221e-10,
    )
    cosine = (1.0 - 0.5 * z) + z * z * _horner(
        z,
        4.16666666666666019037e-02,
        -1.38888888888741095749e-03,
        2.48015872894767294178e-05,
        -2.75573143513906633035e-07,
        2.08757232129817482790e-09,
        -1.13596475577881948265e-11,
    )
    return (
        np.choose(quadrant, [sine, cosine, -sine, -cosine]),
        np.choose(quadrant, [cosine, -sine, -cosine, sine]),
    )


def philox(counters, keys):
    """Philox 4x32-10 of counters (4, n) under two key words: (4, n) uint64 below 2**32."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counters)
    key0, key1 = (int(key) for key in keys)
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        shift = np.uint64(32)
        a, c = (right >> shift) ^ b ^ np.uint64(key0), (left >> shift) ^ d ^ np.uint64(key1)
        b, d = right & _MASK, left & _MASK
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return np.stack(np.broadcast_arrays(a, b, c, d))


def _keys(seed):
    return seed % 2**32, seed >> 32


def _fraction(high, low):
    """52 bits of two words as a multiple of 2**-52 in [0, 1)."""
    return ((high << np.uint64(20)) | (low >> np.uint64(12))).astype(np.float64) * 2.0**-52


def noise(seed, pair, episode, segment, sigma, length):
    """ε of one pair, episode and segment: (length,) float64."""
    blocks = np.arange((length + 1) // 2, dtype=np.uint64)
    same = np.ones_like(blocks)
    words = philox(
        [blocks, *(same * np.uint64(word) for word in (segment, episode, pair))], _keys(seed)
    )
    radius = sigma * np.sqrt(-2.0 * log(1.0 - _fraction(words[0], words[1])))
    sine, cosine = sincos_turns(_fraction(words[2], words[3]))
    return np.stack([radius * cosine, radius * sine], axis=1).ravel()[:length]


def _hash(seed, block, pair, episode):
    words = philox([np.array([word], np.uint64) for word in (block, 0, episode, pair)], _keys(seed))
    return (int(words[0, 0]) << 32) | int(words[1, 0])


def episode_seed(seed, pair, episode):
    """The seed of one episode of one pair."""
    return _hash(seed, SEED_BLOCK, pair, episode)


def staggering_uniform(seed, worker):
    """The uniform number of one worker."""
    return (_hash(seed, STAGGERING_BLOCK, worker, 0) >> 11) * 2.0**-53


def perturb(theta, epsilon, rows):
    """The parameters of `rows`: θ + ε, θ - ε, and θ behind the last pair."""
    signs = np.where(rows % 2 == 0, 1.0, -1.0)[:, None]
    pairs = np.minimum(rows // 2, len(epsilon) - 1)
    return np.where((rows < 2 * len(epsilon))[:, None], theta + signs * epsilon[pairs], theta)


def block_sums(accumulated, pairs, differences, sums, block):
    """`sums` after adding each pair's D·ξ to its block, one pair after another."""
    sums = sums.copy()
    for pair, difference in zip(pairs, differences, strict=True):
        sums[pair // block] += difference * accumulated[pair]
    return sums


def sum_tree(sums):
    """The rows of `sums`, added in the binary tree whose left halves are the largest that fit."""
    if len(sums) == 1:
        return sums[0]
    half = 1 << (len(sums) - 1).bit_length() - 1
    return sum_tree(sums[:half]) + sum_tree(sums[half:])


def reduce_blocks(sums, scale):
    return sum_tree(sums) * scale
