"""How many random cases a test takes: few and always the same ones, or as many as are asked for."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("ES_RL_FUZZ_FACTOR", "1"))
"""How many times the usual number of cases; above 1 they are others each time."""


def cases(n: int) -> settings:
    """Settings for `n` cases, or FACTOR times as many, of whatever duration."""
    return settings(
        max_examples=n * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
