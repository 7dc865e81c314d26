"""Meta-training a learned optimizer: convergence of every method, and against the noise period."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reproductions.cells import Cell
from reproductions.learned_optimizer_runs import (
    PROBLEMS,
    Problem,
    best_adam,
    inner_losses,
    train,
)
from reproductions.pictures import legend_below, new_picture, plot_band, tidy
from reproductions.rate_tables import rate_table
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import mean_band, mean_estimate, median_estimate
from reproductions.training import run_chosen, tune

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES"]

SIGMA = 0.01
LEARNING_RATE = 1e-3  # of Adam, the middle of every grid
LONGER = 3  # times the others' steps, of the optimizers that are compared with Adam
METHODS = ("NRES", "PES", "TES", "FullES")


def _methods(report: Report) -> dict[str, dict[str, Any]]:
    """Return the settings of each method, by the name that the figures use; all spend alike."""
    problem = PROBLEMS[report.size]
    horizon, points = problem["horizon"], report.pick(4, 25, 100)
    budget = report.pick(2_000, 60_000, 1_000_000)
    n_pairs = report.pick(4, 5, 100)

    def settings(method: str, n: int, steps: int, period: int | None = None) -> dict[str, Any]:
        every = max(1, round(budget / steps / points))
        return {
            "method": method, "noise_period": period, "problem": problem, "n_pairs": n,
            "sigma": SIGMA, "learning_rate": LEARNING_RATE,
            "updates": max(1, round(budget / steps / every)) * every, "every": every,
        }  # fmt: skip

    n_full = report.pick(1, 1, 10)
    methods = {
        "NRES": settings("nres", n_pairs, 2 * n_pairs),
        "PES": settings("pes", n_pairs, 2 * n_pairs),
        "TES": settings("tes", n_pairs, 3 * n_pairs),
        "FullES": settings("fulles", n_full, 2 * n_full * horizon),
    }
    for period in _periods(horizon)[1:-1]:
        methods[f"GPES K={period}"] = settings("gpes", n_pairs, 2 * n_pairs, period)
    return methods


def _periods(horizon: int) -> list[int]:
    """Return the noise periods K of the sweep: that of PES, some between, that of NRES."""
    return [1, max(2, horizon // 20), horizon // 5, horizon]


def _runs(report: Report) -> dict[str, list[Cell]]:
    """Return the runs of every method at its own best rate, one cell a seed."""
    methods = _methods(report)
    rates, tried = tune(
        report, train, methods, n_seeds=report.pick(1, 2, 2), reach=report.pick(0, 1, 1),
        most=report.pick(0, 4, 4),
    )  # fmt: skip
    report.write_csv("tuning", tried)
    report.write_csv("rates", rate_table(tried), shown=True)
    return run_chosen(report, train, methods, rates)


def _trained_longer(report: Report, runs: Sequence[Cell]) -> list[Cell]:
    """Return runs like these that go on for several times as long."""
    cases = [
        {
            **cell.settings,
            "updates": LONGER * cell.settings["updates"],
            "every": LONGER * cell.settings["every"],
        }
        for cell in runs
    ]
    return report.compute(train, cases)


def make(report: Report) -> None:
    runs = _runs(report)
    problem = PROBLEMS[report.size]
    adam = best_adam(problem)
    _draw_convergence(report, runs, float(adam["losses"].mean()))
    _draw_periods(report, runs, problem["horizon"])
    _write_curves(report, runs)
    ours = _draw_inner_training(report, _trained_longer(report, runs["NRES"]), problem, adam)
    _judge(report, runs, problem)
    _judge_against_adam(report, ours, adam, problem)


def _draw_convergence(report: Report, runs: dict[str, list[Cell]], adam: float) -> None:
    picture, axes = new_picture(1, 2)
    for place, x, label in zip(
        axes[0], ("total_steps", "sequential_steps"),
        ("total inner steps", "sequential inner steps"),
        strict=True,
    ):  # fmt: skip
        for name in METHODS:
            cells = runs[name]
            plot_band(place, cells[0][x], mean_band([c["loss"] for c in cells]), name)
        place.axhline(adam, color="0.3", ls=":", lw=1.2, label="tuned Adam")
        tidy(place, x=label, y="mean loss of an inner step")
        _show_means(place, [runs[name] for name in METHODS])
    axes[0, 0].ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    axes[0, 1].set_xscale("symlog", linthresh=runs["NRES"][0]["sequential_steps"][1])
    axes[0, 1].set_xlim(left=0)
    legend_below(picture, f"mean and 95 % interval of {report.n_seeds} seeds")
    report.save(picture, "learned-optimizer")


def _show_means(axes: Axes, runs: Sequence[Sequence[Cell]]) -> None:
    """Choose a range that shows the means; intervals of runs that broke down are far wider."""
    means = np.concatenate([mean_band([c["loss"] for c in cells]).mean for cells in runs])
    finite = means[np.isfinite(means)]
    axes.set_yscale("log")
    axes.set_ylim(0.8 * float(finite.min()), 1.3 * float(finite.max()))


def _draw_periods(report: Report, runs: dict[str, list[Cell]], horizon: int) -> None:
    from matplotlib import colormaps

    picture, axes = new_picture()
    place = axes[0, 0]
    names = ["PES", *[name for name in runs if name.startswith("GPES")], "NRES"]
    for name, period, shade in zip(
        names, _periods(horizon), np.linspace(0.85, 0.0, len(names)), strict=True
    ):
        cells = runs[name]
        band = mean_band([c["loss"] for c in cells])
        colour = colormaps["viridis"](shade)
        label = f"K={period}" + ({"PES": " (PES)", "NRES": " (NRES)"}.get(name, ""))
        updates = cells[0]["update"]
        place.plot(updates, band.mean, color=colour, lw=1.6, label=label)
        if np.isfinite(band.low).any():
            place.fill_between(updates, band.low, band.high, color=colour, alpha=0.18, lw=0)
    tidy(place, x="updates", y="mean loss of an inner step")
    _show_means(place, [runs[name] for name in names])
    legend_below(picture, f"mean and 95 % interval of {report.n_seeds} seeds", columns=2)
    report.save(picture, "learned-optimizer-noise-period")


def _draw_inner_training(
    report: Report, cells: Sequence[Cell], problem: Problem, adam: dict[str, Any]
) -> NDArray[np.float64]:
    """Draw the inner training by the trained optimizers beside tuned Adam; return its losses."""
    losses = np.array([inner_losses(problem, cell["last_theta"]) for cell in cells])
    picture, axes = new_picture()
    place, steps = axes[0, 0], np.arange(1.0, problem["horizon"] + 1)
    width = min(10, steps.size)
    smooth = [_moving_mean(own, width) for own in losses]
    shown = steps[width - 1 :]
    plot_band(place, shown, mean_band(smooth), "NRES", label="learned optimizer (NRES)")
    by_adam = _moving_mean(adam["losses"], width)
    place.plot(shown, by_adam, color="#000000", lw=1.2, label=adam["label"])
    place.set_yscale("log")
    tidy(place, x="inner training step", y=f"validation loss, mean of {width} steps")
    legend_below(picture, f"mean and 95 % interval of {report.n_seeds} seeds", columns=1)
    report.save(picture, "learned-optimizer-inner-training")
    report.write_csv(
        "inner_training",
        [
            {"step": int(step), "adam": adam["losses"][i], **_by_seed(losses[:, i])}
            for i, step in enumerate(steps)
        ],
    )
    return losses


def _moving_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the means of every `width` values in a row, (n - width + 1,)."""
    return np.convolve(values, np.full(width, 1.0 / width), mode="valid")


def _by_seed(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"seed_{seed}": float(value) for seed, value in enumerate(values)}


def _write_curves(report: Report, runs: dict[str, list[Cell]]) -> None:
    report.write_csv(
        "convergence",
        [
            {
                "method": name,
                "rate": cell.settings["learning_rate"],
                "seed": cell.settings["seed"],
                "update": int(cell["update"][i]),
                "sequential_steps": int(cell["sequential_steps"][i]),
                "total_steps": int(cell["total_steps"][i]),
                "loss": float(cell["loss"][i]),
            }
            for name, cells in runs.items()
            for cell in cells
            for i in range(cell["loss"].size)
        ],
    )


def reached(cell: Cell, loss: float, x: str) -> float:
    """Return the first `x` at which a run's loss is `loss` or less; infinite if it never is."""
    below = np.flatnonzero(cell["loss"] <= loss)
    return float(cell[x][below[0]]) if below.size else math.inf


def _judge(report: Report, runs: dict[str, list[Cell]], problem: Problem) -> None:
    final = {
        name: mean_estimate([c.number("final") for c in cells]) for name, cells in runs.items()
    }
    faster = median_estimate(
        [
            pes["update"][-1] / reached(nres, pes.number("final"), "update")
            for nres, pes in zip(runs["NRES"], runs["PES"], strict=True)
        ]
    )
    report.verdict(
        "NRES reaches PES's final loss in fewer updates, 5 times fewer at the paper's size "
        "(figure 6a); interval: range over seeds",
        f"{faster.value:.3g} times fewer", interval=faster.interval(), agrees=faster.low > 1,
    )  # fmt: skip
    faster = median_estimate(
        [
            full["total_steps"][-1] / reached(nres, full.number("final"), "total_steps")
            for nres, full in zip(runs["NRES"], runs["FullES"], strict=True)
        ]
    )
    report.verdict(
        "NRES reaches FullES's final loss with fewer steps, 9 times fewer at the paper's size "
        "(figure 6a); interval: range over seeds",
        f"{faster.value:.3g} times fewer", interval=faster.interval(), agrees=faster.low > 1,
    )  # fmt: skip
    others = [name for name in METHODS if name != "NRES"]
    report.verdict(
        "NRES ends at the lowest loss, TES never reaches it (figure 6a)",
        f"NRES {final['NRES'].text()}; "
        + ", ".join(f"{name} {final[name].text()} ({final[name].interval()})" for name in others),
        interval=final["NRES"].interval(),
        agrees=all(final["NRES"].value < final[name].value for name in others),
    )
    order = ["PES", *[name for name in runs if name.startswith("GPES")], "NRES"]
    values = [final[name].value for name in order]
    report.verdict(
        "of the noise periods K, NRES (K=T) converges fastest (figure 6b)",
        "final loss "
        + ", ".join(
            f"K={period}: {value:.4g}"
            for period, value in zip(_periods(problem["horizon"]), values, strict=True)
        ),
        agrees=min(values) == values[-1],
    )


def _judge_against_adam(
    report: Report, ours: NDArray[np.float64], adam: dict[str, Any], problem: Problem
) -> None:
    margin = mean_estimate([losses.mean() / adam["losses"].mean() for losses in ours])
    report.verdict(
        f"the trained optimizer (NRES, {LONGER} times the steps) beats tuned Adam on its own inner "
        "task: mean loss over the training, as a share of Adam's",
        margin, agrees=bool((ours.mean(axis=1) < adam["losses"].mean()).all()),
    )  # fmt: skip


FIGURES = (
    Figure(
        "learned-optimizer",
        "learned optimizer: convergence, noise periods, Adam (main paper, figure 6)",
        make,
        Seeds(2, 5, 5),
    ),
)
