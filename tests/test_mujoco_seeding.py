"""Seeding many generators at once, against NumPy and Gymnasium."""

from __future__ import annotations

import numpy as np
from gymnasium.utils.seeding import np_random

from es_rl.envs.mujoco.seeding import generators

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]


def test_every_seed_gives_the_generator_that_gymnasium_makes_of_it() -> None:
    drawn = np.random.default_rng(0).integers(0, 2**64, size=200, dtype=np.uint64)
    seeds = np.concatenate([np.array(EDGES, np.uint64), drawn])
    for seed, generator in zip(seeds.tolist(), generators(seeds), strict=True):
        expected, _ = np_random(seed)
        assert generator.bit_generator.state == expected.bit_generator.state
        np.testing.assert_array_equal(generator.standard_normal(5), expected.standard_normal(5))


def test_no_seeds_give_no_generators() -> None:
    assert list(generators(np.empty(0, np.uint64))) == []
