"""The learned optimizer trained by differentiation, beside an evolution strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.estimators import NRES, Estimator
from es_rl.optimizers import Adam
from es_rl.trainer import Trainer
from reproductions.cells import Cell
from reproductions.learned_optimizer_runs import PROBLEMS, Problem, make_task, mean_loss
from reproductions.pictures import legend_below, new_picture, plot_band, tidy
from reproductions.rate_tables import rate_table
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import intervals, listed, mean_band, mean_estimate
from reproductions.training import follow, run_chosen, tune

__all__ = ["FIGURES"]

SIGMA = 0.01
RATES = {"NRES": 3e-3, "BPTT": 3e-3, "TBPTT": 3e-3, "DODGE": 3e-4, "UORO": 3e-4}
"""Of Adam, the middles of the grids. Those of the released code, for a longer training: 3e-4 for
NRES and BPTT, 1e-2 for TBPTT (by SGD), 1e-5 for DODGE and 3e-5 for UORO."""


def train(
    *,
    method: str,
    problem: Problem,
    n_workers: int,
    unroll_length: int,
    learning_rate: float,
    seed: int,
    updates: int,
    every: int,
) -> dict[str, Any]:
    """Meta-train by one method with Adam; see `follow`.

    Returns:
        what `follow` returns but "theta", with "loss" the mean loss of the inner training under
        θ alone; and "score", the last of these losses.
    """
    from es_rl.baselines import BASELINES
    from es_rl.envs.learned_optimizer_torch import DifferentiableLearnedOptimizerTask

    task = make_task(problem)
    measured = make_task(problem)
    estimator: Estimator
    if method == "nres":
        estimator = NRES(
            task, n_pairs=n_workers, unroll_length=unroll_length, sigma=SIGMA, seed=seed
        )
    else:
        options: dict[str, Any] = {"n_workers": n_workers, "seed": seed}
        if method != "bptt":
            options["unroll_length"] = unroll_length
        twin = DifferentiableLearnedOptimizerTask(task, n_threads=1)
        estimator = BASELINES[method](twin, **options)
    trainer = Trainer(estimator, Adam(task.num_params, learning_rate), task.initial_theta(seed))

    def measure(theta: NDArray[np.float64]) -> dict[str, float]:
        return {"loss": mean_loss(measured, theta)}

    course = follow(trainer, updates, every, measure)
    del course["theta"]
    return {**course, "score": course["loss"][-1]}


def _methods(report: Report) -> dict[str, dict[str, Any]]:
    """Return the settings of each method; all spend the same inner steps."""
    problem = PROBLEMS[report.size]
    budget, points = report.pick(80, 8_000, 200_000), report.pick(2, 20, 50)
    workers, horizon = report.pick(2, 20, 100), problem["horizon"]

    def settings(name: str, n: int, window: int, rows: int = 1) -> dict[str, Any]:
        steps = rows * n * (horizon if name == "BPTT" else window)
        every = max(1, round(budget / steps / points))
        return {
            "method": name.lower(), "problem": problem, "n_workers": n, "unroll_length": window,
            "learning_rate": RATES[name], "every": every,
            "updates": max(1, round(budget / steps / every)) * every,
        }  # fmt: skip

    return {
        "NRES": settings("NRES", workers // 2, 1, rows=2),
        # its batches and its start are fixed: one episode is the exact gradient
        "BPTT": settings("BPTT", 1, 1),
        "TBPTT": settings("TBPTT", workers, report.pick(2, 10, 10)),
        "DODGE": settings("DODGE", workers, 1),
        "UORO": settings("UORO", workers, 1),
    }


def make(report: Report) -> None:
    methods = _methods(report)
    chosen, tried = tune(
        report, train, methods, n_seeds=1, reach=report.pick(0, 1, 2), most=report.pick(0, 2, 4)
    )
    report.write_csv("tuning", tried)
    report.write_csv("rates", rate_table(tried), shown=True)
    runs = run_chosen(report, train, methods, chosen)
    _draw(report, runs)
    report.write_csv(
        "convergence",
        [
            {
                "method": name, "rate": cell.settings["learning_rate"],
                "seed": cell.settings["seed"], "update": int(cell["update"][i]),
                "total_steps": int(cell["total_steps"][i]), "loss": float(cell["loss"][i]),
            }
            for name, own in runs.items()
            for cell in own
            for i in range(cell["update"].size)
        ],
    )  # fmt: skip
    last = {name: mean_estimate([c.number("score") for c in own]) for name, own in runs.items()}
    others = [name for name in runs if name != "NRES"]
    report.verdict(
        "after the same inner steps, methods that differentiate all end at a higher loss than "
        "evolution strategies (figure 10)",
        listed(last),
        interval=intervals(last),
        agrees=all(last[name].value > last["NRES"].value for name in others),
    )


def _draw(report: Report, runs: Mapping[str, list[Cell]]) -> None:
    picture, axes = new_picture()
    place = axes[0, 0]
    for name, cells in runs.items():
        plot_band(place, cells[0]["total_steps"], mean_band([c["loss"] for c in cells]), name)
    highest = max(float(cells[0]["loss"][0]) for cells in runs.values())
    place.set_ylim(0.0, 1.5 * highest)
    tidy(place, x="total inner steps", y="mean loss of an inner step")
    legend_below(picture, f"mean and 95 % interval of {report.n_seeds} seeds", columns=3)
    report.save(picture, "learned-optimizer-gradients")


FIGURES = (
    Figure(
        "learned-optimizer-gradients",
        "learned optimizer: methods that differentiate (main paper, figure 10)",
        make,
        Seeds(1, 5, 5),
    ),
)
