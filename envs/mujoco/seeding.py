"""Many seeds to NumPy's generators at once: what `gymnasium.utils.seeding.np_random` makes of each.

NumPy spends longer on making a `SeedSequence`, a `PCG64` and a `Generator` than on a start's
random numbers. Its seeding is a documented hash (NumPy keeps `SeedSequence` stable), computed here
for all seeds in one compiled call; one generator then takes each state in turn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

__all__ = ["generators"]

_POOL = 4
_MASK = (1 << 128) - 1
_PCG_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645


@numba.njit(cache=True)
def _hash(value, constant, multiplier):  # type: ignore[no-untyped-def]
    """Return the hash of a 32-bit word, and the next hash constant."""
    value ^= constant
    constant = (constant * multiplier) & np.uint64(0xFFFFFFFF)
    value = (value * constant) & np.uint64(0xFFFFFFFF)
    return value ^ (value >> np.uint64(16)), constant


@numba.njit(cache=True)
def _seed_words(seeds, words):  # type: ignore[no-untyped-def]
    """Write `SeedSequence(seed).generate_state(4, np.uint64)` of each of (n,) seeds to (n, 4)."""
    low = np.uint64(0xFFFFFFFF)
    pool = np.empty(_POOL, np.uint64)
    for i in range(seeds.size):
        constant = np.uint64(0x43B0D7E5)
        for k in range(_POOL):
            word = (seeds[i] >> np.uint64(32 * k)) & low if k < 2 else np.uint64(0)
            pool[k], constant = _hash(word, constant, np.uint64(0x931E8875))
        for source in range(_POOL):
            for target in range(_POOL):
                if source != target:
                    word, constant = _hash(pool[source], constant, np.uint64(0x931E8875))
                    mixed = np.uint64(0xCA01F9DD) * pool[target] - np.uint64(0x4973F715) * word
                    mixed &= low
                    pool[target] = mixed ^ (mixed >> np.uint64(16))
        constant = np.uint64(0x8B51F9DD)
        for k in range(4):
            first, constant = _hash(pool[(2 * k) % _POOL], constant, np.uint64(0x58F38DED))
            second, constant = _hash(pool[(2 * k + 1) % _POOL], constant, np.uint64(0x58F38DED))
            words[i, k] = first | (second << np.uint64(32))


def generators(seeds: NDArray[np.uint64]) -> Iterator[Generator]:
    """Yield `Generator(PCG64(SeedSequence(seed)))` for each of `seeds` (n,) uint64.

    It is one generator that changes its state: use each before asking for the next.
    """
    words = np.empty((seeds.size, 4), np.uint64)
    _seed_words(seeds, words)
    bits = PCG64(0)
    generator = Generator(bits)
    for state_high, state_low, stream_high, stream_low in words.tolist():
        increment = ((stream_high << 65) | (stream_low << 1) | 1) & _MASK
        # pcg_setseq_128_srandom: two steps of the generator around adding the initial state
        state = (state_high << 64 | state_low) + increment
        state = (state * _PCG_MULTIPLIER + increment) & _MASK
        bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        yield generator
