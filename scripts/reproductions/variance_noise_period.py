"""Total variance against the noise period: learned optimizer, Lorenz, influence balancing."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from reproductions.cells import Cell
from reproductions.learned_optimizer_runs import PROBLEMS, Problem
from reproductions.pictures import COLOURS, legend_below, new_picture, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import Estimate
from reproductions.variance_measures import (
    optimizer_path,
    optimizer_variance,
    pooled,
    ratio,
    system_variance,
)

__all__ = ["FIGURES", "path_of", "problem_of"]

SMALL_PROBLEM: Problem = {
    "dataset": "digits", "hidden": [16], "batch_size": 32, "horizon": 1000,
}  # fmt: skip
"""The paper's T with a smaller inner network and dataset, a sixth of the time."""


def problem_of(report: Report) -> Problem:
    """Return the learned optimizer's inner problem at this size."""
    return report.pick(PROBLEMS["quick"], SMALL_PROBLEM, PROBLEMS["full"])


def path_of(report: Report) -> tuple[list[int], Cell]:
    """Return the updates of one meta-training by NRES, and θ after each of them."""
    updates = report.pick([0, 4], [0, 50, 150], [0, 100, 300, 1000, 3000, 6000])
    (path,) = report.compute(
        optimizer_path,
        [{"problem": problem_of(report), "n_pairs": report.pick(4, 16, 100), "seed": 0,
          "unroll_length": report.pick(5, 10, 1), "updates": updates}],
    )  # fmt: skip
    return updates, path


def _optimizer(report: Report) -> dict[str, tuple[list[int], list[list[Cell]]]]:
    problem = problem_of(report)
    periods = report.pick([1, 5, 20], [1, 8, 40, 200, 1000], [1, 4, 16, 64, 250, 1000])
    updates, path = path_of(report)
    found = {}
    last = len(updates) - 1
    for place in report.pick([0, last], [0], [0, last]):
        cases: list[dict[str, Any]] = [
            {"problem": problem, "theta": path["thetas"][place].tolist(), "unroll_length": 1,
             "noise_period": period, "n_samples": report.pick(10, 10, 40), "seed": seed}
            for period in periods for seed in report.seeds
        ]  # fmt: skip
        cells = report.compute(optimizer_variance, cases)
        label = "at its start" if place == 0 else f"after {updates[place]} updates of NRES"
        found[f"learned optimizer, {label}"] = (periods, _grouped(cells, len(report.seeds)))
    return found


def _system(
    report: Report, system: str, horizon: int, sigma: float, unroll_length: int,
    periods: list[int], n_samples: int,
) -> tuple[list[int], list[list[Cell]]]:  # fmt: skip
    cases: list[dict[str, Any]] = [
        {"system": system, "method": "gpes", "horizon": horizon, "sigma": sigma,
         "options": {"unroll_length": unroll_length, "noise_period": period},
         "n_samples": n_samples, "seed": seed}
        for period in periods for seed in report.seeds
    ]  # fmt: skip
    return periods, _grouped(report.compute(system_variance, cases), len(report.seeds))


def _grouped(cells: list[Cell], n_seeds: int) -> list[list[Cell]]:
    return [cells[i : i + n_seeds] for i in range(0, len(cells), n_seeds)]


def _falls(groups: list[list[Cell]]) -> bool:
    values = [pooled(group).value for group in groups]
    return all(left > right for left, right in pairwise(values))


def _span(groups: list[list[Cell]]) -> Estimate:
    """Return the variance of PES over that of NRES."""
    first, last = ([cell.number("variance") for cell in groups[i]] for i in (0, -1))
    return ratio(first, last)


def make(report: Report) -> None:
    n_seeds = len(report.seeds)
    sets = _optimizer(report)
    sets["Lorenz, at θ₀"] = _system(
        report, "lorenz", 2000, 0.04, 100, [100, 200, 400, 1000, 2000],
        report.pick(100, 2000, 20_000),
    )  # fmt: skip
    length = report.pick(20, 200, 200)
    fifth = length // 5
    sets["influence balancing, at θ₀"] = _system(
        report, "influence-balancing", length, 0.1, 1, [1, 4, fifth, length // 2, length],
        report.pick(500, 4000, 100_000),
    )  # fmt: skip

    picture, axes = new_picture(1, len(sets), width=3.5, height=3.3)
    rows = []
    for place, (title, (periods, groups)) in zip(axes[0], sets.items(), strict=True):
        estimates = [pooled(group) for group in groups]
        values = np.array([estimate.value for estimate in estimates])
        spread = np.abs(np.array([[e.low, e.high] for e in estimates]).T - values)
        place.errorbar(
            periods, values, yerr=np.nan_to_num(spread), fmt="o-", ms=4, capsize=3, lw=1.4,
            color=COLOURS["GPES"], label="GPES, 95 % interval over seeds",
        )  # fmt: skip
        closed = [group[0].number("closed") if "closed" in group[0].arrays else None
                  for group in groups]  # fmt: skip
        if closed[0] is not None:
            place.plot(periods, closed, "--", color="0.25", lw=1.2, label="closed form")
        place.set(xscale="log", yscale="log")
        tidy(place, x="noise period K", y="total variance of one pair", title=title)
        for word, i in (("PES", 0), ("NRES", -1)):
            place.annotate(word, (periods[i], values[i]), xytext=(-4 if i else 5, 8),
                           textcoords="offset points", fontsize="small",
                           ha="right" if i else "left")  # fmt: skip
        place.margins(y=0.15)
        for period, estimate, exact in zip(periods, estimates, closed, strict=True):
            rows.append(
                {"task": title, "noise_period": period, "variance": estimate.value,
                 "low": estimate.low, "high": estimate.high,
                 "closed_form": "" if exact is None else exact}
            )  # fmt: skip
    legend_below(picture, f"{n_seeds} seeds; K = W is PES, K = T is NRES")
    report.save(picture, "variance-noise-period")
    report.write_csv("variances", rows)

    for title in list(sets)[:-2]:
        _, groups = sets[title]
        report.verdict(
            f"the variance of GPES falls as K grows, and is least for NRES (figure 3a); {title}",
            f"{'falls at each step' if _falls(groups) else 'does not fall at each step'}; "
            f"PES/NRES = {_span(groups).text()}",
            interval=_span(groups).interval(), agrees=_falls(groups),
        )  # fmt: skip
    _, groups = sets["Lorenz, at θ₀"]
    report.verdict(
        "Lorenz, at θ₀: the variance falls at each step of K, and PES/NRES is at least 8 (11.8 "
        "checked for this project)",
        f"{'falls at each step' if _falls(groups) else 'does not fall at each step'}; "
        f"PES/NRES = {_span(groups).text()}",
        interval=_span(groups).interval(), agrees=_falls(groups) and _span(groups).low > 8,
    )  # fmt: skip
    _, groups = sets["influence balancing, at θ₀"]
    distances = []
    for group in groups:
        mean = float(np.mean([cell.number("variance") for cell in group]))
        error = math.sqrt(sum(cell.number("error") ** 2 for cell in group)) / len(group)
        distances.append((mean - group[0].number("closed")) / error)
    report.verdict(
        f"Theorem 5 gives the variance of GPES exactly; influence balancing, T={length}, at five K",
        f"{max(map(abs, distances)):.2g} standard errors away at most",
        agrees=max(map(abs, distances)) < 3,
    )  # fmt: skip


FIGURES = (
    Figure(
        "variance-noise-period",
        "Total variance against the noise period K (main paper, figure 3a and Theorem 5)",
        make,
        Seeds(2, 5, 5),
    ),
)
