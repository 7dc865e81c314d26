"""Environment steps of an update and of a whole run, and how many pairs make updates equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from es_rl.config import TrainConfig
from es_rl.options import WINDOWED, ConfigError

__all__ = ["equal_pairs", "preset_steps", "steps_per_update"]

_MOST_GROWTH = 4  # times a preset's N, before the user is asked instead


def _steps_per_pair(config: TrainConfig) -> int:
    """Return the steps that an update takes for each pair, both rows alive and start-up aside."""
    if config.algo not in WINDOWED:
        assert config.horizon is not None
        return 2 * config.horizon
    assert config.unroll_length is not None
    return (3 if config.algo == "tes" else 2) * config.unroll_length


def steps_per_update(config: TrainConfig) -> int:
    """Return the environment steps that an update executes, all rows alive and start-up aside.

    Args:
        config: with its horizon and window filled in.
    """
    return config.n_pairs * _steps_per_pair(config)


def preset_steps(config: TrainConfig) -> int:
    """Return a preset's budget in total steps.

    Raises:
        ConfigError: if it has none in steps or updates.
    """
    if config.total_steps is not None:
        return config.total_steps
    if config.updates is None:
        raise ConfigError("--total-steps: the presets have no budget in steps; give one")
    return config.updates * steps_per_update(config)


def equal_pairs(
    configs: Mapping[str, TrainConfig], reference: str, n_pairs: int | None
) -> dict[str, int]:
    """Return for each algorithm the N with which all of them take the same steps in an update.

    For N pairs and windows of W steps of the reference, one that unrolls two rows: TES, which
    unrolls three, gets 2N/3 pairs, and FullES, whose unrolls have T steps, N·W/T.

    Args:
        configs: by algorithm, with horizon and window filled in.
        reference: the algorithm that N is given for.
        n_pairs: its N; None for that of its config, or the nearest for which all are whole.

    Raises:
        ConfigError: if a given N makes another algorithm's a fraction, or only one far larger
            than the config's does not.
    """
    costs = {algo: _steps_per_pair(config) for algo, config in configs.items()}
    unit = math.lcm(*costs.values()) // costs[reference]
    wanted = configs[reference].n_pairs if n_pairs is None else n_pairs
    pairs = wanted
    if wanted % unit:
        pairs = max(1, round(wanted / unit)) * unit
        if n_pairs is not None:
            _refuse(n_pairs, costs, reference, unit, pairs)
        if pairs > _MOST_GROWTH * wanted:
            _ask_for_window(configs, pairs)
    return {algo: pairs * costs[reference] // cost for algo, cost in costs.items()}


def _refuse(
    n_pairs: int, costs: Mapping[str, int], reference: str, unit: int, nearest: int
) -> None:
    algo, cost = next((a, c) for a, c in costs.items() if n_pairs * costs[reference] % c)
    divisor = math.gcd(costs[reference], cost)
    raise ConfigError(
        f"--n-pairs {n_pairs}: for equal steps {algo} would need "
        f"{n_pairs}·{costs[reference] // divisor}/{cost // divisor} pairs, which is not whole; "
        f"give a multiple of {unit}, such as {nearest}"
    )


def _ask_for_window(configs: Mapping[str, TrainConfig], nearest: int) -> None:
    windowed = next(config for config in configs.values() if config.algo in WINDOWED)
    window, horizon = windowed.unroll_length, windowed.horizon
    assert window is not None
    assert horizon is not None
    divisors = [w for w in range(1, horizon + 1) if horizon % w == 0]
    best = min(divisors, key=lambda w: abs(math.log(w / window)))
    raise ConfigError(
        f"--unroll-length {window}: equal steps for fulles, whose episodes have {horizon} steps, "
        f"would take {nearest:,} pairs; give a window that divides the episode, such as "
        f"--unroll-length {best}, or --n-pairs {nearest}"
    )
