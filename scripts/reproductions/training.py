"""Training runs that are looked at while they last, and rates chosen alike for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.trainer import Trainer
from reproductions.cells import Cell, CellFunction
from reproductions.report import Report

__all__ = ["follow", "half_decades", "run_chosen", "tune"]


def follow(
    trainer: Trainer,
    updates: int,
    every: int,
    measure: Callable[[NDArray[np.float64]], Mapping[str, float]],
) -> dict[str, NDArray[Any]]:
    """Train, and measure θ before the first update and after every `every` updates.

    A run that diverges (a loss, gradient or parameter that is not finite) is infinite from there
    on in everything that is measured, and its counters go on as if it had been trained further.

    Args:
        trainer: not started.
        updates: in all; `every` must divide them.
        every: updates between measurements.
        measure: θ (d,) → numbers by name.

    Returns:
        "update", "sequential_steps", "total_steps", each (n,) int64; "theta" (n, d) and each
        measured number (n,) float64; "diverged", bool.

    Raises:
        ValueError: if `every` does not divide `updates`.
    """
    if updates % every:
        raise ValueError(f"every={every} does not divide updates={updates}")
    trainer.start()
    rows: list[dict[str, float]] = [dict(measure(trainer.theta))]
    thetas = [trainer.theta.copy()]
    counts = [(0, trainer.sequential_steps, trainer.total_steps)]
    diverged = False
    for update in range(1, updates + 1):
        if not diverged:
            try:
                trainer.update()
            except FloatingPointError:
                diverged = True
        if update % every:
            continue
        values = {} if diverged else measure(trainer.theta)
        rows.append({name: values.get(name, math.inf) for name in rows[0]})
        thetas.append(np.full_like(trainer.theta, np.nan) if diverged else trainer.theta.copy())
        if diverged:
            step = np.subtract(counts[1], counts[0]) if len(counts) > 1 else (every, 0, 0)
            counts.append((update, counts[-1][1] + int(step[1]), counts[-1][2] + int(step[2])))
        else:
            counts.append((update, trainer.sequential_steps, trainer.total_steps))
    columns = np.array(counts, np.int64)
    return {
        "update": columns[:, 0], "sequential_steps": columns[:, 1], "total_steps": columns[:, 2],
        "theta": np.array(thetas), "diverged": np.array(diverged),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
    }  # fmt: skip


def half_decades(base: float, exponent: int) -> float:
    """Return about `base`·10^(exponent/2) as people write grids: 1, 3, 10, 30, …"""
    value = base * 10.0 ** (exponent / 2)
    decade = 10.0 ** math.floor(math.log10(value) + 1e-9)
    digit = min((1.0, 3.0, 10.0), key=lambda d: abs(math.log(d * decade / value)))
    return float(f"{digit * decade:.6g}")


def tune(
    report: Report,
    function: CellFunction,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    option: str = "learning_rate",
    score: str = "score",
    n_seeds: int,
    deterministic: Collection[str] = (),
    reach: int = 2,
    most: int = 4,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Choose one option for every method with equal care: the same grid, the same seeds.

    The grid has half decades around the value in the method's settings, `reach` on either side.
    Where the best value is at an end of the grid, the grid grows there, `most` times at most.

    Args:
        report: gives the tuning seeds, which are not reported.
        function: the cell; takes `option` and "seed" besides the settings and returns `score`.
        methods: by name, settings with the middle of the grid as `option`.
        option: what is tuned.
        score: the result to make small; the mean over seeds counts, infinite if one diverged.
        n_seeds: tuning seeds.
        deterministic: methods to which seeds make no difference: one is enough.
        reach: half decades on either side at first.
        most: how often a grid may grow.

    Returns:
        the best value by method, and the whole grid as rows with method, value and score.
    """
    scores: dict[str, dict[int, float]] = {name: {} for name in methods}
    wanted: dict[str, Sequence[int]] = {name: range(-reach, reach + 1) for name in methods}
    for _ in range(1 + most):
        asked = [(name, exponent) for name, some in wanted.items() for exponent in some]
        if not asked:
            break
        counts = [1 if name in deterministic else n_seeds for name, _ in asked]
        cases = [
            {**methods[name], option: half_decades(methods[name][option], exponent), "seed": seed}
            for (name, exponent), count in zip(asked, counts, strict=True)
            for seed in report.tuning_seeds(count)
        ]
        found = iter([cell.number(score) for cell in report.compute(function, cases)])
        for (name, exponent), count in zip(asked, counts, strict=True):
            mean = float(np.mean([next(found) for _ in range(count)]))
            scores[name][exponent] = mean if math.isfinite(mean) else math.inf
        wanted = {}
        for name, grid in scores.items():
            best = min(grid, key=lambda exponent: grid[exponent])
            if not math.isfinite(grid[best]):
                wanted[name] = [min(grid) - 2, min(grid) - 1]
            elif best == max(grid):
                wanted[name] = [best + 1]
            elif best == min(grid):
                wanted[name] = [best - 1]
    chosen, rows = {}, []
    for name, grid in scores.items():
        best = min(grid, key=lambda exponent: grid[exponent])
        chosen[name] = half_decades(methods[name][option], best)
        rows += [
            {"method": name, option: half_decades(methods[name][option], exponent),
             "score": grid[exponent], "chosen": exponent == best}
            for exponent in sorted(grid)
        ]  # fmt: skip
    return chosen, rows


def run_chosen(
    report: Report,
    function: CellFunction,
    methods: Mapping[str, Mapping[str, Any]],
    chosen: Mapping[str, float],
) -> dict[str, list[Cell]]:
    """Run every method at its chosen learning rate, see `tune`: its cells, one a reported seed."""
    cells = iter(
        report.compute(
            function,
            [
                {**settings, "learning_rate": chosen[name], "seed": seed}
                for name, settings in methods.items()
                for seed in report.seeds
            ],
        )
    )
    return {name: [next(cells) for _ in report.seeds] for name in methods}
