"""Environment steps of an update and of a whole run, and how many pairs make updates equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from es_rl.config import TrainConfig
from es_rl.options import WINDOWED, ConfigError

__all__ = ["equal_pairs", "preset_steps", "steps_per_update"]

# N may grow to either of them unasked: times a preset's N, or pairs that cost little anywhere
_MOST_GROWTH = 4
_FEW_PAIRS = 64


def _steps_per_pair(config: TrainConfig, window: int | None = None) -> int:
    """Return the steps that an update takes for each pair, both rows alive and start-up aside.

    Args:
        config: with its horizon and window filled in.
        window: W to reckon with; None for the config's.
    """
    if config.algo not in WINDOWED:
        assert config.horizon is not None
        return 2 * config.horizon
    length = config.unroll_length if window is None else window
    assert length is not None
    return (3 if config.algo == "tes" else 2) * length


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
        ConfigError: if a given N makes another algorithm's a fraction, or only a large one, far
            above the config's, does not.
    """
    costs = {algo: _steps_per_pair(config) for algo, config in configs.items()}
    wanted = configs[reference].n_pairs if n_pairs is None else n_pairs
    pairs = _nearest(wanted, costs, reference)
    if pairs != wanted:
        if n_pairs is not None:
            _refuse(n_pairs, costs, reference, pairs)
        most = max(_MOST_GROWTH * wanted, _FEW_PAIRS)
        if pairs > most:
            _ask_for_window(configs, reference, pairs, most)
    return {algo: pairs * costs[reference] // cost for algo, cost in costs.items()}


def _unit(costs: Mapping[str, int], reference: str) -> int:
    """Return what the reference's N must be a multiple of for all N to be whole."""
    return math.lcm(*costs.values()) // costs[reference]


def _nearest(wanted: int, costs: Mapping[str, int], reference: str) -> int:
    """Return the N of the reference nearest to what is wanted with which all are whole."""
    unit = _unit(costs, reference)
    return wanted if wanted % unit == 0 else max(1, round(wanted / unit)) * unit


def _refuse(n_pairs: int, costs: Mapping[str, int], reference: str, nearest: int) -> None:
    algo, cost = next((a, c) for a, c in costs.items() if n_pairs * costs[reference] % c)
    divisor = math.gcd(costs[reference], cost)
    raise ConfigError(
        f"--n-pairs {n_pairs}: for equal steps {algo} would need "
        f"{n_pairs}·{costs[reference] // divisor}/{cost // divisor} pairs, which is not whole; "
        f"give a multiple of {_unit(costs, reference)}, such as {nearest}"
    )


def _ask_for_window(
    configs: Mapping[str, TrainConfig], reference: str, nearest: int, most: int
) -> None:
    """Refuse a window with which an N would be far too large, and name the nearest that does."""
    windowed = next(config for config in configs.values() if config.algo in WINDOWED)
    whole = next(algo for algo in configs if algo not in WINDOWED)
    window, horizon = windowed.unroll_length, windowed.horizon
    assert window is not None
    assert horizon is not None

    def pairs_with(length: int) -> int:
        costs = {algo: _steps_per_pair(config, length) for algo, config in configs.items()}
        return _nearest(configs[reference].n_pairs, costs, reference)

    divisors = [w for w in range(1, horizon + 1) if horizon % w == 0]
    # windows of a whole episode need 3 pairs at most, so there always is one
    best = min(
        (w for w in divisors if w == horizon or pairs_with(w) <= most),
        key=lambda w: abs(math.log(w / window)),
    )
    raise ConfigError(
        f"--unroll-length {window}: equal steps for {whole}, whose episodes have {horizon} steps, "
        f"would take {nearest:,} pairs; give a window that divides the episode, such as "
        f"--unroll-length {best}, or --n-pairs {nearest}"
    )
