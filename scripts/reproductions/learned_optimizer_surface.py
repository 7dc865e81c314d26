"""The learned optimizer's loss along random directions: sharp, with many local minima."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reproductions.learned_optimizer_runs import PROBLEMS, Problem, make_task, train
from reproductions.pictures import new_picture, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import median_estimate

__all__ = ["FIGURES", "local_minima"]

WIDE, NEAR = 0.3, 0.03  # how far the slices go, in multiples of a direction ε ~ N(0, I)


def slices(
    *, problem: Problem, theta: list[float], seed: int, n: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean losses of n inner trainings along a random direction, near and wide."""
    task = make_task(problem)
    direction = np.random.default_rng(seed).standard_normal(task.num_params)
    rows, found = np.arange(n), {}
    for name, reach in (("wide", WIDE), ("near", NEAR)):
        steps = np.full(n, problem["horizon"], np.int64)
        along = np.linspace(-reach, reach, n)
        task.allocate(n)
        task.reset(rows, np.zeros(n, np.uint64))
        result = task.unroll(rows, np.array(theta) + along[:, None] * direction, steps)
        found[name] = result.loss_sum / problem["horizon"]
        found[f"along_{name}"] = along
    return found


def local_minima(values: NDArray[np.float64]) -> int:
    """Return how many of `values` (n,) are below both neighbours."""
    change = np.diff(values)
    return int(np.sum((change[:-1] < 0) & (change[1:] > 0)))


def make(report: Report) -> None:
    problem: Problem = {**PROBLEMS[report.size], "horizon": report.pick(50, 1000, 1000)}
    updates = report.pick(20, 3000, 2000)
    (trained,) = report.compute(
        train,
        [
            {
                "method": "nres", "noise_period": None, "problem": PROBLEMS[report.size],
                "n_pairs": report.pick(4, 5, 100), "sigma": 0.01, "learning_rate": 1e-3,
                "seed": 0, "updates": updates, "every": updates,
            }
        ],
    )  # fmt: skip
    n = report.pick(21, 151, 601)
    theta = trained["last_theta"].tolist()
    cells = report.compute(
        slices, [{"problem": problem, "theta": theta, "seed": s, "n": n} for s in report.seeds]
    )
    picture, axes = new_picture(1, 2)
    for place, name in zip(axes[0], ("wide", "near"), strict=True):
        for cell in cells[:3]:
            label = f"direction {cell.settings['seed']}"
            place.plot(cell[f"along_{name}"], cell[name], lw=1.0, label=label)
        tidy(place, x="multiple of a random direction ε", y="mean loss of an inner step")
    axes[0, 0].legend(fontsize="small", frameon=False)
    report.save(picture, "learned-optimizer-surface")
    report.write_csv(
        "slices",
        [
            {"direction": cell.settings["seed"], "slice": name, "along": a, "loss": loss}
            for cell in cells
            for name in ("wide", "near")
            for a, loss in zip(cell[f"along_{name}"], cell[name], strict=True)
        ],
    )
    minima = median_estimate([float(local_minima(cell["near"])) for cell in cells])
    report.verdict(
        f"the loss surface is sharp and has many local minima (figure 1a): local minima among {n} "
        f"points within {NEAR} of a trained optimizer, T={problem['horizon']}, median and range "
        "over directions",
        minima, agrees=minima.low > n / 10,
    )  # fmt: skip


FIGURES = (
    Figure(
        "learned-optimizer-surface",
        "learned optimizer: the loss along random directions (main paper, figure 1a)",
        make,
        Seeds(2, 5, 10),
    ),
)
